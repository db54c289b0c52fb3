"""How well object masks agree with the truth: exact counts per image, and their merge over a whole set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simsam_batch.scores.bits import Bits
from simsam_batch.scores.bootstrap import bin_of, interval_of_mean, merge_bins
from simsam_batch.scores.means import mean_of_one, mean_result, merge_means, no_mean

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


@dataclass(frozen=True, slots=True)
class TruthCounts:
    """The truth of one image, summed over the cells that predictions are made for: patches, or single pixels.

    Attributes:
        on_object: (Hp, Wp) int64, the truth's object pixels in each cell.
        pixels: (Hp, Wp) int64, all pixels in each cell; 0 where an image smaller than its grid has none.
    """

    on_object: NDArray[np.int64]
    pixels: NDArray[np.int64]


def count_truth(
    truth: NDArray[np.bool_],
    index: tuple[NDArray[np.intp], NDArray[np.intp]] | None = None,
    grid: tuple[int, int] | None = None,
) -> TruthCounts:
    """Sum a truth mask over the patches of a grid, so that scores of patch maps cost no pass over the pixels.

    Args:
        truth: (H, W) bool.
        index: the patch row of each pixel row (H,) and the patch column of each pixel column (W,), both ascending;
            None for cells of one pixel.
        grid: (Hp, Wp), with ``index``.

    Raises:
        ValueError: the index does not fit the truth.
    """
    if index is None or grid is None:
        return TruthCounts(truth.astype(np.int64), np.ones(truth.shape, dtype=np.int64))
    rows, columns = index
    if truth.shape != (len(rows), len(columns)):
        raise ValueError(f"the index is for an image of {(len(rows), len(columns))}, the truth is {truth.shape}")
    # where each cell begins, of which small images have some without a pixel
    tops, lefts = (np.searchsorted(along, np.arange(cells + 1)) for along, cells in zip(index, grid, strict=True))
    heights, widths = np.diff(tops), np.diff(lefts)
    held = np.flatnonzero(heights)
    down = _sums_down(truth, tops[held])
    # sums up to each column, so that a cell's is a difference
    before = np.zeros((len(down), len(columns) + 1), np.uint32)
    np.cumsum(down, axis=1, dtype=np.uint32, out=before[:, 1:])
    counts = TruthCounts(np.zeros(grid, np.int64), np.outer(heights, widths))
    counts.on_object[held] = np.diff(before[:, lefts], axis=1)
    return counts


def _sums_down(truth: NDArray[np.bool_], first: NDArray[np.intp]) -> NDArray[np.uint32]:
    """Sums over runs of rows that begin at ``first``: (runs, W).

    This pass sees every pixel: eight of them, a byte each, are added as one number, up to 255 rows of them at once, so
    that no byte runs over.
    """
    height, width = truth.shape
    eight = np.zeros((height, -(-width // 8) * 8), np.uint8) if width % 8 else truth.view(np.uint8)
    if width % 8:
        eight[:, :width] = truth
    ends = [*first[1:].tolist(), height]
    parts = [
        (run, at) for run, (begin, end) in enumerate(zip(first, ends, strict=True)) for at in range(begin, end, 255)
    ]
    begins = np.array([at for _, at in parts])
    heights = np.diff(begins, append=height)
    words = np.ascontiguousarray(eight).view(np.uint64)
    # one row of every part at a time: NumPy's reduceat goes down each column on its own, past the cache
    sums: NDArray[np.uint64] = words[begins]
    for down in range(1, heights.max()):
        there = slice(None) if down < heights.min() else heights > down
        sums[there] += words[begins[there] + down]
    of_parts = sums.view(np.uint8)[:, :width]
    if len(parts) == len(first):
        return of_parts.astype(np.uint32)
    firsts = np.flatnonzero(np.diff([run for run, _ in parts], prepend=-1))
    return np.add.reduceat(of_parts, firsts, axis=0, dtype=np.uint32)


def overlap_counts(prediction: NDArray[np.bool_], truth: TruthCounts) -> OverlapCounts:
    """Count the pixels on which a mask of cells (Hp, Wp) and the truth agree.

    Raises:
        ValueError: the shapes differ.
    """
    _require_same_cells(prediction, truth)
    both = int(truth.on_object[prediction].sum())
    predicted, pixels = int(truth.pixels[prediction].sum()), int(truth.pixels.sum())
    either = predicted + int(truth.on_object.sum()) - both
    return OverlapCounts(intersection=both, union=either, correct=pixels - either + both, pixels=pixels)


def mask_overlap(prediction: Bits, truth: Bits) -> OverlapCounts:
    """Count the pixels on which two masks of pixels agree; what `overlap_counts` gives, without sums over cells.

    Args:
        prediction: see `simsam_batch.scores.bits.packed`.
        truth: of the same size.

    Raises:
        ValueError: the shapes differ.
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"the prediction is {prediction.shape}, the truth {truth.shape}")
    pixels = truth.shape[0] * truth.shape[1]
    both = (prediction & truth).count()
    either = prediction.count() + truth.count() - both
    return OverlapCounts(both, either, correct=pixels - either + both, pixels=pixels)


def iou(counts: OverlapCounts) -> float:
    """Return the foreground's intersection over union; 0 where both masks are empty (Deep Spectral Methods' code)."""
    return counts.intersection / counts.union if counts.union else 0.0


def accuracy(counts: OverlapCounts) -> float:
    """Return the share of pixels on which both masks agree; 0 for an image without pixels."""
    return counts.correct / counts.pixels if counts.pixels else 0.0


def threshold_histograms(soft: NDArray[np.floating[Any]], truth: TruthCounts) -> NDArray[np.int64]:
    """Count the pixels of each level of a soft map of cells, apart for the truth's background and object.

    Args:
        soft: (Hp, Wp) in 0..1; the level is ``soft * 255`` rounded, half to even.
        truth: of the same cells.

    Returns:
        (2, 256) int64: row 0 background, row 1 object.

    Raises:
        ValueError: the shapes differ.
    """
    _require_same_cells(soft, truth)
    levels = _levels(soft).ravel()
    # sums of whole numbers below 2^53, which are exact
    background, on_object = (
        np.bincount(levels, each.ravel(), LEVELS) for each in (truth.pixels - truth.on_object, truth.on_object)
    )
    return np.stack([background, on_object]).astype(np.int64)


def _require_same_cells(cells: NDArray[Any], truth: TruthCounts) -> None:
    if cells.shape != truth.pixels.shape:
        raise ValueError(f"the prediction is {cells.shape}, the truth {truth.pixels.shape}")


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


_CURVES = ("precision_sum", "recall_sum")
_BINS = ("iou_bins", "accuracy_bins")


class ObjectScores:
    """The fold of object masks over a set: a state for each image, merged by addition.

    States are plain JSON values: integers of any size, sums of floats, histograms of the two scores that have an
    interval, and lists of 256 floats for the two curves, which images with a soft map add to.
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
            "iou_bins": {},
            "accuracy_bins": {},
            "soft_maps": 0,
            "precision_sum": [0.0] * LEVELS,
            "recall_sum": [0.0] * LEVELS,
            "boundary_iou": no_mean(),
        }

    def of_image(
        self, counts: OverlapCounts, histograms: NDArray[np.int64] | None = None, boundary_iou: float | None = None
    ) -> dict[str, Any]:
        """Return the state of one image.

        Args:
            counts: its overlap.
            histograms: its `threshold_histograms`; None without a soft map.
            boundary_iou: see `simsam_batch.scores.boundary`; None where it was not computed.
        """
        state = self.zero() | {
            "images_scored": 1,
            "intersection": counts.intersection,
            "union": counts.union,
            "correct": counts.correct,
            "pixels": counts.pixels,
            "iou_sum": iou(counts),
            "accuracy_sum": accuracy(counts),
            "iou_bins": bin_of(iou(counts)),
            "accuracy_bins": bin_of(accuracy(counts)),
        }
        if histograms is not None:
            precision, recall = precision_recall(histograms)
            state |= {"soft_maps": 1, "precision_sum": precision.tolist(), "recall_sum": recall.tolist()}
        if boundary_iou is not None:
            state["boundary_iou"] = mean_of_one(boundary_iou)
        return state

    def merge(self, a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
        """Add two states. Counts are exact in any order; sums of floats repeat if the order does."""
        merged = {name: a[name] + b[name] for name in a if name not in (*_CURVES, *_BINS, "boundary_iou")}
        merged |= {name: merge_bins(a[name], b[name]) for name in _BINS}
        merged["boundary_iou"] = merge_means(*(state.get("boundary_iou", no_mean()) for state in (a, b)))
        if not b["soft_maps"]:
            return merged | {name: a[name] for name in _CURVES}
        return merged | {name: [x + y for x, y in zip(a[name], b[name], strict=True)] for name in _CURVES}

    def result(self, s: dict[str, Any]) -> dict[str, Any]:
        """Return the scores of the set; nothing if no image had a truth.

        ``iou_per_image_mean`` and ``accuracy`` are means over images (what the literature on unsupervised object
        segmentation calls mIoU and Acc) with their intervals ``_ci``, the ``_pooled`` ones are ratios of sums over all
        pixels. ``boundary_iou`` is a mean over images as well, where it was computed. ``f_beta_max`` is the best F-beta
        of the precision and recall ``curve`` averaged over images, at ``f_beta_threshold`` in 0..1; all three only with
        soft maps. The curve has an entry for each threshold t/255, t = 0..255, rounded to four digits.
        """
        images = s["images_scored"]
        if images == 0:
            return {}
        pooled = OverlapCounts(s["intersection"], s["union"], s["correct"], s["pixels"])
        scores = {
            "protocol": "dsm-object",
            "iou_per_image_mean": s["iou_sum"] / images,
            "iou_per_image_mean_ci": interval_of_mean(s["iou_bins"], s["iou_sum"] / images),
            "iou_pooled": iou(pooled),
            "accuracy": s["accuracy_sum"] / images,
            "accuracy_ci": interval_of_mean(s["accuracy_bins"], s["accuracy_sum"] / images),
            "accuracy_pooled": accuracy(pooled),
            "images_scored": images,
        }
        if s["boundary_iou"]["images"]:
            scores |= mean_result(s["boundary_iou"], "boundary_iou")
        return scores | _curve(s) if s["soft_maps"] else scores


def _curve(s: dict[str, Any]) -> dict[str, Any]:
    """The averaged precision and recall of a state with soft maps, and their best F-beta."""
    curves = {name.removesuffix("_sum"): np.array(s[name]) / s["soft_maps"] for name in _CURVES}
    values = f_beta(**curves)
    best = int(values.argmax())
    return {
        "f_beta_max": float(values[best]),
        "f_beta_threshold": best / (LEVELS - 1),
        "curve": {name: values.round(4).tolist() for name, values in curves.items()},
    }
