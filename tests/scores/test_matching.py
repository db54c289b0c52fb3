"""Matchings against all there are, for tables small enough to try every one."""

from __future__ import annotations

from fractions import Fraction
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from simsam_batch.scores.matching import UNMATCHED, hungarian, iou_table, majority, rename

tables = st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(0, 10**6), st.sampled_from([2, 6, 1000])).map(
    lambda drawn: np.random.default_rng(drawn[2]).integers(0, drawn[3], drawn[:2])
)


def exact_iou(counts: NDArray[np.int64], i: int, j: int) -> Fraction:
    both = int(counts[i, j])
    union = int(counts[i].sum()) + int(counts[:, j].sum()) - both
    return Fraction(both, union) if union else Fraction(0)


def test_iou_of_clusters_and_classes_by_hand() -> None:
    # Cluster 0 has 8 pixels, cluster 1 has 4; class 0 has 9, class 1 has 3.
    # 0 with 0: 7 / (8 + 9 - 7); 0 with 1: 1 / (8 + 3 - 1); 1 with 0: 2 / (4 + 9 - 2); 1 with 1: 2 / (4 + 3 - 2).
    found = iou_table(np.array([[7, 1], [2, 2]]))
    assert found == pytest.approx(np.array([[7 / 10, 1 / 10], [2 / 11, 2 / 5]]))


def test_the_sum_of_iou_is_the_greatest_and_not_each_clusters_best() -> None:
    # Pixels [[6, 5], [6, 0]]: c = 12, 5; r = 11, 6. IoU: 0-0 6/17, 0-1 5/11, 1-0 6/12. The best sum is 0-1, 1-0.
    assert hungarian(np.array([[6, 5], [6, 0]])).tolist() == [1, 0]
    # [[9, 4], [6, 0]]: c = 15, 4; r = 13, 6. IoU: 0-0 9/19 = .47, 0-1 4/13 = .31, 1-0 6/15 = .4: .31 + .4 > .47 + 0,
    # though the best class of both clusters is 0.
    assert hungarian(np.array([[9, 4], [6, 0]])).tolist() == [1, 0]
    assert majority(np.array([[9, 4], [6, 0]])).tolist() == [0, 0]


@settings(deadline=None, max_examples=200)
@given(counts=tables)
def test_hungarian_agrees_with_trying_every_assignment(counts: NDArray[np.int64]) -> None:
    clusters, classes = counts.shape
    matched = hungarian(counts).tolist()
    taken = [c for c in matched if c != UNMATCHED]
    assert len(set(taken)) == len(taken)
    found = sum((exact_iou(counts, i, j) for i, j in enumerate(matched) if j != UNMATCHED), Fraction(0))
    # Classes of no pixel fill up what is missing, so that every assignment is a permutation.
    side = max(clusters, classes)
    best = max(
        sum((exact_iou(counts, i, j) for i, j in enumerate(chosen[:clusters]) if j < classes), Fraction(0))
        for chosen in permutations(range(side))
    )
    assert float(found) == pytest.approx(float(best), abs=1e-12)


@settings(deadline=None)
@given(counts=tables)
def test_majority_takes_the_best_class_of_each_cluster_and_the_lowest_of_equals(counts: NDArray[np.int64]) -> None:
    for i, j in enumerate(majority(counts).tolist()):
        ious = [exact_iou(counts, i, c) for c in range(counts.shape[1])]
        assert j == (UNMATCHED if not any(ious) else ious.index(max(ious)))


def test_a_difference_of_one_pixel_in_billions_decides() -> None:
    """Published code minimises pixels less IoU, where digits behind the comma are lost beside so many pixels."""
    m = 10**9
    # [[m + 1, m], [m, m]]: r = c = (2m + 1, 2m). Along the diagonal (m + 1) / (3m + 1) + 1 / 3, across it
    # 2m / (3m + 1), which is 4 / (9m + 3) less, some 4e-10. With the columns swapped it is the other way round.
    straight, crossed = np.array([[m + 1, m], [m, m]]), np.array([[m, m + 1], [m, m]])
    gain = exact_iou(straight, 0, 0) + exact_iou(straight, 1, 1) - exact_iou(straight, 0, 1) - exact_iou(straight, 1, 0)
    assert gain == Fraction(4, 9 * m + 3)
    assert hungarian(straight).tolist() == [0, 1]
    assert hungarian(crossed).tolist() == [1, 0]


def test_clusters_without_overlap_stand_for_no_class() -> None:
    counts = np.array([[5, 0], [0, 0], [0, 3]])
    assert hungarian(counts).tolist() == [0, UNMATCHED, 1]
    assert majority(counts).tolist() == [0, UNMATCHED, 1]
    assert hungarian(np.zeros((2, 0), int)).tolist() == majority(np.zeros((2, 0), int)).tolist() == [UNMATCHED] * 2
    assert hungarian(np.zeros((0, 2), int)).tolist() == []


def test_equal_tables_are_matched_equally() -> None:
    # Everything is tied; whatever is chosen, it is chosen again.
    counts = np.full((4, 4), 3)
    first = hungarian(counts)
    assert sorted(first.tolist()) == [0, 1, 2, 3]
    assert all(np.array_equal(hungarian(counts.copy()), first) for _ in range(5))
    assert majority(counts).tolist() == [0, 0, 0, 0]


def test_renaming_adds_up_the_clusters_of_a_class_and_keeps_what_stands_for_none() -> None:
    counts = np.array([[7, 0], [2, 0], [0, 4], [1, 1]])
    assert rename(counts, np.array([0, 0, 1, UNMATCHED]), 2).tolist() == [[9, 0], [0, 4], [1, 1]]
    with pytest.raises(ValueError, match="for 2 clusters, there are 4"):
        rename(counts, np.array([0, 1]), 2)
    with pytest.raises(ValueError, match="there are 2"):
        rename(counts, np.array([0, 1, 2, 0]), 2)
