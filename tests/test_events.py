"""What a run writes about itself: in order, parseable, on every kind of storage, and never in the way of the run."""

from __future__ import annotations

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from s3_server import S3Server
from test_jobs import photograph

from simsam_batch import __version__, cli
from simsam_batch.engines.contract import ShardReport
from simsam_batch.errors import StorageError
from simsam_batch.operations import verify
from simsam_batch.report.console import JsonLines
from simsam_batch.report.events import FAILURES_SHOWN, EventLog
from simsam_batch.storage import Folder

OPERATIONS = Path(__file__).parent.parent / "docs" / "operations.md"
FLAGS = ["--backbone", "descriptors", "--resize", "native", "--epochs", "1", "--shard-size", "2", "--workers", "1"]


def events_of(out: str | Path) -> list[list[dict[str, Any]]]:
    """The events of each driver, in the order of their objects and lines."""
    folder = Folder(str(out))
    drivers: dict[str, list[dict[str, Any]]] = {}
    for info in folder.list("events"):
        lines = folder.read(info.name).decode().splitlines()
        drivers.setdefault(info.name.split("/")[1], []).extend(json.loads(line) for line in lines)
    return list(drivers.values())


def check_described(told: list[dict[str, Any]]) -> None:
    """Every event has the fields that docs/operations.md says, and no others."""
    rows = re.findall(r"^\| `([a-z ]+)` \| (`.*?`) \|", OPERATIONS.read_text(encoding="utf-8"), re.MULTILINE)
    described = {name: set(re.findall(r"`(\w+)`", fields)) for name, fields in rows}
    for event in told:
        assert event.keys() - {"time", "event"} == described[event["event"]], event["event"]


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photographs"
    folder.mkdir()
    for i in range(5):
        (folder / f"{i}.png").write_bytes(photograph(i, 48))
    (folder / "words.png").write_text("no picture")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("out_url", ["local", "s3"], indirect=True)
def test_a_run_and_its_retry_are_told_in_order(photographs: Path, out_url: str) -> None:
    assert cli.run(["segment", str(photographs), out_url, *FLAGS, "--allow-failed", "1"]) == 0
    (told,) = events_of(out_url)
    kinds = [event["event"] for event in told]
    assert kinds == ["begun", "stage", "plan", "failed", "shards", "done", "ended"]
    assert [event["time"] for event in told] == sorted(event["time"] for event in told)
    check_described(told)
    begun, stage, plan, failed, shards, done, ended = told
    assert begun["settings"]["shard_size"] == 2
    assert begun["versions"]["simsam-batch"] == __version__
    assert (stage["stage"], plan["images"], plan["shards"]) == ("segment", 6, 3)
    assert (failed["image_id"], failed["shard"]) == ("words.png", 2)
    assert (shards["shards"], shards["images"], shards["failed"]) == (3, 6, 1)
    assert (done["images"], done["ok"], done["failed"]) == (6, 5, 1)
    assert (ended["stage"], ended["outcome"]) == ("segment", "done")

    assert cli.run(["retry", out_url, "--workers", "1", "--allow-failed", "1"]) == 0
    drivers = events_of(out_url)
    assert len(drivers) == 2
    again = next(told for told in drivers if told[1]["shards_again"])
    assert [event["event"] for event in again] == ["begun", "stage", "failed", "shards", "done", "ended"]

    report = verify(out_url)
    assert not report.damaged
    assert (report.orphans, report.foreign) == ([], [])


@pytest.mark.slow
def test_of_the_ranks_of_torchrun_one_writes(
    photographs: Path, tmp_path: Path, run_on: Callable[[str, list[str]], None]
) -> None:
    out = tmp_path / "out"
    command = ["python", "-m", "simsam_batch", "segment", str(photographs), str(out), *FLAGS, "--allow-failed", "1"]
    run_on("torchrun", command)
    (told,) = events_of(out)
    assert sum(event["shards"] for event in told if event["event"] == "shards") == 3


def test_how_a_command_ended_is_told(photographs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["segment", str(photographs), str(out), *FLAGS, "--allow-failed", "1"]
    assert cli.run(command) == 0
    assert cli.run([*command, "--seed", "7"]) == cli.EXIT_COULD_NOT_RUN
    (refused,) = [told[-1] for told in events_of(out) if told[-1]["outcome"] != "done"]
    assert refused["outcome"] == "error"
    assert "seed" in refused["error"]


@pytest.mark.slow
def test_a_store_that_refuses_events_does_not_fail_the_run(
    photographs: Path, moto_server: S3Server, s3_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[str] = []

    def refuse_events(method: str, path: str) -> str:
        if "/events/" in path:
            asked.append(path)
            return "refuse"
        return ""

    moto_server.fault = refuse_events
    try:
        assert cli.run(["segment", str(photographs), s3_url, *FLAGS, "--allow-failed", "1"]) == 0
    finally:
        moto_server.heal()
    assert asked
    assert events_of(s3_url) == []
    assert json.loads(Folder(s3_url).read("results/segment.json"))["images"] == 6
    assert "of this run could not be written" in caplog.text


class Deaf(JsonLines):
    """Says nothing."""

    def _write(self, event: str, **values: Any) -> None:
        del event, values


def log_in(folder: Path) -> EventLog:
    return EventLog(Folder(str(folder)), Deaf(quiet=True))


def committed(number: int, failures: int = 0) -> ShardReport:
    named = tuple((f"{number}-{i}.png", "no picture") for i in range(min(failures, 20)))
    return ShardReport(number, 1, "committed", images=100, failed=failures, seconds=2.0, failures=named)


def test_a_million_shards_are_a_few_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simsam_batch.report.events.SECONDS_BETWEEN", 0.5)
    log = log_in(tmp_path)
    began = time.monotonic()
    with log.stage("segment"):
        for number in range(20_000):
            log.shard(committed(number, failures=number % 1000 == 0))
    seconds = time.monotonic() - began
    objects = [info.name for info in Folder(str(tmp_path)).list("events")]
    assert len(objects) <= 2 + seconds / 0.5
    (told,) = events_of(tmp_path)
    sums: Counter[str] = Counter()
    for event in told:
        if event["event"] == "shards":
            sums.update({name: event[name] for name in ("shards", "images", "failed", "seconds")})
    assert sums == {"shards": 20_000, "images": 2_000_000, "failed": 20, "seconds": 40_000.0}


def test_failed_images_beyond_a_bound_are_counted(tmp_path: Path) -> None:
    log = log_in(tmp_path)
    with log.stage("segment"):
        for number in range(100):
            log.shard(committed(number, failures=50))
    (told,) = events_of(tmp_path)
    check_described(told)
    assert sum(event["event"] == "failed" for event in told) == FAILURES_SHOWN
    (left_out,) = [event for event in told if event["event"] == "left out"]
    assert left_out["failed_images"] == 100 * 50 - FAILURES_SHOWN


def test_retries_stand_between_the_shards_before_and_after_them(tmp_path: Path) -> None:
    log = log_in(tmp_path)

    def work() -> None:
        with log.stage("segment"):
            log.shard(committed(0))
            log.shard(ShardReport(1, 1, "error", error="the worker died"))
            log.shard(committed(1))
            raise StorageError("no answer from s3://name:word@bucket/key")

    with pytest.raises(StorageError):
        work()
    (told,) = events_of(tmp_path)
    assert [event["event"] for event in told] == ["stage", "shards", "retry", "shards", "ended"]
    check_described(told)
    assert told[2]["error"] == "the worker died"
    assert told[-1]["outcome"] == "error"
    assert "word" not in told[-1]["error"], "no credentials in a file"


def test_a_store_that_hangs_holds_the_run_up_for_seconds_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simsam_batch.report.events._PATIENCE_S", 0.2)
    released = threading.Event()
    monkeypatch.setattr(Folder, "replace", lambda *_: released.wait(30))
    log = log_in(tmp_path)
    began = time.monotonic()
    with log.stage("segment"):
        log.note("something")
    assert time.monotonic() - began < 5
    released.set()


def test_events_are_passed_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = EventLog(Folder(str(tmp_path)), JsonLines(quiet=False))
    log.note("a word")
    log.plan("segment", images=4, shards=2, done_shards=0, done_images=0)
    log.shard(committed(0))
    shown = [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()]
    assert shown == ["note", "plan", "shard"]
