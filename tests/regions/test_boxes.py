"""Boxes and connected parts, by hand."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from simsam_batch.regions.boxes import largest_component, tight_box


def mask_of(*rows: str) -> NDArray[np.bool_]:
    return np.array([[cell == "#" for cell in row] for row in rows])


def test_a_box_is_tight_with_an_exclusive_maximum() -> None:
    mask = mask_of(".....", "..#..", ".....", "...#.")
    assert tight_box(mask) == (2, 1, 4, 4)
    assert all(type(edge) is int for edge in tight_box(mask) or ())


def test_a_single_pixel_has_a_box_of_one_pixel() -> None:
    assert tight_box(mask_of("#")) == (0, 0, 1, 1)


def test_an_empty_mask_has_no_box_and_no_largest_part() -> None:
    empty = mask_of("...", "...")
    assert tight_box(empty) is None
    assert not largest_component(empty).any()


def test_diagonal_neighbours_touch_at_connectivity_eight_only() -> None:
    mask = mask_of("#...#", ".#..#", "....#", "##...")
    # With 8: {(0,0),(1,1)}, the column of three, and the pair below. With 4 the diagonal falls into two single pixels.
    assert np.array_equal(largest_component(mask), mask_of("....#", "....#", "....#", "....."))
    diagonal = mask_of("#..", ".#.", "..#", "#..")
    assert np.array_equal(largest_component(diagonal), mask_of("#..", ".#.", "..#", "..."))
    assert np.array_equal(largest_component(diagonal, connectivity=4), mask_of("#..", "...", "...", "..."))


def test_a_full_mask_is_its_own_largest_part() -> None:
    assert largest_component(mask_of("##", "##")).all()


def test_another_connectivity_is_refused() -> None:
    with pytest.raises(ValueError, match="it must be 4 or 8"):
        largest_component(mask_of("#"), connectivity=6)
