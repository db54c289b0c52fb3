"""PCK by hand: thresholds, hits, averages, intervals."""

from __future__ import annotations

import numpy as np
import pytest

from simsam_batch.scores.bootstrap import merge_bins
from simsam_batch.scores.pck import ALPHAS, THRESHOLDS, PairTruth, class_mean, counts_of, hits, mirrored, pck

PAIR = PairTruth(
    points=np.array([[100.0, 50.0], [300.0, 80.0], [200.0, 150.0]]),
    target_size=(400, 200),
    source_size=(256, 1024),
    target_box=(90.0, 40.0, 340.0, 160.0),
    source_box=(10.0, 100.0, 110.0, 500.0),
)


@pytest.mark.parametrize(
    ("kind", "length"),
    [
        ("box", 250.0),
        ("points", 200.0),
        ("image", 400.0),
        # the source squashed to 512 x 512: 100 * 2 wide, 400 / 2 high
        ("published-spair", 200.0),
        # the target squashed: x * 1.28, y * 2.56; the largest of all is 150 * 2.56
        ("published-pf-willow", 385.0),
        # 250 * 512 / 400
        ("published-cub", 320.0),
    ],
)
def test_the_length_of_each_threshold_by_hand(kind: str, length: float) -> None:
    held = THRESHOLDS[kind](PAIR)
    assert held is not None
    assert held[0] == pytest.approx(length)
    assert held[1].tolist() == ([512 / 400, 512 / 200] if kind.startswith("published") else [1, 1])


def test_a_point_exactly_at_the_threshold_is_right_and_one_that_was_not_found_is_wrong() -> None:
    predicted = PAIR.points + np.array([[15.0, 20.0], [0.0, 25.1], [np.nan, np.nan]])
    # 25 is a tenth of 250, and .05 of it is 12.5
    found = hits(predicted, PAIR, "box")
    assert found is not None
    assert dict(zip(ALPHAS, found.tolist(), strict=True)) == {0.01: 0, 0.02: 0, 0.05: 0, 0.1: 1, 0.15: 2, 0.2: 2}


def test_published_distances_are_those_of_the_squashed_square() -> None:
    predicted = PAIR.points + np.array([[0.0, 13.0], [26.0, 0.0], [0.0, 0.0]])
    # 13 rows are 33.28 pixels of the square and 26 columns 33.28, where a tenth of 320 is 32
    found = hits(predicted, PAIR, "published-cub")
    assert found is not None
    assert found[ALPHAS.index(0.1)] == 1
    assert found[ALPHAS.index(0.15)] == 3


def test_what_a_pair_lacks_has_no_threshold() -> None:
    bare = PairTruth(np.array([[5.0, 5.0]]), (10, 10), (10, 10))
    assert [kind for kind in THRESHOLDS if hits(bare.points, bare, kind) is not None] == [
        "image",
        "published-pf-willow",
    ]


def counted(*pairs: tuple[int, int]) -> dict[str, int]:
    total: dict[str, int] = {}
    for found, points in pairs:
        total = merge_bins(total, counts_of(found, points))
    return total


def test_shares_of_points_and_means_of_pairs_differ() -> None:
    found = pck(counted((1, 1), (0, 3), (2, 4), (0, 0)))
    assert found is not None
    assert found.per_point == pytest.approx(3 / 8)
    assert found.per_image == pytest.approx((1 + 0 + 0.5) / 3)
    assert pck({}) is None


def test_intervals_are_those_of_pairs_drawn_with_replacement() -> None:
    rng = np.random.default_rng(3)
    points = rng.integers(1, 9, 150)
    right = rng.binomial(points, 0.4)
    found = pck(counted(*zip(right.tolist(), points.tolist(), strict=True)))
    assert found is not None
    drawn = rng.integers(150, size=(4000, 150))
    plain = right[drawn].sum(axis=1) / points[drawn].sum(axis=1)
    assert np.quantile(found.point_replicates, [0.025, 0.975]) == pytest.approx(
        np.quantile(plain, [0.025, 0.975]), abs=0.012
    )
    plain = (right / points)[drawn].mean(axis=1)
    assert np.quantile(found.image_replicates, [0.025, 0.975]) == pytest.approx(
        np.quantile(plain, [0.025, 0.975]), abs=0.012
    )


def test_the_mean_of_classes_weighs_each_alike_and_draws_them_independently() -> None:
    many = [pck(counted(*[(1, 2)] * 60, *[(0, 2)] * 20, *[(2, 2)] * 20), stream) for stream in range(4)]
    each = [score for score in many if score is not None]
    mean, (low, high) = class_mean(each, per_point=True)
    assert mean == pytest.approx(0.5)
    alone = np.quantile(each[0].point_replicates, [0.025, 0.975])
    # four independent classes: half the width of one
    assert (high - low) / (alone[1] - alone[0]) == pytest.approx(0.5, abs=0.08)


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("left_eye", "right_eye"),
        ("Front Right wheel", "Front Left wheel"),
        ("eye.L", "eye.R"),
        ("l-ankle", "r-ankle"),
        ("RIGHT", "LEFT"),
        ("tail", None),
        ("collar", None),
        ("", None),
    ],
)
def test_the_other_side_of_a_name(name: str, other: str | None) -> None:
    assert mirrored(name) == other
