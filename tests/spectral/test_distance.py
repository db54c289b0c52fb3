"""Weights from cosine distances, by hand and against the formula on the explicit matrix in fp64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from simsam_batch.spectral.affinity import normalize_rows
from simsam_batch.spectral.distance import distance_affinity

# Directions at 0, 60 and 180 degrees: cosines 1/2, -1 and -1/2, distances 1/2, 2 and 3/2.
THREE = torch.tensor([[[1.0, 0.0], [0.5, math.sqrt(0.75)], [-1.0, 0.0]]])
ALL = torch.ones(1, 3, dtype=torch.bool)


def off_diagonal(w: Tensor) -> list[float]:
    return [float(w[0, 0, 1]), float(w[0, 0, 2]), float(w[0, 1, 2])]


def test_the_most_distant_pair_gets_zero_and_a_distance_of_zero_one() -> None:
    # 1 - d / 2
    w = distance_affinity(THREE, ALL)
    assert off_diagonal(w) == pytest.approx([0.75, 0, 0.25], abs=1e-6)
    assert torch.equal(w.diagonal(dim1=1, dim2=2), torch.zeros(1, 3))


@pytest.mark.parametrize("sigma", [1.0, 0.5])
def test_the_exponential_takes_the_distance_as_it_is(sigma: float) -> None:
    w = distance_affinity(THREE, ALL, adjacency="exp", sigma=sigma)
    expected = [math.exp(-d / (2 * sigma**2)) for d in (0.5, 2, 1.5)]
    assert off_diagonal(w) == pytest.approx(expected, abs=1e-6)


def test_weights_below_the_threshold_become_zero() -> None:
    assert off_diagonal(distance_affinity(THREE, ALL, threshold=0.3)) == pytest.approx([0.75, 0, 0], abs=1e-6)


def test_patches_that_are_not_valid_have_no_edge_and_no_say() -> None:
    # Without the third, distances are 0 and 1/2: the only pair is the most distant one. With noise in its place too.
    valid = torch.tensor([[True, True, False]])
    features = THREE.clone()
    features[0, 2] = torch.nan
    for given in (THREE, features):
        assert torch.allclose(distance_affinity(given, valid), torch.zeros(1, 3, 3), atol=1e-6)


def test_equal_features_are_joined_by_ones() -> None:
    w = distance_affinity(normalize_rows(torch.ones(1, 4, 7)), torch.ones(1, 4, dtype=torch.bool))
    assert torch.equal(w[0], torch.ones(4, 4) - torch.eye(4))


@pytest.mark.parametrize("adjacency", ["minmax", "exp"])
def test_a_batch_has_the_weights_of_the_explicit_matrix(adjacency: str) -> None:
    features = normalize_rows(torch.randn(2, 300, 9, generator=torch.Generator().manual_seed(0)))
    w = distance_affinity(features, torch.ones(2, 300, dtype=torch.bool), adjacency=adjacency)  # type: ignore[arg-type]
    assert torch.equal(w, w.mT)
    for mine, rows in zip(w.numpy(), features.double().numpy(), strict=True):
        d = np.maximum(0, 1 - rows @ rows.T)
        expected = 1 - (d - d.min()) / (d.max() - d.min()) if adjacency == "minmax" else np.exp(-d / 2)
        np.fill_diagonal(expected, 0)
        assert np.abs(mine - expected).max() < 1e-6


def test_what_is_not_known_is_refused() -> None:
    with pytest.raises(ValueError, match="adjacency"):
        distance_affinity(THREE, ALL, adjacency="l2")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="sigma"):
        distance_affinity(THREE, ALL, adjacency="exp", sigma=0)
