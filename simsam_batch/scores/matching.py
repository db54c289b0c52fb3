"""Names for clusters: which class each cluster stands for, by intersection over union with the truth."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

UNMATCHED = -1
"""In place of a class: the cluster stands for none, and its pixels are right nowhere."""

Matching = Literal["none", "hungarian", "majority"]


def iou_table(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """IoU of every cluster with every class, n_ij / (r_i + c_j - n_ij); 0 where both are empty.

    Args:
        counts: (clusters, classes) from `simsam_batch.scores.confusion.confusion`, of a whole set; r_i and c_j are the
            sums of its rows and columns.

    Returns:
        (clusters, classes) float64.
    """
    union = counts.sum(axis=1)[:, None] + counts.sum(axis=0)[None] - counts
    table: NDArray[np.float64] = counts / np.maximum(union, 1)
    return table


def hungarian(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """One class at most for a cluster and one cluster at most for a class, with the greatest sum of IoU.

    Pairs that share no pixel are not matched: they add nothing to any score. Equal counts give the same matching
    always; which of several equally good ones it is, SciPy decides.

    Args:
        counts: (clusters, classes); there may be more of either.

    Returns:
        (clusters,) int64: the class of each cluster, or `UNMATCHED`.

    Source: evaluation of Deep Spectral Methods, there with as many clusters as classes.
    """
    from scipy.optimize import linear_sum_assignment

    clusters, classes = linear_sum_assignment(iou_table(counts), maximize=True)
    matched = np.full(len(counts), UNMATCHED, dtype=np.int64)
    matched[clusters] = classes
    return _without_overlap_unmatched(matched, counts)


def majority(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """For every cluster the class of the greatest IoU, the lowest of equal ones; clusters may share a class.

    Args:
        counts: (clusters, classes).

    Returns:
        (clusters,) int64: the class of each cluster, or `UNMATCHED` for one that shares no pixel with any.

    Source: evaluation of Deep Spectral Methods, there for other numbers of clusters than of classes.
    """
    best = iou_table(counts).argmax(axis=1) if counts.shape[1] else np.full(len(counts), UNMATCHED)
    return _without_overlap_unmatched(best.astype(np.int64), counts)


def _without_overlap_unmatched(matched: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    for cluster in np.flatnonzero(matched != UNMATCHED):
        if counts[cluster, matched[cluster]] == 0:
            matched[cluster] = UNMATCHED
    return matched


def rename(counts: NDArray[np.int64], matched: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """Counts of classes against classes: the rows of all clusters that stand for a class, added up.

    Args:
        counts: (clusters, classes).
        matched: (clusters,) classes, or `UNMATCHED`.
        classes: how many classes there are.

    Returns:
        (classes + 1, classes) int64; the last row holds the pixels of clusters that stand for no class.

    Raises:
        ValueError: there is not one entry for each cluster, or it is no class.
    """
    if matched.shape != (len(counts),):
        raise ValueError(f"the matching is for {len(matched)} clusters, there are {len(counts)}")
    if matched.size and not (matched.min() >= UNMATCHED and matched.max() < classes):
        raise ValueError(f"the matching names classes {matched.min()} to {matched.max()}; there are {classes}")
    table = np.zeros((classes + 1, classes), dtype=np.int64)
    np.add.at(table, np.where(matched == UNMATCHED, classes, matched), counts)
    return table
