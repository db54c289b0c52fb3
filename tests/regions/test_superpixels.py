"""Superpixels and their graph against explicit sums in fp64 and clusters planted in the features."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from simsam_batch.regions.superpixels import OverClustering, _nearest, over_cluster
from simsam_batch.spectral.affinity import normalize_rows

pytestmark = pytest.mark.usefixtures("one_thread")


def planted(seed: int, *, patches: int = 120, groups: int = 5, channels: int = 24, noise: float = 0.02) -> Tensor:
    """Unit rows around orthogonal directions, (1, N, C), group i mod ``groups`` at patch i."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.eye(channels)[torch.arange(patches) % groups]
    return normalize_rows(rows + noise * torch.randn(patches, channels, generator=generator))[None]


def everywhere(features: Tensor) -> Tensor:
    return torch.ones(features.shape[:2], dtype=torch.bool)


def explicit(features: Tensor, valid: NDArray[np.bool_], adjacency: str) -> NDArray[np.float64]:
    """Weights of one image in fp64, zero where not valid and on the diagonal."""
    rows = features.double().numpy()[valid]
    d = np.maximum(0, 1 - rows @ rows.T)
    inside = 1 - (d - d.min()) / (d.max() - d.min()) if adjacency == "minmax" else np.exp(-d / 2)
    np.fill_diagonal(inside, 0)
    w = np.zeros((len(valid), len(valid)))
    w[np.ix_(valid, valid)] = inside
    return w


SETTINGS: list[dict[str, Any]] = [
    {"adjacency": "minmax", "form": "low-rank"},
    {"adjacency": "minmax", "form": "dense"},
    {"adjacency": "exp", "form": "auto"},
]


@pytest.mark.parametrize("options", SETTINGS)
def test_planted_groups_are_the_superpixels_numbered_by_their_first_patches(options: dict[str, Any]) -> None:
    features = planted(0)
    found, pairs = over_cluster(features, everywhere(features), [0], OverClustering(superpixels=5, **options))
    assert found.labels.tolist() == [[patch % 5 for patch in range(120)]]
    assert found.labels.dtype == np.int32
    assert bool(pairs.converged.all())


@pytest.mark.parametrize("options", SETTINGS)
def test_an_edge_between_superpixels_is_the_sum_over_all_pairs_of_patches(options: dict[str, Any]) -> None:
    features = planted(1, noise=0.3)
    valid = everywhere(features)
    valid[0, ::7] = False
    features[0, 0] = torch.nan
    found, _ = over_cluster(features, valid, [0], OverClustering(superpixels=20, **options))
    labels, graph = found.labels[0], found.graphs[0]
    assert graph.shape == (20, 20)
    assert (labels[::7] == -1).all()
    members = (labels == np.arange(20)[:, None]).astype(float)
    expected = members @ explicit(features[0], valid[0].numpy(), options["adjacency"]) @ members.T
    np.fill_diagonal(expected, 0)
    assert np.abs(graph - expected).max() < 1e-6 * expected.max()
    assert np.array_equal(graph, graph.T)
    assert not graph.diagonal().any()


def test_a_threshold_needs_the_dense_form_and_gets_it() -> None:
    features = planted(2, noise=0.3)
    settings = OverClustering(superpixels=12, min_weight=0.5)
    found, pairs = over_cluster(features, everywhere(features), [0], settings)
    assert pairs.solver != ["low-rank"]
    members = (found.labels[0] == np.arange(12)[:, None]).astype(float)
    w = explicit(features[0], np.ones(120, bool), "minmax")
    expected = members @ np.where(w < 0.5, 0, w) @ members.T
    np.fill_diagonal(expected, 0)
    assert np.abs(found.graphs[0] - expected).max() < 1e-5 * expected.max()


def test_narrow_features_give_as_many_superpixels_as_wide_ones() -> None:
    # Of rank 7: seven vectors tell something, whatever the number of superpixels.
    features = planted(3, channels=6, noise=0.4)
    found, pairs = over_cluster(features, everywhere(features), [0], OverClustering(superpixels=40))
    assert pairs.solver == ["low-rank"]
    assert pairs.vectors.shape[1] == 7
    assert found.labels.max() == 39


@pytest.mark.parametrize("options", SETTINGS)
def test_an_image_without_contrast_is_one_superpixel(options: dict[str, Any]) -> None:
    features = normalize_rows(torch.ones(1, 30, 8))
    found, _ = over_cluster(features, everywhere(features), [0], OverClustering(superpixels=6, **options))
    assert found.labels.tolist() == [[0] * 30]
    assert found.graphs[0].tolist() == [[0.0]]


def test_there_are_no_more_superpixels_than_patches() -> None:
    features = planted(4, patches=9, noise=0.5)
    found, _ = over_cluster(features, everywhere(features), [0], OverClustering(superpixels=200))
    assert found.labels.tolist() == [list(range(9))]


@pytest.mark.parametrize("options", SETTINGS)
def test_an_image_that_is_not_finite_or_empty_costs_its_neighbours_nothing(options: dict[str, Any]) -> None:
    features = planted(5).repeat(3, 1, 1)
    features[0, 3, 2] = torch.nan
    valid = everywhere(features)
    valid[1] = False
    settings = OverClustering(superpixels=5, **options)
    found, pairs = over_cluster(features, valid, [7, 8, 9], settings)
    alone, _ = over_cluster(features[2:], valid[2:], [9], settings)
    assert found.labels[0].tolist() == [0] * 120
    assert found.graphs[0].tolist() == [[0.0]]
    assert found.labels[1].tolist() == [-1] * 120
    assert found.graphs[1].shape == (0, 0)
    assert np.array_equal(found.labels[2], alone.labels[0])
    assert np.array_equal(found.graphs[2], alone.graphs[0])
    assert pairs.converged.tolist() == [False, False, True]


@settings(deadline=None, max_examples=10)
@given(seeds=st.lists(st.integers(0, 1000), min_size=2, max_size=4), at=st.integers(0, 3))
def test_an_image_has_the_same_superpixels_alone_and_in_any_batch(seeds: list[int], at: int) -> None:
    at %= len(seeds)
    features = torch.cat([planted(seed, groups=3 + seed % 9, noise=0.4) for seed in seeds])
    settings = OverClustering(superpixels=16, restarts=2)
    together, _ = over_cluster(features, everywhere(features), seeds, settings)
    one = features[at : at + 1]
    alone, _ = over_cluster(one, everywhere(one), [seeds[at]], settings)
    assert np.array_equal(together.labels[at], alone.labels[0])
    assert np.array_equal(together.graphs[at], alone.graphs[0])


def test_patches_left_out_join_the_superpixel_of_their_neighbours() -> None:
    # Columns 0-3 are one group and 4-7 another; a patch amid each is left out, and the last of all.
    rows = torch.eye(8)[(torch.arange(32) % 8 >= 4).long()]
    features = normalize_rows(rows + 0.01 * torch.randn(32, 8, generator=torch.Generator().manual_seed(0)))[None]
    valid = everywhere(features)
    valid[0, [9, 14, 31]] = False
    features[0, [9, 14, 31]] = torch.nan
    settings = OverClustering(superpixels=2)
    bare, _ = over_cluster(features, valid, [0], settings)
    filled, _ = over_cluster(features, valid, [0], settings, grid=(4, 8))
    expected = [int(patch % 8 >= 4) for patch in range(32)]
    assert filled.labels[0].tolist() == expected
    assert bare.labels[0].tolist() == [-1 if patch in (9, 14, 31) else expected[patch] for patch in range(32)]
    assert np.array_equal(bare.graphs[0], filled.graphs[0])


def test_a_patch_left_out_at_the_corner_counts_as_the_first_of_its_superpixel() -> None:
    rows = torch.eye(8)[torch.tensor([0, 0, 1, 1, 0, 0, 1, 1])]
    valid = torch.tensor([[False] * 2 + [True] * 6])
    filled, _ = over_cluster(rows[None], valid, [0], OverClustering(superpixels=2), grid=(2, 4))
    assert filled.labels.tolist() == [[0, 0, 1, 1, 0, 0, 1, 1]]
    # Two patches on either side of the most distant pairs: no weight is left between the two groups.
    assert filled.graphs[0] == pytest.approx(np.zeros((2, 2)), abs=1e-6)


def test_no_patch_joins_a_superpixel_that_is_not_there() -> None:
    # Of three centres wanted two were found; the first patch is far from both.
    centers = torch.tensor([[[1.0, 0.0], [0.6, 0.8], [torch.nan, torch.nan]]])
    assert _nearest(torch.tensor([[[-1.0, 0.0], [0.0, 1.0], [1.0, 0.1]]]), centers).tolist() == [[1, 1, 0]]


def test_what_does_not_fit_is_refused() -> None:
    features = planted(0)
    valid = everywhere(features)
    with pytest.raises(ValueError, match="seeds do not fit"):
        over_cluster(features, valid, [])
    with pytest.raises(ValueError, match="does not hold 120"):
        over_cluster(features, valid, [0], grid=(3, 3))
    with pytest.raises(ValueError, match="hold nothing"):
        over_cluster(features[:, :0], valid[:, :0], [0])
    with pytest.raises(ValueError, match="low-rank"):
        OverClustering(form="low-rank", adjacency="exp")
    with pytest.raises(ValueError, match="at least 1"):
        OverClustering(superpixels=0)
