"""Confidence intervals of means over images, from counts that stay small for any number of images."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

STEPS = 1000
"""Values in 0..1 are counted by their thousandth."""

REPLICATES = 1000
LEVEL = 0.95
_SEED = 0


def bin_of(value: float) -> dict[str, int]:
    """The histogram of one value in 0..1: its nearest thousandth, as text since JSON's keys are, and the count 1.

    >>> bin_of(0.73449)
    {'734': 1}

    Raises:
        ValueError: the value is not in 0..1.
    """
    if not 0 <= value <= 1:
        raise ValueError(f"{value} is not in 0 to 1")
    return {str(round(value * STEPS)): 1}


def merge_bins(a: Mapping[str, int], b: Mapping[str, int]) -> dict[str, int]:
    """Add two histograms; exact in any order."""
    merged = dict(a)
    for name, count in b.items():
        merged[name] = merged.get(name, 0) + count
    return merged


def interval_of_mean(bins: Mapping[str, int], mean: float) -> list[float]:
    """The 95 % bootstrap interval of a mean over images, by percentiles.

    A replicate draws as many images as there are, with replacement; of images counted in bins, that is one multinomial
    draw of the bins. Values are known to half a thousandth, so the replicates are moved by what the exact mean differs
    from the histogram's. The seed is fixed: equal counts give equal intervals.

    Args:
        bins: counts by thousandth, from `bin_of` and `merge_bins`.
        mean: the exact mean of the values that were counted.

    Returns:
        [low, high], within 0..1; both the mean itself for a single image.

    Raises:
        ValueError: nothing was counted.

    Source: B. Efron, R. Tibshirani, An Introduction to the Bootstrap, chapter 13 (percentile intervals); the
        histogram is this project's.
    """
    held = sorted((int(name), count) for name, count in bins.items() if count)
    if not held:
        raise ValueError("an interval needs one value at least")
    values, counts = np.array(held, dtype=np.int64).T
    images = int(counts.sum())
    draws = np.random.default_rng(_SEED).multinomial(images, counts / images, size=REPLICATES)
    means = draws @ values / (images * STEPS) + (mean - int(counts @ values) / (images * STEPS))
    outside = (1 - LEVEL) / 2
    low, high = np.quantile(means, [outside, 1 - outside]).clip(0, 1)
    return [float(low), float(high)]
