"""Pixels out of Pillow strip by strip, so that no second copy of a large image stands beside it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_STRIP_PIXELS = 1 << 20


def array_of(image: Image.Image) -> NDArray[Any]:
    """The pixels of a loaded image, (H, W) or (H, W, channels)."""
    rows = max(1, _STRIP_PIXELS // image.width)
    if rows >= image.height:
        return np.array(image)
    found: NDArray[Any] | None = None
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        strip = np.asarray(image.crop((0, top, image.width, bottom)))
        if found is None:
            found = np.empty((image.height, *strip.shape[1:]), strip.dtype)
        found[top:bottom] = strip
    assert found is not None  # noqa: S101  an image has rows
    return found
