"""Execution with real processes: what a shard's trouble costs, and what it never costs."""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from trouble import SumFold, TroubleStage, plan_of, value_of

from simsam_batch.engines.contract import Runner, ShardReport, Task
from simsam_batch.engines.local import LocalEngine
from simsam_batch.errors import RunError, SettingsError
from simsam_batch.runs.execute import ExecuteOptions, ExecuteSummary, execute
from simsam_batch.runs.ledger import Ledger
from simsam_batch.runs.publish import publish
from simsam_batch.runs.runner import RunnerFactory

QUICK = ExecuteOptions(starts_before_quarantine=3, stall_seconds=60, image_seconds=30, pause_seconds=0.01)


@pytest.fixture(autouse=True)
def _a_hang_fails() -> Iterator[None]:
    faulthandler.dump_traceback_later(120, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


def run(
    tmp_path: Path,
    uris: list[str],
    *,
    shard_size: int = 4,
    workers: int = 1,
    options: ExecuteOptions = QUICK,
    unbuildable: str = "",
) -> tuple[ExecuteSummary, list[ShardReport], TroubleStage]:
    out, plan = plan_of(tmp_path / "out", uris, shard_size)
    stage = TroubleStage(str(tmp_path), unbuildable)
    reports: list[ShardReport] = []
    summary = execute(out, plan, stage, LocalEngine(workers), options, reports.append)
    publish(out, plan, stage)
    return summary, reports, stage


def published(tmp_path: Path) -> list[dict[str, object]]:
    tables = [pq.read_table(path) for path in sorted((tmp_path / "out/results/trouble").glob("part-*.parquet"))]
    return list(pa.concat_tables(tables).to_pylist())


def failed_ids(tmp_path: Path) -> list[object]:
    return [row["image_id"] for row in published(tmp_path) if row["status"] == "failed"]


def test_every_image_has_its_row_in_order_and_the_statistics_add_up(tmp_path: Path) -> None:
    uris = ["fine"] * 18
    uris[5] = "bad"
    summary, reports, _ = run(tmp_path, uris, workers=2)
    assert [row["image_id"] for row in published(tmp_path)] == [f"image-{n:03d}" for n in range(18)]
    assert failed_ids(tmp_path) == ["image-005"]
    assert (summary.shards, summary.images, summary.failed, summary.rounds) == (5, 18, 1, 1)
    assert sorted(report.shard for report in reports) == [0, 1, 2, 3, 4]
    assert [report.failures for report in reports if report.failed] == [(("image-005", "the file ends early"),)]
    result = json.loads((tmp_path / "out/results/trouble.json").read_text())
    assert result["metrics"]["ok"] == 17
    by_hand = sum(value_of(f"image-{n:03d}") for n in range(18) if n != 5)
    assert result["metrics"]["sum"] == pytest.approx(by_hand, rel=1e-12)


def test_a_second_call_starts_nothing(tmp_path: Path) -> None:
    run(tmp_path, ["fine"] * 6)
    summary, reports, stage = run(tmp_path, ["fine"] * 6)
    assert (summary.rounds, reports) == (0, [])
    assert len(stage.events("drawn")) == 2


def test_other_settings_on_the_same_folder_are_refused(tmp_path: Path) -> None:
    run(tmp_path, ["fine"] * 2)
    out, plan = plan_of(tmp_path / "out", ["fine"] * 2, 4)
    stage = TroubleStage(str(tmp_path), settings={"seed": 2})
    with pytest.raises(SettingsError, match="seed"):
        execute(out, plan, stage, LocalEngine(1), QUICK, lambda report: None)


@pytest.mark.slow
def test_storage_errors_fail_the_attempt_and_never_the_image(tmp_path: Path) -> None:
    uris = ["fine"] * 8
    uris[1] = "storage:2"
    summary, reports, _ = run(tmp_path, uris)
    assert failed_ids(tmp_path) == []
    assert [report.status for report in reports if report.shard == 0] == ["error", "error", "committed"]
    assert [report.status for report in reports if report.shard == 1] == ["committed"]
    assert "connection was reset" in reports[0].error
    assert summary.rounds == 3


def test_shards_in_flight_beside_an_error_are_committed_at_their_first_start(tmp_path: Path) -> None:
    uris = ["fine"] * 12
    uris[5] = "storage:1"
    _, reports, _ = run(tmp_path, uris, shard_size=2)
    assert {report.shard: report.attempt for report in reports if report.status == "committed"} == {
        0: 1,
        1: 1,
        2: 2,
        3: 1,
        4: 1,
        5: 1,
    }


@pytest.mark.slow
def test_an_image_that_kills_its_process_costs_only_itself(tmp_path: Path) -> None:
    uris = ["fine"] * 12
    uris[6] = "segfault"
    summary, reports, _ = run(tmp_path, uris)
    rows = published(tmp_path)
    assert failed_ids(tmp_path) == ["image-006"]
    assert (rows[6]["error_type"], rows[6]["failed_step"]) == ("worker_died", "compute")
    assert "killed by SIGSEGV" in str(rows[6]["error"])
    assert (summary.failed, summary.rounds) == (1, 1)
    assert {report.shard: report.attempt for report in reports}[1] == 4
    # the neighbour in flight is started again once at most: suspects run alone
    assert max(report.attempt for report in reports if report.shard != 1) <= 2
    assert all(row["value"] == value_of(str(row["image_id"])) for row in rows if row["status"] == "ok")


@pytest.mark.slow
def test_an_image_that_only_raises_is_its_own_failed_row_in_the_end(tmp_path: Path) -> None:
    uris = ["fine"] * 6
    uris[2] = "raise"
    run(tmp_path, uris)
    (row,) = [row for row in published(tmp_path) if row["status"] == "failed"]
    assert (row["image_id"], row["error_type"]) == ("image-002", "worker_raised")
    assert "ZeroDivisionError" in str(row["error"])


@pytest.mark.slow
def test_an_outage_of_storage_brings_no_shard_into_quarantine(tmp_path: Path) -> None:
    _, reports, _ = run(tmp_path, ["fine", "storage:4", "fine"])
    assert [report.attempt for report in reports] == [1, 2, 3, 4, 5]
    manifest = json.loads((tmp_path / "out/trouble/manifests/0000000.0.json").read_text())
    assert manifest["attempt"] == 5
    assert "quarantine" not in manifest["facts"]


@pytest.mark.slow
def test_many_shards_with_an_image_that_raises_end_in_one_command(tmp_path: Path) -> None:
    run(tmp_path, ["fine", "raise"] * 25, shard_size=2)
    assert failed_ids(tmp_path) == [f"image-{n:03d}" for n in range(1, 50, 2)]


class FailsToStartOnce:
    """A local engine whose first round brings nothing but errors from before any start was recorded."""

    own_processes = True

    def __init__(self) -> None:
        self._engine = LocalEngine(1)
        self._rounds = 0

    def run(
        self, make_runner: Callable[[], Runner], shards: Sequence[int], task: Task = Task()
    ) -> Iterator[ShardReport]:
        self._rounds += 1
        if self._rounds == 1:
            return iter([ShardReport(number, 0, "error", error="the store is busy") for number in shards])
        return self._engine.run(make_runner, shards, task)

    def stop(self) -> bool:
        return self._engine.stop()

    def close(self) -> None:
        self._engine.close()


def test_a_start_that_could_not_be_recorded_is_tried_again(tmp_path: Path) -> None:
    out, plan = plan_of(tmp_path / "out", ["fine"] * 3, 4)
    pending: list[int] = []
    summary = execute(
        out, plan, TroubleStage(str(tmp_path)), FailsToStartOnce(), QUICK, lambda report: None, pending.append
    )
    assert (summary.shards, summary.rounds, pending) == (1, 2, [1])


@pytest.mark.slow
def test_quarantine_gives_the_same_content_as_an_undisturbed_run(tmp_path: Path) -> None:
    (tmp_path / "calm").mkdir()
    (tmp_path / "alone").mkdir()
    run(tmp_path / "calm", ["fine"] * 4 + ["bad"])
    run(tmp_path / "alone", ["fine"] * 4 + ["bad"], options=ExecuteOptions(starts_before_quarantine=0))
    manifests = [
        json.loads((tmp_path / kind / "out/trouble/manifests/0000000.0.json").read_text()) for kind in ("calm", "alone")
    ]
    assert manifests[1]["facts"] == {"quarantine": True}
    assert manifests[0]["facts"] == {}
    assert manifests[0]["content_digest"] == manifests[1]["content_digest"]
    assert manifests[0]["statistics"] == manifests[1]["statistics"]


def test_a_worker_that_cannot_be_built_ends_the_run_with_the_cause(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such weights") as caught:
        run(tmp_path, ["fine"] * 3, unbuildable="raise")
    assert "run the same command again" in str(caught.value)


def test_a_worker_that_cannot_be_built_stops_a_long_run_early(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such weights"):
        run(tmp_path, ["fine"] * 60, shard_size=1, unbuildable="raise")
    assert len(list((tmp_path / "out/trouble/attempts").iterdir())) < 30


@pytest.mark.slow
def test_a_worker_that_dies_while_it_loads_is_named_and_no_image_is_blamed(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="exit code 9"):
        run(tmp_path, ["fine"], unbuildable="exit", options=ExecuteOptions(starts_before_quarantine=1))
    assert list((tmp_path / "out/trouble").glob("manifests/*")) == []


@pytest.mark.slow
def test_a_stalled_process_ends_itself_and_the_image_is_found(tmp_path: Path) -> None:
    uris = ["fine"] * 4
    uris[1] = "sleep:1000"
    options = ExecuteOptions(starts_before_quarantine=1, stall_seconds=2, image_seconds=3)
    _, reports, _ = run(tmp_path, uris, shard_size=2, options=options)
    (row,) = [row for row in published(tmp_path) if row["status"] == "failed"]
    assert (row["image_id"], row["error_type"]) == ("image-001", "timed_out")
    (stalled,) = [report for report in reports if report.status == "error" and report.shard == 0]
    assert "no progress for 2 s on shard(s) [0, 1], while computing image-001" in stalled.error


@pytest.mark.slow
def test_a_process_whose_threads_all_stand_still_ends_too_and_the_image_is_found(tmp_path: Path) -> None:
    uris = ["fine"] * 4
    uris[1] = "hold"
    options = ExecuteOptions(starts_before_quarantine=1, stall_seconds=2, image_seconds=3)
    run(tmp_path, uris, shard_size=2, options=options)
    (row,) = [row for row in published(tmp_path) if row["status"] == "failed"]
    assert (row["image_id"], row["error_type"]) == ("image-001", "timed_out")


def test_a_process_that_lost_its_device_says_so_and_a_fresh_one_goes_on(tmp_path: Path) -> None:
    uris = ["fine"] * 8
    uris[3] = "poisononce"
    summary, reports, stage = run(tmp_path, uris, shard_size=2)
    (error,) = [report for report in reports if report.status == "error"]
    assert (error.shard, error.attempt) == (1, 1)
    assert "illegal memory access" in error.error
    assert (summary.failed, summary.images) == (0, 8)
    assert {report.shard: report.attempt for report in reports}[1] == 2
    # the poisoned process computed nothing after the error
    poisoned = stage.events("built")[0][1]
    assert [number for number, pid, _, _ in stage.events("computed") if pid == poisoned] == ["0"]
    assert len({pid for _, pid, _, _ in stage.events("built")} - {poisoned}) >= 1


@pytest.mark.slow
def test_an_image_that_poisons_every_process_costs_only_itself(tmp_path: Path) -> None:
    uris = ["fine"] * 6
    uris[2] = "poison"
    run(tmp_path, uris, shard_size=3, options=ExecuteOptions(starts_before_quarantine=1, pause_seconds=0.01))
    (row,) = [row for row in published(tmp_path) if row["status"] == "failed"]
    assert (row["image_id"], row["error_type"]) == ("image-002", "worker_died")
    assert "illegal memory access" in str(row["error"])


@pytest.mark.slow
def test_a_silent_run_says_what_is_in_flight_and_goes_on_when_its_worker_is_ended(tmp_path: Path) -> None:
    out, plan = plan_of(tmp_path / "out", ["fine", "stoponce", "fine"], 1)
    stage = TroubleStage(str(tmp_path))
    notes: list[str] = []

    def note(text: str) -> None:
        if not notes:
            os.kill(int(stage.events("built")[0][1]), signal.SIGKILL)
        notes.append(text)

    # 1.25 times as long as the watchdog of a worker would wait, which stands still with its process here
    options = ExecuteOptions(stall_seconds=2.4, pause_seconds=0.01)
    summary = execute(out, plan, stage, LocalEngine(1), options, lambda report: None, on_note=note)
    pid = stage.events("built")[0][1]
    assert notes[0].startswith("no shard came back for 3 s; in flight: ")
    assert f"shard 1 (start 1, process {pid} on " in notes[0]
    assert (summary.images, summary.failed) == (3, 0)


@pytest.mark.slow
def test_a_stopped_worker_is_replaced_and_costs_no_image(tmp_path: Path) -> None:
    uris = ["fine"] * 8
    uris[3] = "stoponce"
    # ended after twice the time of a stall
    options = ExecuteOptions(stall_seconds=2.0, pause_seconds=0.01)
    summary, _, stage = run(tmp_path, uris, shard_size=2, options=options)
    assert (summary.images, summary.failed, summary.rounds) == (8, 0, 1)
    assert len({pid for _, pid, _, _ in stage.events("built")}) == 2


def test_a_runner_says_that_it_gets_on_while_no_report_is_due(tmp_path: Path) -> None:
    out, plan = plan_of(tmp_path / "out", ["sleep:0.4"] * 5, 5)
    stage = TroubleStage(str(tmp_path))
    Ledger(out, stage.name).begin(stage, plan)
    # looks four times in the time of a stall; nothing is ended, for the process is not its own
    options = ExecuteOptions(stall_seconds=0.8, own_process=False)
    *before, report = RunnerFactory(out, plan, stage, options)().run(iter([0]))
    assert len(before) >= 3
    assert set(before) == {None}
    assert report is not None
    assert (report.shard, report.status) == (0, "committed")


def test_one_cause_is_told_once_with_how_many_shards_it_met(tmp_path: Path) -> None:
    with pytest.raises(RunError) as caught:
        run(tmp_path, ["fine"] * 6, shard_size=2, unbuildable="raise")
    assert str(caught.value).count("no such weights") == 1
    assert "shard 0 (start 1) and 2 more alike: ValueError: no such weights" in str(caught.value)


def test_a_shard_that_another_driver_committed_meanwhile_is_not_computed_again(tmp_path: Path) -> None:
    out, plan = plan_of(tmp_path / "out", ["fine", "bad", "fine"], 1)
    here, there = TroubleStage(str(tmp_path)), TroubleStage(str(tmp_path / "there"))
    (tmp_path / "there").mkdir()
    Ledger(out, here.name).begin(here, plan)
    assert [report.status for report in RunnerFactory(out, plan, there, QUICK)().run(iter([1]))] == ["committed"]
    reports = list(RunnerFactory(out, plan, here, QUICK)().run(iter([0, 1, 2])))
    assert [(r.shard, r.attempt, r.images, r.failed) for r in sorted(reports, key=lambda r: r.shard)] == [
        (0, 1, 1, 0),
        (1, 0, 1, 1),
        (2, 1, 1, 0),
    ]
    assert [number for number, _, _, _ in here.events("drawn")] == ["0", "2"]
    assert sorted(path.name for path in (tmp_path / "out/trouble/attempts").iterdir()) == [
        "0000000.1",
        "0000001.1",
        "0000002.1",
    ]


def test_the_next_shard_is_drawn_before_the_last_one_is_reported(tmp_path: Path) -> None:
    _, _, stage = run(tmp_path, ["fine"] * 10, shard_size=1)
    drawn = {number: float(when) for number, _, when, _ in stage.events("drawn")}
    computed = {number: float(when) for number, _, when, _ in stage.events("computed")}
    assert all(drawn[str(n + 1)] < computed[str(n)] for n in range(9))


def test_a_runner_reports_every_number_it_draws_exactly_once(tmp_path: Path) -> None:
    uris = ["fine", "raise", "fine", "storage:1", "bad", "fine"]
    out, plan = plan_of(tmp_path / "out", uris, 1)
    stage = TroubleStage(str(tmp_path))
    Ledger(out, stage.name).begin(stage, plan)
    runner = RunnerFactory(out, plan, stage, QUICK)()
    # number 77 is not in the plan
    reports = list(runner.run(iter([0, 1, 2, 77, 3, 4, 5])))
    assert sorted((report.shard, report.status) for report in reports) == [
        (0, "committed"),
        (1, "error"),
        (2, "committed"),
        (3, "error"),
        (4, "committed"),
        (5, "committed"),
        (77, "error"),
    ]
    assert [report.status for report in runner.run(iter([3]))] == ["committed"]
    assert len(stage.events("built")) == 1


DRIVER = """
import sys
from pathlib import Path
from trouble import TroubleStage, plan_of
from simsam_batch.engines.local import LocalEngine
from simsam_batch.runs.execute import ExecuteOptions, execute
folder = Path(sys.argv[1])
pause, grace, workers, uri, shard_size = sys.argv[2:]
out, plan = plan_of(folder / "out", [uri] * 40, int(shard_size))
stage = TroubleStage(str(folder), pause=float(pause))
options = ExecuteOptions(grace_seconds=float(grace))
try:
    execute(out, plan, stage, LocalEngine(int(workers)), options, lambda report: print(report.shard, flush=True))
except KeyboardInterrupt:
    sys.exit(130)
"""


def start_driver(
    tmp_path: Path, pause: float = 0.1, grace: float = 20.0, workers: int = 2, uri: str = "fine", shard_size: int = 2
) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    given = map(str, (tmp_path, pause, grace, workers, uri, shard_size))
    command = [sys.executable, "-c", DRIVER, *given]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until_gone(pids: set[int]) -> None:
    deadline = time.monotonic() + 30
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [pid for pid in pids if alive(pid)] == []


@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_driver_that_ends_half_way_leaves_no_process_and_the_next_run_finishes(
    tmp_path: Path, ending: signal.Signals
) -> None:
    # so slow that the signal comes half way on a busy machine, too
    driver = start_driver(tmp_path, pause=0.3)
    assert driver.stdout is not None
    for _ in range(6):
        assert driver.stdout.readline().strip()
    driver.send_signal(ending)
    code = driver.wait(timeout=20)
    driver.stdout.close()
    assert code == (-ending if ending == signal.SIGKILL else 130)
    stage = TroubleStage(str(tmp_path))
    wait_until_gone({int(pid) for _, pid, _, _ in stage.events("built")})
    before = {
        path: (path.read_bytes(), path.stat().st_mtime_ns) for path in (tmp_path / "out/trouble/manifests").iterdir()
    }
    assert 6 <= len(before) < 20
    summary, _, _ = run(tmp_path, ["fine"] * 40, shard_size=2, workers=2)
    assert summary.shards == 20 - len(before)
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in before} == before
    assert [row["image_id"] for row in published(tmp_path)] == [f"image-{n:03d}" for n in range(40)]


@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_what_is_in_flight_is_finished_before_an_orderly_end(tmp_path: Path, ending: signal.Signals) -> None:
    # so slow that the signal comes before the next report on a busy machine, too
    driver = start_driver(tmp_path, pause=1.0)
    assert driver.stdout is not None
    assert driver.stdout.readline().strip()
    driver.send_signal(ending)
    # a launcher may send it to every process; workers leave it to their driver
    for pid in {int(pid) for _, pid, _, _ in TroubleStage(str(tmp_path)).events("built")}:
        os.kill(pid, ending)
    assert driver.wait(timeout=20) == 130
    driver.stdout.close()
    run_folder = tmp_path / "out/trouble"
    committed = {path.name[:7] for path in (run_folder / "manifests").iterdir()}
    assert committed == {path.name[:7] for path in (run_folder / "attempts").iterdir()}
    # the one that was reported, two in flight in each worker, and one on its way
    assert 1 <= len(committed) <= 6


@pytest.mark.slow
@pytest.mark.parametrize(("grace", "signals"), [(60.0, 2), (1.0, 1), (0.0, 1)])
def test_a_second_signal_or_the_end_of_the_grace_time_drops_what_is_in_flight(
    tmp_path: Path, grace: float, signals: int
) -> None:
    driver = start_driver(tmp_path, pause=30.0, grace=grace)
    assert driver.stdout is not None
    stage = TroubleStage(str(tmp_path))
    deadline = time.monotonic() + 60
    while len(stage.events("drawn")) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    began = time.monotonic()
    driver.send_signal(signal.SIGINT)
    if signals == 2:
        time.sleep(1.2)
        assert driver.poll() is None
        driver.send_signal(signal.SIGINT)
    assert driver.wait(timeout=20) == 130
    driver.stdout.close()
    assert time.monotonic() - began < 10
    wait_until_gone({int(pid) for _, pid, _, _ in stage.events("built")})
    assert list((tmp_path / "out/trouble/manifests").iterdir()) == []


@pytest.mark.slow
def test_two_drivers_at_once_go_different_ways(tmp_path: Path) -> None:
    drivers = [start_driver(tmp_path, workers=1, uri="meet:2", shard_size=1) for _ in range(2)]
    texts = [driver.communicate(timeout=60)[0] for driver in drivers]
    assert [driver.returncode for driver in drivers] == [0, 0]
    computed = [int(number) for number, _, _, _ in TroubleStage(str(tmp_path)).events("computed")]
    # they meet at two places at most, where each has two shards in flight; all over again would be 80
    assert set(computed) == set(range(40))
    assert len(computed) <= 48
    reported = [[int(line) for line in text.split()] for text in texts]
    assert set(reported[0]) | set(reported[1]) == set(range(40))
    assert min(len(numbers) for numbers in reported) >= 10


def test_a_worker_killed_from_outside_costs_no_shard(tmp_path: Path) -> None:
    uris = ["fine"] * 20
    uris[9] = "killonce"
    summary, reports, stage = run(tmp_path, uris, shard_size=2, workers=2)
    assert sorted(report.shard for report in reports) == list(range(10))
    assert summary.failed == 0
    assert len({pid for _, pid, _, _ in stage.events("built")}) == 3


def test_states_of_the_fold_are_plain_values() -> None:
    fold = SumFold()
    assert fold.merge(fold.zero(), {"ok": 2, "sum": 1.5}) == {"ok": 2, "sum": 1.5}
