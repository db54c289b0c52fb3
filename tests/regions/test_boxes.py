"""Boxes, by hand and against the mask at full size."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from simsam_batch.regions.boxes import Box, region_boxes, tight_box
from simsam_batch.regions.pixel_index import upsample_index


def mask_of(*rows: str) -> NDArray[np.bool_]:
    return np.array([[cell == "#" for cell in row] for row in rows])


def pixel_by_pixel(mask: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    return np.arange(mask.shape[0]), np.arange(mask.shape[1])


def labels_of(*rows: str) -> NDArray[np.int32]:
    return np.array([[int(cell) for cell in row] for row in rows], dtype=np.int32)


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


def test_every_region_but_the_background_has_a_box_in_pixels() -> None:
    labels = labels_of("0020", "0320", "0000")
    # Patches of 16 pixels; nothing eroded or dilated.
    index = upsample_index((3, 4), 16, (48, 64), (48, 64))
    boxes = region_boxes(labels, index, erode=0, dilate=0)
    assert boxes == [(2, (32, 0, 48, 32)), (3, (16, 16, 32, 32))]
    assert all(type(number) is int for region, box in boxes for number in (region, *box))
    assert region_boxes(labels, index, erode=0, dilate=0, first=0)[0] == (0, (0, 0, 64, 48))


def test_an_erosion_that_would_leave_nothing_is_left_out() -> None:
    # Region 1, 3 x 3: the first erosion leaves its centre, the second would leave nothing. Region 2 is one patch:
    # no erosion at all. Region 3, 5 x 5: both, down to its centre.
    labels = np.zeros((14, 14), dtype=np.int32)
    labels[2:5, 2:5] = 1
    labels[10, 3] = 2
    labels[6:11, 7:12] = 3
    assert region_boxes(labels, pixel_by_pixel(labels), dilate=0) == [
        (1, (3, 3, 4, 4)),
        (2, (3, 10, 4, 11)),
        (3, (9, 8, 10, 9)),
    ]


def test_three_dilations_widen_a_box_by_three_patches_and_stop_at_the_border() -> None:
    labels = np.zeros((9, 9), dtype=np.int32)
    labels[4, 1] = 5
    assert region_boxes(labels, pixel_by_pixel(labels)) == [(5, (0, 1, 5, 8))]


def test_what_lies_outside_the_grid_does_not_erode() -> None:
    # A region that fills the grid stays; one in a corner loses its inner sides only: 3 x 3 to 2 x 2 to 1 x 1.
    assert region_boxes(labels_of("11", "11"), (np.arange(2), np.arange(2)), dilate=0) == [(1, (0, 0, 2, 2))]
    labels = np.zeros((6, 6), dtype=np.int32)
    labels[:3, :3] = 4
    assert region_boxes(labels, pixel_by_pixel(labels), dilate=0) == [(4, (0, 0, 1, 1))]


def test_regions_do_not_erode_or_dilate_each_other() -> None:
    # Each alone in its grid gives what both give side by side.
    labels = np.zeros((8, 9), dtype=np.int32)
    labels[1:7, 1:5], labels[2:6, 5:8] = 1, 2
    apart = [region_boxes(np.where(labels == region, region, 0), pixel_by_pixel(labels))[0] for region in (1, 2)]
    assert region_boxes(labels, pixel_by_pixel(labels)) == apart


def test_a_region_of_two_parts_has_one_box_around_both() -> None:
    assert region_boxes(labels_of("1000", "0000", "0001"), (np.arange(3), np.arange(4)), dilate=0) == [
        (1, (0, 0, 4, 3))
    ]


def test_an_all_background_map_has_no_boxes() -> None:
    assert region_boxes(labels_of("000", "000"), (np.arange(2), np.arange(3))) == []


def test_boxes_are_keyed_by_the_ids_of_the_map_whatever_they_are() -> None:
    labels = labels_of("00", "01") * 255
    assert region_boxes(labels, (np.arange(2), np.arange(2)), dilate=0) == [(255, (1, 1, 2, 2))]
    assert region_boxes(labels * 1000, (np.arange(2), np.arange(2)), dilate=0) == [(255000, (1, 1, 2, 2))]


def test_a_region_without_a_pixel_has_no_box() -> None:
    # Three patches side by side over two pixels: the middle one has none.
    index = (np.array([0]), np.array([0, 2]))
    assert region_boxes(labels_of("123"), index, dilate=0) == [(1, (0, 0, 1, 1)), (3, (1, 0, 2, 1))]


def neighbours(plane: NDArray[np.bool_], outside: bool) -> NDArray[np.bool_]:
    """The patch itself and its four neighbours, (5, Hp, Wp)."""
    padded = np.pad(plane, 1, constant_values=outside)
    return np.stack([plane, padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]])


def box_step_by_step(mask: NDArray[np.bool_], erode: int, dilate: int) -> Box:
    for _ in range(erode):
        smaller = neighbours(mask, outside=True).all(axis=0)
        mask = smaller if smaller.any() else mask
    for _ in range(dilate):
        mask = neighbours(mask, outside=False).any(axis=0)
    ys, xs = np.nonzero(mask)
    return int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1


@settings(deadline=None)
@given(
    seed=st.integers(0, 10**6),
    grid=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    erode=st.integers(0, 3),
    dilate=st.integers(0, 3),
)
def test_boxes_are_those_of_each_region_step_by_step(seed: int, grid: tuple[int, int], erode: int, dilate: int) -> None:
    rng = np.random.default_rng(seed)
    labels = np.kron(rng.integers(0, 4, (3, 3)), np.ones((3, 3), dtype=np.int32))[: grid[0], : grid[1]]
    boxes = region_boxes(labels, pixel_by_pixel(labels), erode=erode, dilate=dilate)
    expected = [(int(r), box_step_by_step(labels == r, erode, dilate)) for r in np.unique(labels[labels > 0])]
    assert boxes == expected
