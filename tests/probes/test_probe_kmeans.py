"""k-means over all rows: exact sums, falling inertia, planted clusters, and what it leaves as it is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.preprocessing import normalize

from simsam_batch.probes.kmeans import ClusterSums, assign_counts, polish
from simsam_batch.probes.naming import most_pixels, one_to_one
from simsam_batch.regions.codebook import Codebook, assign, fit
from simsam_batch.regions.moments import Moments

pytestmark = pytest.mark.usefixtures("one_thread")

Rows = NDArray[np.float32]


def drawn(count: int = 1200, channels: int = 6, groups: int = 8, seed: int = 0, spread: float = 0.5) -> Rows:
    random = np.random.default_rng(seed)
    centers = random.standard_normal((groups, channels))
    chosen = random.integers(0, groups, count)
    return (centers[chosen] + spread * random.standard_normal((count, channels))).astype(np.float32)


def started(features: Rows, clusters: int, rows: int = 100) -> Codebook:
    return fit(features[:rows], clusters, 0, restarts=1)


def with_centers(centers: list[list[float]]) -> Codebook:
    book = fit(np.eye(len(centers[0]), dtype=np.float32), 1, 0)
    return replace(book, centers=np.array(centers, dtype=np.float32), sizes=np.zeros(len(centers), dtype=np.int64))


def same(one: Codebook, other: Codebook) -> bool:
    return one.to_bytes() == other.to_bytes()


def test_one_iteration_is_lloyds() -> None:
    features = drawn(9000)
    book = started(features, 7)
    unit = normalize(features.astype(np.float64))
    labels = ((unit[:, None] - book.centers[None]) ** 2).sum(axis=2).argmin(axis=1)
    means = np.array([unit[labels == i].mean(axis=0) for i in range(7)])
    distances = ((unit[:, None] - means[None]) ** 2).sum(axis=2)
    found = polish(lambda: [features], book, 1, 0.0)
    np.testing.assert_allclose(found.inertia, distances.min(axis=1).sum(), rtol=1e-6)
    sizes = np.bincount(distances.argmin(axis=1), minlength=7)
    order = np.argsort(-sizes, kind="stable")
    np.testing.assert_allclose(found.centers, means[order], atol=1e-7)
    np.testing.assert_array_equal(found.sizes, sizes[order])


def test_inertia_never_rises_and_ends_where_scikit_learn_does() -> None:
    features = drawn()
    book = started(features, 9)
    inertia = [polish(lambda: [features], book, i, 0.0).inertia for i in range(12)]
    assert (np.diff(inertia) <= 0).all()
    assert inertia[3] < inertia[0]
    ended = polish(lambda: [features], book, 300, 0.0)
    theirs = KMeans(9, init=book.centers, n_init=1, tol=0, max_iter=300).fit(normalize(features))
    assert ended.converged
    assert ended.inertia == pytest.approx(theirs.inertia_, rel=1e-5)


@settings(max_examples=20, deadline=None)
@given(cuts=st.lists(st.integers(0, 300), max_size=5), seed=st.integers(0, 99))
def test_blocks_and_order_do_not_change_a_bit(cuts: list[int], seed: int) -> None:
    # Few different rows, many ties, and a centre that no row is nearest to.
    features = np.round(drawn(300, 3))
    book = started(features, 4)
    book = replace(book, centers=np.concatenate([book.centers[:3], np.zeros((1, 3), dtype=np.float32) - 1]))
    shuffled = np.random.default_rng(seed).permutation(features)
    whole = polish(lambda: [features], book, 5, 0.0)
    assert same(polish(lambda: np.split(shuffled, sorted(cuts)), book, 5, 0.0), whole)


def test_sums_of_four_shards_are_those_of_one() -> None:
    features = drawn()
    book = started(features, 5)
    parts = [ClusterSums.of(part, book) for part in np.array_split(features, 4)]
    merged = parts[3].merge(parts[1]).merge(parts[0].merge(parts[2]))
    whole = ClusterSums.of(features, book)
    for name in ("counts", "totals", "far", "far_distances"):
        np.testing.assert_array_equal(getattr(merged, name), getattr(whole, name))
    assert merged.inertia == whole.inertia


def test_a_cluster_without_rows_goes_on_at_the_farthest() -> None:
    # Two of the three groups share a centre; the row (0, 1) is the farthest from its own, and becomes the third's.
    features = np.array([[1, 0]] * 5 + [[0.8, 0.6]] * 4 + [[0, 1]], dtype=np.float32)
    book = with_centers([[1, 0], [0.8, 0.6], [-1, 0]])
    found = polish(lambda: [features], book, 20, 0.0)
    assert found.sizes.tolist() == [5, 4, 1]
    np.testing.assert_allclose(found.centers, [[1, 0], [0.8, 0.6], [0, 1]], atol=1e-6)
    assert found.inertia == pytest.approx(0, abs=1e-6)


def test_more_clusters_than_different_rows_leave_some_empty() -> None:
    features = np.array([[1, 0]] * 3 + [[0, 1]] * 2, dtype=np.float32)
    found = polish(lambda: [features], with_centers([[1, 0], [0, -1], [-1, 0]]), 20, 0.0)
    assert found.sizes.tolist() == [3, 2, 0]
    assert found.converged


def test_planted_clusters_are_found_and_named_alike_both_ways() -> None:
    random = np.random.default_rng(2)
    truth = random.integers(0, 5, 900)
    features = (np.eye(5)[truth] * 4 + 0.2 * random.standard_normal((900, 5))).astype(np.float32)
    book = polish(lambda: np.array_split(features, 3), fit(features[:60], 5, 0))
    counts = assign_counts(features, np.eye(5, dtype=np.uint16)[truth] * 256, book)
    names = most_pixels(counts)
    np.testing.assert_array_equal(one_to_one(counts), names)
    np.testing.assert_array_equal(names[assign(features, book) - 1], truth)


def test_features_stay_as_they_are_and_signs_count() -> None:
    # Published code takes absolute values in place: then these two groups would be one.
    features = np.array([[1, -1], [-1, 1]] * 50, dtype=np.float32) + drawn(100, 2, spread=0.01) * 0.01
    before = features.copy()
    book = polish(lambda: [features], fit(features, 2, 0))
    np.testing.assert_array_equal(features, before)
    assert book.sizes.tolist() == [50, 50]
    np.testing.assert_allclose(np.sort(book.centers[:, 0]), [-(0.5**0.5), 0.5**0.5], atol=0.01)
    assert (book.centers[:, 0] * book.centers[:, 1] < 0).all()


def test_pixels_of_each_cluster_are_counted() -> None:
    features = np.array([[1, 0], [0, 1], [2, 0.1], [0.1, 3]], dtype=np.float32)
    book = with_centers([[1, 0], [0, 1], [-1, 0]])
    pixels = np.array([[200, 56], [1, 255], [0, 256], [10, 0]], dtype=np.uint16)
    found = assign_counts(features, pixels, book)
    assert found.dtype == np.int64
    assert found.tolist() == [[200, 312], [11, 255], [0, 0]]
    assert assign_counts(features[:0], pixels[:0], book).tolist() == [[0, 0]] * 3
    with pytest.raises(ValueError, match="do not fit 4 patches"):
        assign_counts(features, pixels[:3], book)


def test_a_polished_codebook_survives_being_written() -> None:
    features = drawn(300)
    book = polish(lambda: [features], started(features, 4))
    assert same(Codebook.from_bytes(book.to_bytes()), book)


def test_what_cannot_be_polished_is_refused() -> None:
    features = drawn(300)
    with pytest.raises(ValueError, match="no row"):
        polish(list, started(features, 3))
    projected = fit(features, 3, 0, projection=Moments.of(features).principal_components(2))
    with pytest.raises(ValueError, match="principal components"):
        polish(lambda: [features], projected)
    with pytest.raises(ValueError, match="not finite"):
        polish(lambda: [np.full((2, 6), np.nan, dtype=np.float32)], started(features, 3))


def test_every_block_shows_that_it_is_alive() -> None:
    beats: list[int] = []
    features = drawn(300)
    polish(lambda: np.array_split(features, 3), started(features, 3), 1, 0.0, beat=lambda: beats.append(1))
    assert len(beats) == 2 * 3
