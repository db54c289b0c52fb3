"""What a user of the published hierarchy code would run for one image, written plainly: its calls, one after another.

SciPy's `eigsh` for every eigenproblem and scikit-learn's `KMeans` for every clustering, node by node. Nothing here is
shared with `simsam_batch`, so that trees can be compared as well as times. Leaves are told apart by their places in the
tree, not by codes that collide.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import ArpackError, eigsh

Array = NDArray[Any]

SEED = 1234
"""Of every k-means."""


@dataclass
class Node:
    """A node of the tree: superpixels ``members``, what it was split into, and what that was decided by."""

    members: Array
    ncut: float = 0.0
    parts: int = 0
    gap: float = float("nan")
    perturbation: float = float("nan")
    children: list[Node] = field(default_factory=list)


@dataclass(frozen=True)
class Rules:
    """The settings of the published configurations that the split of a node reads."""

    eigenpairs: int = 10
    max_ncut: float = 0.8
    max_perturbation: float = 80.0
    levels: int = 9


def parse(features: Array, superpixels: int, rules: Rules | None = None) -> tuple[Array, Node]:
    """Parse one image from its patch features (N, E): superpixel of every patch (N,), and the root of the tree."""
    w = adjacency(features)
    labels = over_cluster(w, superpixels)
    return labels, recurse(contract(w, labels), rules)


def adjacency(features: Array) -> Array:
    """Min-max of cosine distances, (N, N) float64, with a diagonal of zero."""
    rows = features.astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    distance = np.maximum(0, 1 - rows @ rows.T)
    w: Array = 1 - (distance - distance.min()) / (distance.max() - distance.min())
    np.fill_diagonal(w, 0)
    return w


def laplacian(w: Array) -> Array:
    """D^-1/2 (D - W) D^-1/2 by two products with diagonal matrices, as published."""
    degree = w.sum(axis=1)
    root = np.diag(1 / np.sqrt(degree))
    found: Array = root @ (np.diag(degree) - w) @ root
    return found


def smallest(matrix: Array, count: int) -> tuple[Array, Array]:
    """Smallest eigenpairs by the published call: smallest magnitudes first, a dense identity as mass."""
    start = np.random.default_rng(SEED).standard_normal(len(matrix))
    values, vectors = eigsh(matrix, k=count, M=np.eye(len(matrix)), which="SM", v0=start)
    order = np.argsort(values)
    return values[order], vectors[:, order]


def unit(rows: Array) -> Array:
    """Rows of unit length."""
    scaled: Array = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return scaled


def cluster(points: Array, count: int) -> Array:
    """k-means with the published settings."""
    from sklearn.cluster import KMeans

    model = KMeans(count, init="k-means++", n_init=10, max_iter=600, tol=1e-6, random_state=SEED, algorithm="lloyd")
    labels: Array = model.fit_predict(points)
    return labels


def over_cluster(w: Array, superpixels: int) -> Array:
    """Superpixels in one go, (N,)."""
    _, vectors = smallest(laplacian(w), superpixels)
    return cluster(unit(vectors), min(superpixels, len(w)))


def contract(w: Array, labels: Array) -> Array:
    """Weights summed between superpixels, with a diagonal of zero."""
    members = np.eye(labels.max() + 1)[labels]
    graph: Array = members.T @ w @ members
    np.fill_diagonal(graph, 0)
    return graph


def ncuts(a: Array, labels: Array) -> list[float]:
    """Cut over association of every part."""
    found = []
    for part in range(labels.max() + 1):
        inside = labels == part
        volume = a[inside].sum()
        found.append(float((volume - a[np.ix_(inside, inside)].sum()) / volume))
    return found


def two_way(a: Array, vector: Array) -> Array:
    """Of twelve thresholds the one of the lowest mean cut."""
    candidates = [*np.linspace(vector.min(), vector.max(), 10, endpoint=False), 0.0, vector.mean()]
    divisions = [(vector > threshold).astype(int) for threshold in candidates]
    divisions = [labels for labels in divisions if labels.any() and not labels.all()]
    return min(divisions, key=lambda labels: float(np.mean(ncuts(a, labels))))


def ideal_laplacian(labels: Array) -> Array:
    """That of separate cliques; zero in the row of a part of one."""
    size = np.bincount(labels)[labels]
    same = labels[:, None] == labels
    found: Array = np.where(same, -1 / np.maximum(size - 1, 1), 0.0)
    np.fill_diagonal(found, size > 1)
    return found


def recurse(graph: Array, rules: Rules | None = None) -> Node:
    """Grow the tree over a graph of superpixels, depth first."""
    rules = Rules() if rules is None else rules
    root = Node(np.arange(len(graph)))
    _grow(root, graph, rules, rules.levels)
    return root


def _grow(node: Node, graph: Array, rules: Rules, levels: int) -> None:
    a = graph[np.ix_(node.members, node.members)]
    labels = _split(node, a, rules) if levels else None
    if labels is None:
        return
    for part, ncut in enumerate(ncuts(a, labels)):
        child = Node(node.members[labels == part], ncut)
        node.children.append(child)
        _grow(child, graph, rules, levels - 1)


def _split(node: Node, a: Array, rules: Rules) -> Array | None:
    # With two superpixels the only cut there is has a mean of 1, with three there is no second gap.
    if len(a) < 4:
        return None
    normalized = laplacian(a)
    try:
        values, vectors = smallest(normalized, min(rules.eigenpairs, len(a) - 1))
    except ArpackError:
        return None
    gaps = np.diff(values)[1:]
    k = int(gaps.argmax()) + 2
    node.parts, node.gap = k, float(gaps[k - 2])
    if k == 2:
        labels = two_way(a, vectors[:, 1])
        return labels if np.mean(ncuts(a, labels)) < rules.max_ncut else None
    embedding = unit(vectors[:, :k])
    labels = cluster(embedding, k)
    node.perturbation = float(np.linalg.norm(ideal_laplacian(labels) - normalized) / node.gap)
    if node.perturbation > rules.max_perturbation:
        return None
    while np.mean(ncuts(a, labels)) >= rules.max_ncut:
        k -= 1
        if k < 2:
            return None
        labels = cluster(embedding, k) if k > 2 else two_way(a, embedding[:, 1])
    return labels
