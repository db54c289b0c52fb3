"""An order of rows that looks random and is always the same."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_MIX, _SHIFT = np.uint64(0x9E3779B97F4A7C15), np.uint64(29)


def shuffled(numbers: NDArray[np.int64]) -> NDArray[np.uint64]:
    """A value for each number that has nothing to do with its size: those with the smallest are a random sample.

    Whoever asks for a sample of some rows takes those with the smallest values, so that samples of sets that overlap
    share what they can. The mixing is that of SplitMix64 (Steele, Lea, Flood, 2014), one round less.
    """
    mixed = (numbers.astype(np.uint64) + np.uint64(1)) * _MIX
    mixed = (mixed ^ (mixed >> _SHIFT)) * np.uint64(0xBF58476D1CE4E5B9)
    return mixed ^ (mixed >> np.uint64(32))
