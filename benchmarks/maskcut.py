"""MaskCut's procedure without its refinement, one image at a time, written plainly.

Source: Wang, Girdhar, Yu and Misra, Cut and learn for unsupervised object detection and instance segmentation (CVPR
2023), section 3.2, and where the paper leaves a choice what its published code does.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.ndimage import label

TAU, ROUNDS = 0.15, 3
"""Cosine from which two patches belong together, and how many objects are looked for."""

_APART = 1e-5
_OVERLAP, _SMALLEST = 0.5, 0.01
_CORNERS = 3


def masks(
    features: NDArray[np.floating],
    grid: tuple[int, int],
    valid: NDArray[np.bool_] | None = None,
    *,
    tau: float = TAU,
    rounds: int = ROUNDS,
) -> list[NDArray[np.bool_]]:
    """The objects of one image as masks (Hp, Wp); a round that finds nothing new has none.

    Each round cuts the graph of binary affinities at the mean of its second smallest generalised eigenvector, takes the
    side of the largest entry (the other one, if three corners of the image are in it) and of that the part connected to
    the peak; then the features of what it found become zero. After the first, a round counts for nothing if its mask
    overlaps that of the round before by more than one half, or has a hundredth of the patches or less. What earlier
    objects hold is no later one's.

    Args:
        features: (N, C) keys of the patches, row by row.
        grid: (Hp, Wp).
        valid: (N,), patches that take part; None for all, as published. Networks with outlier tokens need it: one of
            them has the largest entry otherwise.
        tau: see `TAU`.
        rounds: see `ROUNDS`.
    """
    rows = features.astype(np.float64)
    found: list[NDArray[np.bool_]] = []
    taken = np.zeros(grid, dtype=np.bool_)
    before = np.zeros(grid, dtype=np.bool_)
    for number in range(rounds):
        rows = np.where(taken.reshape(-1, 1), 0.0, rows)
        mask = _cut(rows, np.ones(len(rows), dtype=np.bool_) if valid is None else valid, grid, tau)
        if number:
            union = (mask | before).sum()
            overlap = (mask & before).sum() / union if union else 0.0
            if overlap > _OVERLAP or mask.mean() <= _SMALLEST:
                mask = np.zeros(grid, dtype=np.bool_)
        before = mask
        own = mask & ~taken
        taken |= mask
        if own.any():
            found.append(own)
    return found


def _cut(rows: NDArray[np.float64], valid: NDArray[np.bool_], grid: tuple[int, int], tau: float) -> NDArray[np.bool_]:
    lengths = np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    units = (rows / lengths)[valid]
    affinity = np.where(units @ units.T > tau, 1.0, _APART)
    degrees = np.diag(affinity.sum(axis=1))
    inside = eigh(degrees - affinity, degrees, subset_by_index=[1, 1])[1][:, 0]
    # what takes no part has the mean, on neither side of it
    vector = np.full(len(rows), inside.mean())
    vector[valid] = inside
    side = vector.reshape(grid) > inside.mean()
    seed = np.abs(np.where(valid, vector, 0.0)).argmax()
    corners = int(side[[0, 0, -1, -1], [0, -1, 0, -1]].sum())
    if corners >= _CORNERS or not side.flat[seed]:
        side, vector = ~side & valid.reshape(grid), -vector
    parts, _ = label(side)
    return np.asarray(side & (parts == parts.flat[int(np.where(valid, vector, -np.inf).argmax())]))
