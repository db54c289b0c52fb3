"""Trees merged from the patches up: by hand, against Ward's criterion written out, and invariants of any tree."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import label
from torch import Tensor

from simsam_batch.regions.merging import merge_trees
from simsam_batch.regions.splitting import OUTCOMES
from simsam_batch.regions.tree import Tree
from simsam_batch.spectral.affinity import normalize_rows

Array = NDArray[Any]

pytestmark = pytest.mark.usefixtures("one_thread")


def merged(rows: Array, grid: tuple[int, int], leaves: int = 200, valid: Array | None = None) -> Tree:
    features = normalize_rows(torch.from_numpy(np.asarray(rows, np.float32))[None])
    there = torch.ones(features.shape[:2], dtype=torch.bool) if valid is None else torch.from_numpy(valid)[None]
    (tree,) = merge_trees(features, there, grid, leaves)
    return tree


def parts(tree: Tree) -> list[frozenset[int]]:
    """The patches of every node."""
    return [
        frozenset(np.flatnonzero((tree.superpixel >= lo) & (tree.superpixel < hi)).tolist())
        for lo, hi in zip(tree.lo, tree.hi, strict=True)
    ]


def ward_by_definition(rows: Array, grid: tuple[int, int], leaves: int) -> set[frozenset[int]]:
    """Merge the two touching groups that add least to the sum of squares, again and again, and keep the last ones."""
    height, width = grid
    groups = [frozenset([patch]) for patch in range(height * width)]
    beside = {frozenset([y * width + x, y * width + x + 1]) for y in range(height) for x in range(width - 1)}
    beside |= {frozenset([y * width + x, y * width + x + width]) for y in range(height - 1) for x in range(width)}

    def cost(a: frozenset[int], b: frozenset[int]) -> float:
        between = rows[list(a)].mean(0) - rows[list(b)].mean(0)
        return len(a) * len(b) / (len(a) + len(b)) * float(between @ between)

    kept = set(groups) if len(groups) <= leaves else set()
    while len(groups) > 1:
        pairs = [
            (cost(a, b), i, j)
            for i, a in enumerate(groups)
            for j, b in enumerate(groups[:i])
            if any(frozenset([p, q]) in beside for p in a for q in b)
        ]
        _, i, j = min(pairs)
        joined = groups[i] | groups[j]
        groups = [group for place, group in enumerate(groups) if place not in (i, j)] + [joined]
        if len(groups) <= leaves:
            kept |= set(groups)
    return kept


def test_three_colours_in_a_row_merge_the_two_that_are_alike_first() -> None:
    # Unit vectors at 0, 10 and 90 degrees, two patches each.
    angles = np.deg2rad([0, 0, 10, 10, 90, 90])
    tree = merged(np.stack([np.cos(angles), np.sin(angles)], 1), (1, 6))
    assert parts(tree) == [
        frozenset(range(6)),
        frozenset({0, 1, 2, 3}),
        frozenset({0, 1}),
        frozenset({2, 3}),
        frozenset({4, 5}),
    ]
    assert tree.parent.tolist() == [-1, 0, 1, 1, 0]
    assert tree.depth.tolist() == [0, 1, 2, 2, 1]
    assert [OUTCOMES[each] for each in tree.outcome] == ["split", "split", "size", "size", "size"]
    assert tree.parts.tolist() == [2, 2, 0, 0, 0]
    for name in ("ncut", "gap", "perturbation", "mean_ncut"):
        assert np.isnan(getattr(tree, name)).all()


def test_like_patches_that_do_not_touch_are_not_one_part() -> None:
    rows = np.array([[1, 0], [0, 1], [1, 0]])
    tree = merged(rows, (1, 3))
    assert frozenset({0, 2}) not in parts(tree)
    assert tree.leaf.sum() == 3


def test_a_picture_of_one_colour_is_a_root_alone_and_so_is_one_without_patches_that_count() -> None:
    same = np.tile([0.6, 0.8], (12, 1))
    tree = merged(same, (3, 4))
    assert (tree.parent.tolist(), tree.hi.tolist(), tree.superpixel.tolist()) == ([-1], [1], [0] * 12)
    rng = np.random.default_rng(0)
    assert merged(rng.normal(size=(12, 3)), (3, 4), valid=np.zeros(12, bool)).parent.tolist() == [-1]
    assert merged(np.full((12, 3), np.nan), (3, 4)).parent.tolist() == [-1]
    assert merged(np.ones((1, 3)), (1, 1)).superpixel.tolist() == [0]
    assert merged(rng.normal(size=(12, 3)), (3, 4), leaves=1).hi.tolist() == [1]


def test_patches_that_do_not_count_go_where_their_neighbours_are() -> None:
    rows = np.zeros((5, 6, 2))
    rows[:, :3, 0] = rows[:, 3:, 1] = 1
    rows[2, 1] = [0, 1]
    valid = np.ones((5, 6), bool)
    valid[2, 1] = False
    tree = merged(rows.reshape(30, 2), (5, 6), valid=valid.ravel())
    left = frozenset((np.arange(30).reshape(5, 6)[:, :3]).ravel().tolist())
    assert parts(tree)[1:] == [left, frozenset(range(30)) - left]


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 10**6),
    grid=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    leaves=st.integers(1, 30),
)
def test_nodes_are_the_last_merges_of_the_definition(seed: int, grid: tuple[int, int], leaves: int) -> None:
    rows = np.random.default_rng(seed).normal(size=(grid[0] * grid[1], 4))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    assert set(parts(merged(rows, grid, leaves))) == ward_by_definition(rows, grid, leaves)


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    grid=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    leaves=st.integers(1, 40),
)
def test_nodes_are_connected_and_tile_their_parents(seed: int, grid: tuple[int, int], leaves: int) -> None:
    rng = np.random.default_rng(seed)
    count = grid[0] * grid[1]
    # Few different rows, so that there are equal ones.
    rows, valid = rng.normal(size=(6, 3))[rng.integers(0, 6, count)], rng.random(count) < 0.9
    tree = merged(rows, grid, leaves, valid)
    found = parts(tree)
    assert tree.leaf.sum() == tree.hi[0] <= min(leaves, count)
    assert len(tree.parent) == 2 * tree.leaf.sum() - 1
    assert tree.parent[0] == -1
    for node, held in enumerate(found):
        plane = np.isin(np.arange(count), list(held)).reshape(grid)
        assert label(plane)[1] == 1
        children = np.flatnonzero(tree.parent == node)
        assert tree.leaf[node] == (not len(children))
        if len(children):
            assert tree.lo[node] == tree.lo[children[0]]
            assert tree.hi[children[0]] == tree.lo[children[1]]
            assert tree.hi[children[1]] == tree.hi[node]
            assert min(found[children[0]]) < min(found[children[1]])
            assert (tree.depth[children] == tree.depth[node] + 1).all()


def test_a_tree_is_the_same_in_any_company() -> None:
    rng = np.random.default_rng(1)
    features = normalize_rows(torch.from_numpy(rng.normal(size=(3, 20, 8)).astype(np.float32)))
    valid = torch.from_numpy(rng.random((3, 20)) < 0.8)
    together = merge_trees(features, valid, (4, 5), 7)
    for i, tree in enumerate(together):
        (alone,) = merge_trees(features[i : i + 1], valid[i : i + 1], (4, 5), 7)
        assert np.array_equal(tree.superpixel, alone.superpixel)
        assert np.array_equal(tree.parent, alone.parent)


@pytest.mark.parametrize(("grid", "leaves"), [((4, 4), 7), ((4, 5), 0)])
def test_what_does_not_fit_is_refused(grid: tuple[int, int], leaves: int) -> None:
    features: Tensor = torch.ones(2, 20, 3)
    with pytest.raises(ValueError, match=r"grid of \(4, [45]\).*leaves=[07]"):
        merge_trees(features, torch.ones(2, 20, dtype=torch.bool), grid, leaves)
