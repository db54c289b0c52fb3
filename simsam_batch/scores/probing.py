"""How well classes were predicted, from three counts of pixels for each class; they add up over images."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

TRUE_POSITIVE, PREDICTED, TRUE = range(3)
"""Rows of counts: pixels of a class that were predicted as it, all that were predicted as it, all that are of it."""


def class_counts(table: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """The three counts of every class, which are all that scores need of a confusion.

    Args:
        table: (..., R, C) integers with R >= C: entry (i, j) counts pixels predicted as i that are j, from
            `simsam_batch.scores.confusion.confusion`, which leaves ignored pixels out. Predicted ids from C on stand
            for no class: their pixels are right nowhere.

    Returns:
        (..., 3, C) int64: `TRUE_POSITIVE`, `PREDICTED` and `TRUE` pixels.

    Raises:
        ValueError: the table has fewer rows than columns.
    """
    ids, classes = table.shape[-2:]
    if ids < classes:
        raise ValueError(f"a confusion of {ids} predicted ids and {classes} classes: each class must be an id")
    own = table[..., :classes, :]
    rows = (np.diagonal(own, axis1=-2, axis2=-1), own.sum(axis=-1), table.sum(axis=-2))
    return np.stack(rows, axis=-2).astype(np.int64, copy=False)


def counts_of_one_class(counts: NDArray[np.int64], predicted: int) -> NDArray[np.int64]:
    """What the counts would be if all pixels were predicted as one class: the floor that a probe must rise above.

    Args:
        counts: (..., 3, C), of which `TRUE` counts.
        predicted: that class; 0 is VOC's background.

    Returns:
        (..., 3, C) int64.
    """
    floor = np.zeros_like(counts)
    floor[..., TRUE, :] = counts[..., TRUE, :]
    floor[..., TRUE_POSITIVE, predicted] = counts[..., TRUE, predicted]
    floor[..., PREDICTED, predicted] = counts[..., TRUE, :].sum(axis=-1)
    return floor


def ious(counts: NDArray[Any]) -> NDArray[np.float64]:
    """Intersection over union of every class, ``tp / (predicted + true - tp)``.

    Args:
        counts: (..., 3, C) of an image or summed over images.

    Returns:
        (..., C) float64 in 0..1; NaN where the union is empty, for a class that is neither predicted nor true.
    """
    true_positive = counts[..., TRUE_POSITIVE, :]
    union = counts[..., PREDICTED, :] + counts[..., TRUE, :] - true_positive
    found = np.full(union.shape, np.nan)
    np.divide(true_positive, union, out=found, where=union > 0)
    return found


def per_image_miou(counts: NDArray[Any]) -> NDArray[np.float64]:
    """The mean IoU of each table of counts on its own, over the classes that it holds.

    With one image to a table this is the legacy score: ``m_i = 1/|S_i| sum_{c in S_i} IoU_ic``, where ``S_i`` are the
    classes predicted or true in image i; upstream publishes the mean of ``m_i`` over images. One that is all background
    scores high there, so that such figures compare with each other alone, and not with `mean_iou`. Upstream counts void
    pixels as background: the counts must be made so.

    Args:
        counts: (..., 3, C), usually (images, 3, C).

    Returns:
        (...) float64 in 0..1; NaN for one without any pixel that counts.

    Source: Clustering-Segmentation-Based-On-iBOT, ``utils/metrics.py``.
    """
    found = ious(counts)
    held = ~np.isnan(found)
    classes = held.sum(axis=-1)
    mean = np.full(classes.shape, np.nan)
    np.divide(found.sum(axis=-1, where=held), classes, out=mean, where=classes > 0)
    return mean


def mean_iou(counts: NDArray[Any]) -> float:
    """The mean over classes of the IoU over the pixels of a whole set, the metric of PASCAL VOC.

    Classes that are neither predicted nor true in the set are left out; NaN in `ious` says which they are.

    Args:
        counts: (3, C) summed over the images of the set.

    Returns:
        In 0..1; NaN without any pixel that counts.

    Source: Everingham et al., The PASCAL visual object classes challenge: a retrospective, IJCV 2015, section 4.
    """
    return float(per_image_miou(counts))


def pixel_accuracy(counts: NDArray[Any]) -> float:
    """The share of the pixels that count whose class was predicted, of counts (3, C); NaN without any pixel."""
    pixels = int(counts[TRUE].sum())
    return int(counts[TRUE_POSITIVE].sum()) / pixels if pixels else float("nan")
