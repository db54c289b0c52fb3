"""Colour affinities of one image at the size of its patch grid (Deep Spectral Methods, arXiv 2205.07839)."""

from __future__ import annotations

from itertools import product
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array

# Two searches: one weighs position as much as colour, the other almost only colour.
_NEIGHBORS_AND_POSITION_WEIGHT: Final = ((20, 2.0), (10, 0.1))
_RANDOM_WALK_SHARPNESS: Final = 900.0


def knn_affinity(rgb: NDArray[np.floating]) -> csr_array:
    """Count how often two pixels are near neighbours in colour and position (KNN matting, Chen et al., 2013).

    Pixels are the vectors ``(r, g, b, w x, w y)`` with ``x, y`` from 0 to 1 over the grid. For ``(k, w)`` in
    ``(20, 2)`` and ``(10, 0.1)`` every pixel ``i`` adds 1 at ``(i, j)`` and at ``(j, i)`` for each of its ``k``
    nearest ``j``, itself among them.

    Args:
        rgb: ``(Hp, Wp, 3)``, values in [0, 1].

    Returns:
        ``(N, N)`` sparse float32, symmetric, diagonal 4, other entries 1 to 4.

    Raises:
        ValueError: if ``rgb`` has another shape or leaves [0, 1].
    """
    from sklearn.neighbors import NearestNeighbors

    _require_unit_range(rgb)
    height, width, _ = rgb.shape
    size = height * width
    y, x = np.meshgrid(np.linspace(0.0, 1.0, height), np.linspace(0.0, 1.0, width), indexing="ij")
    rows: list[NDArray[np.int64]] = []
    columns: list[NDArray[np.int64]] = []
    for k, position_weight in _NEIGHBORS_AND_POSITION_WEIGHT:
        points = np.column_stack((rgb.reshape(size, 3), position_weight * x.ravel(), position_weight * y.ravel()))
        neighbors = min(k, size)
        search = NearestNeighbors(n_neighbors=neighbors, n_jobs=1).fit(points)
        rows.append(np.repeat(np.arange(size), neighbors))
        columns.append(search.kneighbors(points, return_distance=False).ravel())
    return _symmetric_counts(np.concatenate(rows), np.concatenate(columns), size)


def random_walk_affinity(rgb: NDArray[np.floating]) -> csr_array:
    """Similarity of colours within 3x3 windows (random-walk matting, Grady et al., 2005).

    ``exp(-900 |rgb_i - rgb_j|^2)`` for each of the nine window positions ``j`` around ``i``. Positions beyond the
    border are moved onto it, as pymatting does, so that pairs along the border count more than once.

    Args:
        rgb: ``(Hp, Wp, 3)``, values in [0, 1].

    Returns:
        ``(N, N)`` sparse float32, symmetric.

    Raises:
        ValueError: if ``rgb`` has another shape or leaves [0, 1].
    """
    _require_unit_range(rgb)
    height, width, _ = rgb.shape
    size = height * width
    pixels = np.asarray(rgb, dtype=np.float64).reshape(size, 3)
    y, x = np.divmod(np.arange(size), width)
    steps = tuple(product((-1, 0, 1), repeat=2))
    rows = np.tile(np.arange(size), len(steps))
    columns = np.concatenate([(y + dy).clip(0, height - 1) * width + (x + dx).clip(0, width - 1) for dy, dx in steps])
    weights = np.exp(-_RANDOM_WALK_SHARPNESS * np.square(pixels[rows] - pixels[columns]).sum(1))
    return csr_array(coo_array((weights.astype(np.float32), (rows, columns)), shape=(size, size)))


def _symmetric_counts(rows: NDArray[np.int64], columns: NDArray[np.int64], size: int) -> csr_array:
    counts = coo_array((np.ones(len(rows), np.float32), (rows, columns)), shape=(size, size))
    return csr_array(counts + counts.T)


def _require_unit_range(rgb: NDArray[np.floating]) -> None:
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.size == 0:
        raise ValueError(f"a colour image has the shape (Hp, Wp, 3), this one {rgb.shape}")
    if not (rgb.min() >= 0.0 and rgb.max() <= 1.0):
        raise ValueError(
            f"colours lie in [0, 1], these in [{rgb.min():g}, {rgb.max():g}]; divide 8-bit values by 255 once"
        )
