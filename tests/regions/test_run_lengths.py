"""Run lengths from patches are those of the mask at full size."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from simsam_batch.regions.pixel_index import upsample_index
from simsam_batch.regions.run_lengths import run_lengths


@settings(deadline=None)
@given(
    seed=st.integers(0, 10**6),
    density=st.floats(0, 1),
    grid=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    full=st.tuples(st.integers(1, 70), st.integers(1, 70)),
)
def test_the_encoding_is_that_of_the_mask_spread_over_the_image(
    seed: int, density: float, grid: tuple[int, int], full: tuple[int, int]
) -> None:
    mask = np.random.default_rng(seed).random(grid) < density
    index = upsample_index(grid, 8, (grid[0] * 8 + 3, grid[1] * 8 + 5), full)
    expected = coco.encode(np.asfortranarray(mask[np.ix_(*index)], dtype=np.uint8))
    assert run_lengths(mask, index) == {"size": expected["size"], "counts": expected["counts"].decode()}


@pytest.mark.parametrize("value", [False, True])
def test_empty_and_full_masks(value: bool) -> None:
    index = upsample_index((2, 3), 4, (8, 12), (10, 9))
    decoded = coco.decode(run_lengths(np.full((2, 3), value), index))
    assert decoded.shape == (10, 9)
    assert decoded.sum() == 90 * value
