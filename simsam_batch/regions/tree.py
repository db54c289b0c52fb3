"""Trees of regions: an image split again and again, with every node an interval of its superpixels.

After hierarchy-agnostic segmentation (Rossetti and Pirri, NeurIPS 2024). Superpixels are numbered along the leaves from
left to right, so that a node holds those from ``lo`` to ``hi`` and no others: a region is a comparison, an ancestor
an interval that contains another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simsam_batch.regions.intervals import deepest_nodes
from simsam_batch.regions.splitting import OUTCOMES, Split, SplitRules, split_nodes
from simsam_batch.regions.superpixels import Superpixels

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Tree:
    """One image's tree of M nodes over s superpixels of N patches; nodes are numbered in pre-order, the root is 0.

    The children of a node tile it: the first begins at its ``lo``, each where the one before ends, the last ends at its
    ``hi``. Siblings are in the order of the first patch they hold (row-major).

    Attributes:
        parent: (M,) int32, -1 for the root.
        lo, hi: (M,) int32, superpixels lo to hi - 1.
        depth: (M,) int16, 0 for the root.
        ncut: (M,) float64, cut / assoc of the node among its siblings; 0 for the root, which nothing is cut from.
        parts: (M,) int16, number of parts suggested for the node; 0 where no division was tried.
        gap, perturbation, mean_ncut: (M,) float64, of the node's own division, see `simsam_batch.regions.splitting`;
            NaN where there is none.
        outcome: (M,) int8, place in `simsam_batch.regions.splitting.OUTCOMES`: ``split``, or why it is a leaf.
        superpixel: (N,) int32, superpixel of every patch; -1 for a patch of none.
    """

    parent: NDArray[np.int32]
    lo: NDArray[np.int32]
    hi: NDArray[np.int32]
    depth: NDArray[np.int16]
    ncut: NDArray[np.float64]
    parts: NDArray[np.int16]
    gap: NDArray[np.float64]
    perturbation: NDArray[np.float64]
    mean_ncut: NDArray[np.float64]
    outcome: NDArray[np.int8]
    superpixel: NDArray[np.int32]

    @property
    def leaf(self) -> NDArray[np.bool_]:
        """(M,) True for nodes without children."""
        leaf = np.ones(len(self.parent), dtype=bool)
        leaf[self.parent[1:]] = False
        return leaf


@dataclass(slots=True)
class GrownNode:
    """A node of a tree that still grows.

    Attributes:
        members: its superpixels, as they were numbered before.
        depth: 0 for the root.
        ncut: see `Tree`.
        children: in order; none of a leaf.
        split: what became of it; None where nothing was tried for its depth.
    """

    members: Array
    depth: int
    ncut: float
    children: list[GrownNode]
    split: Split | None = None


def grow_trees(superpixels: Superpixels, seeds: Sequence[int], rules: SplitRules | None = None) -> list[Tree]:
    """Split the superpixels of every image again and again.

    All nodes of one depth of all images are split together; an image's tree is the same to the bit in any company. A
    node's k-means gets the seed of its image, whichever node it is. An image without superpixels gets a root that holds
    none; one with a single superpixel, or whose root is not split, the root alone.

    Args:
        superpixels: of B images, see `simsam_batch.regions.superpixels`.
        seeds: one per image.
        rules: None: the defaults.

    Raises:
        ValueError: graphs that do not fit the labels, seeds of another number, weights that are negative or not finite.
    """
    rules = SplitRules() if rules is None else rules
    graphs = superpixels.graphs
    if not len(graphs) == len(seeds) == len(superpixels.labels):
        raise ValueError(f"{len(superpixels.labels)} images need as many graphs and seeds: {len(graphs)}, {len(seeds)}")
    for graph, labels in zip(graphs, superpixels.labels, strict=True):
        if int(labels.max(initial=-1)) + 1 != len(graph):
            raise ValueError(f"labels up to {labels.max(initial=-1)} need as many superpixels, not {len(graph)}")
    roots = [GrownNode(np.arange(len(graph)), 0, 0.0, []) for graph in graphs]
    frontier = list(enumerate(roots))
    for depth in range(rules.max_depth):
        splits = split_nodes(
            [graphs[image][np.ix_(node.members, node.members)] for image, node in frontier],
            [seeds[image] for image, _ in frontier],
            rules,
        )
        following = []
        for (image, node), split in zip(frontier, splits, strict=True):
            node.split = split
            for part, ncut in enumerate(split.ncuts):
                child = GrownNode(node.members[split.labels == part], depth + 1, float(ncut), [])
                node.children.append(child)
                following.append((image, child))
        frontier = following
        if not frontier:
            break
    return [laid_out(root, labels) for root, labels in zip(roots, superpixels.labels, strict=True)]


def owners(tree: Tree) -> NDArray[np.int32]:
    """Return the deepest node of every patch, (N,) int32: its leaf; -1 for a patch of none."""
    return deepest_nodes(tree.lo, tree.hi)[tree.superpixel]


def with_upstream_numbering(tree: Tree) -> Tree:
    """Return the tree as the published code labels it, for comparison with its scores.

    There the first child of a node inherits its parent's code, so that the patches of a chain's leaf (first child of a
    first child, and so on) are labelled as the topmost node of the chain: they are missing from all nodes below that
    one. ``lo`` of those moves up to the end of the leaf, which is left with nothing. Intervals stay nested, but
    children no longer tile their parent. `owners` is then the published label map, but for how its nodes are numbered.
    """
    leaf, lo = tree.leaf, tree.lo.copy()
    for top in range(len(lo)):
        if top and tree.parent[top] == top - 1:
            continue
        bottom = top
        while not leaf[bottom]:
            bottom += 1
        lo[top + 1 : bottom + 1] = tree.hi[bottom]
    return replace(tree, lo=lo)


def laid_out(root: GrownNode, labels: NDArray[np.int32]) -> Tree:
    """Lay a grown tree out in pre-order, and number the superpixels along its leaves.

    Args:
        root: of the tree; its superpixels are 0 to s - 1.
        labels: (N,) superpixel of every patch; -1 for a patch of none.
    """
    nodes: list[GrownNode] = []
    parent: list[int] = []
    order: list[int] = []
    lo: list[int] = []
    stack = [(root, -1)]
    while stack:
        node, above = stack.pop()
        stack += [(child, len(nodes)) for child in reversed(node.children)]
        nodes.append(node)
        parent.append(above)
        lo.append(len(order))
        if not node.children:
            order += node.members.tolist()
    place = np.full(len(order) + 1, -1, dtype=np.int32)
    place[order] = np.arange(len(order))
    start = np.array(lo, dtype=np.int32)
    tried = [node.split for node in nodes]
    outcomes = [_outcome(node) for node in nodes]
    return Tree(
        parent=np.array(parent, dtype=np.int32),
        lo=start,
        hi=start + np.array([len(node.members) for node in nodes], dtype=np.int32),
        depth=np.array([node.depth for node in nodes], dtype=np.int16),
        ncut=np.array([node.ncut for node in nodes]),
        parts=np.array([split.parts if split else 0 for split in tried], dtype=np.int16),
        gap=np.array([split.gap if split else np.nan for split in tried]),
        perturbation=np.array([split.perturbation if split else np.nan for split in tried]),
        mean_ncut=np.array([split.mean_ncut if split else np.nan for split in tried]),
        outcome=np.array(outcomes, dtype=np.int8),
        superpixel=place[labels],
    )


def _outcome(node: GrownNode) -> int:
    return OUTCOMES.index("depth" if node.split is None else node.split.outcome)
