"""How well object masks agree with the truth: exact counts per image, and their merge over a whole set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEVELS = 256
"""Soft maps are compared with thresholds t/255, t = 0..255."""

BETA_SQUARED = 0.3
"""Weight of recall in F-beta, as in the saliency literature."""


@dataclass(frozen=True, slots=True)
class OverlapCounts:
    """Pixel counts of one prediction against its truth.

    Attributes:
        intersection: pixels that are object in both.
        union: pixels that are object in one of them at least.
        correct: pixels on which both agree.
        pixels: pixels of the image.
    """

    intersection: int
    union: int
    correct: int
    pixels: int


def overlap_counts(prediction: NDArray[np.bool_], truth: NDArray[np.bool_]) -> OverlapCounts:
    """Count agreement of two masks (H, W).

    Raises:
        ValueError: the shapes differ.
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"the prediction is {prediction.shape}, the truth {truth.shape}")
    both = int(np.count_nonzero(prediction & truth))
    either = int(np.count_nonzero(prediction)) + int(np.count_nonzero(truth)) - both
    return OverlapCounts(intersection=both, union=either, correct=truth.size - either + both, pixels=truth.size)


def iou(counts: OverlapCounts) -> float:
    """Return the foreground's intersection over union; 0 where both masks are empty (Deep Spectral Methods' code)."""
    return counts.intersection / counts.union if counts.union else 0.0


def accuracy(counts: OverlapCounts) -> float:
    """Return the share of pixels on which both masks agree; 0 for an image without pixels."""
    return counts.correct / counts.pixels if counts.pixels else 0.0


def threshold_histograms(soft: NDArray[np.floating[Any]], truth: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Count the pixels of each level of a soft map, apart for the truth's background and object.

    Args:
        soft: (H, W) in 0..1; the level is ``soft * 255`` rounded, half to even.
        truth: (H, W) bool.

    Returns:
        (2, 256) int64: row 0 background, row 1 object.

    Raises:
        ValueError: the shapes differ.
    """
    if soft.shape != truth.shape:
        raise ValueError(f"the soft map is {soft.shape}, the truth {truth.shape}")
    levels = _levels(soft)
    everything = np.bincount(levels.ravel(), minlength=LEVELS)
    on_object = np.bincount(levels[truth], minlength=LEVELS)
    return np.stack([everything - on_object, on_object]).astype(np.int64)


def threshold_histograms_on_grid(
    soft: NDArray[np.floating[Any]],
    index: tuple[NDArray[np.intp], NDArray[np.intp]],
    truth: NDArray[np.bool_],
) -> NDArray[np.int64]:
    """Do as `threshold_histograms` does for a map of patches spread over the image, without spreading it.

    Args:
        soft: (Hp, Wp) in 0..1.
        index: the patch row of each pixel row (H,) and the patch column of each pixel column (W,), both ascending.
        truth: (H, W) bool.

    Returns:
        (2, 256) int64, equal to the histograms of the map at full size.

    Raises:
        ValueError: the index does not fit the truth.
    """
    rows, columns = index
    if truth.shape != (len(rows), len(columns)):
        raise ValueError(f"the index is for an image of {(len(rows), len(columns))}, the truth is {truth.shape}")
    patch_rows, first_rows, heights = np.unique(rows, return_index=True, return_counts=True)
    patch_columns, first_columns, widths = np.unique(columns, return_index=True, return_counts=True)
    # Sums over the runs of equal patch row, then over those of equal patch column: the object's pixels in each patch.
    on_object = np.add.reduceat(np.add.reduceat(truth, first_rows, axis=0, dtype=np.int64), first_columns, axis=1)
    background = np.outer(heights, widths) - on_object
    levels = _levels(soft[np.ix_(patch_rows, patch_columns)])
    histograms = np.zeros((2, LEVELS), dtype=np.int64)
    np.add.at(histograms[0], levels, background)
    np.add.at(histograms[1], levels, on_object)
    return histograms


def _levels(soft: NDArray[np.floating[Any]]) -> NDArray[np.intp]:
    levels: NDArray[np.intp] = np.rint(np.clip(soft, 0, 1) * (LEVELS - 1)).astype(np.intp)
    return levels


def precision_recall(histograms: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return precision and recall at every threshold t = 0..255, where levels of t and more count as object.

    Args:
        histograms: (2, 256) from `threshold_histograms`.

    Returns:
        precision (256,): 0 where nothing is predicted. recall (256,): 0 where the truth holds no object.
    """
    # Entry t of a reversed cumulative sum counts the levels t..255.
    false, true = np.cumsum(histograms[:, ::-1], axis=1)[:, ::-1]
    precision = true / np.maximum(true + false, 1)
    recall = true / max(int(true[0]), 1)
    return precision, recall


def f_beta(
    precision: NDArray[np.float64], recall: NDArray[np.float64], beta_squared: float = BETA_SQUARED
) -> NDArray[np.float64]:
    """Return (1 + b) P R / (b P + R) with b = beta squared; 0 where both P and R are 0."""
    weighted = beta_squared * precision + recall
    value: NDArray[np.float64] = (1 + beta_squared) * precision * recall / np.where(weighted > 0, weighted, 1.0)
    return value


class ObjectScores:
    """The fold of object masks over a set: a state for each image, merged by addition.

    States are plain JSON values: integers of any size, and lists of 256 floats for the two curves.
    """

    def zero(self) -> dict[str, Any]:
        """Return the state of no image."""
        return {
            "images_scored": 0,
            "intersection": 0,
            "union": 0,
            "correct": 0,
            "pixels": 0,
            "iou_sum": 0.0,
            "accuracy_sum": 0.0,
            "precision_sum": [0.0] * LEVELS,
            "recall_sum": [0.0] * LEVELS,
        }

    def of_image(self, counts: OverlapCounts, histograms: NDArray[np.int64]) -> dict[str, Any]:
        """Return the state of one image, from its `overlap_counts` and `threshold_histograms`."""
        precision, recall = precision_recall(histograms)
        return {
            "images_scored": 1,
            "intersection": counts.intersection,
            "union": counts.union,
            "correct": counts.correct,
            "pixels": counts.pixels,
            "iou_sum": iou(counts),
            "accuracy_sum": accuracy(counts),
            "precision_sum": precision.tolist(),
            "recall_sum": recall.tolist(),
        }

    def merge(self, a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
        """Add two states. Counts are exact in any order; sums of floats repeat if the order does."""
        curves = ("precision_sum", "recall_sum")
        merged = {name: a[name] + b[name] for name in a if name not in curves}
        return merged | {name: [x + y for x, y in zip(a[name], b[name], strict=True)] for name in curves}

    def result(self, s: dict[str, Any]) -> dict[str, Any]:
        """Return the scores of the set; nothing if no image had a truth.

        ``iou_per_image_mean`` and ``accuracy`` are means over images (what the literature on unsupervised object
        segmentation calls mIoU and Acc), the ``_pooled`` ones are ratios of sums over all pixels. ``f_beta_max`` is
        the best F-beta of the precision and recall curves averaged over images, at ``f_beta_threshold`` in 0..1.
        """
        images = s["images_scored"]
        if images == 0:
            return {}
        curve = f_beta(np.array(s["precision_sum"]) / images, np.array(s["recall_sum"]) / images)
        best = int(curve.argmax())
        pooled = OverlapCounts(s["intersection"], s["union"], s["correct"], s["pixels"])
        return {
            "iou_per_image_mean": s["iou_sum"] / images,
            "iou_pooled": iou(pooled),
            "accuracy": s["accuracy_sum"] / images,
            "accuracy_pooled": accuracy(pooled),
            "f_beta_max": float(curve[best]),
            "f_beta_threshold": best / (LEVELS - 1),
            "images_scored": images,
        }
