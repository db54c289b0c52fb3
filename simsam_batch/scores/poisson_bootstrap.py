"""Confidence intervals of mean IoU over a set, and of differences, for many scores at once, in one pass over images."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from simsam_batch.scores.bootstrap import LEVEL, REPLICATES
from simsam_batch.scores.probing import ious, mean_iou, per_image_miou

_SEED = 0
_EXACT = 1 << 53
"""Every integer up to it is a float64, and so are sums of them."""
_COLUMNS_AT_ONCE = 1 << 11
"""Counts that are multiplied at once: 16 MB of products for 1000 replicates."""
_DRAWN_AT_ONCE = 1 << 20

_PROBABILITIES = np.exp(-1) / np.cumprod(np.maximum(np.arange(16), 1, dtype=np.float64))
# Of 2**32 equally likely words so many mean 0, 0 or 1, and so on: the distribution function of the Poisson law.
_BELOW = np.rint(np.cumsum(_PROBABILITIES) * 2**32).astype(np.uint64)


def poisson_weights(images: NDArray[np.integer[Any]], replicates: int) -> NDArray[np.int64]:
    """How often each replicate of the bootstrap draws each image: Poisson of mean 1, by the image's number alone.

    The bits are those of Philox 4x64 with the image's number in its counter, which NumPy promises not to change.

    Args:
        images: (n,) numbers from 0, below 2**63.
        replicates: how many, B.

    Returns:
        (n, B) int64.

    Source: J. K. Salmon et al., Parallel random numbers: as easy as 1, 2, 3, SC 2011; inversion of the distribution
        function in steps of 2**-32.
    """
    words = np.empty((len(images), replicates), dtype=np.uint64)
    for row, image in zip(words, images.tolist(), strict=True):
        # The low 64 bits of the counter count the words of one image.
        row[:] = np.random.Philox(key=_SEED, counter=image << 64).random_raw(replicates)
    return np.searchsorted(_BELOW, words >> np.uint64(32), side="right")


class BootstrapCounts:
    """The bootstrap over images of mean IoU over the set, of several cells at once; a cell is one probe that is scored.

    A replicate of a set of N images counts image i ``w_i`` times, ``w_i`` being Poisson of mean 1: as N grows this is
    the bootstrap that draws N images with replacement, without that N must be known or an image kept. The weights
    depend on the number of the image alone. So the result is the same to the last bit however images are batched, in
    whatever order, by whichever worker; and replicates of two cells, in one object or two, are of the same images and
    may be subtracted.

    Sums are exact: counts and weights are multiplied as float64, which holds every integer to 2**53 and is what BLAS is
    fast at, and kept as int64. float32 would be exact to 2**24 only, which the pixels of a hundred images exceed.
    Memory is ``replicates x cells x 3 x classes`` of 8 bytes, 101 MB for 1000, 200 and 21, and 16 MB for products;
    where that is too much, make several objects of some cells each. A call costs a pass over that memory whatever it
    adds: give images by the hundred.

    Attributes:
        totals: (cells, 3, classes) int64, the counts of the set itself.
        sums: (replicates, cells, 3, classes) int64, those of each replicate.
        images: how many were added.

    Args:
        cells: how many scores are followed, K.
        classes: how many classes each has, C.
        replicates: how many sets are drawn, B.

    Source: Hanley, MacGibbon: Creating non-parametric bootstrap samples using Poisson frequencies, 2006; Chamandy et
        al.: Estimating uncertainty for massive data streams, 2012.
    """

    def __init__(self, cells: int, classes: int, replicates: int = REPLICATES) -> None:
        self.totals = np.zeros((cells, 3, classes), dtype=np.int64)
        self.sums = np.zeros((replicates, cells, 3, classes), dtype=np.int64)
        self.images = 0

    def add(self, counts: NDArray[np.integer[Any]], first: int | NDArray[np.integer[Any]]) -> None:
        """Add images, each once.

        Args:
            counts: (n, cells, 3, classes) pixels from `simsam_batch.scores.probing.class_counts`, not negative.
            first: the number of the first of them, by which the others follow; or the (n,) number of each. It is the
                image's own, the same in every run over the set.

        Raises:
            ValueError: the counts have another shape, are no integers, negative, or so great that sums are not exact.
        """
        if counts.shape[1:] != self.totals.shape or counts.dtype.kind not in "iu":
            raise ValueError(f"counts are {counts.dtype} {counts.shape}; expected integers (n, *{self.totals.shape})")
        if counts.size and counts.min() < 0:
            raise ValueError("counts of pixels are not negative")
        numbers = np.asarray(first, dtype=np.int64)
        if numbers.ndim == 0:
            numbers = numbers + np.arange(len(counts))
        if numbers.shape != counts.shape[:1]:
            raise ValueError(f"numbers are {numbers.shape}; expected one for each of {len(counts)} images")
        pixels = counts.sum(axis=0, dtype=np.float64).max(initial=0)
        if pixels * len(_BELOW) >= _EXACT:
            raise ValueError(f"{len(counts)} images have {pixels:.3g} pixels of one class: give fewer at once")
        replicates = len(self.sums)
        rows = max(1, _DRAWN_AT_ONCE // replicates)
        for start in range(0, len(counts), rows):
            part = counts[start : start + rows]
            self._add(part, poisson_weights(numbers[start : start + rows], replicates))
        self.totals += counts.sum(axis=0, dtype=np.int64)
        self.images += len(counts)

    def _add(self, counts: NDArray[np.integer[Any]], weights: NDArray[np.int64]) -> None:
        transposed = np.ascontiguousarray(weights.T, dtype=np.float64)
        flat, sums = counts.reshape(len(counts), -1), self.sums.reshape(len(self.sums), -1)
        for start in range(0, flat.shape[1], _COLUMNS_AT_ONCE):
            columns = slice(start, start + _COLUMNS_AT_ONCE)
            sums[:, columns] += (transposed @ flat[:, columns].astype(np.float64)).astype(np.int64)

    def merge(self, other: Self) -> None:
        """Add what another object has counted, of other images and the same cells; exact in any order.

        Raises:
            ValueError: it has other numbers of replicates, cells or classes.
        """
        if other.sums.shape != self.sums.shape:
            raise ValueError(f"counts of {other.sums.shape} cannot be added to those of {self.sums.shape}")
        self.totals += other.totals
        self.sums += other.sums
        self.images += other.images

    def replicates_of(self, cell: int) -> NDArray[np.float64]:
        """The mean IoU of a cell in each replicate, (B,) float64; NaN in one that drew no pixel that counts."""
        return per_image_miou(self.sums[:, cell])

    def interval(self, cell: int) -> list[float]:
        """The 95 % interval of the mean IoU of a cell, [low, high], by percentiles of the replicates.

        A class that no drawn image holds is left out of the mean of that replicate, as `mean_iou` leaves it out of that
        of the set.

        Raises:
            ValueError: no replicate holds a pixel that counts.
        """
        return _held(interval_of(self.replicates_of(cell)))

    def class_intervals(self, cell: int) -> NDArray[np.float64]:
        """The 95 % interval of the IoU of each class of a cell, (C, 2) float64; NaN for a class that is not there."""
        found = ious(self.sums[:, cell])
        ends = [interval_of(values) or [np.nan, np.nan] for values in found.T]
        return np.array(ends, dtype=np.float64).reshape(-1, 2)

    def difference(self, cell_a: int, cell_b: int, other: Self | None = None) -> tuple[float, float, float]:
        """By how much the mean IoU of one cell is above that of a second on the same images.

        The interval is that of the differences in each replicate, and as much narrower than those of the cells as the
        two find the same images hard.

        Args:
            cell_a: a cell of this object.
            cell_b: a cell of ``other``.
            other: an object that counted the same images; None for this one.

        Returns:
            The difference on the set, and both ends of its 95 % interval, in -1..1.

        Raises:
            ValueError: the other one counted other images, as far as their number tells, or has not as many replicates;
                or no replicate holds a pixel that counts.
        """
        other = self if other is None else other
        if (other.images, len(other.sums)) != (self.images, len(self.sums)):
            raise ValueError(
                f"{len(self.sums)} replicates of {self.images} images and {len(other.sums)} of {other.images} are not "
                "of the same images"
            )
        low, high = _held(interval_of(self.replicates_of(cell_a) - other.replicates_of(cell_b)))
        return mean_iou(self.totals[cell_a]) - mean_iou(other.totals[cell_b]), low, high


def interval_of(replicates: NDArray[np.float64]) -> list[float] | None:
    """The 95 % interval of a score, [low, high], by percentiles of its replicates; None if all of them are NaN."""
    held = replicates[~np.isnan(replicates)]
    if not held.size:
        return None
    outside = round((1 - LEVEL) / 2, 3)
    low, high = np.quantile(held, [outside, 1 - outside])
    return [float(low), float(high)]


def _held(interval: list[float] | None) -> list[float]:
    if interval is None:
        raise ValueError("an interval needs an image with pixels that count")
    return interval
