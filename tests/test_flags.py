"""What people said of rows: whose word counts, when it is out of date, and what is handed on by it."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import simsam_batch
from simsam_batch import operations
from simsam_batch.cli import run
from simsam_batch.errors import SettingsError
from simsam_batch.results.flags import Flags, read_flags
from simsam_batch.storage import Folder

NAMES = [f"{letter}.png" for letter in "abcdef"]
FAILS = "d.png"
ARGUMENTS = ["--backbone", "descriptors", "--resize", "native", "--engine", "inline", "--quiet", "--shard-size", "2"]


def line(**values: Any) -> dict[str, Any]:
    """A flag as a viewer writes it."""
    about = {"time": 1.0, "reviewer": "ann", "stage": "segment", "row": 0, "image_id": "a.png", "content_digest": None}
    return about | {"verdict": "bad", "reasons": [], "note": ""} | values


def lines(*flags: dict[str, Any]) -> bytes:
    return "".join(json.dumps(flag) + "\n" for flag in flags).encode()


def make_run(top: Path) -> Path:
    photos = top / "photos"
    photos.mkdir()
    for seed, name in enumerate(NAMES):
        pixels = np.full((96, 128, 3), 170, np.uint8) + np.random.default_rng(seed).integers(0, 20, (96, 128, 3))
        pixels[20 + 3 * seed : 60 + 3 * seed, 30:80] = (200, 40, 30)
        Image.fromarray(pixels.astype(np.uint8)).save(photos / name)
    (photos / FAILS).rename(top / FAILS)
    (photos / FAILS).write_text("no image, " * 40)
    out = top / "out"
    assert run(["segment", str(photos), str(out), *ARGUMENTS, "--allow-failed", "1"]) == 0
    return out


@pytest.fixture(scope="module")
def flagged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of six images, the fourth failed: rows 1 and 3 are bad by ann, 4 by ben, and 2 no more."""
    out = make_run(tmp_path_factory.mktemp("flags"))
    said = [line(row=row, image_id=NAMES[row]) for row in (1, 2, 3)]
    Folder(str(out)).replace("flags/one/000000.jsonl", lines(*said, line(row=0, verdict="good")))
    taken_back = line(row=2, image_id=NAMES[2], time=2.0, verdict=None)
    Folder(str(out)).replace("flags/one/000001.jsonl", lines(taken_back))
    Folder(str(out)).replace("flags/two/000000.jsonl", lines(line(row=4, image_id=NAMES[4], reviewer="ben")))
    return out


def test_a_reviewers_last_word_counts_and_reviewers_stand_side_by_side() -> None:
    flags = Flags()
    # files may be read in any order
    flags.add_lines(lines(line(time=3.0, verdict="good"), line(time=2.0), line(reviewer="ben", time=2.5)))
    assert [(flag.reviewer, flag.verdict) for flag in flags.each()] == [("ben", "bad"), ("ann", "good")]
    assert flags.standing("segment")[0].reviewer == "ann"
    assert flags.standing("segment", "ben")[0].verdict == "bad"
    assert flags.standing("semantic") == {}


def test_null_takes_back_ones_own_word_alone() -> None:
    flags = Flags()
    flags.add_lines(lines(line(), line(reviewer="ben"), line(time=2.0, verdict=None)))
    assert [flag.reviewer for flag in flags.each("segment")] == ["ben"]


@pytest.mark.parametrize(
    "damage",
    [
        b'{"time": 1.0, "reviewer": "a',
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 100_000,
        *(json.dumps(line(**{name: value})).encode() for name, value in {"row": -1, "time": "noon"}.items()),
        json.dumps(line(verdict="awful")).encode(),
        json.dumps(line(row=True)).encode(),
        json.dumps({"row": 1}).encode(),
    ],
    ids=lambda damage: damage[:12].decode("latin-1"),
)
def test_a_damaged_line_is_counted_and_costs_no_other(damage: bytes) -> None:
    flags = Flags()
    flags.add_lines(lines(line(row=1)) + damage + b"\n" + lines(line(row=2)))
    assert flags.damaged == 1
    assert sorted(flags.standing("segment")) == [1, 2]


def test_what_a_later_release_writes_besides_is_passed_over() -> None:
    flags = Flags()
    flags.add_lines(lines(line(colour="red", reasons=["a reason of the future"])))
    assert flags.damaged == 0
    assert flags.standing("segment")[0].reasons == ("a reason of the future",)


def test_flags_are_read_from_any_storage(out_url: str) -> None:
    out = Folder(out_url)
    out.replace("flags/one/000000.jsonl", lines(line(row=1)))
    out.replace("flags/two/000000.jsonl", lines(line(row=2, reviewer="ben")))
    assert [(flag.row, flag.reviewer) for flag in read_flags(out).each()] == [(1, "ann"), (2, "ben")]


def test_a_local_file_says_nothing_of_other_runs(flagged: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_bytes(lines(line(row=5, run=str(flagged)), line(row=0, time=9.0, run="/another/run")))
    found = simsam_batch.open_run(str(flagged)).flags("segment", file=str(file)).to_pylist()
    assert [(each["row"], each["verdict"]) for each in found] == [
        (0, "good"),
        (1, "bad"),
        (3, "bad"),
        (4, "bad"),
        (5, "bad"),
    ]
    with pytest.raises(SettingsError, match="there is no file"):
        simsam_batch.open_run(str(flagged)).flags(file=str(tmp_path / "none.jsonl"))


def masks(to: Path) -> list[str]:
    with (to / "index.csv").open(newline="") as file:
        return [each["image_id"] for each in csv.DictReader(file)]


def test_an_export_takes_the_flagged_or_the_others(flagged: Path, tmp_path: Path) -> None:
    bad, rest = tmp_path / "bad", tmp_path / "rest"
    arguments = ["export", str(flagged), "--format", "png"]
    # one of the flagged images failed
    assert run([*arguments, "--to", str(bad), "--flagged", "bad"]) == 0
    assert run([*arguments, "--to", str(rest), "--not-flagged", "bad"]) == 0
    assert masks(bad) == ["b.png", "d.png", "e.png"]
    assert masks(rest) == ["a.png", "c.png", "f.png"]
    assert sorted(path.name for path in (bad / "masks").iterdir()) == ["b.png", "e.png"]
    record = json.loads((bad / "export.json").read_bytes())
    assert {name: record[name] for name in ("flagged", "not_flagged", "stale_flags", "images", "ok", "failed")} == {
        "flagged": ["bad"],
        "not_flagged": None,
        "stale_flags": 0,
        "images": 3,
        "ok": 2,
        "failed": 1,
    }


def test_every_format_takes_the_flagged_alone_with_the_masks_of_their_rows(flagged: Path, tmp_path: Path) -> None:
    for name in ("coco", "hf", "webdataset", "yolo", "png", "pth"):
        done = operations.export(str(flagged), str(tmp_path / name), format=name, flagged=["bad"])
        assert (done["images"], done["ok"]) == (3, 2), name
    masks_of = dict(simsam_batch.open_run(str(flagged)).masks())
    coco = json.loads((tmp_path / "coco" / "instances.json").read_bytes())
    in_coco = {each["id"]: each["file_name"] for each in coco["images"]}
    areas = {in_coco[each["image_id"]]: each["area"] for each in coco["annotations"]}
    assert areas == {name: masks_of[name].sum() for name in ("b.png", "e.png")}
    hugging = pq.read_table(tmp_path / "hf" / "data")
    assert hugging["image_id"].to_pylist() == ["b.png", "e.png"]
    assert sorted(path.name for path in (tmp_path / "yolo" / "images").rglob("*.png")) == ["b.png", "e.png"]


def test_limit_counts_the_chosen(flagged: Path, tmp_path: Path) -> None:
    done = operations.export(str(flagged), str(tmp_path / "to"), format="png", not_flagged=["bad", "good"], limit=1)
    assert masks(tmp_path / "to") == ["c.png"]
    assert done["images"] == 1


def test_an_export_of_others_is_not_written_over(flagged: Path, tmp_path: Path) -> None:
    to = str(tmp_path / "to")
    operations.export(str(flagged), to, format="png", flagged=["bad"])
    operations.export(str(flagged), to, format="png", flagged=["bad"])
    for other in ({}, {"flagged": ["good"]}, {"not_flagged": ["bad"]}):
        with pytest.raises(SettingsError, match="something else"):
            operations.export(str(flagged), to, format="png", **other)


def test_nothing_flagged_is_told_with_what_to_do(flagged: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"is flagged unsure.*stages with flags: segment.*To mend it"):
        operations.export(str(flagged), str(tmp_path / "to"), format="png", flagged=["unsure"])
    with pytest.raises(SettingsError, match=r"flagged: 'awful' is not allowed; it is bad \| good \| unsure"):
        operations.export(str(flagged), str(tmp_path / "to"), format="png", flagged=["awful"])
    with pytest.raises(SettingsError, match="nothing is chosen by them"):
        operations.export(str(flagged), str(tmp_path / "to"), format="png", flags="mine.jsonl")
    assert not (tmp_path / "to").exists()


def test_a_list_of_ids_and_uris_is_images_of_another_run(flagged: Path, tmp_path: Path) -> None:
    rows = simsam_batch.open_run(str(flagged)).rows("segment").take([4, 1], ["image_id", "uri"])
    pq.write_table(rows, tmp_path / "list.parquet")
    assert run(["segment", str(tmp_path / "list.parquet"), str(tmp_path / "out"), *ARGUMENTS]) == 0
    again = simsam_batch.open_run(str(tmp_path / "out"))
    assert sorted(again.rows("segment").take([0, 1], ["image_id"])["image_id"].to_pylist()) == ["b.png", "e.png"]


@pytest.fixture(scope="module")
def retried(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose failed fourth image, flagged like its neighbour, has come back since."""
    from simsam_batch.viewer.flags import Flags as Viewer
    from simsam_batch.viewer.session import Session

    top = tmp_path_factory.mktemp("retried")
    out = make_run(top)
    viewer = Viewer(str(out), "ann")
    assert viewer.add(Session(str(out)).run().stage("segment"), [2, 3], "bad") == 2
    assert viewer.close() is None
    (top / FAILS).replace(top / "photos" / FAILS)
    assert run(["retry", str(out), "--engine", "inline"]) == 0
    return out


def test_a_flag_is_stale_when_what_it_judged_was_replaced(retried: Path) -> None:
    found = simsam_batch.open_run(str(retried)).flags().to_pylist()
    assert [(each["image_id"], each["stale"]) for each in found] == [("c.png", False), ("d.png", True)]


def test_a_stale_flag_chooses_nothing(retried: Path, tmp_path: Path) -> None:
    done = operations.export(str(retried), str(tmp_path / "to"), format="png", flagged=["bad"])
    assert masks(tmp_path / "to") == ["c.png"]
    assert done["stale_flags"] == 1


@pytest.fixture
def answers() -> Iterator[Any]:
    """The status of a link's answer; None once nobody listens."""

    def status(link: str) -> int | None:
        parts = urlsplit(link)
        connection = HTTPConnection(parts.netloc, timeout=20)
        try:
            connection.request("GET", f"{parts.path}?{parts.query}")
            return connection.getresponse().status
        except ConnectionError:
            return None
        finally:
            connection.close()

    return status


def test_a_run_is_looked_at_from_a_notebook_by_a_link(flagged: Path, answers: Any) -> None:
    opened = simsam_batch.open_run(str(flagged))
    view = opened.view(reviewer="<b>ann", allow_host=["proxy.example"])
    try:
        assert answers(view.url) == 303
        shown = view._repr_html_()
        assert f'href="{view.url}"' in shown
        assert "<iframe" not in shown
        assert str(flagged) in repr(view)
    finally:
        view.close()
    assert answers(view.url) is None
    assert "closed" in repr(view)
    assert "href" not in view._repr_html_()


def test_what_hinders_the_viewer_is_told_to_python(flagged: Path, tmp_path: Path) -> None:
    opened = simsam_batch.open_run(str(flagged))
    with pytest.raises(SettingsError, match=r"holds no run.*To mend it"):
        opened.view(str(tmp_path))
    with pytest.raises(SettingsError, match="No such option '--colour'"):
        opened.view(colour="red")


def test_the_viewer_ends_with_the_process_that_opened_it(flagged: Path, answers: Any) -> None:
    code = "import sys, time, simsam_batch as s; print(s.open_run(sys.argv[1]).view().url, flush=True); time.sleep(60)"
    parent = subprocess.Popen([sys.executable, "-c", code, str(flagged)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    link = parent.stdout.readline().strip()
    assert answers(link) == 303
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    until = time.monotonic() + 20
    while answers(link) is not None:
        assert time.monotonic() < until
        time.sleep(0.1)
