"""Connected parts: by hand, by scipy, and by growing labels alone."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from simsam_batch.regions.parts import label_by_growing, label_parts, largest_parts

GRIDS = st.tuples(st.integers(1, 9), st.integers(1, 9))


def mask_of(*rows: str) -> Tensor:
    return torch.tensor([[cell == "#" for row in rows for cell in row]])


def test_parts_are_named_by_their_last_patch_and_joined_at_corners() -> None:
    labels = label_parts(mask_of("#..#", ".#..", "...#"), (3, 4))
    assert labels.tolist() == [[6, 0, 0, 4, 0, 6, 0, 0, 0, 0, 0, 12]]


def test_the_largest_parts_come_first_and_what_is_missing_is_empty() -> None:
    mask = mask_of("##..", "...#", "#..#")
    found = largest_parts(mask, (3, 4), 4)[0]
    # Two of two patches, of which the one that ends later comes first; then the single one; then none.
    wanted = (mask_of("....", "...#", "...#"), mask_of("##..", "....", "...."), mask_of("....", "....", "#..."))
    for part, expected in zip(found, wanted, strict=False):
        assert torch.equal(part, expected[0])
    assert not found[3].any()


def test_more_parts_than_patches_are_asked_for() -> None:
    assert largest_parts(mask_of("#"), (1, 1), 3).tolist() == [[[True], [False], [False]]]


@given(GRIDS.flatmap(lambda grid: arrays(bool, (3, *grid))))
@settings(deadline=None, max_examples=150)
def test_growing_gives_the_labels_of_scipy(planes: np.ndarray) -> None:
    masks, grid = torch.from_numpy(planes).flatten(1), (planes.shape[1], planes.shape[2])
    grown = label_by_growing(masks, grid)
    assert torch.equal(grown, label_parts(masks, grid))
    for plane, labels in zip(planes, grown.numpy().reshape(planes.shape), strict=True):
        reference, count = scipy.ndimage.label(plane, structure=np.ones((3, 3)))
        for number in range(1, count + 1):
            assert len(np.unique(labels[reference == number])) == 1
        assert len(np.unique(labels[plane])) == count


@pytest.mark.parametrize("side", [3, 17, 64])
def test_a_long_winding_part_is_one(side: int) -> None:
    """A spiral of one patch's width: labels have the whole of it to travel."""
    plane = np.zeros((side, side), bool)
    y, x, step, left = 0, 0, (0, 1), {*np.ndindex(side, side)}
    while True:
        plane[y, x] = True
        left.discard((y, x))
        for _ in range(2):
            after, beyond = (y + step[0], x + step[1]), (y + 2 * step[0], x + 2 * step[1])
            if after in left and not (beyond in {*np.ndindex(side, side)} and plane[beyond]):
                break
            step = step[1], -step[0]
        else:
            break
        y, x = after
    labels = label_by_growing(torch.from_numpy(plane).reshape(1, -1), (side, side))
    assert len(labels[labels > 0].unique()) == 1
    assert torch.equal(labels, label_parts(torch.from_numpy(plane).reshape(1, -1), (side, side)))
