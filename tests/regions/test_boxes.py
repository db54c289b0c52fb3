"""Boxes, by hand and against the mask at full size."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from simsam_batch.regions.boxes import tight_box
from simsam_batch.regions.masks import upsample_index


def mask_of(*rows: str) -> NDArray[np.bool_]:
    return np.array([[cell == "#" for cell in row] for row in rows])


def pixel_by_pixel(mask: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    return np.arange(mask.shape[0]), np.arange(mask.shape[1])


def test_a_box_is_tight_with_an_exclusive_maximum() -> None:
    mask = mask_of(".....", "..#..", ".....", "...#.")
    box = tight_box(mask, pixel_by_pixel(mask))
    assert box == (2, 1, 4, 4)
    assert all(type(edge) is int for edge in box or ())


def test_a_patch_has_a_box_of_its_own_size() -> None:
    # Patches of 16 pixels, the last of each axis with what the crop left over.
    index = upsample_index((2, 3), 16, (40, 50), (40, 50))
    assert tight_box(mask_of("...", ".#."), index) == (16, 16, 32, 40)
    assert tight_box(mask_of("..#", "..."), index) == (32, 0, 50, 16)


def test_an_empty_mask_has_no_box() -> None:
    empty = mask_of("...", "...")
    assert tight_box(empty, pixel_by_pixel(empty)) is None


@settings(deadline=None)
@given(
    seed=st.integers(0, 10**6),
    density=st.floats(0, 1),
    grid=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    full=st.tuples(st.integers(1, 70), st.integers(1, 70)),
)
def test_the_box_is_that_of_the_mask_spread_over_the_image(
    seed: int, density: float, grid: tuple[int, int], full: tuple[int, int]
) -> None:
    mask = np.random.default_rng(seed).random(grid) < density
    index = upsample_index(grid, 8, (grid[0] * 8 + 3, grid[1] * 8 + 5), full)
    ys, xs = np.nonzero(mask[np.ix_(*index)])
    expected = (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) if len(xs) else None
    assert tight_box(mask, index) == expected
