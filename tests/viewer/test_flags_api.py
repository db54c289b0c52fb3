"""Flags as the page gives and reads them, and what becomes of them on disk, on S3 and where nothing can be written."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from viewing import Client, Small, make_small_run, serving

from simsam_batch.results.flags import read_flags
from simsam_batch.storage import Folder
from simsam_batch.viewer import flags as viewer_flags
from simsam_batch.viewer.flags import Flags
from simsam_batch.viewer.session import Session

START = """
import sys
from simsam_batch.viewer import flags
flags.SECONDS_BETWEEN = 0.3
from simsam_batch.cli import main
main(["view", *sys.argv[1:]])
"""


@pytest.fixture(scope="module")
def flagging(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """A run of this module's own, for flags are written to it."""
    return make_small_run(tmp_path_factory.mktemp("flagging"))


@pytest.fixture(autouse=True)
def _without_flags(flagging: Small) -> Iterator[None]:
    yield
    place = flagging.out / "flags"
    if place.is_dir():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)


@pytest.fixture
def client(flagging: Small) -> Iterator[Client]:
    with serving(flagging.out, reviewer="ann") as client:
        yield client


def bad(rows: list[int], **more: Any) -> dict[str, Any]:
    return {"stage": "segment", "rows": rows, "verdict": "bad"} | more


def on_disk(out: Path | str) -> list[tuple[int, str, str]]:
    """Row, reviewer and verdict of every line of every file, sorted."""
    bodies = (Folder(str(out)).read(info.name) for info in Folder(str(out)).list("flags"))
    lines = [json.loads(line) for body in bodies for line in body.splitlines()]
    return sorted((each["row"], each["reviewer"], str(each["verdict"])) for each in lines)


def wait_for(true: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not true():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_what_is_flagged_is_told_at_once_and_lies_in_the_run_at_the_end(flagging: Small) -> None:
    with serving(flagging.out, reviewer="ann") as client:
        assert client.get("api/run").json()["flags"] == {
            "writable": True,
            "where": "OUT/flags",
            "why": "",
            "reviewer": "ann",
            "reasons": ["nothing there", "background", "part only", "several objects", "border", "wrong side", "other"],
            "damaged": 0,
        }
        said = bad([3, 5], reasons=["border", "other"], note="too low")
        assert client.post("api/flags", said).json() == {"flagged": 2}
        found = client.get("api/flags", stage="segment").json()["flags"]
        assert [(each["row"], each["id"], each["stale"]) for each in found] == [
            (3, flagging.names[3], False),
            (5, flagging.names[5], False),
        ]
        assert {name: found[0][name] for name in ("verdict", "reasons", "note", "reviewer")} == {
            "verdict": "bad",
            "reasons": ["border", "other"],
            "note": "too low",
            "reviewer": "ann",
        }
        assert client.post("api/flags", bad([5], verdict=None)).json() == {"flagged": 1}
        assert [each["row"] for each in client.get("api/flags", stage="segment").json()["flags"]] == [3]
    assert on_disk(flagging.out) == [(3, "ann", "bad"), (5, "ann", "None"), (5, "ann", "bad")]


def test_tables_of_flags_compute_nothing_in_a_spreadsheet(client: Client, flagging: Small) -> None:
    formula = flagging.names.index("' onfocus=alert(3) autofocus '.png")
    client.post("api/flags", bad([formula], note="=1+1", reasons=["border", "other"]))
    table = client.get("api/flags.csv")
    [row] = csv.DictReader(io.StringIO(table.text))
    assert (row["image_id"], row["note"]) == ("'" + flagging.names[formula], "'=1+1")
    assert (row["row"], row["reasons"], row["stale"]) == (str(formula), "border, other", "false")
    [line] = client.get("api/flags.jsonl").text.splitlines()
    [parquet] = pq.read_table(pa.BufferReader(client.get("api/flags.parquet", stage="segment").body)).to_pylist()
    assert json.loads(line) == parquet
    assert (parquet["image_id"], parquet["note"]) == (flagging.names[formula], "=1+1")
    assert table.headers["content-disposition"] == 'attachment; filename="flags.csv"'


@pytest.mark.parametrize(
    "wrong",
    [
        bad([]),
        bad([12]),
        bad([-1]),
        bad([True]),
        bad(["3.5"]),
        bad([0] * 10_001),
        bad([0], verdict="awful"),
        bad([0], reasons=["because"]),
        bad([0], reasons="border"),
        bad([0], note="x" * 2001),
        bad([0], note=7),
        bad([0], run="c"),
        bad([0], stage=["segment"]),
        ["no object"],
    ],
    ids=lambda wrong: str(wrong)[-30:],
)
def test_what_cannot_be_flagged_is_refused_with_words(client: Client, wrong: Any) -> None:
    refused = client.post("api/flags", wrong)
    assert refused.status == 400
    assert refused.json()["error"]
    assert client.get("api/flags").json() == {"flags": [], "total": 0}


def test_half_a_letter_in_a_note_hinders_nothing(client: Client) -> None:
    assert client.post("api/flags", bad([1], note="a\ud800b")).json() == {"flagged": 1}
    for kind in ("csv", "jsonl", "parquet"):
        assert client.get(f"api/flags.{kind}").status == 200


def test_a_failed_image_can_be_flagged_and_an_unknown_stage_cannot(client: Client, flagging: Small) -> None:
    assert client.post("api/flags", bad([flagging.failed])).json() == {"flagged": 1}
    assert client.post("api/flags", bad([0], stage="semantic")).status == 404


def test_a_reviewer_sees_the_own_word_and_else_the_latest(flagging: Small) -> None:
    out = Folder(str(flagging.out))
    lines = [
        {"time": 5.0, "reviewer": who, "stage": "segment", "row": row, "image_id": "", "verdict": verdict}
        for who, row, verdict in [("ann", 0, "good"), ("ben", 1, "unsure")]
    ]
    lines.append({**lines[0], "reviewer": "ben", "time": 6.0, "verdict": "bad"})
    out.replace("flags/x/000000.jsonl", b"".join(json.dumps(line).encode() + b"\n" for line in lines))
    seen = Flags(str(flagging.out), "ann").standing("segment")
    assert {row: flag.verdict for row, flag in seen.items()} == {0: "good", 1: "unsure"}


@contextmanager
def viewer(out: Path | str, *arguments: str, folder: Path | None = None) -> Iterator[tuple[Client, Any]]:
    """``simsam view`` as a process of its own that writes flags every .3 s, and a client of it."""
    process = subprocess.Popen(
        [sys.executable, "-c", START, str(out), *arguments], stdout=subprocess.PIPE, text=True, cwd=folder
    )
    try:
        assert process.stdout is not None
        link = process.stdout.readline().removeprefix("Open ").strip()
        client = Client(link, Session(str(out)), lines=[process.stdout.readline() for _ in range(2)])
        opened = client.ask("GET", link.removeprefix(client.base))
        client.cookie = opened.headers["set-cookie"].partition(";")[0]
        yield client, process
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def test_two_viewers_flag_at_once_and_a_killed_one_loses_the_last_seconds_alone(flagging: Small) -> None:
    out = flagging.out
    with viewer(out, "--reviewer", "ann") as (ann, process), viewer(out, "--reviewer", "ben") as (ben, other):
        for row in range(4):
            assert ann.post("api/flags", bad([row])).status == ben.post("api/flags", bad([row + 2])).status == 200
        expected = sorted(
            (row, who, "bad") for who, first in (("ann", 0), ("ben", 2)) for row in range(first, first + 4)
        )
        wait_for(lambda: on_disk(out) == expected)
        os.kill(process.pid, signal.SIGKILL)
        assert ben.post("api/flags", bad([11])).status == 200
        # as Ctrl-C: what is left is written before it ends
        other.send_signal(signal.SIGINT)
        assert other.wait(20) == 0
    assert on_disk(out) == [*expected, (11, "ben", "bad")]
    assert len({info.name.split("/")[1] for info in Folder(str(out)).list("flags")}) == 2


def test_a_viewer_sees_what_another_has_written(flagging: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = Flags(str(flagging.out), "ann"), Flags(str(flagging.out), "ben")
    stage = Session(str(flagging.out)).run().stage("segment")
    assert two.standing(stage) == {}
    one.add(stage, [7], "good")
    assert one.close() is None
    assert two.standing(stage) == {}, "it does not list at every question"
    before = two.version
    monkeypatch.setattr(viewer_flags, "_LOOK_AGAIN_S", 0.0)
    assert {row: flag.verdict for row, flag in two.standing(stage).items()} == {7: "good"}
    assert two.version != before


def test_what_the_storage_refused_is_written_later_under_its_name(
    flagging: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(viewer_flags, "SECONDS_BETWEEN", 0.1)
    flags, out = Flags(str(flagging.out), "ann"), flagging.out
    stage = Session(str(out)).run().stage("segment")
    flags.add(stage, [0], "bad")
    wait_for(lambda: len(on_disk(out)) == 1)
    # a file is in the way of the folder
    (out / "flags").rename(out / "aside")
    (out / "flags").write_text("")
    flags.add(stage, [1], "bad")
    wait_for(lambda: "tried again" in flags.about()["why"])
    flags.add(stage, [2], "good")
    (out / "flags").unlink()
    (out / "aside").rename(out / "flags")
    wait_for(lambda: len(on_disk(out)) == 3)
    assert flags.close() is None
    assert flags.about()["why"] == ""
    assert on_disk(out) == [(0, "ann", "bad"), (1, "ann", "bad"), (2, "ann", "good")]
    assert [info.name.split("/")[2] for info in Folder(str(out)).list("flags")] == [f"00000{n}.jsonl" for n in range(3)]


def test_what_the_storage_refuses_to_the_end_is_in_a_local_file(
    flagging: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    flags, out = Flags(str(flagging.out), "ann"), flagging.out
    flags.add(Session(str(out)).run().stage("segment"), [4], "bad")
    (out / "flags").write_text("")
    told = flags.close()
    (out / "flags").unlink()
    assert told is not None
    assert "flags-of-out.jsonl" in told
    found = read_flags(Folder(str(out)), "flags-of-out.jsonl")
    assert [(flag.row, flag.verdict) for flag in found.each()] == [(4, "bad")]


def test_a_run_that_cannot_be_written_is_flagged_in_a_local_file(flagging: Small, tmp_path: Path) -> None:
    (flagging.out / "flags").write_text("in the way")
    for again in (False, True):
        with viewer(flagging.out, folder=tmp_path) as (client, process):
            assert client.get("api/run").json()["flags"]["where"] == str(tmp_path / "flags-of-out.jsonl")
            assert process.stdout.readline().startswith("Flags: OUT cannot be written: ")
            assert len(client.get("api/flags").json()["flags"]) == int(again)
            client.post("api/flags", bad([6]))
            # killed at once: each line is on disk when it was said
            os.kill(process.pid, signal.SIGKILL)
    lines = [json.loads(line) for line in (tmp_path / "flags-of-out.jsonl").read_text().splitlines()]
    assert [(line["row"], line["run"]) for line in lines] == [(6, str(flagging.out))] * 2


def test_a_file_of_ones_own_takes_the_flags_and_a_torn_line_in_it_costs_none(flagging: Small, tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text('{"time": 1.0, "rev')
    with serving(flagging.out, reviewer="ann", flags=str(file)) as client:
        client.post("api/flags", bad([1]))
        about = client.get("api/run").json()["flags"]
        assert (about["where"], about["damaged"]) == (str(file), 1)
    assert [json.loads(line)["row"] for line in file.read_text().splitlines()[1:]] == [1]
    assert on_disk(flagging.out) == []


def test_a_place_for_flags_that_cannot_be_is_refused_at_the_start(flagging: Small, tmp_path: Path) -> None:
    from simsam_batch.cli import run

    assert run(["view", str(flagging.out), "--flags", str(tmp_path / "none" / "mine.jsonl")]) == 1
    assert run(["view", str(flagging.out), "--reviewer", " "]) == 1


def test_flags_on_object_storage_of_two_viewers_are_all_there(flagging: Small, s3_url: str) -> None:
    out = Folder(s3_url)
    for path in flagging.out.rglob("*"):
        if path.is_file():
            out.replace(path.relative_to(flagging.out).as_posix(), path.read_bytes())
    with serving(s3_url, reviewer="ann") as ann, serving(s3_url, reviewer="ben") as ben:
        assert ann.post("api/flags", bad([0, 1])).json() == {"flagged": 2}
        assert ben.post("api/flags", bad([1])).json() == {"flagged": 1}
        assert ann.get("api/flags").json()["flags"][0]["stale"] is False
    assert on_disk(s3_url) == [(0, "ann", "bad"), (1, "ann", "bad"), (1, "ben", "bad")]


def test_flags_of_the_second_run_lie_in_it(flagging: Small, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = make_small_run(tmp_path_factory.mktemp("second"))
    with serving(flagging.out, other.out, reviewer="ann") as client:
        assert client.post("api/flags", bad([2], run="b")).json() == {"flagged": 1}
        assert client.get("api/flags").json()["flags"] == []
        assert [each["row"] for each in client.get("api/flags", run="b").json()["flags"]] == [2]
    assert on_disk(flagging.out) == []
    assert on_disk(other.out) == [(2, "ann", "bad")]
