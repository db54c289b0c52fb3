"""Masks as bits against the same masks as booleans."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import minimum_filter

from simsam_batch.scores.bits import eroded, packed, packed_cells
from simsam_batch.scores.overlap import count_truth

# a word has 64 bits: widths below, at and above one and two of them
sizes = st.tuples(st.integers(1, 40), st.sampled_from([1, 7, 63, 64, 65, 127, 128, 129, 200]))


def mask_of(seed: int, size: tuple[int, int], share: float = 0.5) -> NDArray[np.bool_]:
    return np.random.default_rng(seed).random(size) < share


@settings(deadline=None)
@given(seed=st.integers(0, 10**6), size=sizes)
def test_masks_are_what_they_were(seed: int, size: tuple[int, int]) -> None:
    one, other = mask_of(seed, size), mask_of(seed + 1, size)
    assert packed(one).shape == size
    assert np.array_equal(packed(one).unpacked(), one)
    assert packed(one).count() == one.sum()
    assert np.array_equal((packed(one) & packed(other)).unpacked(), one & other)
    assert np.array_equal((packed(one) | packed(other)).unpacked(), one | other)
    assert np.array_equal(packed(one).without(packed(other)).unpacked(), one & ~other)


@settings(deadline=None)
@given(seed=st.integers(0, 10**6), size=sizes, width=st.sampled_from([1, 2, 5, 31, 32, 33, 63, 64, 70]))
@pytest.mark.parametrize("share", [0.5, 0.97, 1.0])
def test_erosion_is_the_least_of_all_neighbours(share: float, seed: int, size: tuple[int, int], width: int) -> None:
    # as large as the window is, or nothing is ever left
    mask = mask_of(seed, (size[0] + 2 * width, size[1] + 2 * width), share)
    expected = minimum_filter(mask.view(np.uint8), 2 * width + 1, mode="constant", cval=0)
    assert np.array_equal(eroded(packed(mask), width).unpacked(), expected > 0)


def test_what_is_smaller_than_the_window_is_gone() -> None:
    assert eroded(packed(np.ones((9, 200), bool)), 5).count() == 0
    assert eroded(packed(np.ones((11, 11), bool)), 5).count() == 1


@settings(deadline=None)
@given(seed=st.integers(0, 10**6), grid=st.tuples(st.integers(1, 6), st.integers(1, 6)), size=sizes)
def test_cells_become_pixels(seed: int, grid: tuple[int, int], size: tuple[int, int]) -> None:
    mask = mask_of(seed, grid)
    rows, columns = (np.arange(pixels) * cells // pixels for pixels, cells in zip(size, grid, strict=True))
    assert np.array_equal(packed_cells(mask, (rows, columns)).unpacked(), mask[np.ix_(rows, columns)])


@settings(deadline=None)
@given(
    seed=st.integers(0, 10**6),
    grid=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    size=st.tuples(st.integers(1, 1100), st.integers(1, 20)),
    share=st.sampled_from([0.4, 1.0]),
)
def test_sums_over_cells_higher_than_a_byte_counts(
    seed: int, grid: tuple[int, int], size: tuple[int, int], share: float
) -> None:
    truth = mask_of(seed, size, share)
    rows, columns = (np.arange(pixels) * cells // pixels for pixels, cells in zip(size, grid, strict=True))
    expected = np.zeros(grid, np.int64)
    np.add.at(expected, np.ix_(rows, columns), truth)
    found = count_truth(truth, (rows, columns), grid)
    assert np.array_equal(found.on_object, expected)
    # as where only the middle of an image is scored
    wide = np.zeros((size[0], size[1] + 9), bool)
    wide[:, 4 : 4 + size[1]] = truth
    assert np.array_equal(count_truth(wide[:, 4 : 4 + size[1]], (rows, columns), grid).on_object, expected)
