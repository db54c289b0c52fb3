"""Rates and times of a run are those of its commits, worked out by hand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from small_stage import SmallStage, output, small_plan

from simsam_batch.runs.ledger import Ledger
from simsam_batch.runs.plan import Plan
from simsam_batch.runs.status import stage_status
from simsam_batch.storage import Folder


def run_of(tmp_path: Path, commits: dict[int, float], images: int = 9) -> Plan:
    """A run in shards of two, with these committed at these unix times."""
    plan = small_plan(Folder(str(tmp_path)), images, 2)
    ledger = Ledger(plan.out, "small")
    ledger.begin(SmallStage(), plan)
    for shard, when in commits.items():
        values = [1.0] * plan.shard(shard).records.num_rows
        ledger.commit(output(plan, shard, values), ledger.start(shard), started=when - 5)
        os.utime(tmp_path / f"small/manifests/{shard:07d}.0.json", (when, when))
    return plan


def test_the_rate_is_that_of_the_last_commits_and_tells_the_time_left(tmp_path: Path) -> None:
    """Commits at 100, 110 and 130 s: four images in the 30 s after the first, so three of nine take 22.5 s."""
    plan = run_of(tmp_path, {0: 100.0, 2: 110.0, 1: 130.0})
    found = stage_status(plan.out, "small", now=142.0)
    assert (found.done_shards, found.done_images, found.pending_shards) == (3, 6, 2)
    assert found.images_per_second == pytest.approx(4 / 30)
    assert found.seconds_left == pytest.approx(3 / (4 / 30))
    assert found.seconds_since_commit == 12.0
    assert not found.stalled


def test_ten_times_the_usual_gap_without_a_commit_is_called_long(tmp_path: Path) -> None:
    plan = run_of(tmp_path, {0: 100.0, 1: 110.0, 2: 120.0})
    assert not stage_status(plan.out, "small", now=220.0).stalled
    assert stage_status(plan.out, "small", now=220.1).stalled


def test_before_the_second_commit_there_is_no_rate_and_after_the_last_none_is_needed(tmp_path: Path) -> None:
    one = stage_status(run_of(tmp_path / "a", {3: 100.0}).out, "small", now=101.0)
    assert (one.images_per_second, one.seconds_left, one.done_images) == (None, None, 2)
    every = stage_status(run_of(tmp_path / "b", {n: 100.0 + n for n in range(5)}).out, "small", now=9e9)
    assert (every.images_per_second, every.seconds_left, every.done_images, every.stalled) == (None, None, 9, False)


def test_the_last_shard_counts_with_the_images_it_has(tmp_path: Path) -> None:
    found = stage_status(run_of(tmp_path, {4: 100.0, 0: 101.0}).out, "small", now=101.0)
    assert found.done_images == 3


def test_a_quick_look_reads_no_manifest(tmp_path: Path) -> None:
    plan = run_of(tmp_path, {0: 100.0})
    (tmp_path / "small/manifests/0000000.0.json").write_bytes(b"damaged")
    found = stage_status(plan.out, "small", failures=False)
    assert (found.done_shards, found.failed, found.errors_by_type) == (1, None, None)
