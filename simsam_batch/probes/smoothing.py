"""Label maps on the grid of patches, smoothed as published for probes of iBOT's features."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def without_lonely_patches(classes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Give class 0 to every patch whose class none of its eight neighbours has.

    Beyond the border lie neighbours of class 0. All patches are judged by the map as it was (``smooth_mask`` of the
    published code).

    Args:
        classes: (Hp, Wp).

    Returns:
        (Hp, Wp) int64, another array.
    """
    padded = np.pad(classes, 1)
    height, width = classes.shape
    has_friend = np.zeros(classes.shape, np.bool_)
    for down in range(3):
        for across in range(3):
            if (down, across) != (1, 1):
                has_friend |= padded[down : down + height, across : across + width] == classes
    return np.where(has_friend, classes, 0)
