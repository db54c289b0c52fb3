"""Weighted Ward against SciPy's on as many points, and against merging the closest pair each time."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.cluster.hierarchy import cophenet, fcluster, is_valid_linkage, linkage
from scipy.spatial.distance import squareform

from simsam_batch.probes import ward as module
from simsam_batch.probes.ward import cut, weighted_ward

Array = NDArray[np.float64]


def points(seed: int, count: int, width: int) -> Array:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((count, width)) * rng.random((count, 1))


def ones(count: int) -> Array:
    return np.ones(count)


def closest_pairs(centers: Array, weights: Array) -> tuple[list[set[frozenset[int]]], list[float]]:
    """The partition after each merge of the closest pair, and the heights, from the formula alone."""
    clusters = [(frozenset([i]), c, w) for i, (c, w) in enumerate(zip(centers, weights, strict=True))]
    partitions, heights = [], []
    while len(clusters) > 1:
        costs = [
            (a[2] * b[2] / (a[2] + b[2]) * np.square(a[1] - b[1]).sum(), i, j)
            for i, a in enumerate(clusters)
            for j, b in enumerate(clusters)
            if i < j
        ]
        cost, i, j = min(costs)
        (one, c, v), (other, d, w) = clusters[i], clusters[j]
        clusters = [each for t, each in enumerate(clusters) if t not in (i, j)]
        clusters.append((one | other, (v * c + w * d) / (v + w), v + w))
        partitions.append({each[0] for each in clusters})
        heights.append(math.sqrt(2 * cost))
    return partitions, heights


def parts(labels: NDArray[np.int64]) -> set[frozenset[int]]:
    return {frozenset(np.flatnonzero(labels == label).tolist()) for label in np.unique(labels)}


@pytest.mark.parametrize(("count", "width"), [(2, 1), (3, 2), (60, 1), (300, 5), (700, 40)])
def test_single_points_make_the_tree_of_scipy(count: int, width: int) -> None:
    # Far from 0, where products alone would lose the differences.
    made = points(0, count, width) + 1000
    ours, theirs = weighted_ward(made, ones(count)), linkage(made, "ward")
    assert np.array_equal(ours[:, [0, 1, 3]], theirs[:, [0, 1, 3]])
    assert np.allclose(ours[:, 2], theirs[:, 2], rtol=1e-9)


def test_groups_far_apart_hide_no_small_distance() -> None:
    # Squares of 10^13 leave products of float64 no digits for distances of a hundredth.
    made = np.concatenate([0.01 * points(8, 60, 4), 0.01 * points(9, 60, 4) + 3e6])
    ours, theirs = weighted_ward(made, ones(120)), linkage(made, "ward")
    assert np.array_equal(ours[:, [0, 1, 3]], theirs[:, [0, 1, 3]])
    assert np.allclose(ours[:, 2], theirs[:, 2], rtol=1e-6)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**16), count=st.integers(2, 14), width=st.integers(1, 4))
def test_the_closest_pair_merges_each_time(seed: int, count: int, width: int) -> None:
    made = points(seed, count, width)
    weights = np.random.default_rng(seed).uniform(0.1, 50, count)
    tree = weighted_ward(made, weights)
    partitions, heights = closest_pairs(made, weights)
    assert tree[:, 2].tolist() == pytest.approx(heights)
    assert [parts(cut(tree, n)) for n in range(count - 1, 0, -1)] == partitions


def test_two_weighted_points_merge_at_a_height_found_by_hand() -> None:
    # 2 * 6 / (2 + 6) = 3/2, squared distance 25: the cost is 75/2, the height the root of 75.
    tree = weighted_ward(np.array([[0.0, 0.0], [3.0, 4.0]]), np.array([2.0, 6.0]))
    assert tree.tolist() == [[0.0, 1.0, math.sqrt(75), 2.0]]


def test_a_point_of_weight_n_is_as_n_points_in_one_place() -> None:
    made, weights = points(1, 40, 3), np.random.default_rng(1).integers(1, 6, 40)
    place = np.repeat(np.arange(40), weights)
    tree, spread = weighted_ward(made, weights.astype(float)), linkage(made[place], "ward")
    assert np.allclose(spread[: -len(tree), 2], 0, atol=1e-7)
    assert np.allclose(tree[:, 2], spread[-len(tree) :, 2])
    for n in (2, 7, 25):
        labels = cut(tree, n)
        assert parts(labels[place]) == parts(fcluster(spread, n, "maxclust"))


def test_the_tree_goes_on_from_clusters_as_from_their_members() -> None:
    made = points(2, 200, 4)
    whole = linkage(made, "ward")
    small = cut(whole, 60)
    means = np.array([made[small == i].mean(axis=0) for i in range(60)])
    tree = weighted_ward(means, np.bincount(small).astype(float))
    for n in (1, 2, 10, 59):
        assert parts(cut(tree, n)[small]) == parts(fcluster(whole, n, "maxclust"))


def test_a_common_factor_of_the_weights_only_scales_heights() -> None:
    made, weights = points(3, 100, 3), np.random.default_rng(3).uniform(1, 9, 100)
    tree, scaled = weighted_ward(made, weights), weighted_ward(made, 4 * weights)
    assert np.array_equal(tree[:, [0, 1, 3]], scaled[:, [0, 1, 3]])
    assert np.allclose(scaled[:, 2], 2 * tree[:, 2])


def test_permuted_points_merge_at_the_same_heights() -> None:
    made, weights = points(4, 150, 3), np.random.default_rng(4).uniform(1, 9, 150)
    order = np.random.default_rng(5).permutation(150)
    first, second = (squareform(cophenet(weighted_ward(made[o], weights[o]))) for o in (np.arange(150), order))
    assert np.allclose(first[np.ix_(order, order)], second)


@pytest.mark.parametrize("kind", ["one place", "lattice", "corners of a simplex", "line"])
def test_equal_distances_make_a_valid_tree(kind: str) -> None:
    made = {
        "one place": np.ones((50, 3)),
        "lattice": np.argwhere(np.ones((5, 5, 4))).astype(float),
        "corners of a simplex": np.eye(90),
        "line": np.arange(64.0)[:, None],
    }[kind]
    tree = weighted_ward(made, ones(len(made)))
    assert is_valid_linkage(tree, throw=True)
    assert (np.diff(tree[:, 2]) >= 0).all()
    # The merges together add up to all of the variance, however ties are broken.
    assert np.square(tree[:, 2]).sum() / 2 == pytest.approx(np.square(made - made.mean(axis=0)).sum())
    assert np.array_equal(tree, weighted_ward(made, ones(len(made))))


def test_of_equal_distances_the_lower_indices_merge() -> None:
    # Two pairs at distance 1; then a square whose first two sides tie.
    assert weighted_ward(np.array([[0.0], [1.0], [9.0], [10.0]]), ones(4))[:2, :2].tolist() == [[0, 1], [2, 3]]
    square = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, 0.0]])
    assert weighted_ward(square, ones(4))[:2, :2].tolist() == [[0, 1], [2, 3]]


@pytest.mark.parametrize("least", [1, 1000])
def test_the_tree_does_not_depend_on_blocks_or_threads(least: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made, weights = points(6, 400, 6), np.random.default_rng(6).uniform(1, 9, 400)
    expected = weighted_ward(made, weights)
    monkeypatch.setattr(module, "_BLOCK", 2**11)
    monkeypatch.setattr(module, "_EXACT", 16)
    monkeypatch.setattr(module, "_AT_LEAST", least)
    monkeypatch.setattr(module, "_PER_MERGE", 1)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert np.array_equal(weighted_ward(made, weights), expected)
        with torch.inference_mode():
            assert np.array_equal(weighted_ward(made, weights), expected)
    finally:
        torch.set_num_threads(before)


def test_one_point_is_a_tree_without_merges() -> None:
    tree = weighted_ward(np.zeros((1, 3)), ones(1))
    assert tree.shape == (0, 4)
    assert cut(tree, 1).tolist() == [0]


def test_clusters_are_numbered_as_they_first_appear() -> None:
    # Pairs (3, 1) at 0 and 1, (0, 4) at 20 and 22, and 2 at 50.
    tree = weighted_ward(np.array([[20.0], [1.0], [50.0], [0.0], [22.0]]), ones(5))
    assert [cut(tree, n).tolist() for n in (5, 4, 3, 2, 1)] == [
        [0, 1, 2, 3, 4],
        [0, 1, 2, 1, 3],
        [0, 1, 2, 1, 0],
        [0, 0, 1, 0, 0],
        [0, 0, 0, 0, 0],
    ]


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**16), count=st.integers(2, 60))
def test_a_coarser_cut_joins_whole_clusters_of_a_finer_one(seed: int, count: int) -> None:
    tree = weighted_ward(points(seed, count, 2), ones(count))
    for n in range(1, count):
        coarse, fine = cut(tree, n), cut(tree, n + 1)
        assert len(np.unique(coarse)) == n
        assert len(np.unique(fine + (count + 1) * coarse)) == n + 1


def test_what_cannot_be_clustered_is_refused() -> None:
    made = points(7, 5, 2)
    with pytest.raises(ValueError, match="one row per point"):
        weighted_ward(np.zeros((0, 2)), ones(0))
    with pytest.raises(ValueError, match="weights have shape"):
        weighted_ward(made, ones(4))
    with pytest.raises(ValueError, match="weight 1 is 0, not above 0"):
        weighted_ward(made, np.array([1.0, 0, 1, 1, 1]))
    with pytest.raises(ValueError, match="weights: number 2 is not finite"):
        weighted_ward(made, np.array([1.0, 1, np.inf, 1, 1]))
    made[3, 1] = np.nan
    with pytest.raises(ValueError, match="centers: number 3 is not finite"):
        weighted_ward(made, ones(5))
    tree = weighted_ward(points(7, 5, 2), ones(5))
    for n in (0, 6):
        with pytest.raises(ValueError, match="a tree of 5 points has 1 to 5 clusters"):
            cut(tree, n)


@pytest.mark.slow
def test_no_matrix_of_distances_is_held() -> None:
    code = """
import numpy as np
import torch
from simsam_batch.probes.ward import weighted_ward
from benchmarks.measure import peak_memory, start_new_peak
torch.set_num_threads(1)
weighted_ward(np.random.default_rng(0).standard_normal((200, 16)), np.ones(200))
made = np.random.default_rng(0).standard_normal((6000, 16))
start = start_new_peak()
weighted_ward(made, np.ones(6000))
print(peak_memory() - start)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    # All distances once would be 275 MiB in float64, and half of it in float32.
    assert int(done.stdout) < 110 * 2**20
