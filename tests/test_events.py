"""What a run writes about itself: in order, parseable, on every kind of storage, and never in the way of the run."""

from __future__ import annotations

import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from s3_server import S3Server
from test_jobs import photograph

from simsam_batch import __version__, cli
from simsam_batch.engines.contract import ShardReport
from simsam_batch.errors import StorageError
from simsam_batch.operations import verify
from simsam_batch.storage import Folder
from simsam_batch.telling.console import JsonLines
from simsam_batch.telling.events import FAILURES_SHOWN, EventLog

OPERATIONS = Path(__file__).parent.parent / "docs" / "operations.md"
FLAGS = ["--backbone", "descriptors", "--resize", "native", "--epochs", "1", "--shard-size", "2"]
INLINE = ["--engine", "inline"]


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
    assert cli.run(["segment", str(photographs), out_url, *FLAGS, *INLINE, "--allow-failed", "1"]) == 0
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
    assert ended["outcome"] == "done"

    assert cli.run(["retry", out_url, *INLINE, "--allow-failed", "1"]) == 0
    drivers = events_of(out_url)
    assert len(drivers) == 2
    (again,) = [told for told in drivers if told[1].get("shards_again")]
    assert [event["event"] for event in again] == ["begun", "stage", "plan", "failed", "shards", "done", "ended"]
    assert again[0]["settings"] == {"engine": "inline", "allow_failed": 1}
    assert (again[2]["stage"], again[2]["images"], again[2]["shards"]) == ("segment again", 1, 1)

    report = verify(out_url)
    assert not report.damaged
    assert (report.orphans, report.foreign) == ([], [])


def test_how_a_command_ended_is_told(photographs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["segment", str(photographs), str(out), *FLAGS, *INLINE, "--allow-failed", "1"]
    assert cli.run(command) == 0
    assert cli.run([*command, "--seed", "7"]) == cli.EXIT_COULD_NOT_RUN
    (refused,) = [told[-1] for told in events_of(out) if told[-1]["outcome"] != "done"]
    assert refused["outcome"] == "error"
    assert "seed" in refused["error"]


def test_a_command_that_is_refused_before_it_begins_leaves_no_trace(photographs: Path, tmp_path: Path) -> None:
    nothing, out = tmp_path / "nothing", tmp_path / "out"
    nothing.mkdir()
    no_weights = ["--backbone", "vit_tiny_patch16_224", "--weights", "none.pth"]
    for images, more in ((photographs, ["--keep-columns", "bbox_xyxy"]), (nothing, []), (photographs, no_weights)):
        assert cli.run(["segment", str(images), str(out), *FLAGS, *INLINE, *more]) == cli.EXIT_COULD_NOT_RUN
        assert not out.exists()


def semantic(photographs: Path, out: Path) -> list[str]:
    plain = ["--backbone", "descriptors", "--resize", "native", "--head", "none", "--shard-size", "6", *INLINE]
    regions = ["--regions", "2", "--region-feature", "patches", "--shift", "zero", "--allow-failed", "1"]
    return ["semantic", str(photographs), str(out), *plain, *regions]


def test_a_command_that_ends_between_two_stages_says_so_at_the_end(photographs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert cli.run([*semantic(photographs, out), "--clusters", "99"]) == cli.EXIT_COULD_NOT_RUN
    (told,) = events_of(out)
    check_described(told)
    assert [event["stage"] for event in told if event["event"] == "stage"] == ["regions"]
    assert (told[-1]["event"], told[-1]["outcome"]) == ("ended", "error")
    assert "99 clusters" in told[-1]["error"]
    assert not [event for event in told if event["event"] == "note"], "nothing was clustered"


@pytest.mark.slow
def test_a_retry_of_several_stages_is_one_driver(photographs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert cli.run([*semantic(photographs, out), "--clusters", "2"]) == 0
    assert cli.run(["retry", str(out), *INLINE, "--allow-failed", "1"]) == 0
    _, again = sorted(events_of(out), key=lambda told: told[0]["time"])
    of_a_stage = ["stage", "plan", "failed", "shards", "done"]
    assert [event["event"] for event in again] == ["begun", *of_a_stage, "note", *of_a_stage, "ended"]
    assert [event["stage"] for event in again if event["event"] == "stage"] == ["regions", "semantic"]
    assert [event["text"] for event in again if event["event"] == "note"] == ["clusters: no repeat has failed"]
    assert again[-1]["outcome"] == "done"


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
        assert cli.run(["segment", str(photographs), s3_url, *FLAGS, *INLINE, "--allow-failed", "1"]) == 0
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
    monkeypatch.setattr("simsam_batch.telling.events.SECONDS_BETWEEN", 0.5)
    log = log_in(tmp_path)
    began = time.monotonic()
    with log.command({}):
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
    with log.command({}):
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
        with log.command({}):
            log.shard(committed(0))
            log.shard(ShardReport(1, 1, "error", error="the worker died"))
            log.shard(committed(1))
            raise StorageError("no answer from s3://name:word@bucket/key")

    with pytest.raises(StorageError):
        work()
    (told,) = events_of(tmp_path)
    assert [event["event"] for event in told] == ["begun", "shards", "retry", "shards", "ended"]
    check_described(told)
    assert told[2]["error"] == "the worker died"
    assert told[-1]["outcome"] == "error"
    assert "word" not in told[-1]["error"], "no credentials in a file"


def test_an_error_is_cut_where_no_password_is_left(tmp_path: Path) -> None:
    log = log_in(tmp_path)
    # character 2000 is the last of HUNTER2
    text = "x" * 1968 + "s3://user:HUNTER2pass@bucket/key"
    with pytest.raises(ValueError, match="HUNTER2"), log.command({}):
        raise ValueError(text)
    (told,) = events_of(tmp_path)
    assert told[-1]["error"] == ("ValueError: " + "x" * 1968 + "s3://bucket/key")[:2000]


def test_what_another_driver_committed_is_not_counted_as_ours(tmp_path: Path) -> None:
    log = log_in(tmp_path)
    with log.command({}):
        log.shard(committed(0, failures=3))
        for number in (1, 2):
            log.shard(replace(committed(number, failures=5), attempt=0))
    (told,) = events_of(tmp_path)
    check_described(told)
    (sums,) = [event for event in told if event["event"] == "shards"]
    counts = {name: value for name, value in sums.items() if name not in ("time", "event")}
    assert counts == {"shards": 1, "images": 100, "failed": 3, "seconds": 2.0, "by_others": 2}
    assert [event["shard"] for event in told if event["event"] == "failed"] == [0, 0, 0]


def test_what_a_store_refuses_is_written_once_it_takes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("simsam_batch.telling.events.SECONDS_BETWEEN", 0.05)
    monkeypatch.setattr("simsam_batch.telling.events._HELD", 6)
    (tmp_path / "events").write_text("in the way")
    log = log_in(tmp_path)

    def wait_until(reached: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 20
        while not reached():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    with log.command({}):
        for number in range(20):
            log.shard(committed(number, failures=20))
        wait_until(lambda: "could not be written" in caplog.text)
        # of the second object: two of ten errors have no room beside the sums before each
        for number in range(10):
            log.shard(committed(100 + number))
            log.shard(ShardReport(200 + number, 1, "error", error="no answer"))
        (tmp_path / "events").unlink()
        wait_until((tmp_path / "events").is_dir)
    (told,) = events_of(tmp_path)
    check_described(told)
    counts = Counter(event["event"] for event in told)
    assert (counts["begun"], counts["failed"], counts["ended"]) == (1, FAILURES_SHOWN, 1)
    sums = [event for event in told if event["event"] == "shards"]
    assert sum(event["images"] for event in sums) == 30 * 100
    left_out = [event for event in told if event["event"] == "left out"]
    assert sum(event["failed_images"] for event in left_out) == 20 * 20 - FAILURES_SHOWN
    assert counts["retry"] + sum(event["events"] for event in left_out) == 10
    assert counts["retry"] < 10


def test_a_store_that_hangs_holds_an_interrupted_run_up_for_two_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()
    monkeypatch.setattr(Folder, "replace", lambda *_: released.wait(30))
    log = log_in(tmp_path)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt), log.command({}):
        raise KeyboardInterrupt
    assert 1 < time.monotonic() - began < 6
    released.set()


def test_a_store_that_hangs_holds_the_run_up_for_seconds_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simsam_batch.telling.events._PATIENCE_S", 0.2)
    released = threading.Event()
    monkeypatch.setattr(Folder, "replace", lambda *_: released.wait(30))
    log = log_in(tmp_path)
    began = time.monotonic()
    with log.command({}):
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
