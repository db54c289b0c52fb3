"""How well the border of an object mask follows that of the truth: boundary IoU."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

RATIO = 0.02
"""Width of the band along the border, as a share of the image's diagonal (Cheng et al. 2021)."""


def band_width(size: tuple[int, int]) -> int:
    """Width in pixels of the band along the border of a mask: `RATIO` of the diagonal, rounded, and at least 1.

    >>> band_width((480, 640))
    16

    Args:
        size: (height, width) of the mask.
    """
    return max(1, round(RATIO * math.hypot(*size)))


def border_band(mask: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """Return the pixels of a mask that are within ``width`` of a pixel outside it, by the larger of the two distances.

    Outside the image nothing is object, so that what touches its frame has a border there (Cheng et al. 2021).

    Args:
        mask: (H, W).
        width: pixels, at least 1.

    Returns:
        (H, W).
    """
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return mask.copy()
    # The pixels around the object settle nothing, so that the time is that of its box.
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    band = mask.copy()
    band[box] &= ~_eroded_down(_eroded_down(mask[box], width).T, width).T
    return band


def boundary_iou(prediction: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    """Return the boundary IoU of two masks: intersection over union of their bands along the border.

    Unlike that of the whole masks it does not favour large objects, whose inside weighs more than their border. 0 where
    both masks are empty, as for `simsam_batch.scores.overlap.iou`.

    Args:
        prediction: (H, W), True on the object.
        truth: of the same size.

    Raises:
        ValueError: the shapes differ.

    Source: Cheng, Girshick, Dollár, Berg and Kirillov, Boundary IoU, CVPR 2021, eq. 1, and its published code.
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"the prediction is {prediction.shape}, the truth {truth.shape}")
    width = band_width((truth.shape[0], truth.shape[1]))
    predicted, true = border_band(prediction, width), border_band(truth, width)
    both = int(np.count_nonzero(predicted & true))
    either = int(np.count_nonzero(predicted)) + int(np.count_nonzero(true)) - both
    return both / either if either else 0.0


def _eroded_down(mask: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """Pixels with nothing but object up to ``width`` above and below, in an image with none around it."""
    eroded = np.zeros_like(mask)
    window = 2 * width + 1
    if mask.shape[0] < window:
        return eroded
    # Runs of object of twice the length each time, from where they begin.
    runs, length = mask, 1
    while 2 * length <= window:
        runs, length = runs[:-length] & runs[length:], 2 * length
    rest = window - length
    eroded[width:-width] = runs[: len(runs) - rest] & runs[rest:]
    return eroded
