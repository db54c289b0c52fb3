"""Quarantine by itself: one image at a time in a real child process."""

from __future__ import annotations

import time
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pytest
from trouble import SCHEMA, TroubleStage, value_of

from simsam_batch.errors import RunError, StorageError
from simsam_batch.runs.quarantine import run_in_quarantine
from simsam_batch.runs.schema import PLAN_FIELDS, Shard, ShardOutput


def quarantined(tmp_path: Path, uris: list[str], *, image_seconds: float = 30.0, unbuildable: str = "") -> ShardOutput:
    records = [{"image_id": f"image-{number}", "uri": uri} for number, uri in enumerate(uris)]
    shard = Shard(7, pa.Table.from_pylist(records, pa.schema(PLAN_FIELDS)))
    stage = TroubleStage(str(tmp_path), unbuildable)
    return run_in_quarantine(stage, shard, lambda: None, image_seconds)


@pytest.mark.slow
def test_every_image_keeps_its_place_whatever_happens_to_the_others(tmp_path: Path) -> None:
    uris = ["fine", "kill", "bad", "sleep:1000", "exit", "raise", "fine"]
    output = quarantined(tmp_path, uris, image_seconds=5.0)
    rows = output.rows.to_pylist()
    assert output.number == 7
    assert output.rows.schema == SCHEMA
    assert [row["uri"] for row in rows] == uris
    assert [row["error_type"] for row in rows] == [
        None,
        "worker_died",
        "truncated",
        "timed_out",
        "worker_died",
        "worker_raised",
        None,
    ]
    assert ["killed by SIGKILL" in rows[1]["error"], "exit code 3" in rows[4]["error"]] == [True, True]
    assert "5 seconds" in rows[3]["error"]
    values = [value_of("image-0"), value_of("image-6")]
    assert [rows[0]["value"], rows[6]["value"]] == values
    assert [sorted(arrays) for arrays in output.attachments] == [["vector"], [], [], [], [], [], ["vector"]]
    assert output.statistics == {"ok": 2, "sum": (0.0 + values[0]) + values[1]}
    # 0.5 s for each of the four images that came back: two fine, one bad; the one that raised put nothing out
    assert output.seconds == {"compute": 1.5}


def test_the_worker_is_built_once_while_nothing_dies(tmp_path: Path) -> None:
    quarantined(tmp_path, ["fine"] * 5)
    assert len(TroubleStage(str(tmp_path)).events("built")) == 1


def test_one_death_from_outside_blames_no_image(tmp_path: Path) -> None:
    rows = quarantined(tmp_path, ["fine", "killonce", "poisononce", "fine"]).rows.to_pylist()
    assert [row["status"] for row in rows] == ["ok"] * 4
    # the first child, and one after each of the two that ended
    assert len(TroubleStage(str(tmp_path)).events("built")) == 3


def test_a_device_that_is_lost_twice_over_an_image_is_its_own_fault(tmp_path: Path) -> None:
    rows = quarantined(tmp_path, ["fine", "poison", "fine"]).rows.to_pylist()
    assert [row["error_type"] for row in rows] == [None, "worker_died", None]
    assert "2 times" in rows[1]["error"]
    assert "illegal memory access" in rows[1]["error"]


def test_a_storage_error_fails_the_attempt_and_makes_no_row(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="connection was reset"):
        quarantined(tmp_path, ["fine", "storage:1", "fine"])


@pytest.mark.slow
@pytest.mark.parametrize(("how", "sign"), [("exit", "exit code 9"), ("raise", "no such weights")])
def test_a_child_that_cannot_build_the_worker_blames_no_image(tmp_path: Path, how: str, sign: str) -> None:
    with pytest.raises(RunError, match=sign):
        quarantined(tmp_path, ["fine"], unbuildable=how)


def test_the_watchdog_hears_of_a_long_image_every_second(tmp_path: Path) -> None:
    shard = Shard(0, pa.Table.from_pylist([{"image_id": "a", "uri": "sleep:2.5"}], pa.schema(PLAN_FIELDS)))
    beats: list[float] = []
    run_in_quarantine(TroubleStage(str(tmp_path)), shard, lambda: beats.append(time.monotonic()), 30.0)
    assert max(after - before for before, after in pairwise(beats)) < 1.5
    assert len(beats) >= 4


def test_an_image_that_gets_on_may_take_longer_than_one_that_stands_still(tmp_path: Path) -> None:
    shard = Shard(0, pa.Table.from_pylist([{"image_id": "a", "uri": "steps:3"}], pa.schema(PLAN_FIELDS)))
    output = run_in_quarantine(TroubleStage(str(tmp_path)), shard, lambda: None, 2.5)
    assert output.rows["status"].to_pylist() == ["ok"]
    still = Shard(0, pa.Table.from_pylist([{"image_id": "a", "uri": "sleep:20"}], pa.schema(PLAN_FIELDS)))
    output = run_in_quarantine(TroubleStage(str(tmp_path)), still, lambda: None, 2.5)
    assert output.rows["error_type"].to_pylist() == ["timed_out"]
