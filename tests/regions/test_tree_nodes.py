"""What nodes measure, against sums over each node's own patches."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simsam_batch.regions.nodes import node_boxes, node_patches, node_prototypes
from simsam_batch.regions.superpixels import Superpixels
from simsam_batch.regions.tree import Tree, grow_trees, with_upstream_numbering

# Two superpixels without an edge on a grid of 2 x 3, and a patch of none:
#   0 0 1
#   0 . 1
PATCHES = np.array([[0, 0, 1, 0, -1, 1]], dtype=np.int32)


def two_leaves() -> Tree:
    tree = grow_trees(Superpixels(PATCHES, [np.zeros((2, 2))]), [0])[0]
    assert tree.parent.tolist() == [-1, 0, 0]
    return tree


def test_counts_and_boxes_of_a_small_grid() -> None:
    assert node_patches(two_leaves()).tolist() == [5, 3, 2]
    # Left, top, right and bottom, the last two exclusive.
    assert node_boxes(two_leaves(), two_leaves().superpixel.reshape(2, 3)).tolist() == [
        [0, 0, 3, 2],
        [0, 0, 2, 2],
        [2, 0, 3, 2],
    ]


def test_prototypes_are_means_of_unit_length() -> None:
    # The first leaf's mean is (3, 4) / 3, the second's vanishes; together they have the first's direction.
    features = np.array([[3, 0], [0, 4], [1, 1], [0, 0], [np.nan, np.nan], [-1, -1]], dtype=np.float32)
    assert node_prototypes(two_leaves(), features) == pytest.approx(np.array([[0.6, 0.8], [0.6, 0.8], [0, 0]]))


def test_patches_that_do_not_count_leave_no_trace_in_prototypes() -> None:
    tree = two_leaves()
    features = np.ones((len(tree.superpixel), 2))
    counted = np.ones(len(tree.superpixel), dtype=bool)
    counted[0] = False
    features[0] = np.nan
    assert node_prototypes(tree, features, counted)[0] == pytest.approx(np.full(2, 0.5**0.5))


def test_an_image_without_superpixels_has_a_root_without_patches() -> None:
    tree = grow_trees(Superpixels(np.full((1, 6), -1, dtype=np.int32), [np.zeros((0, 0))]), [0])[0]
    assert node_patches(tree).tolist() == [0]
    assert node_boxes(tree, tree.superpixel.reshape(2, 3)).tolist() == [[0, 0, 0, 0]]
    assert node_prototypes(tree, np.ones((6, 2))).tolist() == [[0, 0]]


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 12), upstream=st.booleans())
def test_every_node_measures_its_own_patches(seed: int, count: int, upstream: bool) -> None:
    rng = np.random.default_rng(seed)
    grid = (8, 5)
    labels = rng.permutation(np.concatenate([np.arange(count), rng.integers(-1, count, 40 - count)])).astype(np.int32)
    names = rng.integers(0, 3, count)
    graph = np.triu(rng.uniform(size=(count, count)) * (names[:, None] == names), 1)
    tree = grow_trees(Superpixels(labels[None], [graph + graph.T]), [seed])[0]
    tree = with_upstream_numbering(tree) if upstream else tree
    features = rng.standard_normal((40, 4)).astype(np.float32)
    features[labels < 0] = np.nan

    patches, boxes, prototypes = (
        node_patches(tree),
        node_boxes(tree, tree.superpixel.reshape(grid)),
        node_prototypes(tree, features),
    )
    for node, (lo, hi) in enumerate(zip(tree.lo, tree.hi, strict=True)):
        own = (tree.superpixel >= lo) & (tree.superpixel < hi)
        assert patches[node] == own.sum()
        if not own.any():
            assert boxes[node].tolist() == [0] * 4
            assert not prototypes[node].any()
            continue
        rows, columns = np.nonzero(own.reshape(grid))
        assert boxes[node].tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        mean = features[own].mean(axis=0, dtype=np.float64)
        assert prototypes[node] == pytest.approx(mean / np.linalg.norm(mean), abs=1e-6)
