"""Masks worked out by hand on small grids, and the way back to pixels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from simsam_batch.regions.masks import (
    choose_side,
    component_of_peak,
    confidence,
    degenerate,
    fiedler_mask,
    soft_map,
)
from simsam_batch.regions.pixel_index import patch_pixels, upsample_index

VALUES = torch.tensor([[0.0, 0.1, 0.4]])


def with_fiedler(*entries: float) -> Tensor:
    """Three vectors on as many patches as entries, the second of them given."""
    v1 = torch.tensor(entries)
    return torch.stack([torch.ones_like(v1), v1, torch.zeros_like(v1)])[None]


def mask_of(*rows: str) -> Tensor:
    return torch.tensor([[cell == "#" for row in rows for cell in row]])


def test_the_fiedler_mask_is_cut_at_zero_or_at_the_mean() -> None:
    # Mean (3 + 1 + 0 - 0) / 4 = 1: strictly above it is only the first.
    vectors = with_fiedler(3.0, 1.0, 0.0, 0.0)
    assert fiedler_mask(vectors, VALUES, threshold="zero").tolist() == [[True, True, False, False]]
    assert fiedler_mask(vectors, VALUES, threshold="mean").tolist() == [[True, False, False, False]]


@pytest.mark.parametrize(
    ("values", "v1", "expected"),
    [
        ([0.0, 0.1, 0.4], [1.0, -1.0], False),
        ([0.0, 0.9999998, 1.0], [1.0, -1.0], True),  # no spectral gap: equal affinities
        ([0.0, 0.1, 0.4], [0.5, 0.5000001], True),  # v_1 is flat
        ([0.0, math.nan, math.nan], [0.0, 0.0], True),  # a graph of one patch has no v_1
        ([0.0, 0.1, math.nan], [1.0, -1.0], False),  # a graph of two patches has no mu_2
        ([0.0, 0.1], [1.0, -1.0], False),  # K = 2
        ([0.0], None, True),  # K = 1
    ],
)
def test_a_fiedler_vector_that_means_nothing_is_recognised(
    values: list[float], v1: list[float] | None, expected: bool
) -> None:
    vectors = (
        torch.ones((1, 1, 2)) if v1 is None else torch.tensor([[[1.0, 1.0], v1] + [[0.0, 0.0]] * (len(values) - 2)])
    )
    assert degenerate(torch.tensor([values]), vectors).tolist() == [expected]


@pytest.mark.parametrize("side", ["smaller", "border", "largest-entry"])
@pytest.mark.parametrize("threshold", ["zero", "mean"])
def test_a_degenerate_graph_gets_an_empty_mask_whatever_the_rule_and_no_confidence(side: str, threshold: str) -> None:
    values = torch.tensor([[0.0, 1.0, 1.0]])
    vectors = with_fiedler(1.0, -1.0, 1.0, 1.0)
    mask = choose_side(fiedler_mask(vectors, values, threshold=threshold), vectors, (2, 2), side=side)  # type: ignore[arg-type]
    assert not mask.any()
    assert confidence(values, vectors, mask).tolist() == [0.0]
    assert soft_map(vectors, mask).tolist() == [[0.0] * 4]


def test_the_smaller_side_is_the_object_and_a_tie_is_left_alone() -> None:
    vectors = torch.zeros((3, 2, 4))
    masks = torch.cat([mask_of("##", "#."), mask_of("#.", ".."), mask_of("##", "..")])
    chosen = choose_side(masks, vectors, (2, 2), side="smaller")
    assert torch.equal(chosen, torch.cat([mask_of("..", ".#"), mask_of("#.", ".."), mask_of("##", "..")]))


def test_the_side_with_more_of_the_border_is_background_and_corners_count_twice() -> None:
    # On 3 x 4 the border counts 2 * (3 + 4) = 14. Two corners and what lies between them on the left: 2 + 1 + 2 = 5.
    left = mask_of("#...", "#...", "#...")
    # All four corners and two more: 4 * 2 + 2 = 10 of 14, though only 6 of the 10 border patches.
    corners = mask_of("##.#", "....", "##.#")
    # Three corners and one more, 3 * 2 + 1 = 7 of 14: a tie, left alone.
    tie = mask_of("#..#", "#...", "#...")
    vectors = torch.zeros((3, 2, 12))
    chosen = choose_side(torch.cat([left, corners, tie]), vectors, (3, 4), side="border")
    assert torch.equal(chosen, torch.cat([left, ~corners, tie]))


def test_corners_that_count_twice_decide() -> None:
    # Counted once, the mask would hold 4 of 8 border patches of 3 x 3, a tie. Counted twice: 4 * 2 = 8 of 12.
    mask = mask_of("#.#", "...", "#.#")
    assert torch.equal(choose_side(mask, torch.zeros((1, 2, 9)), (3, 3), side="border"), ~mask)


def test_the_side_of_the_largest_entry_is_the_object() -> None:
    mask = mask_of("##", "..")
    assert torch.equal(choose_side(mask, with_fiedler(0.2, 0.1, -0.3, -0.1), (2, 2), side="largest-entry"), ~mask)
    assert torch.equal(choose_side(mask, with_fiedler(0.2, 0.4, -0.3, -0.1), (2, 2), side="largest-entry"), mask)


@pytest.mark.parametrize("side", ["smaller", "border", "largest-entry"])
def test_masks_with_one_side_stay_as_they_are(side: str) -> None:
    masks = torch.tensor([[True] * 4, [False] * 4])
    vectors = with_fiedler(1.0, 2.0, -3.0, 1.0).repeat(2, 1, 1)
    assert torch.equal(choose_side(masks, vectors, (2, 2), side=side), masks)  # type: ignore[arg-type]


def test_confidence_is_the_formula_worked_out_by_hand() -> None:
    # Entries 2, 2, -1, -3; mask on the first two. Means 2 and -2, overall 0. Between the sides: 1/2 * 1/2 * 16 = 4;
    # variance (4 + 4 + 1 + 9) / 4 = 4.5; margin 8/9. mu_1 / mu_2 = 1/4: 1 - 1/16 = 15/16. Product 5/6.
    vectors = with_fiedler(2.0, 2.0, -1.0, -3.0)
    assert confidence(VALUES, vectors, mask_of("##..")).tolist() == pytest.approx([5 / 6])


def test_confidence_grows_with_the_gap_and_with_the_margin() -> None:
    mask = mask_of("##..")
    two_values, spread = with_fiedler(1.0, 1.0, -1.0, -1.0), with_fiedler(2.0, 0.1, -0.1, -2.0)
    near, far = torch.tensor([[0.0, 0.1, 0.11]]), torch.tensor([[0.0, 0.1, 0.9]])
    assert confidence(far, two_values, mask) > confidence(near, two_values, mask) > 0
    assert confidence(far, two_values, mask) > confidence(far, spread, mask) > 0
    # 1 - (0.009 / 0.9)^2 = 0.9999, and the two values make the margin 1
    assert confidence(torch.tensor([[0.0, 0.009, 0.9]]), two_values, mask).tolist() == pytest.approx([0.9999])


def test_a_graph_in_separate_parts_gives_no_confidence() -> None:
    two_values = torch.tensor([[[1.0, 1.0, 1.0, 1.0], [1.0, 1.0, -1.0, -1.0], [0.0, 0.0, 1.0, -1.0]]])
    assert confidence(torch.tensor([[0.0, 0.0, 0.9]]), two_values, mask_of("##..")).tolist() == [0.0]


def test_the_component_of_the_peak_is_kept_and_corners_do_not_connect() -> None:
    # The largest |v_1| is the 9; the diagonal neighbour of its part and the part far right go.
    v1 = torch.tensor([[1.0, 9.0, 0.0, 2.0], [0.0, 1.0, 0.0, 2.0], [1.0, 0.0, 0.0, 0.0]])
    vectors = torch.stack([torch.ones(12), v1.flatten()])[None]
    kept = component_of_peak((v1 > 0).reshape(1, 12), vectors, (3, 4))
    assert torch.equal(kept, mask_of("##..", ".#..", "...."))
    assert not component_of_peak(mask_of("...#", "...#", "...."), vectors, (3, 4)).any()


def test_components_of_one_image_do_not_reach_into_the_next() -> None:
    mask = mask_of("#..#").repeat(2, 1)
    v1 = torch.tensor([[3.0, 0.0, 0.0, 1.0], [1.0, 0.0, 0.0, 3.0]])
    vectors = torch.stack([torch.ones(2, 4), v1], dim=1)
    kept = component_of_peak(mask, vectors, (1, 4))
    assert torch.equal(kept, torch.cat([mask_of("#..."), mask_of("...#")]))


def test_there_is_no_confidence_without_a_third_eigenvalue_or_a_second_side() -> None:
    vectors = with_fiedler(1.0, 1.0, -1.0, -1.0)
    assert confidence(VALUES[:, :2], vectors[:, :2], mask_of("##..")).tolist() == [0.0]
    assert confidence(torch.tensor([[0.0, 0.1, math.nan]]), vectors, mask_of("##..")).tolist() == [0.0]
    assert confidence(VALUES, vectors, mask_of("####")).tolist() == [0.0]


def test_the_soft_map_is_high_on_the_object_whichever_the_sign() -> None:
    # (x + 1) / 4 of -1, 0, 2, 3.
    vectors = with_fiedler(-1.0, 0.0, 2.0, 3.0)
    assert soft_map(vectors, mask_of("..##")).tolist() == [[0.0, 0.25, 0.75, 1.0]]
    assert soft_map(vectors, mask_of("##..")).tolist() == [[1.0, 0.75, 0.25, 0.0]]
    assert soft_map(vectors, mask_of("####")).tolist() == [[1.0] * 4]


def test_pixels_map_to_patches_by_their_centres_and_the_remainder_to_the_last() -> None:
    # 5 rows at full size, resized to 10, patches of 4: two patches cover 8, the rest is the second's.
    # Centres (y + 1/2) * 2 = 1, 3, 5, 7, 9: patches 0, 0, 1, 1, and 2 which is clipped to 1.
    # 7 columns, resized to 7, patches of 4, one patch only: all 0.
    rows, columns = upsample_index((2, 1), 4, (10, 7), (5, 7))
    assert rows.tolist() == [0, 0, 1, 1, 1]
    assert columns.tolist() == [0] * 7


def test_a_centre_on_a_patch_edge_belongs_to_the_patch_that_begins_there() -> None:
    # 3 pixels from 8: centres 8/6, 4, 40/6. The middle one is exactly the edge between two patches of 4.
    rows, _ = upsample_index((2, 2), 4, (8, 8), (3, 3))
    assert rows.tolist() == [0, 1, 1]


def test_an_unresized_image_repeats_each_patch() -> None:
    grid_map = np.arange(6, dtype=np.uint8).reshape(2, 3)
    index = upsample_index((2, 3), 16, (32, 48), (32, 48))
    assert np.array_equal(grid_map[np.ix_(*index)], np.kron(grid_map, np.ones((16, 16), dtype=np.uint8)))
    assert (patch_pixels(grid_map.shape, index) == 256).all()


def test_every_pixel_belongs_to_one_patch_and_a_small_image_leaves_patches_without_any() -> None:
    # 3 pixels over 5 patches of 4 in 20: centres at 3.3, 10, 16.7 lie in patches 0, 2 and 4.
    pixels = patch_pixels((5, 1), upsample_index((5, 1), 4, (20, 4), (3, 7)))
    assert pixels.tolist() == [[7], [0], [7], [0], [7]]


def test_patches_that_begin_at_a_corner_lie_there_and_what_is_before_them_goes_to_the_first() -> None:
    # 9 rows at twice their size, 18; patches of 4 from 5 on: centres 1, 3, .. 17 less 5 are -4, -2, 0, 2, 4 .. 12.
    rows, columns = upsample_index((2, 2), 4, (18, 8), (9, 8), corner=(5, 0))
    assert rows.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 1]
    assert columns.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]


@settings(deadline=None)
@given(
    full=st.integers(1, 300),
    resized=st.integers(1, 300),
    patch=st.sampled_from([1, 4, 14, 16]),
    other=st.integers(1, 40),
)
def test_upsampling_is_ascending_and_in_range_for_any_sizes(full: int, resized: int, patch: int, other: int) -> None:
    patches = max(resized // patch, 1)
    rows, columns = upsample_index((patches, 1), patch, (resized, patch), (full, other))
    assert rows.shape == (full,)
    assert columns.tolist() == [0] * other
    assert (np.diff(rows) >= 0).all()
    assert rows[0] >= 0
    assert rows[-1] < patches
    for y in (0, full // 2, full - 1):
        assert rows[y] == min(math.floor((2 * y + 1) * resized / (2 * full) / patch + 1e-12), patches - 1)
