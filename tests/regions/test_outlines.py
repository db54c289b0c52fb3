"""Outlines rasterised by others are the masks again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pycocotools import mask as coco
from scipy.ndimage import binary_fill_holes

from simsam_batch.regions.outlines import outer_rings, outline


def rasterised(polygon: NDArray[np.int64], size: tuple[int, int]) -> NDArray[np.bool_]:
    """By COCO's own code."""
    encoded = coco.frPyObjects([polygon.ravel().astype(float).tolist()], *size)
    found: NDArray[np.bool_] = coco.decode(encoded)[:, :, 0].astype(np.bool_)
    return found


def masks() -> st.SearchStrategy[NDArray[np.bool_]]:
    def made(drawn: tuple[int, int, int, int, float]) -> NDArray[np.bool_]:
        height, width, cell, seed, share = drawn
        cells = np.random.default_rng(seed).random((height, width)) < share
        return np.kron(cells, np.ones((cell, cell), dtype=np.bool_)).astype(np.bool_)

    sides = st.integers(1, 9)
    return st.tuples(sides, sides, st.integers(1, 4), st.integers(0, 2**31), st.floats(0.1, 0.9)).map(made)


@settings(max_examples=300, deadline=None)
@given(mask=masks())
def test_cocos_rasteriser_gives_the_mask_again(mask: NDArray[np.bool_]) -> None:
    polygon = outline(mask)
    if not mask.any():
        assert polygon.shape == (0, 2)
        return
    assert (polygon >= 0).all()
    assert (polygon <= mask.shape[::-1]).all()
    again = rasterised(polygon, (mask.shape[0], mask.shape[1]))
    assert np.array_equal(again, mask)


def test_a_pixel_is_a_square_and_a_hole_is_left_out() -> None:
    one = np.zeros((4, 5), dtype=np.bool_)
    one[1, 2] = True
    assert {tuple(corner) for corner in outline(one).tolist()} == {(2, 1), (3, 1), (2, 2), (3, 2)}
    ring = np.ones((6, 6), dtype=np.bool_)
    ring[2:4, 2:4] = False
    # Two rings of 4 corners, the way back to where the second began, and that to the first.
    assert len(outline(ring)) == 4 + 4 + 2


@pytest.mark.parametrize("scale", [1, 3])
def test_a_picture_of_many_parts_and_holes_at_its_own_size(scale: int) -> None:
    picture = Image.new("1", (300 * scale, 200 * scale))
    draw = ImageDraw.Draw(picture)
    for number in range(12):
        left, top = 23 * number * scale, (17 * number) % 120 * scale
        draw.ellipse((left, top, left + 60 * scale, top + 50 * scale), fill=number % 3 > 0)
    mask = np.asarray(picture)
    assert np.array_equal(rasterised(outline(mask), (mask.shape[0], mask.shape[1])), mask)


@settings(max_examples=200, deadline=None)
@given(mask=masks())
def test_outer_rings_hold_the_mask_and_nothing_but_its_holes_beside(mask: NDArray[np.bool_]) -> None:
    again = np.zeros_like(mask)
    for ring in outer_rings(mask):
        again |= rasterised(ring, (mask.shape[0], mask.shape[1]))
    filled = binary_fill_holes(mask)
    assert (again >= mask).all()
    assert (again <= filled).all()


def test_a_part_in_a_hole_has_a_ring_and_the_hole_has_none() -> None:
    target = np.ones((9, 9), dtype=np.bool_)
    target[2:7, 2:7] = False
    target[4, 4] = True
    whole, dot = ({tuple(corner) for corner in ring.tolist()} for ring in outer_rings(target))
    assert {frozenset(whole), frozenset(dot)} == {
        frozenset({(0, 0), (9, 0), (0, 9), (9, 9)}),
        frozenset({(4, 4), (5, 4), (4, 5), (5, 5)}),
    }
