"""The runner beside workers that break its rules: no shard is taken for another, and each is reported once."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from trouble import TroubleStage, TroubleWorker, plan_of

from simsam_batch.engines.contract import Progress, ShardReport
from simsam_batch.runs import runner
from simsam_batch.runs.execute import ExecuteOptions
from simsam_batch.runs.ledger import Ledger
from simsam_batch.runs.runner import RunnerFactory
from simsam_batch.runs.schema import Shard, ShardOutput
from simsam_batch.runs.watchdog import STALLED_EXIT_CODE

QUICK = ExecuteOptions(starts_before_quarantine=2, stall_seconds=60, image_seconds=30, pause_seconds=0.01)


class TwoTheOtherWayRound(TroubleWorker):
    """Of the first two shards it puts out the second first; those after are in order."""

    broken = False

    def run(self, shards: Iterator[Shard]) -> Iterator[ShardOutput]:
        if not self.broken:
            self.broken = True
            first, second = next(shards), next(shards)
            yield self._compute(second)
            yield self._compute(first)
        yield from super().run(shards)


class ForgetsTheFirst(TroubleWorker):
    """Ends without a word after it has drawn one shard; once."""

    broken = False

    def run(self, shards: Iterator[Shard]) -> Iterator[ShardOutput]:
        if not self.broken:
            self.broken = True
            next(shards)
            return
        yield from super().run(shards)


@dataclass(frozen=True)
class StageOf(TroubleStage):
    """`TroubleStage` with another worker."""

    worker: type[TroubleWorker] = TroubleWorker

    def make_worker(self, beat: Callable[[], None]) -> TroubleWorker:
        self.note("built", 0)
        return self.worker(self, beat)


def only_reports(said: Iterator[ShardReport | Progress | None]) -> list[ShardReport]:
    """What a runner says, without that it gets on."""
    return [each for each in said if isinstance(each, ShardReport)]


def reports_of(stage: TroubleStage, folder: Path, uris: list[str]) -> list[ShardReport]:
    """What the runner reports of shards of one image each, in the order of their numbers."""
    out, plan = plan_of(folder / "out", uris, 1)
    Ledger(out, stage.name).begin(stage, plan)
    reports = only_reports(RunnerFactory(out, plan, stage, QUICK)().run(iter(range(len(uris)))))
    return sorted(reports, key=lambda report: report.shard)


def test_an_output_out_of_turn_is_committed_for_no_shard(tmp_path: Path) -> None:
    stage = StageOf(str(tmp_path), worker=TwoTheOtherWayRound)
    first, second, third = reports_of(stage, tmp_path, ["fine"] * 3)
    assert (first.status, first.error) == ("error", "the worker put out shard 1 out of turn")
    assert (second.status, third.status) == ("committed", "committed")
    ledger = Ledger(plan_of(tmp_path / "out", ["fine"] * 3, 1)[0], stage.name)
    assert ledger.manifest(1, 0)["attempt"] == second.attempt == 1


def test_a_worker_that_ends_before_its_shard_is_reported_for_that_shard_and_is_used_again(tmp_path: Path) -> None:
    first, second = reports_of(StageOf(str(tmp_path), worker=ForgetsTheFirst), tmp_path, ["fine"] * 2)
    assert (first.status, first.error) == ("error", "the worker ended without an output for shard(s) [0]")
    assert second.status == "committed"


def test_a_suspect_shard_is_never_given_to_the_worker_that_draws_ahead(tmp_path: Path) -> None:
    stage = TroubleStage(str(tmp_path))
    out, plan = plan_of(tmp_path / "out", ["fine"] * 3, 1)
    ledger = Ledger(out, stage.name)
    ledger.begin(stage, plan)
    assert [ledger.start(1) for _ in range(QUICK.starts_before_quarantine)] == [1, 2]
    reports = only_reports(RunnerFactory(out, plan, stage, QUICK)().run(iter([0, 1, 2])))
    assert {(report.shard, report.status) for report in reports} == {(n, "committed") for n in range(3)}
    assert {number: int(process) == os.getpid() for number, process, _, _ in stage.events("drawn")} == {
        "0": True,
        "1": False,
        "2": True,
    }


def test_a_second_try_that_another_driver_committed_counts_the_images_that_were_tried(tmp_path: Path) -> None:
    stage = TroubleStage(str(tmp_path))
    out, plan = plan_of(tmp_path / "out", ["fine", "badonce", "badonce"], 3)
    Ledger(out, stage.name).begin(stage, plan)
    [first] = only_reports(RunnerFactory(out, plan, stage, QUICK)().run(iter([0])))
    assert (first.images, first.failed) == (3, 2)
    there, here = (RunnerFactory(out, plan, stage, QUICK, again={0: 0})() for _ in range(2))
    [tried] = only_reports(there.run(iter([0])))
    [found] = only_reports(here.run(iter([0])))
    assert (tried.images, tried.failed) == (found.images, found.failed) == (2, 0)
    # it began nothing
    assert (tried.attempt, found.attempt) == (2, 0)


def test_a_shard_given_up_for_stuck_whose_thread_comes_back_is_reported_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[int] = []
    monkeypatch.setattr(runner, "end_this_process", lambda _why, code: ended.append(code))
    out, plan = plan_of(tmp_path / "out", ["sleep:2"], 1)
    stage = TroubleStage(str(tmp_path))
    Ledger(out, stage.name).begin(stage, plan)
    options = dataclasses.replace(QUICK, stall_seconds=0.5)
    [report] = filter(None, RunnerFactory(out, plan, stage, options)().run(iter([0])))
    assert report.status == "error"
    assert "no progress for 0.5 s on shard(s) [0], while computing image-000" in report.error
    # its work is not lost: the next round finds it committed
    assert ended == [STALLED_EXIT_CODE]
    assert Ledger(out, stage.name).manifest(0, 0)["images"] == 1


def test_a_runner_says_how_far_it_is_in_a_shard(tmp_path: Path) -> None:
    stage = TroubleStage(str(tmp_path))
    out, plan = plan_of(tmp_path / "out", ["steps:2"] * 3, 3)
    Ledger(out, stage.name).begin(stage, plan)
    *said, report = RunnerFactory(out, plan, stage, QUICK)().run(iter([0]))
    assert isinstance(report, ShardReport)
    far = [each for each in said if isinstance(each, Progress)]
    assert {each.shard for each in far} == {0}
    assert [each.done for each in far] == [0, 1, 2]
