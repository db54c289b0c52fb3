"""What clusters and patches stand for, from counts of pixels: one class each, or a distribution over classes.

Counts are those of the images that a probe is fitted on. Names found on the images that are scored would be a score of
another kind, which `simsam_batch.scores.matching` has.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

UNNAMED = -1
"""In place of a class: the cluster or patch stands for none."""


def most_pixels(counts: NDArray[np.int64], *, unlabelled: Literal["overall", "first"] = "overall") -> NDArray[np.int64]:
    """For every cluster the class of most of its pixels, the lowest of equal ones; clusters may share a class.

    Args:
        counts: (k, C) pixels of each class in each cluster, with C >= 1.
        unlabelled: what a cluster without any labelled pixel stands for: ``overall``, the class of most pixels
            altogether, or ``first``, class 0, as published for clusters of iBOT's features, where it is the background.

    Returns:
        (k,) int64.

    Raises:
        ValueError: for negative counts, or no matrix with at least one class.
    """
    _check(counts)
    names: NDArray[np.int64] = counts.argmax(axis=1).astype(np.int64)
    if unlabelled == "overall":
        names[counts.sum(axis=1) == 0] = counts.sum(axis=0).argmax()
    return names


def one_to_one(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """One class at most for a cluster and one cluster at most for a class, with most pixels that agree.

    Args:
        counts: (k, C); there may be more of either.

    Returns:
        (k,) int64, `UNNAMED` for a cluster that got no class, or only one of which it has no pixel.

    Raises:
        ValueError: as `most_pixels`.

    Source: the assignment problem (Kuhn, "The Hungarian method", 1955), solved by SciPy.
    """
    from scipy.optimize import linear_sum_assignment

    _check(counts)
    clusters, classes = linear_sum_assignment(counts, maximize=True)
    names = np.full(len(counts), UNNAMED, dtype=np.int64)
    shared = counts[clusters, classes] > 0
    names[clusters[shared]] = classes[shared]
    return names


def distributions(counts: NDArray[np.int64]) -> NDArray[np.float32]:
    """Share of each class among the labelled pixels of each cluster.

    Args:
        counts: (k, C).

    Returns:
        (k, C) float32, rows sum to 1. A cluster without labelled pixels has the shares of all pixels together, and
        where no pixel is labelled at all, every class has the same.

    Raises:
        ValueError: as `most_pixels`.
    """
    _check(counts)
    overall = counts.sum(axis=0)
    if overall.sum() == 0:
        overall = np.ones_like(overall)
    filled = np.where(counts.sum(axis=1, keepdims=True) == 0, overall, counts)
    shares: NDArray[np.float32] = (filled / filled.sum(axis=1, keepdims=True)).astype(np.float32)
    return shares


def soft_labels(
    counts: NDArray[np.integer], void: NDArray[np.integer] | None = None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Targets and weights of patches, with which cross-entropy is that of all pixels that count.

    Args:
        counts: (n, C) pixels of each class in each patch.
        void: (n,) pixels of each patch that count for nothing; None where all do.

    Returns:
        targets (n, C) float32, shares of the classes among the pixels that count, and weights (n,) float32, the share
        of pixels that count in all of the patch. A patch without any that counts has targets and weight 0: leave it
        out.

    Raises:
        ValueError: as `most_pixels`, or if the two do not fit together.
    """
    _check(counts)
    counted = counts.sum(axis=1, dtype=np.int64)
    ignored = np.zeros_like(counted) if void is None else void.astype(np.int64)
    if ignored.shape != counted.shape or (ignored < 0).any():
        raise ValueError(f"void pixels of shape {ignored.shape} do not fit counts of shape {counts.shape}")
    targets: NDArray[np.float32] = (counts / np.maximum(counted, 1)[:, None]).astype(np.float32)
    weights: NDArray[np.float32] = (counted / np.maximum(counted + ignored, 1)).astype(np.float32)
    return targets, weights


def coarse_labels(counts: NDArray[np.integer]) -> NDArray[np.int64]:
    """Class of most pixels of every patch, the lowest of equal ones; `UNNAMED` for a patch of which no pixel counts.

    Args:
        counts: (n, C).

    Returns:
        (n,) int64.

    Raises:
        ValueError: as `most_pixels`.
    """
    _check(counts)
    return np.where(counts.sum(axis=1) == 0, UNNAMED, counts.argmax(axis=1)).astype(np.int64)


def _check(counts: NDArray[np.integer]) -> None:
    if counts.ndim != 2 or counts.shape[1] == 0 or not np.issubdtype(counts.dtype, np.integer):
        raise ValueError(
            f"counts have shape {counts.shape} and type {counts.dtype}; whole numbers of pixels for each of at least "
            "one class are needed"
        )
    if (counts < 0).any():
        raise ValueError("counts of pixels are negative")
