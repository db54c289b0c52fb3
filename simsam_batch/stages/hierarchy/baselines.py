"""What trees are compared with: a regular grid and k-means of the same features, by their coverings."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simsam_batch.regions import pixel_index
from simsam_batch.regions.baselines import Regions
from simsam_batch.scores.means import exact_mean
from simsam_batch.scores.nodes import TreeNodes
from simsam_batch.stages.hierarchy.rows import TreeScores


def baseline_coverings(
    scores: TreeScores,
    truth: Any,
    index: pixel_index.UpsampleIndex,
    grid: tuple[int, int],
    others: Mapping[str, Regions],
    nodes: int,
) -> dict[str, float]:
    """The covering of every baseline of an image; nothing where its truth has no foreground.

    Beside those in ``others`` there are ``kmeans_all``, in which every region of the truth has the best part of any of
    the partitions by k-means, and ``kmeans``, the same with the coarsest partitions that have together at most as many
    parts as the tree has nodes (this project).

    Args:
        scores: of the set.
        truth: of the image, as the scores take it.
        index: patch row of every pixel row of the truth, and likewise of columns.
        grid: (Hp, Wp).
        others: regions by the name of the baseline; the partitions by k-means in ascending order of k.
        nodes: of the tree, without its root.
    """
    found: dict[str, list[NDArray[np.float64]]] = {}
    parts = 0
    for name, regions in others.items():
        tree = TreeNodes(regions.parent, regions.lo, regions.hi, regions.depth)
        ious = found[name] = scores.best_ious(regions.superpixel.reshape(grid)[np.ix_(*index)], truth, tree)
        if name == "grid":
            continue
        parts += len(tree.parent) - 1
        unions = ("kmeans", "kmeans_all") if parts <= nodes or "kmeans" not in found else ("kmeans_all",)
        for union in unions:
            so_far = found.get(union, ious)
            found[union] = [np.maximum(a, b) for a, b in zip(so_far, ious, strict=True)]
    best = {name: found[name] for name in (*others, "kmeans", "kmeans_all") if found.get(name)}
    return {name: fmean(map(exact_mean, map(np.ndarray.tolist, ious))) for name, ious in best.items()}
