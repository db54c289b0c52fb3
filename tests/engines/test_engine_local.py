"""The local engine and its child processes, with runners that do nothing else."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from plain_runner import PlainRunner

from simsam_batch.engines.child import Child, Receive, Send
from simsam_batch.engines.contract import Progress, Task
from simsam_batch.engines.inline import InlineEngine
from simsam_batch.engines.local import LocalEngine
from simsam_batch.errors import RunError, SettingsError

pytestmark = pytest.mark.timeout(60)


def test_every_shard_is_reported_once_by_processes_with_the_threads_asked_for(tmp_path: Path) -> None:
    reports = list(LocalEngine(2, threads=1).run(PlainRunner(str(tmp_path)), range(30)))
    assert sorted(report.shard for report in reports) == list(range(30))
    processes, asked, had = zip(*(report.error.split() for report in reports), strict=True)
    assert len(set(processes)) == 2
    assert str(os.getpid()) not in processes
    # the variable stood before what reads it was loaded
    assert set(zip(asked, had, strict=True)) == {("1", "1")}


def test_every_worker_gets_a_shard_before_any_gets_a_second(tmp_path: Path) -> None:
    reports = list(LocalEngine(3).run(PlainRunner(str(tmp_path)), range(3)))
    assert len({report.error.split()[0] for report in reports}) == 3


def test_without_a_number_there_is_a_worker_for_each_core_and_no_more_than_a_task_can_use(tmp_path: Path) -> None:
    cores = len(os.sched_getaffinity(0))
    for task, expected in ((Task(), cores), (Task(workers=1), 1)):
        reports = list(LocalEngine(0).run(PlainRunner(str(tmp_path)), range(2 * cores), task))
        assert len({report.error.split()[0] for report in reports}) == expected


def test_no_shards_need_no_processes(tmp_path: Path) -> None:
    assert list(LocalEngine(2).run(PlainRunner(str(tmp_path), behaviour="no-start"), [])) == []


def test_shards_of_dead_workers_are_started_again_and_none_is_reported_twice(tmp_path: Path) -> None:
    runner = PlainRunner(str(tmp_path), fatal=(0, 5, 11), deaths=2)
    reports = list(LocalEngine(2).run(runner, range(12)))
    assert sorted(report.shard for report in reports) == list(range(12))
    assert {report.shard: report.attempt for report in reports if report.shard in runner.fatal} == {0: 3, 5: 3, 11: 3}
    assert max(report.attempt for report in reports if report.shard not in runner.fatal) == 1


def test_a_process_that_stands_still_is_ended_and_its_shards_start_again(tmp_path: Path) -> None:
    runner = PlainRunner(str(tmp_path), fatal=(3,), behaviour="stops")
    began = time.monotonic()
    reports = list(LocalEngine(2).run(runner, range(12), Task(silence_s=2.0)))
    assert sorted(report.shard for report in reports) == list(range(12))
    assert {report.shard: report.attempt for report in reports}[3] == 2
    assert 2.0 < time.monotonic() - began < 20.0


def test_a_process_that_gets_on_slowly_is_left_alone(tmp_path: Path) -> None:
    runner = PlainRunner(str(tmp_path), behaviour="slow")
    reports = list(LocalEngine(1).run(runner, range(2), Task(silence_s=1.0)))
    assert [(report.shard, report.attempt) for report in reports] == [(0, 1), (1, 1)]


@pytest.mark.parametrize("engine", [LocalEngine(2), InlineEngine()])
def test_how_far_a_shard_is_comes_before_its_report(tmp_path: Path, engine: LocalEngine | InlineEngine) -> None:
    heard: list[Progress | int] = []
    reports = engine.run(PlainRunner(str(tmp_path), behaviour="far"), range(4), Task(on_progress=heard.append))
    heard.extend(report.shard for report in reports)
    assert sorted(each for each in heard if isinstance(each, int)) == [0, 1, 2, 3]
    for shard in range(4):
        assert heard.index(Progress(shard, 7)) < heard.index(shard)


def test_a_process_that_holds_nothing_may_be_silent(tmp_path: Path) -> None:
    reports = LocalEngine(2).run(PlainRunner(str(tmp_path)), range(2), Task(silence_s=1.0))
    seen = [next(reports).shard]
    time.sleep(1.5)
    seen += [report.shard for report in reports]
    assert sorted(seen) == [0, 1]
    assert len(list(tmp_path.glob("starts.*"))) == 2


def wait(receive: Receive, send: Send) -> None:
    """A child's work: none."""
    receive()


def test_a_child_that_no_signal_reaches_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    # SIGKILL ends a stopped process; without it this one is as if it were stuck in the kernel
    child = Child(wait, {})
    pid = child._process.pid(timeout=30)
    os.kill(pid, signal.SIGSTOP)
    with monkeypatch.context() as patch:
        patch.setattr(Child, "kill", lambda self: None)
        patch.setattr("simsam_batch.engines.child._END_S", 0.5)
        patch.setattr("simsam_batch.engines.child._KILLED_S", 0.5)
        assert child.end() == "stuck in the kernel, SIGKILL notwithstanding"
    child.kill()
    deadline = time.monotonic() + 10
    while Path("/proc", str(pid)).exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_processes_that_end_before_they_are_ready_end_the_run_with_the_signal(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="killed by SIGSEGV"):
        list(LocalEngine(1).run(PlainRunner(str(tmp_path), behaviour="no-start"), range(3)))


@pytest.mark.parametrize(
    ("behaviour", "cause"),
    [("no-build", "no model here"), ("raises", "a runner must not"), ("lies", "did not hold")],
)
def test_a_broken_runner_ends_the_run_with_the_cause(tmp_path: Path, behaviour: str, cause: str) -> None:
    with pytest.raises(RunError, match=cause):
        list(LocalEngine(1).run(PlainRunner(str(tmp_path), behaviour=behaviour), range(3)))


def test_leaving_the_loop_ends_the_processes(tmp_path: Path) -> None:
    reports = LocalEngine(1).run(PlainRunner(str(tmp_path)), range(1000))
    process = Path("/proc", next(iter(reports)).error.split()[0])
    assert process.exists()
    del reports
    assert not process.exists()


def test_a_process_is_replaced_after_so_many_shards_and_none_is_started_twice(tmp_path: Path) -> None:
    reports = list(LocalEngine(1, recycle_after=3).run(PlainRunner(str(tmp_path)), range(8)))
    assert sorted((report.shard, report.attempt) for report in reports) == [(number, 1) for number in range(8)]
    processes = [report.error.split()[0] for report in reports]
    assert [processes.count(process) for process in dict.fromkeys(processes)] == [3, 3, 2]
    assert [process for process in processes if Path("/proc", process).exists()] == []


def test_after_stop_only_what_is_in_flight_comes_back(tmp_path: Path) -> None:
    engine = LocalEngine(2)
    reports = engine.run(PlainRunner(str(tmp_path)), range(1000))
    seen = [next(reports).shard]
    assert engine.stop()
    seen += [report.shard for report in reports]
    # two processes with two shards each, and one that took the place of the first report
    assert len(seen) <= 6
    assert len(seen) == len(list(tmp_path.glob("starts.*")))


def test_wrong_numbers_are_refused_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match="workers is -1"):
        LocalEngine(-1)
    with pytest.raises(SettingsError, match="threads is 0"):
        LocalEngine(1, threads=0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    with pytest.raises(SettingsError, match=r"3 worker\(s\) need a GPU each, but 2 are visible.*4,6"):
        LocalEngine(3, gpus=True)


class TellDevices:
    """A child's work: says which GPU it was given, then waits for ever."""

    def __call__(self, receive: Receive, send: Send) -> None:
        send(os.environ["CUDA_VISIBLE_DEVICES"])
        receive()
        time.sleep(1000)


def test_each_worker_has_a_gpu_of_its_own_and_ends_mid_computation_when_its_pipe_closes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    environments = LocalEngine(2, gpus=True)._on_gpus
    children = [Child(TellDevices(), environment) for environment in environments]
    assert [child.receive() for child in children] == ["4", "6"]
    for child in children:
        child.send("compute")
    assert [child.end() for child in children] == ["exit code 0", "exit code 0"]


def test_workers_share_gpus_where_they_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")

    def given(workers: int, on_each: int) -> list[str]:
        engine = LocalEngine(workers, gpus=True, workers_per_gpu=on_each)
        return [environment["CUDA_VISIBLE_DEVICES"] for environment in engine._on_gpus]

    assert given(0, 1) == ["4", "6"]
    assert given(0, 2) == ["4", "6", "4", "6"]
    assert given(3, 2) == ["4", "6", "4"]
    with pytest.raises(SettingsError, match=r"5 worker\(s\) need a GPU for every 2, but 2 are visible"):
        given(5, 2)
