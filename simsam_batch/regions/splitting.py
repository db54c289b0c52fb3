"""Whether and how nodes of region trees are split: many graphs at once, each as if it were alone.

The rules of hierarchy-agnostic segmentation (Rossetti and Pirri, NeurIPS 2024, and its published code). A node is a
graph of n superpixels. Its number of parts is where the eigenvalues of its normalised Laplacian leap most; the parts
come from its eigenvectors; they must resemble an ideal graph of separate cliques (perturbation), and be cut off well
(normalised cut).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from simsam_batch.regions.kmeans import kmeans
from simsam_batch.spectral.laplacian import SMALLEST_DEGREE, degrees, normalized_affinity

Array = NDArray[Any]

Outcome = Literal["split", "size", "depth", "no parts", "perturbation", "cut", "instability"]
"""What became of a node: split, or left whole because it has too few superpixels, is too deep, has rows that are all
the same, or failed the test of that name."""

OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)

_ROUNDING = 1e-9
"""Eigenvalues and cuts nearer to each other than this are equal: fp64 leaves about 1e-14."""

_CUTS = 10
"""Evenly spaced thresholds of the search in two parts; zero and the mean come on top (published code)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitRules:
    """When a node is split, and into what; the defaults are those of the published configurations."""

    heuristic: Literal["max-gap", "fiedler"] = "max-gap"
    """``max-gap``: as many parts as there are eigenvalues before the largest gap, the first gap left out. ``fiedler``:
    always two, without the test of the perturbation."""

    eigenpairs: int = 10
    """K, eigenvalues looked at by ``max-gap``; a node gets K - 1 parts at most."""

    max_ncut: float = 0.8
    """lambda_max: the mean normalised cut of a split stays below it. 0: whatever it is."""

    max_perturbation: float = 80.0
    """P_max: a split in three parts or more is refused above it. Published code has 80 in its configurations but
    computes with 50. 0: whatever it is."""

    max_instability: float = 0.0
    """Eigenvectors that are more unstable do not count, nor do those after them: so many parts fewer are made, and a
    node whose second is one stays whole (`instability`). It has an effect only with ``min_superpixels`` of several.
    0: whatever they are, as in the published configurations."""

    min_superpixels: int = 1
    """Nodes of so few superpixels stay whole."""

    max_depth: int = 9
    """Depth of the deepest nodes; the root has depth 0."""

    decrement: bool = True
    """Where the cut is too large, try one part less, down to two. False: give up."""

    restarts: int = 10
    """Of k-means."""

    iterations: int = 600
    """Most of Lloyd's iterations."""

    def __post_init__(self) -> None:
        if self.heuristic not in ("max-gap", "fiedler"):
            raise ValueError(f"heuristic={self.heuristic!r} is not known; use 'max-gap' or 'fiedler'")
        if self.eigenpairs < 3:
            raise ValueError(f"eigenpairs={self.eigenpairs} must be at least 3: fewer have no gap to choose")
        if self.min_superpixels < 1 or self.max_depth < 0:
            raise ValueError(f"min_superpixels={self.min_superpixels} and max_depth={self.max_depth}: at least 1 and 0")


@dataclass(frozen=True, slots=True)
class Split:
    """What became of one node.

    Attributes:
        outcome: see `Outcome`.
        labels: (n,) int64, part of every superpixel, numbered by their first ones; all zero where not split.
        ncuts: (parts,) float64, cut(c) / assoc(c) of every part; empty where not split.
        parts: k, suggested by the eigengap (2 under ``fiedler``), less what instability took, down to 1; 0 where size
            alone decided.
        gap: the eigengap delta = lambda_{k+1} - lambda_k; NaN where there is none.
        perturbation: P of the first division tried; NaN where there is no gap.
        mean_ncut: of the division taken, else of the last one refused; NaN where none was tried.
    """

    outcome: Outcome
    labels: Array
    ncuts: Array
    parts: int
    gap: float
    perturbation: float
    mean_ncut: float


@dataclass(slots=True)
class _Node:
    """A node at work: ``vectors`` are the columns by which it is divided, ``now`` the parts it is divided into."""

    graph: Array
    seed: int
    vectors: Array
    labels: Array
    outcome: Outcome = "split"
    parts: int = 0
    now: int = 0
    gap: float = math.nan
    perturbation: float = math.nan
    mean_ncut: float = math.nan


def split_nodes(graphs: Sequence[Array], seeds: Sequence[int], rules: SplitRules | None = None) -> list[Split]:
    """Try to split every node.

    Nodes of equal size share the call for their eigenvectors, and all nodes one k-means for each power of two of their
    sizes. A node's result is the same to the bit in any company (on one machine, with as many threads).

    A superpixel without an edge is a part of its own: it adds an eigenvalue of zero, and its cut is zero. Equal gaps
    suggest the smallest number of parts; equal cuts the first threshold.

    Args:
        graphs: (n, n) float64 each, symmetric, not negative, diagonal zero.
        seeds: one per node, for k-means.
        rules: None: the defaults. Their depth is of no account here.

    Raises:
        ValueError: a graph that is not finite, negative or not square; seeds of another number.
    """
    rules = SplitRules() if rules is None else rules
    if len(seeds) != len(graphs):
        raise ValueError(f"{len(graphs)} nodes need as many seeds, not {len(seeds)}")
    nodes = [_node(graph, seed) for graph, seed in zip(graphs, seeds, strict=True)]
    at_work = [node for node in nodes if not _settled_by_size(node, rules)]
    for size in sorted({len(node.graph) for node in at_work}):
        _decompose([node for node in at_work if len(node.graph) == size], rules)
    at_work = [node for node in at_work if node.parts > 1]
    _divide(at_work, rules)
    for node in at_work:
        _test(node, rules)
    while at_work := [node for node in at_work if node.outcome == "cut" and node.now > 2 and rules.decrement]:
        for node in at_work:
            node.now -= 1
        _divide(at_work, rules)
        for node in at_work:
            _test_cut(node, rules)
    return [_result(node) for node in nodes]


def normalized_laplacian(graph: Array) -> Array:
    """Return D^-1/2 (D - W) D^-1/2 of (..., n, n) graphs in fp64; zero in rows of superpixels without an edge."""
    w = torch.from_numpy(np.ascontiguousarray(graph, dtype=np.float64))
    edged = (w.sum(dim=-1) >= SMALLEST_DEGREE).double()
    laplacian: Array = (torch.diag_embed(edged) - normalized_affinity(w, degrees(w))).numpy()
    return laplacian


def normalized_cuts(graph: Array, labels: Array) -> Array:
    """Return ``cut(c) / assoc(c)`` of every part c, (parts,): the share of its weight that leaves it.

    Zero for a part without any edge. Shi and Malik, PAMI 2000.

    Args:
        graph: (n, n), symmetric, not negative.
        labels: (n,) whole numbers from 0, each of them used.
    """
    members = (labels == np.arange(labels.max() + 1)[:, None]).astype(np.float64)
    inside = ((members @ graph) * members).sum(axis=1)
    return _cut_ratio(members @ graph.sum(axis=1), inside)


def perturbation(graph: Array, labels: Array, gap: float) -> float:
    """Return ``P = ||L* - L||_F / delta``, L* the normalised Laplacian of separate cliques: one for each part.

    It bounds the sine of the angle between the eigenspaces of the two (Davis and Kahan 1970). A part of one superpixel
    is a clique without edges, so that its row of L* is zero. Infinite where there is no gap.

    Args:
        graph: (n, n), symmetric, not negative, diagonal zero.
        labels: (n,) part of every superpixel.
        gap: delta.
    """
    if gap <= _ROUNDING:
        return math.inf
    ideal = (labels[:, None] == labels).astype(np.float64)
    np.fill_diagonal(ideal, 0)
    return float(np.linalg.norm(normalized_laplacian(ideal) - normalized_laplacian(graph)) / gap)


def instability(vector: Array, min_superpixels: int) -> float:
    """Return by how much an eigenvector fails to tell groups apart: 0 if it leaves a gap, 1 if it is spread evenly.

    The least over the largest count of a histogram, max(n // min_superpixels, 3) bins of equal width from the least to
    the largest entry (after Shi and Malik, PAMI 2000; bins of the published code).

    Args:
        vector: (n,), n >= 1.
        min_superpixels: at least 1; with 1, there is no bin without an entry only if there is one in each.
    """
    counts, _ = np.histogram(vector, bins=max(len(vector) // min_superpixels, 3))
    return float(counts.min() / counts.max())


def _node(graph: Array, seed: int) -> _Node:
    if graph.ndim != 2 or graph.shape[0] != graph.shape[1]:
        raise ValueError(f"a graph of the shape {graph.shape} is not square")
    if not np.isfinite(graph).all() or (graph < 0).any():
        raise ValueError("a graph has weights that are negative or not finite")
    return _Node(graph, seed, np.zeros((len(graph), 0)), np.zeros(len(graph), np.int64))


def _settled_by_size(node: _Node, rules: SplitRules) -> bool:
    size = len(node.graph)
    if size == 2 and rules.min_superpixels == 1:
        # The only division there is; its cut is 1, or 0 without an edge.
        node.parts = node.now = 2
        node.labels = np.arange(2)
        _test_cut(node, rules)
        return True
    # The largest gap but the first needs three eigenvalues, and the last of them all is left out.
    least = 4 if rules.heuristic == "max-gap" else 3
    if size < least or size <= rules.min_superpixels:
        node.outcome = "size"
        return True
    return False


def _decompose(nodes: list[_Node], rules: SplitRules) -> None:
    """Choose the number of parts of nodes of one size, and the vectors they are divided by."""
    laplacians = normalized_laplacian(np.stack([node.graph for node in nodes]))
    for node, laplacian in zip(nodes, laplacians, strict=True):
        # One by one: inside a batch a matrix may begin at any place in memory, and LAPACK's last bits depend on that.
        values, vectors = (found.numpy() for found in torch.linalg.eigh(torch.from_numpy(laplacian)))
        node.parts = node.now = 2
        if rules.heuristic == "max-gap":
            gaps = np.diff(values[: min(rules.eigenpairs, len(values) - 1)])[1:]
            place = _first(gaps >= gaps.max() - _ROUNDING)
            node.parts = node.now = place + 2
            node.gap = float(gaps[place])
        node.vectors = _with_fixed_signs(vectors[:, : node.parts])
        if rules.max_instability:
            _leave_out_unstable(node, rules.max_instability, rules.min_superpixels)
        if node.parts > 2:
            lengths = np.linalg.norm(node.vectors, axis=1, keepdims=True)
            node.vectors = node.vectors / np.where(lengths > _ROUNDING, lengths, 1)


def _leave_out_unstable(node: _Node, limit: float, min_superpixels: int) -> None:
    """Make as many parts as there are vectors before the first unstable one; the first of all is not looked at."""
    unstable = [instability(vector, min_superpixels) > limit for vector in node.vectors.T[1:]]
    if any(unstable):
        node.parts = node.now = 1 + unstable.index(True)
        node.vectors = node.vectors[:, : node.parts]
    if node.parts == 1:
        node.outcome = "instability"


def _with_fixed_signs(vectors: Array) -> Array:
    """Give every column the sign that makes its largest entry positive, or the first of them that are as large."""
    sizes = np.abs(vectors)
    first = (sizes >= sizes.max(axis=0) - _ROUNDING).argmax(axis=0)
    fixed: Array = vectors * np.sign(vectors[first, np.arange(vectors.shape[1])])
    return fixed


def _divide(nodes: list[_Node], rules: SplitRules) -> None:
    """Divide every node into the parts it is to have now, or fewer."""
    for node in nodes:
        if node.now == 2:
            node.labels = best_threshold(node.graph, node.vectors[:, 1])
    several = [node for node in nodes if node.now > 2]
    # The rounding inside k-means depends on the room its points are given, so that room must not depend on the others.
    for room in sorted({_room(node) for node in several}):
        alike = [node for node in several if _room(node) == room]
        points = torch.zeros(len(alike), room, rules.eigenpairs - 1, dtype=torch.float64)
        valid = torch.zeros(len(alike), room, dtype=torch.bool)
        for own, there, node in zip(points, valid, alike, strict=True):
            own[: len(node.vectors), : node.vectors.shape[1]] = torch.from_numpy(node.vectors)
            there[: len(node.vectors)] = True
        wanted, seeds = torch.tensor([node.now for node in alike]), [node.seed for node in alike]
        found = kmeans(points, valid, wanted, seeds, restarts=rules.restarts, iterations=rules.iterations)
        for node, labels in zip(alike, found.labels.numpy(), strict=True):
            node.labels = labels[: len(node.vectors)]


def _room(node: _Node) -> int:
    return 1 << (len(node.vectors) - 1).bit_length()


def best_threshold(graph: Array, vector: Array) -> Array:
    """Cut a node in two where its second eigenvector exceeds the threshold of least mean normalised cut.

    Tried are ten evenly spaced values from the least entry on, the largest left out, then zero and the mean (published
    code); of equal cuts the first. All in one part if no value divides the entries.

    Args:
        graph: (n, n), symmetric, not negative.
        vector: (n,).

    Returns:
        (n,) int64 of 0 and 1.
    """
    low, high = vector.min(), vector.max()
    if high - low <= _ROUNDING:
        return np.zeros(len(vector), np.int64)
    thresholds = np.append(np.linspace(low, high, _CUTS, endpoint=False), [0, vector.mean()])
    above = vector > thresholds[:, None]
    above = above[above.any(axis=1) & ~above.all(axis=1)]
    sides = above.astype(np.float64)
    degree = graph.sum(axis=1)
    volume, inside = sides @ degree, ((sides @ graph) * sides).sum(axis=1)
    outside = ((1 - sides) @ graph * (1 - sides)).sum(axis=1)
    means = (_cut_ratio(volume, inside) + _cut_ratio(degree.sum() - volume, outside)) / 2
    chosen: Array = above[_first(means <= means.min() + _ROUNDING)].astype(np.int64)
    return chosen


def _cut_ratio(volume: Array, inside: Array) -> Array:
    """Share of the volume (sum of degrees) that leaves a set; zero for a set without an edge."""
    edged = volume >= SMALLEST_DEGREE
    ratio: Array = np.where(edged, np.maximum(volume - inside, 0) / np.where(edged, volume, 1), 0.0)
    return ratio


def _first(wanted: Array) -> int:
    return int(np.flatnonzero(wanted)[0])


def _test(node: _Node, rules: SplitRules) -> None:
    """Judge the first division of a node."""
    if not node.labels.any():
        node.outcome = "no parts"
        return
    if not math.isnan(node.gap):
        node.perturbation = perturbation(node.graph, node.labels, node.gap)
    if node.parts > 2 and 0 < rules.max_perturbation < node.perturbation:
        node.outcome = "perturbation"
        return
    _test_cut(node, rules)


def _test_cut(node: _Node, rules: SplitRules) -> None:
    if not node.labels.any():
        # Rows that fall into several clusters do so in two; a column of theirs need not.
        node.outcome = "cut"
        return
    node.mean_ncut = float(normalized_cuts(node.graph, node.labels).mean())
    passed = not rules.max_ncut or node.mean_ncut < rules.max_ncut
    node.outcome = "split" if passed else "cut"


def _result(node: _Node) -> Split:
    labels, ncuts = np.zeros(len(node.graph), np.int64), np.zeros(0)
    if node.outcome == "split":
        labels = _numbered_by_first(node.labels)
        ncuts = normalized_cuts(node.graph, labels)
    return Split(node.outcome, labels, ncuts, node.parts, node.gap, node.perturbation, node.mean_ncut)


def _numbered_by_first(labels: Iterable[int]) -> Array:
    names: dict[int, int] = {}
    return np.array([names.setdefault(int(label), len(names)) for label in labels], dtype=np.int64)
