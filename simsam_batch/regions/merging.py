"""Trees of regions from the bottom: neighbouring patches merged two by two, those first that are most alike.

Ward's criterion (1963) on the features of the patches, where only groups merge that touch on the grid: every node is a
connected part of the picture. What was merged last is the top of the tree. Unlike splitting superpixels from the top
(`simsam_batch.regions.tree`), this takes neither an eigenproblem nor k-means, and stops at nothing but a number of
leaves.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from simsam_batch.regions.splitting import Split
from simsam_batch.regions.tree import GrownNode, Tree, laid_out
from simsam_batch.spectral.affinity import normalize_rows
from simsam_batch.spectral.laplacian import fill_left_out

_ROUNDING = 1e-6
"""Patches merged at no greater height are equal; a height is the root of twice what it adds to the sum of squares."""


def merge_trees(features: Tensor, valid: Tensor, grid: tuple[int, int], leaves: int) -> list[Tree]:
    """Merge the patches of every image into a tree of so many leaves.

    A leaf is what was merged before all but the last ``leaves`` - 1 merges, and equal patches that touch are one. An
    inner node has two children. Patches that are not valid take part with features filled in from their neighbours. An
    image without valid patches, or with features that are not finite, gets a root alone.

    Args:
        features: (B, N, C) float32, rows of unit length.
        valid: (B, N) bool, patches with features of their own.
        grid: (Hp, Wp), of N patches.
        leaves: most leaves of a tree.

    Returns:
        A tree of each image. Its superpixels are its leaves; it has no ``ncut``, ``gap``, ``perturbation`` and
        ``mean_ncut``.

    Raises:
        ValueError: shapes that do not fit together, or no leaves.
    """
    if features.ndim != 3 or valid.shape != features.shape[:2] or grid[0] * grid[1] != features.shape[1] or leaves < 1:
        raise ValueError(
            f"features {tuple(features.shape)}, valid {tuple(valid.shape)} and a grid of {grid} do not fit together, "
            f"or leaves={leaves} is not at least 1"
        )
    filled = normalize_rows(fill_left_out(features.mT, valid, grid).mT).double().cpu().numpy()
    # Without a valid patch there is nothing to fill in from, and all are alike.
    filled[~valid.any(dim=1).cpu().numpy()] = 0
    return [_tree(rows, grid, leaves) for rows in filled]


def _tree(rows: NDArray[np.float64], grid: tuple[int, int], leaves: int) -> Tree:
    """The tree of one image from unit rows (N, C)."""
    from sklearn.cluster import ward_tree
    from sklearn.feature_extraction.image import grid_to_graph

    count = len(rows)
    if count == 1 or not np.isfinite(rows).all():
        return laid_out(_leaf(0), np.zeros(count, np.int32))
    children, _, _, _, heights = ward_tree(rows, connectivity=grid_to_graph(*grid), return_distance=True)
    inner = np.zeros(2 * count - 1, dtype=bool)
    inner[max(count, 2 * count - leaves) :] = True
    inner[count:] &= heights > _ROUNDING
    # From the top: all below a node that is not divided belongs to it.
    owner, depth = np.arange(2 * count - 1), np.zeros(2 * count - 1, dtype=np.intp)
    for node in range(2 * count - 2, count - 1, -1):
        below = children[node - count]
        depth[below] = depth[node] + 1
        if owner[node] != node or not inner[node]:
            owner[below] = owner[node]
    names: dict[int, int] = {}
    superpixel = np.array([names.setdefault(int(leaf), len(names)) for leaf in owner[:count]], dtype=np.int32)
    grown = {leaf: _leaf(name, int(depth[leaf])) for leaf, name in names.items()}
    for node in np.flatnonzero(inner & (owner == np.arange(len(owner)))).tolist():
        grown[node] = _joined(*(grown[child] for child in children[node - count].tolist()), depth=int(depth[node]))
    return laid_out(grown[2 * count - 2], superpixel)


def _leaf(superpixel: int, depth: int = 0) -> GrownNode:
    whole = Split("size", np.zeros(1, np.int64), np.zeros(0), 0, math.nan, math.nan, math.nan)
    return GrownNode(np.array([superpixel]), depth, math.nan, [], whole)


def _joined(*parts: GrownNode, depth: int) -> GrownNode:
    # Superpixels are numbered by their first patches, and siblings are in the order of theirs.
    children = sorted(parts, key=lambda part: int(part.members.min()))
    members = np.concatenate([child.members for child in children])
    labels = np.repeat(np.arange(len(children)), [len(child.members) for child in children])
    split = Split("split", labels, np.full(len(children), math.nan), len(children), math.nan, math.nan, math.nan)
    return GrownNode(members, depth, math.nan, children, split)
