"""Mean and covariance of region features in one pass, and the principal components that follow from them.

Sums are kept in integers. Integer addition is associative, so that any order of the rows, any batch size and any
number of processes give the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from simsam_batch.spectral.affinity import normalize_rows

BLOCK = 4096
"""Rows that are worked on at a time, so that fp64 copies stay small."""

# Entries of unit rows are counted in steps of 2^-18. Their products are then multiples of 2^-36, which fp64 adds
# without rounding up to 2^53 steps, and int64 up to 2^63.
_STEPS = 2.0**18
_MOST_ROWS = 130_000_000


@dataclass(frozen=True, slots=True)
class Projection:
    """An affine map to few dimensions: ``y = components (x - mean)``.

    Attributes:
        mean: (C,) float64.
        components: (d, C) float64, orthonormal rows.
        variance: (d,) float64, variance of each coordinate of y, descending.
    """

    mean: NDArray[np.float64]
    components: NDArray[np.float64]
    variance: NDArray[np.float64]

    def __call__(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Project (N, C) to (N, d)."""
        return (rows - self.mean) @ self.components.T


@dataclass(frozen=True, slots=True)
class Moments:
    """Count, sum and sum of outer products of unit rows: what a covariance needs, exact and mergeable.

    Rows are scaled to unit length (see `unit_rows`) and rounded to multiples of 2^-18, at most 2e-6 off. That adds
    1e-12 to every variance, where unit rows have 1/C on average.

    Attributes:
        count: rows so far.
        total: (C,) int64, sum of the rows in steps of 2^-18.
        products: (C, C) int64, sum of the rows' outer products in steps of 2^-36.
    """

    count: int
    total: NDArray[np.int64]
    products: NDArray[np.int64]

    @classmethod
    def of(cls, features: NDArray[np.float32]) -> Moments:
        """Moments of (N, C) features; N may be 0.

        Raises:
            ValueError: for a row that is not finite.
        """
        channels = features.shape[1]
        total = np.zeros(channels, dtype=np.int64)
        products = np.zeros((channels, channels), dtype=np.int64)
        for _, unit in unit_blocks(features):
            steps = np.rint(unit * _STEPS)
            total += steps.sum(axis=0).astype(np.int64)
            products += (steps.T @ steps).astype(np.int64)
        return cls(len(features), total, products)

    def merge(self, other: Moments) -> Moments:
        """Moments of both sets of rows together.

        Raises:
            ValueError: if the features differ in length, or for more than 130 million rows, which int64 cannot sum.
        """
        if len(self.total) != len(other.total):
            raise ValueError(f"features of {len(self.total)} and of {len(other.total)} channels cannot be merged")
        if self.count + other.count > _MOST_ROWS:
            raise ValueError(f"{self.count + other.count} regions are more than the {_MOST_ROWS} that can be summed")
        return Moments(self.count + other.count, self.total + other.total, self.products + other.products)

    def mean(self) -> NDArray[np.float64]:
        """Mean of the unit rows, (C,)."""
        return self.total / (_STEPS * self.count)

    def covariance(self) -> NDArray[np.float64]:
        """Covariance of the unit rows, (C, C), with the divisor count - 1."""
        mean = self.mean()
        return (self.products / (_STEPS**2 * self.count) - np.outer(mean, mean)) * (self.count / (self.count - 1))

    def principal_components(self, dimensions: int) -> Projection:
        """Projection to the directions of largest variance (PCA), from the covariance's eigenvectors.

        An eigenvector's sign is arbitrary; here the entry of largest absolute value is positive, the first of several.

        Args:
            dimensions: d, from 1 to the smaller of C and count - 1.

        Raises:
            ValueError: for a d that C or the number of rows does not allow.
        """
        channels = len(self.total)
        most = min(channels, self.count - 1)
        if not 1 <= dimensions <= most:
            raise ValueError(
                f"pca_dim={dimensions} does not fit {self.count} regions with features of {channels} channels; "
                f"use 0 for no PCA or at most {max(most, 0)}"
            )
        values, vectors = np.linalg.eigh(self.covariance())
        components = vectors.T[::-1][:dimensions]
        largest = np.abs(components).argmax(axis=1)
        signs = np.sign(np.take_along_axis(components, largest[:, None], axis=1))
        return Projection(self.mean(), np.ascontiguousarray(components * signs), values[::-1][:dimensions].copy())


def unit_rows(features: NDArray[np.float32], *, first: int = 0) -> NDArray[np.float64]:
    """Scale rows to unit length in fp64; each row's bits depend on this row alone.

    Args:
        features: (N, C) float32.
        first: number of the first row, for messages.

    Returns:
        (N, C) float64; a zero row becomes the constant ``1/sqrt(C)``, as in
        `simsam_batch.spectral.affinity.normalize_rows`.

    Raises:
        ValueError: if ``features`` is no matrix, or for a row that is not finite, with its number.
    """
    if features.ndim != 2 or features.shape[1] == 0:
        raise ValueError(f"features have shape {features.shape}; a matrix of one row per region is needed")
    finite = np.isfinite(features).all(axis=1)
    if not finite.all():
        raise ValueError(f"row {first + int(finite.argmin())} of the region features is not finite")
    unit: NDArray[np.float64] = normalize_rows(torch.from_numpy(features.astype(np.float64, order="C"))).numpy()
    return unit


def unit_blocks(features: NDArray[np.float32]) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """Unit rows a block at a time, each with the slice of rows it stands for.

    Raises:
        ValueError: as `unit_rows`, with the row's number in all of ``features``.
    """
    for start in range(0, len(features), BLOCK):
        rows = slice(start, start + BLOCK)
        yield rows, unit_rows(features[rows], first=start)
