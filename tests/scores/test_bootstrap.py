"""Bootstrap intervals against the bootstrap of the values themselves, and against the normal law."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from simsam_batch.scores.bootstrap import bin_of, interval_of_mean, merge_bins


def bins_of(values: NDArray[np.float64]) -> dict[str, int]:
    bins: dict[str, int] = {}
    for value in values.tolist():
        bins = merge_bins(bins, bin_of(value))
    return bins


def test_values_fall_into_the_nearest_thousandth() -> None:
    assert [bin_of(v) for v in (0.0, 0.0004, 0.0006, 0.7344, 1.0)] == [
        {"0": 1}, {"0": 1}, {"1": 1}, {"734": 1}, {"1000": 1}
    ]  # fmt: skip
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="not in 0 to 1"):
            bin_of(wrong)


@given(st.lists(st.floats(0, 1), max_size=20), st.lists(st.floats(0, 1), max_size=20))
def test_histograms_merge_to_that_of_all_values(a: list[float], b: list[float]) -> None:
    together = bins_of(np.array(a + b))
    assert merge_bins(bins_of(np.array(a)), bins_of(np.array(b))) == together == json.loads(json.dumps(together))
    assert together == dict(Counter(str(round(1000 * value)) for value in a + b))


@pytest.mark.parametrize("images", [30, 1000])
def test_the_interval_is_that_of_a_bootstrap_of_the_values(images: int) -> None:
    values = np.random.default_rng(3).beta(4, 1.5, images)
    expected = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=5000, rng=1).confidence_interval
    low, high = interval_of_mean(bins_of(values), float(values.mean()))
    # Both are drawn: ends of 1000 replicates scatter by about a twelfth of the interval's half.
    tolerance = 0.15 * (expected.high - expected.low) / 2
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=tolerance)


def test_a_share_has_the_interval_of_the_binomial_law() -> None:
    # 600 of 1000: the deviation of the mean is sqrt(.6 * .4 / 1000) = .0155, and 1.96 of it .0304.
    low, high = interval_of_mean({"1000": 600, "0": 400}, 0.6)
    assert (low, high) == pytest.approx((0.6 - 0.0304, 0.6 + 0.0304), abs=0.003)


def test_a_million_images_take_no_longer_than_their_bins() -> None:
    bins = {str(i): 1000 for i in range(1000)}
    low, high = interval_of_mean(bins, 0.4995)
    # Uniform over 0..1: the deviation of the mean is .2887 / 1000.
    assert (low, high) == pytest.approx((0.4995 - 0.000566, 0.4995 + 0.000566), abs=0.0001)


def test_equal_values_and_a_single_image_have_an_interval_of_no_width_at_the_exact_mean() -> None:
    for count in (1, 50):
        assert interval_of_mean({"734": count}, 0.73449) == pytest.approx([0.73449, 0.73449], abs=1e-12)
    assert interval_of_mean({"1000": 4}, 1.0) == [1.0, 1.0]
    with pytest.raises(ValueError, match="one value"):
        interval_of_mean({}, 0.0)


def test_equal_counts_give_equal_intervals_in_whatever_order_they_came() -> None:
    bins = {"100": 3, "900": 4, "20": 1}
    assert interval_of_mean(bins, 0.5) == interval_of_mean(dict(reversed(bins.items())), 0.5)
