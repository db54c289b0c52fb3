"""Paired differences with bootstrap intervals: by hand, against SciPy, by group, and for a million images."""

from __future__ import annotations

import time

import numpy as np
import pytest
from scipy import stats

from simsam_batch.scores.paired import bootstrap_mean, unit_means


def test_an_interval_is_that_of_a_hand_computation() -> None:
    # Two differences, 0 and 1: a draw of two has the mean 0, 1/2 or 1 with probability 1/4, 1/2, 1/4,
    # so that the percentiles at 2.5 and 97.5 % are 0 and 1.
    found = bootstrap_mean(np.array([0.0, 1.0]))
    assert (found.value, found.low, found.high) == (0.5, 0.0, 1.0)


def test_one_value_and_equal_values_have_an_interval_of_no_width() -> None:
    for values in ([0.25], [0.25] * 7):
        found = bootstrap_mean(np.array(values))
        assert (found.value, found.low, found.high) == (0.25, 0.25, 0.25)


@pytest.mark.parametrize("images", [8, 109, 3000])
def test_intervals_are_those_of_scipy(images: int) -> None:
    rng = np.random.default_rng(images)
    base = rng.random(images)
    other = np.clip(base + rng.normal(0.03, 0.1, images), 0, 1)
    found = bootstrap_mean(other - base)
    theirs = stats.bootstrap(
        (other, base),
        lambda a, b, axis: np.mean(a - b, axis=axis),
        paired=True,
        method="percentile",
        n_resamples=10_000,
        vectorized=True,
        batch=1000,
        rng=np.random.default_rng(7),
    ).confidence_interval
    # both draw 10,000 sets by other numbers: an end has a deviation of some hundredths of the interval's width
    assert [found.low, found.high] == pytest.approx([theirs.low, theirs.high], abs=0.04 * (theirs.high - theirs.low))
    assert found.value == pytest.approx((other - base).mean(), abs=1e-15)


def test_the_same_values_have_the_same_interval() -> None:
    values = np.random.default_rng(1).normal(size=50)
    assert bootstrap_mean(values) == bootstrap_mean(values.copy())


def test_a_group_counts_once_and_is_drawn_as_a_whole() -> None:
    # nine frames of one video and one of another: by group the mean is (1 + 0) / 2, and not 9 / 10
    values, groups = np.array([1.0] * 9 + [0.0]), np.array([0] * 9 + [1])
    assert unit_means(values, groups).tolist() == [1.0, 0.0]
    found = bootstrap_mean(values, groups)
    assert (found.value, found.low, found.high) == (0.5, 0.0, 1.0)
    assert bootstrap_mean(values).value == pytest.approx(0.9)


def test_a_group_without_a_value_is_none() -> None:
    assert unit_means(np.array([0.5, 1.0]), np.array([0, 2])).tolist() == [0.5, 1.0]


def test_a_million_images_have_the_interval_of_the_normal_law_within_seconds() -> None:
    values = np.random.default_rng(2).beta(2, 3, 1_000_000) - 0.4
    before = time.perf_counter()
    found = bootstrap_mean(values)
    assert time.perf_counter() - before < 30
    half = 1.96 * values.std() / 1000
    assert found.value == pytest.approx(values.mean(), abs=1e-12)
    assert [found.low, found.high] == pytest.approx([values.mean() - half, values.mean() + half], abs=0.06 * half)


def test_nothing_has_no_mean() -> None:
    with pytest.raises(ValueError, match="one value at least"):
        bootstrap_mean(np.array([]))
