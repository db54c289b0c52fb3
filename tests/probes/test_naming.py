"""Names of clusters and labels of patches, worked out by hand."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.special import log_softmax

from simsam_batch.probes.naming import UNNAMED, coarse_labels, distributions, most_pixels, one_to_one, soft_labels

COUNTS = np.array([[5, 1, 0], [2, 4, 4], [0, 0, 0], [6, 0, 5]], dtype=np.int64)


def tables(most_clusters: int = 5, most_classes: int = 5) -> st.SearchStrategy[NDArray[np.int64]]:
    return st.tuples(st.integers(1, most_clusters), st.integers(1, most_classes)).flatmap(
        lambda shape: st.lists(
            st.lists(st.integers(0, 9), min_size=shape[1], max_size=shape[1]), min_size=shape[0], max_size=shape[0]
        ).map(lambda rows: np.array(rows, dtype=np.int64))
    )


def test_a_cluster_is_named_after_most_of_its_pixels_and_the_lowest_of_equals() -> None:
    # Altogether 13, 5 and 9 pixels: what has none goes by class 0 either way.
    assert most_pixels(COUNTS).tolist() == [0, 1, 0, 0]
    # 8 and 9 pixels altogether: class 1 for the cluster without any.
    some = np.array([[0, 0], [8, 0], [0, 9]], dtype=np.int64)
    assert most_pixels(some).tolist() == [1, 0, 1]
    assert most_pixels(some, unlabelled="first").tolist() == [0, 0, 1]


def test_one_to_one_gives_up_a_clusters_first_choice_for_more_pixels_in_all() -> None:
    # 6 + 4 of clusters 3 and 1 lose to 5 + 4 + 5: cluster 0 is class 0, 1 is class 1, 3 is class 2.
    assert one_to_one(COUNTS).tolist() == [0, 1, UNNAMED, 2]


def test_of_more_classes_than_clusters_some_stay_without() -> None:
    assert one_to_one(np.array([[1, 7, 3], [0, 9, 0]], dtype=np.int64)).tolist() == [2, 1]


def test_a_cluster_is_not_named_after_a_class_it_has_no_pixel_of() -> None:
    assert one_to_one(np.array([[4, 0], [3, 0]], dtype=np.int64)).tolist() == [0, UNNAMED]


@given(counts=tables())
def test_one_to_one_agrees_on_as_many_pixels_as_the_best_of_all_matchings(counts: NDArray[np.int64]) -> None:
    side = max(counts.shape)
    square = np.zeros((side, side), dtype=np.int64)
    square[: counts.shape[0], : counts.shape[1]] = counts
    best = max(sum(square[i, j] for i, j in enumerate(order)) for order in permutations(range(side)))
    names = one_to_one(counts)
    named = np.flatnonzero(names != UNNAMED)
    assert counts[named, names[named]].sum() == best
    assert len(set(names[named].tolist())) == len(named)


def test_where_classes_are_separate_both_ways_of_naming_agree() -> None:
    order = np.random.default_rng(0).permutation(7)
    counts = np.zeros((7, 7), dtype=np.int64)
    counts[np.arange(7), order] = np.arange(1, 8)
    np.testing.assert_array_equal(one_to_one(counts), order)
    np.testing.assert_array_equal(most_pixels(counts), order)


def test_a_clusters_distribution_is_that_of_its_pixels_or_of_all() -> None:
    expected = [[5 / 6, 1 / 6, 0], [0.2, 0.4, 0.4], [13 / 27, 5 / 27, 9 / 27], [6 / 11, 0, 5 / 11]]
    found = distributions(COUNTS)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(distributions(np.zeros((2, 4), dtype=np.int64)), np.full((2, 4), 0.25))


@given(counts=tables())
def test_distributions_sum_to_one(counts: NDArray[np.int64]) -> None:
    np.testing.assert_allclose(distributions(counts).sum(axis=1), 1, atol=1e-6)


def test_a_patchs_targets_are_shares_and_its_weight_is_what_counts() -> None:
    counts = np.array([[3, 1], [0, 0], [200, 56]], dtype=np.uint8)
    targets, weights = soft_labels(counts, np.array([4, 8, 0], dtype=np.uint16))
    np.testing.assert_allclose(targets, [[0.75, 0.25], [0, 0], [200 / 256, 56 / 256]])
    np.testing.assert_allclose(weights, [0.5, 0, 1])
    assert (targets.dtype, weights.dtype) == (np.float32, np.float32)
    np.testing.assert_array_equal(soft_labels(counts)[1], [1, 0, 1])


@given(seed=st.integers(0, 1000))
def test_cross_entropy_with_soft_labels_is_that_of_single_pixels(seed: int) -> None:
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 4, (6, 9))  # class 3 stands for void
    logits = random.standard_normal((6, 3))
    counts = np.stack([(pixels == c).sum(axis=1) for c in range(3)], axis=1)
    targets, weights = soft_labels(counts, (pixels == 3).sum(axis=1))
    logs = log_softmax(logits, axis=1)
    each = [-logs[i, c] for i in range(6) for c in pixels[i] if c < 3]
    soft = -(weights[:, None] * targets * logs).sum() / weights.sum()
    assert soft == pytest.approx(np.mean(each), abs=1e-6)


def test_coarse_labels_are_the_lowest_of_the_most_frequent() -> None:
    assert coarse_labels(COUNTS).tolist() == [0, 1, UNNAMED, 0]


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        (np.zeros(3, dtype=np.int64), "at least one class"),
        (np.zeros((3, 0), dtype=np.int64), "at least one class"),
        (np.zeros((3, 2)), "whole numbers"),
        (np.full((1, 2), -1), "negative"),
    ],
)
@pytest.mark.parametrize("named", [most_pixels, one_to_one, distributions, soft_labels, coarse_labels])
def test_what_are_no_counts_is_refused(named: object, counts: NDArray[np.int64], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        named(counts)  # type: ignore[operator]


def test_void_pixels_of_other_patches_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        soft_labels(COUNTS, np.zeros(3, dtype=np.int64))
