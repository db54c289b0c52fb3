"""Means of scores that methods have on the same images, and what lies between them, with bootstrap intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simsam_batch.scores.poisson_bootstrap import interval_of

DRAWS = 10_000
"""Sets that are drawn for an interval."""

_SEED = 0
_EXACT = 1 << 14
"""Up to so many units each is drawn by itself."""
_BINS = 1 << 10
"""Of more units neighbours in value are taken together, in so many bins."""
_DRAWN_AT_ONCE = 1 << 22


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean with its 95 % bootstrap interval, by percentiles; of differences between two methods likewise.

    Attributes:
        value: the mean.
        low, high: the ends.
    """

    value: float
    low: float
    high: float


def unit_means(values: NDArray[np.float64], groups: NDArray[np.int64] | None = None) -> NDArray[np.float64]:
    """What a mean is taken over and what is drawn: the values themselves, or the mean of each group.

    Args:
        values: (n,) float64.
        groups: (n,) the group of each from 0 on; None: each value is a group of its own.

    Returns:
        (n,), or (G,) of the groups that have a value, in their order.
    """
    if groups is None:
        return values
    counts = np.bincount(groups)
    held = counts > 0
    found: NDArray[np.float64] = np.bincount(groups, weights=values)[held] / counts[held]
    return found


def bootstrap_mean(values: NDArray[np.float64], groups: NDArray[np.int64] | None = None, *, draws: int = DRAWS) -> Mean:
    """The mean of values and its 95 % bootstrap interval; of paired differences, the paired interval.

    A draw takes as many units as there are, with replacement; the interval is between percentiles of the draws' means.
    With groups, such as the video that a frame is of, the unit is the group: it is drawn as a whole and counts by the
    mean of its values, whatever number of them it has, so that many alike are no more evidence than one. Beyond 16,384
    units neighbours in value are taken together in 1024 bins: the mean stays exact, and the interval narrows by the
    variance within the bins, which is next to nothing. The seed is fixed: the same values give the same interval.

    Args:
        values: (n,) finite float64; for a paired difference ``other - base``, image by image.
        groups: (n,) the group of each from 0 on; None: each value by itself.
        draws: how many sets are drawn.

    Raises:
        ValueError: there is no value.

    Source: B. Efron, R. Tibshirani, An Introduction to the Bootstrap, chapters 8 (what is drawn is the unit that is
        independent) and 13 (percentile intervals); bins are this project's.
    """
    if not values.size:
        raise ValueError("a mean needs one value at least")
    units = unit_means(np.asarray(values, dtype=np.float64), groups)
    generator = np.random.default_rng(_SEED)
    if len(units) <= _EXACT:
        at_once = max(1, _DRAWN_AT_ONCE // len(units))
        sizes = [min(at_once, draws - start) for start in range(0, draws, at_once)]
        means = np.concatenate([units[generator.integers(len(units), size=(n, len(units)))].mean(1) for n in sizes])
    else:
        bins = np.array_split(np.sort(units), _BINS)
        counts = np.array([len(each) for each in bins])
        centres = np.array([each.mean() for each in bins])
        means = generator.multinomial(len(units), counts / len(units), size=draws) @ centres / len(units)
    low, high = interval_of(means) or (np.nan, np.nan)
    return Mean(float(units.mean()), low, high)
