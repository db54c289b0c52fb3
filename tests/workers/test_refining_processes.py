"""How many processes refine beside one worker, whichever stage it works for."""

from __future__ import annotations

import os

import pytest

from simsam_batch.settings import resolve
from simsam_batch.stages.semantic.settings import SemanticSettings
from simsam_batch.workers.refinement import make_refiner, refining_processes


@pytest.fixture(autouse=True)
def _sixteen_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))


def test_beside_a_gpu_eight_refine_and_beside_a_core_the_worker_itself() -> None:
    assert refining_processes(0, "cuda") == 8
    assert refining_processes(0, "cpu") == 0


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_what_is_asked_for_is_made(device: str) -> None:
    assert refining_processes(3, device) == 3


@pytest.mark.parametrize(("ranks", "processes"), [("1", 8), ("4", 4), ("8", 2), ("16", 0)])
def test_ranks_of_torchrun_share_the_cores_that_none_of_them_uses(
    monkeypatch: pytest.MonkeyPatch, ranks: str, processes: int
) -> None:
    """They are one a GPU: label maps, which take no GPU, were refined by one process in each of them."""
    monkeypatch.setenv("LOCAL_WORLD_SIZE", ranks)
    assert refining_processes(0, "cpu") == processes


def test_stages_that_refine_without_a_gpu_go_by_the_same_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    refiner = make_refiner(resolve(SemanticSettings, {"refine": "crf"}), "cpu")
    assert refiner is not None
    assert refiner.may_wait == 8
    assert make_refiner(resolve(SemanticSettings, {}), "cpu") is None
