"""Descriptors smoothed along a graph, by hand."""

from __future__ import annotations

import pytest
import torch

from simsam_batch.regions.smoothing import smoothed

ROOT = 0.5**0.5


def test_a_patch_gets_the_mean_of_its_neighbours_by_their_affinity() -> None:
    """Weights 1 and 3: (1, 0) + (1 (0, 1) + 3 (1, 0)) / 4 = (1.75, .25), to be scaled by 1 / sqrt(3.125)."""
    rows = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]])
    graph = torch.tensor([[[0.0, 1.0, 3.0], [1.0, 0.0, 0.0], [3.0, 0.0, 0.0]]])
    found = smoothed(rows, graph, torch.ones(1, 3, dtype=torch.bool), (1, 3))
    expected = [[1.75 / 3.125**0.5, 0.25 / 3.125**0.5], [ROOT, ROOT], [1.0, 0.0]]
    assert found[0].tolist() == [pytest.approx(row) for row in expected]


def test_a_patch_outside_the_graph_gets_the_mean_of_those_beside_it() -> None:
    rows = torch.tensor([[[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]]])
    valid = torch.tensor([[True, False, True]])
    found = smoothed(rows, torch.zeros(1, 3, 3), valid, (1, 3))
    assert found[0].tolist() == [pytest.approx(row) for row in ([1.0, 0.0], [ROOT, ROOT], [0.0, 1.0])]


def test_an_image_without_a_graph_stays_as_it_is() -> None:
    rows = torch.nn.functional.normalize(torch.randn(1, 6, 4, generator=torch.Generator().manual_seed(0)), dim=2)
    found = smoothed(rows, torch.zeros(1, 6, 6), torch.zeros(1, 6, dtype=torch.bool), (2, 3))
    assert torch.allclose(found, rows)


def test_an_image_is_smoothed_as_it_is_alone() -> None:
    draw = torch.Generator().manual_seed(1)
    rows = torch.nn.functional.normalize(torch.randn(3, 12, 8, generator=draw), dim=2)
    graph = (rows @ rows.mT).clamp(min=0)
    valid = torch.rand(3, 12, generator=draw) > 0.3
    graph = graph * valid[:, :, None] * valid[:, None, :]
    together = smoothed(rows, graph, valid, (3, 4))
    for one in range(3):
        alone = smoothed(rows[[one]], graph[[one]], valid[[one]], (3, 4))
        assert torch.equal(alone[0], together[one])
