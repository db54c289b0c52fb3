"""Boxes, by hand."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from simsam_batch.regions.boxes import tight_box


def mask_of(*rows: str) -> NDArray[np.bool_]:
    return np.array([[cell == "#" for cell in row] for row in rows])


def test_a_box_is_tight_with_an_exclusive_maximum() -> None:
    mask = mask_of(".....", "..#..", ".....", "...#.")
    assert tight_box(mask) == (2, 1, 4, 4)
    assert all(type(edge) is int for edge in tight_box(mask) or ())


def test_a_single_pixel_has_a_box_of_one_pixel() -> None:
    assert tight_box(mask_of("#")) == (0, 0, 1, 1)


def test_an_empty_mask_has_no_box() -> None:
    assert tight_box(mask_of("...", "...")) is None
