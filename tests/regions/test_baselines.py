"""Regions without a tree's effort: a regular grid cut in quarters, and k-means of the features."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from simsam_batch.regions.baselines import Regions, grid_tree, kmeans_partitions


def test_a_grid_is_cut_in_quarters_and_those_again() -> None:
    found = grid_tree((4, 4), 16)
    assert found.parent.tolist() == [-1, 0, 0, 0, 0, *[1] * 4, *[2] * 4, *[3] * 4, *[4] * 4]
    # Cells are numbered quarter by quarter: upper left, upper right, lower left, lower right.
    assert found.superpixel.reshape(4, 4).tolist() == [[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]
    assert (found.lo[2], found.hi[2], found.depth[2]) == (4, 8, 1)


def test_there_are_no_more_cells_than_patches() -> None:
    # Five patches in a row cannot be cut in quarters: halves, of two and three, are left.
    found = grid_tree((1, 5), 1000)
    assert np.bincount(found.superpixel).tolist() == [1] * 5
    assert grid_tree((1, 1), 200).parent.tolist() == [-1]
    assert grid_tree((3, 3), 1).parent.tolist() == [-1]


@settings(deadline=None)
@given(height=st.integers(1, 40), width=st.integers(1, 40), wanted=st.integers(1, 300))
def test_every_cell_of_a_grid_is_a_rectangle_and_children_tile_their_parent(
    height: int, width: int, wanted: int
) -> None:
    found = grid_tree((height, width), wanted)
    cells = found.superpixel.reshape(height, width)
    count = int(cells.max()) + 1
    assert count >= min(wanted, height * width)
    assert set(np.unique(cells)) == set(range(count))
    for cell in range(count):
        rows, columns = np.nonzero(cells == cell)
        assert len(rows) == (np.ptp(rows) + 1) * (np.ptp(columns) + 1)
    for node in range(len(found.parent)):
        children = np.flatnonzero(found.parent == node)
        if len(children):
            assert found.lo[children].tolist() == [found.lo[node], *found.hi[children[:-1]].tolist()]
            assert found.hi[children[-1]] == found.hi[node]
            assert (found.depth[children] == found.depth[node] + 1).all()


def kmeans_parts(rows: torch.Tensor, valid: torch.Tensor, superpixels: int) -> dict[int, list[Regions]]:
    return kmeans_partitions(rows, valid, [3], superpixels, (1, rows.shape[1]))


def test_partitions_have_two_four_and_more_parts_up_to_the_superpixels() -> None:
    # Eight groups of five like rows; k-means with eight parts finds them, with four it joins whole groups.
    groups = torch.eye(8).repeat_interleave(5, dim=0)[None]
    valid = torch.ones(1, 40, dtype=torch.bool)
    found = kmeans_parts(groups, valid, 12)
    assert sorted(found) == [2, 4, 8]
    eight = found[8][0]
    assert eight.parent.tolist() == [-1, *[0] * 8]
    assert all(len(set(eight.superpixel[5 * g : 5 * g + 5])) == 1 for g in range(8))
    assert len(set(eight.superpixel)) == 8
    four = found[4][0].superpixel
    assert all(len(set(four[5 * g : 5 * g + 5])) == 1 for g in range(8))


def test_patches_outside_the_graph_go_with_their_neighbours() -> None:
    """In a row of two things the outliers look like the other thing, and are not asked."""
    rows = torch.eye(2).repeat_interleave(3, dim=0)[None]
    rows[0, 1], rows[0, 5] = torch.tensor([0.0, 1.0]), torch.tensor([1.0, 0.0])
    valid = torch.tensor([[True, False, True, True, True, False]])
    (found,) = kmeans_parts(rows, valid, 2)[2]
    assert found.superpixel[:3].tolist() == [found.superpixel[0]] * 3
    assert found.superpixel[3:].tolist() == [1 - found.superpixel[0]] * 3
    (none,) = kmeans_parts(rows, torch.zeros_like(valid), 2)[2]
    assert none.superpixel.tolist() == [-1] * 6
    assert (none.lo.tolist(), none.hi.tolist()) == ([0], [0])


def test_there_is_nothing_to_partition_into_one() -> None:
    assert kmeans_parts(torch.ones(1, 4, 2), torch.ones(1, 4, dtype=torch.bool), 1) == {}
    with pytest.raises(ValueError, match="seeds"):
        kmeans_partitions(torch.ones(1, 4, 2), torch.ones(1, 4, dtype=torch.bool), [], 4, (2, 2))
