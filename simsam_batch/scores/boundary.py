"""How well the border of an object mask follows that of the truth: boundary IoU."""

from __future__ import annotations

import math

from simsam_batch.scores.bits import Bits, eroded

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


def border_band(mask: Bits, width: int) -> Bits:
    """Return the pixels of a mask that are within ``width`` of a pixel outside it, by the larger of the two distances.

    Outside the image nothing is object, so that what touches its frame has a border there (Cheng et al. 2021).

    Args:
        mask: of any size.
        width: pixels, at least 1.
    """
    return mask.without(eroded(mask, width))


def boundary_iou(prediction: Bits, truth: Bits) -> float:
    """Return the boundary IoU of two masks: intersection over union of their bands along the border.

    Unlike that of the whole masks it does not favour large objects, whose inside weighs more than their border. 0 where
    both masks are empty, as for `simsam_batch.scores.overlap.iou`.

    Args:
        prediction: see `simsam_batch.scores.bits.packed`.
        truth: of the same size.

    Raises:
        ValueError: the shapes differ.

    Source: Cheng, Girshick, Dollár, Berg and Kirillov, Boundary IoU, CVPR 2021, eq. 1, and its published code.
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"the prediction is {prediction.shape}, the truth {truth.shape}")
    width = band_width(truth.shape)
    predicted, true = border_band(prediction, width), border_band(truth, width)
    both = (predicted & true).count()
    either = predicted.count() + true.count() - both
    return both / either if either else 0.0
