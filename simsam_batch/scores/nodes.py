"""Which nodes of a region tree cover the regions of a truth best, from counts of pixels alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

UNMATCHED = -1
"""Stands for the node of a truth region that has none, which exclusive matching may leave."""


@dataclass(frozen=True, slots=True)
class TreeNodes:
    """The nodes of one region tree over superpixels that are numbered so that every node holds a run of them.

    Attributes:
        parent: (M,) int, -1 for the one root.
        lo: (M,) int, the first superpixel of each node.
        hi: (M,) int, one past its last; equal to ``lo`` for a node without any.
        depth: (M,) int, 0 for the root.

    Raises:
        ValueError: the arrays are no such tree; the first node at fault is named.
    """

    parent: NDArray[np.integer[Any]]
    lo: NDArray[np.integer[Any]]
    hi: NDArray[np.integer[Any]]
    depth: NDArray[np.integer[Any]]

    def __post_init__(self) -> None:
        shapes = {name: getattr(self, name).shape for name in ("parent", "lo", "hi", "depth")}
        if len(set(shapes.values())) > 1 or self.parent.ndim != 1:
            raise ValueError(f"a tree is four arrays of one length, here they are {shapes}")
        roots = np.flatnonzero(self.parent == -1)
        if len(roots) != 1:
            raise ValueError(f"a tree has one node whose parent is -1, here {len(roots)} have")
        above = np.where(self.parent == -1, roots[0], self.parent)
        known = (above >= 0) & (above < len(above))
        above = np.where(known, above, roots[0])
        # Depths that rise by one from every parent cannot run in a circle.
        right_depth = self.depth == np.where(self.parent == -1, 0, self.depth[above] + 1)
        inside = (self.lo[above] <= self.lo) & (self.lo <= self.hi) & (self.hi <= self.hi[above])
        wrong = np.flatnonzero(~(known & right_depth & inside & (self.lo >= 0)))
        if len(wrong):
            shown = {name: int(getattr(self, name)[wrong[0]]) for name in shapes}
            raise ValueError(
                f"node {wrong[0]} of {len(above)} does not lie within its parent one step below it: {shown}"
            )

    @property
    def superpixels(self) -> int:
        """How many superpixels there are."""
        return int(self.hi.max())

    def candidates(self) -> NDArray[np.intp]:
        """The nodes that may cover a region: all but the root in pre-order, or the root if there is no other."""
        order = np.lexsort((self.depth, -self.hi.astype(np.int64), self.lo))
        return order[self.parent[order] != -1] if len(order) > 1 else order

    def cuts(self) -> NDArray[np.bool_]:
        """(D, M): the segments of the tree cut at depth 1 to D, where higher leaves stay; at last all leaves."""
        inner = np.zeros(len(self.parent), dtype=bool)
        inner[self.parent[self.parent >= 0]] = True
        levels = np.arange(1, max(int(self.depth.max()), 1) + 1)[:, None]
        cut: NDArray[np.bool_] = (self.depth == levels) | (~inner & (self.depth < levels))
        return cut


@dataclass(frozen=True, slots=True)
class Overlaps:
    """Pixels that truth regions and nodes share.

    Attributes:
        shared: (R, V) int64, the pixels of each region in each node.
        region: (R,) int64, the pixels of each region.
        node: (V,) int64, the counted pixels of each node.
    """

    shared: NDArray[np.int64]
    region: NDArray[np.int64]
    node: NDArray[np.int64]

    def iou(self) -> NDArray[np.float64]:
        """(R, V); equal ratios give equal values, so that ties are ties. 0 where a region and a node are both empty."""
        either = self.region[:, None] + self.node - self.shared
        value: NDArray[np.float64] = self.shared / np.maximum(either, 1)
        return value


def overlaps(table: NDArray[np.int64], pixels: NDArray[np.int64], tree: TreeNodes, nodes: NDArray[np.intp]) -> Overlaps:
    """Count the pixels that regions and nodes share, from the superpixels' counts alone: no node becomes a mask.

    Args:
        table: (R, m + 1), the pixels of each truth region in each superpixel, and in none; regions may overlap.
        pixels: (m + 1,), all counted pixels of each superpixel, and of none.
        tree: over those m superpixels.
        nodes: (V,), which of its nodes.
    """
    sums = np.cumsum(np.pad(np.vstack([table, pixels]), ((0, 0), (1, 0))), axis=1)
    held = sums[:, tree.hi[nodes]] - sums[:, tree.lo[nodes]]
    return Overlaps(held[:-1], sums[:-1, -1], held[-1])


def best_nodes(iou: NDArray[np.float64], exclusive: bool = False) -> NDArray[np.intp]:
    """The column of the node that covers each region best; the first of equals.

    Args:
        iou: (R, V).
        exclusive: give no node to two regions, with the largest sum of IoU (Hungarian); `UNMATCHED` where none is left.
    """
    if not exclusive:
        first: NDArray[np.intp] = iou.argmax(axis=1)
        return first
    from scipy.optimize import linear_sum_assignment

    match = np.full(len(iou), UNMATCHED, dtype=np.intp)
    regions, nodes = linear_sum_assignment(iou, maximize=True)
    match[regions] = nodes
    return match


def hierarchy_agreement(
    match: Sequence[int], region_parent: Sequence[int], node_parent: Sequence[int], distinct: bool = False
) -> list[float]:
    """The share of each region's ancestors that are matched to an ancestor of the region's own node.

    Every region and node counts as an ancestor of itself; the whole image is none.

    Args:
        match: of R regions, the node of each or `UNMATCHED`.
        region_parent: of R regions, -1 at the top.
        node_parent: of all nodes, -1 for the root.
        distinct: count a node once to which several of the ancestors are matched.

    Source: NHCovering of Rossetti and Pirri, NeurIPS 2024, the factor beside the IoU: as their code counts, or with
        ``distinct`` as the equation's intersection of sets reads.
    """
    shares = []
    for region in range(len(match)):
        nodes = set(upwards(match[region], node_parent))
        line = list(upwards(region, region_parent))
        matched = [match[above] for above in line if match[above] in nodes]
        shares.append(len(set(matched) if distinct else matched) / len(line))
    return shares


def upwards(start: int, parent: Sequence[int]) -> Iterator[int]:
    """The node itself, its parent, and so on to the top."""
    while start >= 0:
        yield start
        start = parent[start]
