"""What the nodes of a region tree measure: patches, boxes, mean features. Each comes from the superpixels' own by sums.

A node is an interval of superpixels (see `simsam_batch.regions.tree`), so that a running sum over the superpixels gives
every node by one subtraction.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from simsam_batch.regions.tree import Tree

Array = NDArray[Any]


def node_patches(tree: Tree) -> NDArray[np.int64]:
    """Count the patches of every node, (M,)."""
    counts = np.bincount(tree.superpixel[tree.superpixel >= 0], minlength=int(tree.hi[0]))
    return _interval_sums(tree, counts)


def node_boxes(tree: Tree, superpixels: NDArray[np.int32]) -> NDArray[np.int32]:
    """Find the box of every node, (M, 4) int32: left, top, right, bottom in cells, right and bottom exclusive.

    A node without cells has a box of zeros.

    Args:
        tree: of the image.
        superpixels: (rows, columns), the superpixel of every cell, numbered as the tree's are; -1 for none. The cells
            are the patches, or the pixels of a refined map.
    """
    rows, columns = np.nonzero(superpixels >= 0)
    corners = np.stack([columns, rows, -columns - 1, -rows - 1], axis=1)
    nowhere = np.iinfo(np.int32).max
    boxes = np.full((int(tree.hi[0]), 4), nowhere, dtype=np.int64)
    np.minimum.at(boxes, superpixels[rows, columns], corners)
    found = np.array([boxes[lo:hi].min(axis=0, initial=nowhere) for lo, hi in zip(tree.lo, tree.hi, strict=True)])
    found[found[:, 0] == nowhere] = 0
    return (found * [1, 1, -1, -1]).astype(np.int32)


def node_prototypes(tree: Tree, features: Array, counted: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
    """Average the features over the patches of every node and scale the mean to unit length, (M, C) float32.

    The published code does so for leaves, with features as they come from the backbone. A node without patches that
    count, or whose mean vanishes, has a row of zeros.

    Args:
        tree: of N patches.
        features: (N, C) floating point; rows of patches without a superpixel are not read.
        counted: (N,) the patches that count, such as those that are no outliers; None for all.
    """
    there = tree.superpixel >= 0
    if counted is not None:
        there &= counted
    sums = np.zeros((int(tree.hi[0]), features.shape[1]))
    np.add.at(sums, tree.superpixel[there], features[there].astype(np.float64))
    means = _interval_sums(tree, sums)
    length = np.linalg.norm(means, axis=1, keepdims=True)
    prototypes: NDArray[np.float32] = np.divide(means, length, out=np.zeros_like(means), where=length > 0).astype(
        np.float32
    )
    return prototypes


def _interval_sums(tree: Tree, values: Array) -> Array:
    running = np.concatenate([np.zeros_like(values[:1], shape=(1, *values.shape[1:])), values.cumsum(axis=0)])
    sums: Array = running[tree.hi] - running[tree.lo]
    return sums
