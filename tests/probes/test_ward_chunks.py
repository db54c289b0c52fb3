"""Ward's trees of chunks and their vote, against scikit-learn's and loops; and the smoothing that follows them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from sklearn.cluster import AgglomerativeClustering
from sklearn.metrics.pairwise import cosine_similarity

from simsam_batch.probes.smoothing import without_lonely_patches
from simsam_batch.probes.ward_chunks import chunk_votes, ward_of_chunks


def test_each_chunk_has_the_clusters_that_scikit_learn_finds_in_it() -> None:
    rows = np.random.default_rng(0).standard_normal((101, 5)).astype(np.float32)
    found = [*ward_of_chunks(rows, 4, 6)]
    # as torch.chunk: ceil(101 / 4) = 26 rows in each but the last
    assert [len(members) for _, members in found] == [26, 26, 26, 23]
    for start, (means, members) in zip(range(0, 101, 26), found, strict=True):
        part = rows[start : start + 26]
        theirs = AgglomerativeClustering(6, linkage="ward").fit_predict(part.astype(np.float64))
        groups = {tuple(np.flatnonzero(theirs == each)) for each in range(6)}
        assert {tuple(np.flatnonzero(members == each)) for each in range(6)} == groups
        for cluster, mean in enumerate(means):
            np.testing.assert_allclose(mean, part[members == cluster].mean(axis=0), atol=1e-6)


def test_a_chunk_with_fewer_rows_than_clusters_is_refused() -> None:
    with pytest.raises(ValueError, match="a chunk of 2 patches does not make 3 clusters"):
        [*ward_of_chunks(np.eye(5, dtype=np.float32), 2, 3)]


def test_a_patch_gets_a_vote_from_each_chunk_by_the_cosine_and_not_the_distance() -> None:
    # (1, 0) has the direction of (9, 1) and is nearer to (0.2, 0.4)
    centroids = np.array([[[9, 1], [0.2, 0.4]], [[0, 1], [1, 1]], [[2, 0], [0, 3]]], np.float32)
    classes = [np.array([[2, 0], [1, 0], [2, 1]]), np.array([[0, 1], [1, 1], [0, 0]])]
    votes = chunk_votes(np.array([[1.0, 0.0]]), centroids, classes, 3)
    assert [each.tolist() for each in votes] == [[[1, 0, 2]], [[2, 1, 0]]]


def test_votes_are_those_of_loops_over_chunks() -> None:
    random = np.random.default_rng(1)
    features, centroids = random.standard_normal((40, 7)), random.standard_normal((5, 6, 7)).astype(np.float32)
    classes = random.integers(0, 4, (5, 6))
    (votes,) = chunk_votes(features, centroids, [classes], 4)
    for patch, own in enumerate(votes):
        named = [classes[chunk, cosine_similarity(features[[patch]], centroids[chunk]).argmax()] for chunk in range(5)]
        assert own.tolist() == np.bincount(named, minlength=4).tolist()


def test_a_patch_without_a_friend_becomes_background_and_the_border_is_no_friend_of_others() -> None:
    before = np.array([[1, 0, 2, 2], [0, 3, 0, 0], [0, 0, 3, 0], [4, 0, 0, 1]])
    # 1 in its corner, 4 and the last 1 have none; the 3s touch at a corner, the 2s along a side
    after = [[0, 0, 2, 2], [0, 3, 0, 0], [0, 0, 3, 0], [0, 0, 0, 0]]
    assert without_lonely_patches(before).tolist() == after


@settings(deadline=None)
@given(arrays(np.int64, array_shapes(min_dims=2, max_dims=2, max_side=6), elements=st.integers(0, 3)))
def test_smoothing_is_that_of_loops(classes: np.ndarray) -> None:
    height, width = classes.shape
    expected = classes.copy()
    for y in range(height):
        for x in range(width):
            around = [
                classes[b, a] if 0 <= b < height and 0 <= a < width else 0
                for b in range(y - 1, y + 2)
                for a in range(x - 1, x + 2)
                if (b, a) != (y, x)
            ]
            if classes[y, x] not in around:
                expected[y, x] = 0
    np.testing.assert_array_equal(without_lonely_patches(classes), expected)
