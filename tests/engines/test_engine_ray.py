"""The part of the Ray engine that runs inside an actor, without Ray; whole runs on Ray stand with the runs' tests."""

from __future__ import annotations

import json
import pickle
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from plain_runner import PlainRunner

from simsam_batch.engines.contract import Task
from simsam_batch.engines.ray import RayEngine, _ShardCaller
from simsam_batch.errors import RunError, SettingsError


@pytest.fixture(autouse=True)
def _threads_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def call_all(caller: _ShardCaller, shards: list[int]) -> list[dict[str, Any]]:
    with ThreadPoolExecutor(2) as calls:
        return [json.loads(row["report"]) for row in calls.map(lambda n: caller({"shard": n}), shards)]


def test_two_calls_at_once_are_served_by_one_runner(tmp_path: Path) -> None:
    caller = _ShardCaller(pickle.dumps(PlainRunner(str(tmp_path))))
    assert [report["shard"] for report in call_all(caller, list(range(20)))] == list(range(20))


@pytest.mark.slow
def test_a_runner_that_waits_for_its_next_shard_is_told_when_none_comes(tmp_path: Path) -> None:
    caller = _ShardCaller(pickle.dumps(PlainRunner(str(tmp_path))))
    assert [report["shard"] for report in call_all(caller, [5])] == [5]
    assert [report["shard"] for report in call_all(caller, [6])] == [6]


@pytest.mark.slow
def test_a_row_sent_twice_at_once_is_run_once(tmp_path: Path) -> None:
    caller = _ShardCaller(pickle.dumps(PlainRunner(str(tmp_path))))
    reports = call_all(caller, [3, 3])
    assert [(report["shard"], report["attempt"]) for report in reports] == [(3, 1), (3, 1)]


@pytest.mark.parametrize(("behaviour", "cause"), [("no-build", "no model here"), ("raises", "a runner must not")])
def test_the_call_never_raises(tmp_path: Path, behaviour: str, cause: str) -> None:
    caller = _ShardCaller(pickle.dumps(PlainRunner(str(tmp_path), behaviour=behaviour)))
    reports = call_all(caller, [0, 1, 2])
    assert [(report["shard"], report["status"]) for report in reports] == [(0, "error"), (1, "error"), (2, "error")]
    assert all(cause in report["error"] for report in reports)


def test_a_runner_that_cannot_be_loaded_over_there_becomes_a_report() -> None:
    (report,) = call_all(_ShardCaller(b"cnowhere\nNothing\n."), [4])
    assert "nowhere" in report["error"]


def test_a_constructor_starts_nothing() -> None:
    before = threading.active_count()
    _ShardCaller(b"")
    assert threading.active_count() == before


def test_without_ray_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SettingsError, match=r"pip install 'simsam-batch\[ray\]'"):
        next(iter(RayEngine(1).run(PlainRunner("."), [0])))


def test_an_address_where_no_ray_is_gives_an_error_that_names_it() -> None:
    pytest.importorskip("ray")
    engine = RayEngine(1, address="nonsense")
    with pytest.raises(RunError, match="no Ray at nonsense"):
        next(iter(engine.run(PlainRunner("."), [0])))


def test_wrong_numbers_are_refused_before_anything_starts() -> None:
    with pytest.raises(SettingsError, match="workers is -1"):
        RayEngine(-1)
    with pytest.raises(SettingsError, match="threads is 0"):
        RayEngine(1, threads=0)


@pytest.mark.parametrize(
    ("workers", "threads", "gpus", "shards", "task", "expected"),
    [
        (0, 1, None, 100, Task(), (6, {"GPU": 1})),  # 4 + 2 GPUs
        (3, 1, None, 100, Task(), (3, {"GPU": 1})),
        (0, 1, None, 5, Task(), (5, {"GPU": 1})),  # no more actors than shards
        (0, 4, False, 100, Task(), (9, {"CPU": 4})),  # 16 / 4 + 15 // 4 + 8 / 4
        (2, 1, True, 100, Task(), (2, {"GPU": 1})),
        (0, 4, True, 100, Task(gpu=False), (9, {"CPU": 4})),  # a task that computes on no GPU leaves them to others
        (0, 1, None, 100, Task(workers=1), (1, {"GPU": 1})),
    ],
)
def test_a_cluster_gives_the_workers_that_are_asked_for_or_all_it_has_room_for(
    workers: int, threads: int, gpus: bool | None, shards: int, task: Task, expected: tuple[int, dict[str, int]]
) -> None:
    nodes = [
        {"Alive": True, "Resources": {"CPU": 16.0, "GPU": 4.0}},
        {"Alive": True, "Resources": {"CPU": 15.0, "GPU": 2.0}},
        {"Alive": True, "Resources": {"CPU": 8.0}},
        {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}},
    ]
    engine = RayEngine(workers, threads, gpus)
    assert engine._await_room(SimpleNamespace(nodes=lambda: nodes), shards, task) == expected


@pytest.mark.parametrize(("workers", "expected"), [(0, 6), (5, 5)])
def test_actors_share_gpus_where_they_may(workers: int, expected: int) -> None:
    nodes = [{"Alive": True, "Resources": {"CPU": 16.0, "GPU": 2.0}}]
    engine = RayEngine(workers, gpus=True, workers_per_gpu=3)
    found = engine._await_room(SimpleNamespace(nodes=lambda: nodes), 100, Task())
    assert found == (expected, {"GPU": pytest.approx(1 / 3)})


def test_a_cluster_without_room_is_an_error_that_says_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    nodes = [{"Alive": True, "Resources": {"CPU": 3.0}}]
    for engine in (RayEngine(0, gpus=True), RayEngine(4)):
        with pytest.raises(RunError, match="ask for fewer workers or add nodes"):
            engine._await_room(SimpleNamespace(nodes=lambda: nodes), 10, Task())
