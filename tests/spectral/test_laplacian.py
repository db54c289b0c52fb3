"""Degrees, normalised affinity, connected parts and filling, against hand computation and SciPy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from simsam_batch.spectral.laplacian import (
    components,
    components_by_squaring,
    degrees,
    fill_left_out,
    normalized_affinity,
    small_islands,
)

BOTH = pytest.mark.parametrize("components_of", [components, components_by_squaring])
"""The search of the CPU, and the products that a GPU is given, here on the CPU."""


def test_a_patch_without_edges_gets_degree_one() -> None:
    w = torch.tensor([[[1.0, 2.0, 0.0], [2.0, 0.0, 0.0], [0.0, 0.0, 0.0]]])
    assert degrees(w).tolist() == [[3.0, 2.0, 1.0]]


def test_the_normalised_affinity_of_two_patches_is_the_one_worked_out_by_hand() -> None:
    # d = (3 + 1, 1 + 15) = (4, 16): 3/4, 1/sqrt(64) = 1/8, 15/16.
    w = torch.tensor([[[3.0, 1.0], [1.0, 15.0]]])
    a = normalized_affinity(w, degrees(w))
    assert torch.allclose(a, torch.tensor([[[0.75, 0.125], [0.125, 0.9375]]]))


def test_the_normalised_affinity_is_symmetric_to_the_last_bit() -> None:
    w = torch.rand((2, 50, 50), generator=torch.Generator().manual_seed(3))
    w = w + w.transpose(1, 2)
    a = normalized_affinity(w, degrees(w))
    assert torch.equal(a, a.transpose(1, 2))


@BOTH
def test_floor_edges_connect_nothing_and_patches_left_out_have_no_label(components_of: Callable[..., Any]) -> None:
    floor = 1e-5
    # Patches 0-2-4 hang together through 2; 1 is left out although its edges are heavy; 3 stands alone.
    w = torch.full((1, 5, 5), floor)
    for i, j in ((0, 2), (2, 4), (1, 3), (1, 0)):
        w[0, i, j] = w[0, j, i] = 0.5
    valid = torch.tensor([[True, False, True, True, True]])
    labels, count = components_of(w, valid, above=floor)
    assert labels.tolist() == [[0, -1, 0, 1, 0]]
    assert count.tolist() == [2]
    assert labels.dtype == count.dtype == torch.int32
    assert components_of(w, valid, above=0.0)[1].tolist() == [1]


@BOTH
def test_an_image_without_valid_patches_has_no_component(components_of: Callable[..., Any]) -> None:
    labels, count = components_of(torch.ones((1, 4, 4)), torch.zeros((1, 4), dtype=torch.bool), above=0.0)
    assert count.tolist() == [0]
    assert labels.tolist() == [[-1, -1, -1, -1]]
    assert not small_islands(labels, share=1.0).any()


@BOTH
@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10**6), patches=st.integers(1, 30), density=st.floats(0.0, 0.3))
def test_components_agree_with_scipy(
    components_of: Callable[..., Any], seed: int, patches: int, density: float
) -> None:
    rng = np.random.default_rng(seed)
    upper = np.triu(rng.random((2, patches, patches)) < density)
    w = (upper | upper.transpose(0, 2, 1)).astype(np.float32)
    valid = rng.random((2, patches)) < 0.8
    labels, count = components_of(torch.from_numpy(w), torch.from_numpy(valid), above=0.5)
    for image in range(2):
        inside = valid[image]
        expected_count, expected = connected_components(csr_array(w[image][inside][:, inside]), directed=False)
        assert count[image] == expected_count
        assert labels[image].numpy()[inside].tolist() == expected.tolist()


def graph_of(kind: str, patches: int, rng: np.random.Generator) -> np.ndarray:
    """Symmetric weights (N, N) of a graph whose patches are numbered at random."""
    w = np.zeros((patches, patches), dtype=np.float32)
    if kind == "chain":
        order = rng.permutation(patches)
        w[order[:-1], order[1:]] = 1.0
    elif kind == "sparse":
        w[rng.random(w.shape) < 1.0 / patches] = 1.0
    elif kind == "complete":
        w[:] = 1.0
    return np.maximum(w, w.T)


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    patches=st.integers(1, 70),
    kinds=st.lists(st.sampled_from(["chain", "sparse", "complete", "isolated"]), min_size=1, max_size=3),
    share=st.sampled_from([0.0, 0.5, 0.95, 1.0]),
)
def test_squaring_finds_the_components_that_the_search_finds(
    seed: int, patches: int, kinds: list[str], share: float
) -> None:
    rng = np.random.default_rng(seed)
    w = torch.from_numpy(np.stack([graph_of(kind, patches, rng) for kind in kinds]))
    valid = torch.from_numpy(rng.random((len(kinds), patches)) < share)
    expected = components(w, valid, above=0.5)
    for found, one in zip(components_by_squaring(w, valid, above=0.5), expected, strict=True):
        assert found.dtype == one.dtype
        assert torch.equal(found, one)


@pytest.mark.parametrize("patches", [2, 3, 8, 9, 16, 17, 18, 256, 257, 258])
def test_squaring_follows_a_chain_to_its_end_and_stops_at_a_gap(patches: int) -> None:
    # The lowest two patches are the ends: 0 - 2 - 3 - ... - 1. Each would name a component of its own.
    order = torch.tensor([0, *range(2, patches), 1])
    w = torch.zeros((2, patches, patches))
    w[:, order[:-1], order[1:]] = w[:, order[1:], order[:-1]] = 1.0
    half = patches // 2
    w[1, order[half - 1], order[half]] = w[1, order[half], order[half - 1]] = 0.0
    labels, count = components_by_squaring(w, torch.ones((2, patches), dtype=torch.bool), above=0.5)
    assert labels[:, order].tolist() == [[0] * patches, [0] * half + [1] * (patches - half)]
    assert count.tolist() == [1, 2]


def test_small_islands_are_those_up_to_the_share_and_never_the_largest() -> None:
    # 10 valid patches: component 0 holds 6, component 1 holds 3, component 2 holds 1.
    labels = torch.tensor([[0, 0, 0, 0, 0, 0, 1, 1, 1, 2, -1]], dtype=torch.int32)

    def marked(share: float) -> list[int]:
        return small_islands(labels, share=share)[0].nonzero().squeeze(1).tolist()

    assert marked(0.05) == []
    assert marked(0.1) == [9]
    assert marked(0.3) == [6, 7, 8, 9]
    assert marked(1.0) == [6, 7, 8, 9]


def test_of_equal_islands_the_first_stays_and_neighbouring_images_do_not_mix() -> None:
    labels = torch.tensor([[0, 1, 0, 1], [0, 0, 0, 0]], dtype=torch.int32)
    assert small_islands(labels, share=0.5).tolist() == [[False, True, False, True], [False] * 4]


def test_a_hole_gets_the_mean_of_its_eight_neighbours() -> None:
    # 3 x 3, the centre missing: (1 + 2 + 3 + 4 + 6 + 7 + 8 + 9) / 8 = 5. Its own entry must not be read.
    vectors = torch.tensor([[[1.0, 2, 3, 4, float("nan"), 6, 7, 8, 9]]])
    valid = torch.tensor([[True] * 4 + [False] + [True] * 4])
    assert fill_left_out(vectors, valid, (3, 3))[0, 0].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9]


def test_filling_grows_outward_ring_by_ring() -> None:
    # One row of the 4 x 4 grid is known: 4 8 12 16. The row below gets means of what touches it,
    # (4+8)/2 = 6, (4+8+12)/3 = 8, (8+12+16)/3 = 12, (12+16)/2 = 14; the next row the same from that one:
    # (6+8)/2 = 7, (6+8+12)/3 = 26/3, (8+12+14)/3 = 34/3, (12+14)/2 = 13.
    valid = torch.zeros((1, 16), dtype=torch.bool)
    valid[0, 4:8] = True
    vectors = torch.zeros((1, 1, 16))
    vectors[0, 0, 4:8] = torch.tensor([4.0, 8, 12, 16])
    filled = fill_left_out(vectors, valid, (4, 4)).reshape(4, 4)
    ring = [6, 8, 12, 14]
    assert filled[1].tolist() == [4, 8, 12, 16]
    assert filled[0].tolist() == ring
    assert filled[2].tolist() == ring
    assert filled[3].tolist() == pytest.approx([7, 26 / 3, 34 / 3, 13])


def test_an_image_with_one_known_patch_is_filled_to_the_far_corner_beside_one_that_lacks_nothing() -> None:
    # The far corner of 3 x 5 lies four rings away; means of one number are that number.
    valid = torch.zeros((2, 15), dtype=torch.bool)
    valid[0, 0] = True
    valid[1] = True
    vectors = torch.stack([torch.full((2, 15), 0.5), torch.arange(30.0).view(2, 15)])
    filled = fill_left_out(vectors, valid, (3, 5))
    assert (filled[0] == 0.5).all()
    assert torch.equal(filled[1], vectors[1])


def test_an_image_without_valid_patches_is_filled_with_zeros_and_its_neighbour_is_not() -> None:
    vectors = torch.full((2, 1, 4), 7.0)
    valid = torch.tensor([[False] * 4, [True, False, False, False]])
    assert fill_left_out(vectors, valid, (2, 2)).tolist() == [[[0.0] * 4], [[7.0] * 4]]


def test_a_grid_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="2 x 3 does not hold 4"):
        fill_left_out(torch.zeros((1, 1, 4)), torch.ones((1, 4), dtype=torch.bool), (2, 3))
