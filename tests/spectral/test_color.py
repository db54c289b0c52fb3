"""Colour affinities against a brute-force search, pymatting and hand computation."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from pymatting.laplacian.rw_laplacian import _rw_laplacian
from scipy.sparse import coo_array, csr_array

from simsam_batch.spectral.color import knn_affinity, random_walk_affinity

Affinity = Callable[[NDArray[np.floating]], csr_array]


def random_image(height: int, width: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).random((height, width, 3), dtype=np.float32)


def brute_force_counts(rgb: NDArray[np.float32]) -> NDArray[np.float64]:
    height, width, _ = rgb.shape
    size = height * width
    counts = np.zeros((size, size))
    for k, weight in ((20, 2.0), (10, 0.1)):
        points = np.array(
            [
                (*rgb[row, column].tolist(), weight * column / (width - 1), weight * row / (height - 1))
                for row in range(height)
                for column in range(width)
            ]
        )
        for i, here in enumerate(points):
            nearest = np.argsort(np.square(points - here).sum(1))[:k]
            for j in nearest:
                counts[i, j] += 1
                counts[j, i] += 1
    return counts


def test_neighbour_counts_equal_a_brute_force_search_on_20_by_20_pixels() -> None:
    rgb = random_image(20, 20)
    np.testing.assert_array_equal(knn_affinity(rgb).toarray(), brute_force_counts(rgb))


def test_neighbour_counts_respect_which_side_of_the_image_is_longer() -> None:
    rgb = random_image(6, 11, seed=3)
    np.testing.assert_array_equal(knn_affinity(rgb).toarray(), brute_force_counts(rgb))


@pytest.mark.parametrize("constant", [False, True])
def test_neighbour_counts_are_symmetric_with_diagonal_4_and_mean_row_sum_60(constant: bool) -> None:
    rgb = np.full((15, 12, 3), 0.4, np.float32) if constant else random_image(15, 12, seed=1)
    w = knn_affinity(rgb).toarray()
    assert (w == w.T).all()
    assert (np.diag(w) == 4).all()
    assert set(np.unique(w)) <= {0, 1, 2, 3, 4}
    # 30 neighbours of its own, and at least itself in both lists of "whose neighbour am I".
    assert w.sum(1).min() >= 32
    assert w.sum(1).mean() == 60


def test_an_image_smaller_than_the_neighbourhood_takes_all_its_pixels() -> None:
    # 4 pixels: both lists hold everybody, each pair counts 2 (lists) x 2 (directions).
    np.testing.assert_array_equal(knn_affinity(random_image(2, 2)).toarray(), np.full((4, 4), 4.0))


def test_random_walk_weights_are_those_of_pymatting() -> None:
    rgb = random_image(7, 5) * np.float32(0.1)
    values, rows, columns = _rw_laplacian(rgb.astype(np.float64), 0.033, 1)
    expected = coo_array((values, (rows, columns)), shape=(35, 35)).toarray()
    np.testing.assert_allclose(random_walk_affinity(rgb).toarray(), expected, rtol=1e-5, atol=1e-30)


def test_random_walk_weights_of_two_pixels_by_hand() -> None:
    # A 1x2 image: all three rows of the window fall on the one row there is. The left pixel's window columns are
    # (itself, itself, right), so it counts itself 2 x 3 times and its neighbour 3 times exp(-900 * 3 * 0.01^2).
    rgb = np.array([[[0.5, 0.5, 0.5], [0.51, 0.49, 0.51]]])
    across = 3 * math.exp(-0.27)
    np.testing.assert_allclose(random_walk_affinity(rgb).toarray(), [[6, across], [across, 6]], rtol=1e-6)


def test_random_walk_weights_are_symmetric_to_the_bit() -> None:
    w = random_walk_affinity(random_image(9, 8)).toarray()
    assert (w == w.T).all()


@pytest.mark.parametrize("affinity", [knn_affinity, random_walk_affinity])
@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.full((4, 4, 3), 200.0), "divide 8-bit values by 255"),
        (np.full((4, 4, 3), -0.1), "-0.1"),
        (np.full((4, 4, 3), np.nan), "nan"),
        (np.zeros((4, 4)), "shape"),
        (np.zeros((4, 4, 4)), "shape"),
    ],
)
def test_colours_outside_the_unit_range_and_other_shapes_are_refused(
    affinity: Affinity, image: NDArray[np.float64], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        affinity(image)
