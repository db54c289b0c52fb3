"""Approximate neighbours are exact ones where every cell is looked into; what faiss is needed for says so."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from simsam_batch.probes.approximate import ApproximateNeighbours, recall
from simsam_batch.probes.neighbours import Neighbours, vote


def normal(seed: int, rows: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).standard_normal((rows, 12), dtype=np.float32)


def built(bank: NDArray[np.float32], probes: int) -> ApproximateNeighbours:
    pytest.importorskip("faiss", reason="approximate neighbours are those of faiss")
    found = ApproximateNeighbours(bank, cells=20, probes=probes)
    for start in range(0, len(bank), 300):
        found.add(bank[start : start + 300], np.arange(len(bank), dtype=np.float32)[start : start + 300, None])
    return found


def test_all_cells_hold_the_exact_neighbours_and_few_hold_fewer() -> None:
    bank, queries = normal(0, 1000), normal(1, 40)
    exact = Neighbours(torch.from_numpy(queries), 10, classes=1)
    exact.add(torch.from_numpy(bank), torch.zeros(1000, 1), torch.ones(1, 1000, dtype=torch.bool), first=0)
    expected = exact.result()
    similarities, indices, labels = built(bank, 20).search(queries, 10)
    assert recall(indices, expected.indices[0].numpy()) == 1.0
    assert np.allclose(similarities, expected.similarities[0].numpy(), atol=1e-6)
    assert np.array_equal(labels[:, :, 0], indices)
    shares = [recall(built(bank, probes).search(queries, 10)[1], expected.indices[0].numpy()) for probes in (1, 8)]
    assert 0.1 < shares[0] < shares[1] < 1


def test_neighbours_that_are_missing_have_no_weight_in_a_vote() -> None:
    bank = normal(2, 60)
    similarities, indices, labels = built(bank, 1).search(bank[:5], 50)
    assert (indices[:, 0] == np.arange(5)).all()
    assert (indices[:, -1] == -1).all()
    assert (similarities[:, -1] == -np.inf).all()
    voted = vote(torch.from_numpy(similarities)[None], torch.from_numpy(np.ones_like(labels))[None], 0.02)
    assert torch.allclose(voted, torch.ones(1, 5, 1))


def test_recall_is_the_share_of_exact_neighbours_found() -> None:
    # Two of three, in another order; and one of three.
    assert recall(np.array([[7, 1, 9], [4, -1, -1]]), np.array([[1, 2, 7], [4, 5, 6]])) == pytest.approx(1 / 2)
    with pytest.raises(ValueError, match="same queries"):
        recall(np.zeros((2, 3), np.int64), np.zeros((2, 4), np.int64))


def test_without_faiss_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match=r"pip install 'simsam-batch\[approximate\]'"):
        ApproximateNeighbours(normal(3, 50), cells=5, probes=1)


def test_cells_and_probes_that_do_not_fit_are_refused() -> None:
    pytest.importorskip("faiss", reason="approximate neighbours are those of faiss")
    for cells, probes in ((60, 1), (5, 6), (5, 0)):
        with pytest.raises(ValueError, match=f"cells={cells} and probes={probes}"):
            ApproximateNeighbours(normal(4, 50), cells=cells, probes=probes)
    found = built(normal(5, 60), 1)
    with pytest.raises(ValueError, match="k=61"):
        found.search(normal(6, 2), 61)
    with pytest.raises(ValueError, match="do not fit 12 channels"):
        found.add(normal(7, 2)[:, :5], np.zeros((2, 1), np.float32))
