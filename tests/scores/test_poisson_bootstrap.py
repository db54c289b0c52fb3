"""The streaming bootstrap against the Poisson law, loops over images, and the bootstrap that draws with replacement."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from simsam_batch.scores.poisson_bootstrap import BootstrapCounts, poisson_weights

REPLICATES = 1000


def simulated(images: int, cells: int = 1, classes: int = 4, seed: int = 0) -> NDArray[np.int64]:
    """Counts (images, cells, 3, classes) of images that are of one or two classes and differently hard."""
    random = np.random.default_rng(seed)
    true = random.integers(0, 400, (images, 1, classes)) * (random.random((images, 1, classes)) < 0.6)
    hard = random.beta(4, 2, (images, 1, 1))
    share = np.clip(hard + random.normal(0, 0.03, (images, cells, classes)), 0, 1)
    true_positive = np.rint(true * share).astype(np.int64)
    predicted = true_positive + (true - true_positive)[..., ::-1]
    return np.stack([true_positive, predicted, np.broadcast_to(true, predicted.shape)], axis=2)


def counted(counts: NDArray[np.int64], batches: Iterable[int], first: int = 0) -> BootstrapCounts:
    held = BootstrapCounts(counts.shape[1], counts.shape[3])
    start = 0
    for size in batches:
        held.add(counts[start : start + size], first + start)
        start += size
    assert start >= len(counts)
    return held


def miou(counts: NDArray[np.int64]) -> float:
    """By the formula, a class at a time."""
    held = [(int(t), int(p), int(g)) for t, p, g in counts.T if p + g]
    return sum(t / (p + g - t) for t, p, g in held) / len(held)


def test_weights_are_poisson_of_mean_one() -> None:
    weights = poisson_weights(np.arange(300), REPLICATES)
    assert weights.shape == (300, REPLICATES)
    observed = np.bincount(weights.ravel(), minlength=7)
    probabilities = stats.poisson.pmf(np.arange(6), 1)
    expected = weights.size * np.append(probabilities, 1 - probabilities.sum())
    assert stats.chisquare([*observed[:6], observed[6:].sum()], expected).pvalue > 0.001


def test_weights_of_two_images_or_replicates_have_nothing_to_do_with_each_other() -> None:
    weights = poisson_weights(np.arange(400), 400).astype(float)
    for rows in (weights, weights.T):
        correlations = np.corrcoef(rows)[np.triu_indices(400, 1)]
        # 79,800 correlations of 400 pairs: their deviation is 1/20, that of their mean square about 1/400 of itself
        assert np.mean(correlations**2) == pytest.approx(1 / 399, rel=0.03)
        assert abs(correlations).max() < 6 / 20


def test_weights_are_words_of_philox_put_through_the_poisson_law() -> None:
    words = np.random.Philox(key=0, counter=[0, 12, 0, 0]).random_raw(REPLICATES) >> np.uint64(32)
    expected = stats.poisson.ppf((words.astype(float) + 0.5) / 2**32, 1)
    np.testing.assert_array_equal(poisson_weights(np.array([12]), REPLICATES)[0], expected)


def test_weights_are_of_the_image_alone() -> None:
    np.testing.assert_array_equal(poisson_weights(np.array([7, 3]), 50), poisson_weights(np.arange(9), 50)[[7, 3]])
    np.testing.assert_array_equal(poisson_weights(np.array([5]), 20), poisson_weights(np.array([5]), 30)[:, :20])
    assert not np.array_equal(*poisson_weights(np.array([2**40, 2**40 + 1]), 50))


def test_each_replicate_is_the_sum_of_its_images_as_often_as_they_were_drawn() -> None:
    counts = simulated(9, cells=2)
    held = counted(counts, [9], first=100)
    weights = poisson_weights(np.arange(100, 109), REPLICATES)
    for replicate in (0, 1, 999):
        expected = sum(int(weights[i, replicate]) * counts[i] for i in range(9))
        np.testing.assert_array_equal(held.sums[replicate], expected)
        assert held.replicates_of(1)[replicate] == pytest.approx(miou(expected[1]))
    np.testing.assert_array_equal(held.totals, counts.sum(axis=0))


def test_batches_order_and_workers_do_not_change_a_bit() -> None:
    counts = simulated(45, cells=3)
    whole = counted(counts, [45])
    single, sevens = counted(counts, [1] * 45), counted(counts, [7] * 7)
    shuffled = np.random.default_rng(1).permutation(45)
    one, two = (BootstrapCounts(3, 4) for _ in range(2))
    one.add(counts[shuffled[:20]], shuffled[:20])
    two.add(counts[shuffled[20:]], shuffled[20:])
    two.merge(one)
    for other in (single, sevens, two):
        np.testing.assert_array_equal(other.sums, whole.sums)
        assert other.images == 45
        assert other.interval(1) == whole.interval(1)
        assert other.difference(0, 2) == whole.difference(0, 2)


def test_many_columns_and_many_images_are_added_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = simulated(10, cells=3)
    whole = counted(counts, [10])
    monkeypatch.setattr("simsam_batch.scores.poisson_bootstrap._COLUMNS_AT_ONCE", 5)
    monkeypatch.setattr("simsam_batch.scores.poisson_bootstrap._DRAWN_AT_ONCE", 3 * REPLICATES)
    np.testing.assert_array_equal(counted(counts, [10]).sums, whole.sums)


def test_sums_are_exact_beyond_what_float32_holds() -> None:
    # two images whose counts float32 cannot tell from their neighbours
    counts = np.array([[[[2**40 + 1], [2**40 + 1], [2**40 + 1]]], [[[3], [3], [3]]]])
    weights = poisson_weights(np.arange(2), REPLICATES).tolist()
    expected = [a * (2**40 + 1) + b * 3 for a, b in zip(*weights, strict=True)]
    assert counted(counts, [2]).sums[:, 0, 0, 0].tolist() == expected


def test_the_interval_is_that_of_drawing_images_with_replacement() -> None:
    counts = simulated(300, seed=3)
    random = np.random.default_rng(5)
    drawn = [miou(counts[random.integers(0, 300, 300), 0].sum(axis=0)) for _ in range(10_000)]
    expected = np.quantile(drawn, [0.025, 0.975])
    held = BootstrapCounts(1, 4, replicates=10_000)
    held.add(counts, 0)
    # ends of 10,000 replicates scatter by about a fortieth of the interval's half
    assert held.interval(0) == pytest.approx(expected, abs=0.08 * np.ptp(expected) / 2)


def test_of_many_sets_nineteen_in_twenty_intervals_hold_the_true_score() -> None:
    classes, images, sets = 3, 80, 120
    truth = miou(simulated(60_000, classes=classes, seed=99)[:, 0].sum(axis=0))
    inside = 0
    for seed in range(sets):
        # other numbers, so that each set is weighted otherwise
        held = BootstrapCounts(1, classes, replicates=400)
        held.add(simulated(images, classes=classes, seed=seed), seed * images)
        low, high = held.interval(0)
        inside += low <= truth <= high
    # 95 % of 120 are 114, and the binomial law has 107 to 120 for 99.8 % of such rounds, less a little for few images
    assert 104 <= inside <= 120


def test_a_difference_on_the_same_images_is_surer_than_either_score() -> None:
    counts = simulated(200, cells=2, seed=4)
    held = counted(counts, [200])
    point, low, high = held.difference(0, 1)
    assert point == pytest.approx(miou(counts[:, 0].sum(axis=0)) - miou(counts[:, 1].sum(axis=0)))
    assert low <= point <= high
    one, other = held.interval(0), held.interval(1)
    # of independent cells the widths would add as squares
    assert high - low < 0.5 * np.hypot(np.ptp(one), np.ptp(other))


def test_equal_cells_do_not_differ() -> None:
    counts = np.repeat(simulated(20), 2, axis=1)
    assert counted(counts, [20]).difference(0, 1) == (0, 0, 0)


def test_cells_of_two_objects_are_compared_on_the_same_images() -> None:
    counts = simulated(30, cells=2)
    together, first, second = counted(counts, [30]), counted(counts[:, :1], [30]), counted(counts[:, 1:], [11, 19])
    assert first.difference(0, 0, second) == together.difference(0, 1)
    with pytest.raises(ValueError, match="1000 replicates of 30 images and 1000 of 29 are not of the same images"):
        first.difference(0, 0, counted(counts[:29], [29]))


def test_a_single_image_has_no_spread_and_no_image_no_interval() -> None:
    counts = simulated(1, seed=2)
    assert counted(counts, [1]).interval(0) == pytest.approx([miou(counts[0, 0])] * 2)
    for held in (BootstrapCounts(1, 4), counted(np.zeros((3, 1, 3, 4), np.int64), [3])):
        with pytest.raises(ValueError, match="an image with pixels that count"):
            held.interval(0)


def test_each_class_has_an_interval_and_an_absent_one_has_none() -> None:
    # class 0 is half right in one image and right in another of equal size, class 1 always right, class 2 nowhere
    counts = np.array([[[[5, 7, 0], [5, 7, 0], [10, 7, 0]]], [[[10, 7, 0], [10, 7, 0], [10, 7, 0]]]] * 50)
    half, right, absent = counted(counts, [100]).class_intervals(0)
    # values of deviation .25, of which 100 make a mean of .025, and 1.96 of it .049
    assert half == pytest.approx([0.75 - 0.049, 0.75 + 0.049], abs=0.007)
    assert right.tolist() == [1, 1]
    assert np.isnan(absent).all()


@pytest.mark.parametrize(
    ("counts", "first", "message"),
    [
        (np.zeros((2, 1, 3, 5), np.int64), 0, r"expected integers \(n, \*\(1, 3, 4\)\)"),
        (np.zeros((2, 1, 3, 4)), 0, "counts are float64"),
        (np.full((2, 1, 3, 4), -1), 0, "not negative"),
        (np.full((2, 1, 3, 4), 2**50), 0, "give fewer at once"),
        (np.zeros((2, 1, 3, 4), np.int64), np.array([1]), "one for each of 2 images"),
    ],
)
def test_what_cannot_be_counted_is_refused_and_leaves_no_trace(
    counts: NDArray[np.int64], first: int | NDArray[np.int64], message: str
) -> None:
    held = BootstrapCounts(1, 4)
    with pytest.raises(ValueError, match=message):
        held.add(counts, first)
    assert (held.images, held.sums.any(), held.totals.any()) == (0, False, False)


def test_other_cells_cannot_be_merged() -> None:
    with pytest.raises(ValueError, match="cannot be added"):
        BootstrapCounts(1, 4).merge(BootstrapCounts(2, 4))
