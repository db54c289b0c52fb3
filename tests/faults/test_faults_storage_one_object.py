"""One object that cannot be had costs its own row; a storage that gives nothing stops the run and says why."""

from __future__ import annotations

import ctypes
import errno
import io
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from web_server import WebServer, loop, silent

from simsam_batch.cli import run
from simsam_batch.runs.plan import make_plan
from simsam_batch.storage import Folder, web
from simsam_batch.workers.others import Others

SETTINGS = ["--backbone", "descriptors", "--resize", "native", "--head", "none", "--k", "4"]
INLINE = [*SETTINGS, "--engine", "inline"]


def picture(seed: int = 0) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def rows_of(out: Path) -> dict[str, dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(out / "results" / "segment").to_pylist()
    return {row["image_id"]: row for row in rows}


def kinds(out: Path) -> dict[str, str | None]:
    return {name: row["error_type"] for name, row in rows_of(out).items()}


def listed(folder: Path, lines: list[str]) -> str:
    (folder / "list.txt").write_text("\n".join(lines))
    return str(folder / "list.txt")


REFUSED = (400, 401, 403, 405, 418, 451)
MALFORMED = ("nosuch://place/a.png", "http://[bad/a.png", "http://h:port/a.png", "simplecache::s3://bucket/a.png")


@pytest.mark.slow
@pytest.mark.parametrize("shard_size", ["100", "1"])
def test_each_answer_about_one_object_is_a_failed_row_and_is_tried_again(
    server: WebServer, tmp_path: Path, shard_size: str
) -> None:
    good = [server.put(f"/ok-{number}.png", picture(number)) for number in range(3)]
    refused = [server.put(f"/{code}.png", code) for code in REFUSED] + [server.put("/loop.png", loop)]
    gone = [server.put("/404.png", 404), server.put("/410.png", 410), "gone.png"]
    out = tmp_path / "out"
    images = listed(tmp_path, [*refused, *MALFORMED, *gone, *good])
    assert run(["segment", images, str(out), *INLINE, "--shard-size", shard_size]) == 3
    expected = (
        dict.fromkeys(good) | dict.fromkeys([*refused, *MALFORMED], "unreadable") | dict.fromkeys(gone, "not_found")
    )
    assert kinds(out) == expected
    for url, code in zip(refused, REFUSED, strict=False):
        assert f"{code}" in rows_of(out)[url]["error"]
    for url in (*refused, *gone[:2]):
        server.put(url.removeprefix(server.url), picture())
    assert run(["retry", str(out), "--engine", "inline"]) == 3
    healed = dict.fromkeys([*good, *refused, *gone[:2]]) | dict.fromkeys(MALFORMED, "unreadable")
    assert kinds(out) == healed | {gone[2]: "not_found"}


def test_if_every_object_is_refused_the_run_stops_with_the_reason(
    server: WebServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = listed(tmp_path, [server.put(f"/{number}.png", 403) for number in range(40)])
    out = tmp_path / "out"
    assert run(["segment", images, str(out), *INLINE, "--shard-size", "8"]) == 1
    told = capsys.readouterr().err
    assert "Forbidden" in told
    assert "check that the permissions or credentials allow it; nor is another file of this run given" in told
    assert not (out / "results").exists()
    # one round over five shards: each asks for the images that its threads begin with, and for a sample
    assert len(server.asked) < 1000
    for number in range(39):
        server.put(f"/{number}.png", picture(number))
    assert run(["segment", images, str(out), *INLINE, "--shard-size", "8"]) == 3
    assert list(kinds(out).values()) == [None] * 39 + ["unreadable"]


def test_the_first_shards_decide_whether_everything_is_refused(
    server: WebServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = listed(tmp_path, [server.put(f"/{number}.png", 403) for number in range(100)])
    assert run(["segment", images, str(tmp_path / "out"), *INLINE, "--shard-size", "1"]) == 1
    assert "100 shard(s) could not be committed in 1 round(s)" in capsys.readouterr().err
    # twenty of them, and what was begun meanwhile
    starts = {path.name.removesuffix(".storage-error") for path in (tmp_path / "out/segment/attempts").iterdir()}
    assert len(starts) < 40


def test_a_shard_of_refused_objects_alone_is_done_when_others_are_given(server: WebServer, tmp_path: Path) -> None:
    bad = [server.put(f"/a/{number}.png", 403) for number in range(4)]
    good = [server.put(f"/b/{number}.png", picture(number)) for number in range(4)]
    out = tmp_path / "out"
    assert run(["segment", listed(tmp_path, [*bad, *good]), str(out), *INLINE, "--shard-size", "4"]) == 3
    assert kinds(out) == dict.fromkeys(bad, "unreadable") | dict.fromkeys(good)


def test_a_server_that_fails_over_one_object_for_good_costs_one_row(server: WebServer, tmp_path: Path) -> None:
    bad, good = server.put("/a.png", 500), server.put("/b.png", picture())
    assert run(["segment", listed(tmp_path, [bad, good]), str(tmp_path / "out"), *INLINE]) == 3
    assert kinds(tmp_path / "out") == {bad: "unreadable", good: None}
    # by the estimate of the output's size once, then by the worker, and by that again when the other was given
    assert server.asked.count("/a.png") == 1 + 7 + 7


@pytest.mark.slow
def test_a_server_that_fails_over_everything_is_waited_for(server: WebServer, tmp_path: Path) -> None:
    urls = [server.put(f"/{number}.png", 503) for number in range(4)]
    code = run(["segment", listed(tmp_path, urls), str(tmp_path / "out"), *INLINE, "--starts-before-quarantine", "1"])
    assert code == 1
    assert not (tmp_path / "out" / "results").exists()
    # three rounds, in which each object that was asked for was asked for seven times
    assert server.asked.count("/0.png") >= 3 * 7


def test_hosts_that_never_answer_cost_a_bounded_time(
    server: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    monkeypatch.setattr(web, "_NEXT_BYTES_S", 0.2)
    monkeypatch.setattr(web, "_SILENT_S", 0.5)
    other = WebServer()
    bad = [server.put(f"/{number}.png", silent) for number in range(60)]
    good = [other.put(f"/{number}.png", picture(number)) for number in range(4)]
    began = time.monotonic()
    assert run(["segment", listed(tmp_path, [*bad, *good]), str(tmp_path / "out"), *INLINE]) == 3
    other.stop()
    assert kinds(tmp_path / "out") == dict.fromkeys(bad, "unreadable") | dict.fromkeys(good)
    # 60 images that wait for seven answers of 0.2 s twice, in two threads: 84 s
    assert time.monotonic() - began < 40


@pytest.mark.parametrize("number", [errno.EIO, errno.EBADMSG])
def test_a_bad_sector_under_one_file_is_a_failed_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for name in ("a", "b", "c"):
        (folder / f"{name}.png").write_bytes(picture())
    real = io.open

    def spoiled(file: Any, *args: Any, **kwargs: Any) -> Any:
        if str(file) == str(folder / "b.png"):
            raise OSError(number, os.strerror(number), str(file))
        return real(file, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(io, "open", spoiled)
        assert run(["segment", str(folder), str(tmp_path / "out"), *INLINE]) == 3
    row = rows_of(tmp_path / "out")["b.png"]
    assert (row["error_type"], row["failed_step"]) == ("unreadable", "read")
    assert os.strerror(number) in row["error"]
    assert kinds(tmp_path / "out") == {"a.png": None, "b.png": "unreadable", "c.png": None}
    assert run(["retry", str(tmp_path / "out"), "--engine", "inline"]) == 0


def _as_one_who_may_not_read_everything() -> None:
    """Let root be held to the permissions of files from the next program on, as everybody else is."""
    drop_from_bounding_set, override, read_search = 24, 1, 2
    libc = ctypes.CDLL(None)
    for capability in (override, read_search):
        libc.prctl(drop_from_bounding_set, capability, 0, 0, 0)


@pytest.mark.slow
def test_a_file_that_may_not_be_read_is_a_failed_row(tmp_path: Path) -> None:
    images, out = tmp_path / "images", tmp_path / "out"
    images.mkdir()
    for name in ("a", "b", "c"):
        (images / f"{name}.png").write_bytes(picture())
    (images / "b.png").chmod(0o000)
    options: dict[str, Any] = {"capture_output": True, "text": True, "timeout": 300}
    options["preexec_fn"] = _as_one_who_may_not_read_everything
    if subprocess.run(["cat", str(images / "b.png")], check=False, **options).returncode == 0:
        pytest.skip("this user may read everything, and cannot lay that down")
    command = [sys.executable, "-m", "simsam_batch", "segment", str(images), str(out), *INLINE]
    done = subprocess.run(command, check=False, **options)
    assert done.returncode == 3, done.stderr
    assert kinds(out) == {"a.png": None, "b.png": "unreadable", "c.png": None}
    assert "check that the permissions or credentials allow it" in rows_of(out)["b.png"]["error"]


def test_a_key_that_is_denied_is_a_failed_row(request: pytest.FixtureRequest, s3_url: str, tmp_path: Path) -> None:
    if os.environ.get("SIMSAM_TEST_S3_URL"):
        pytest.skip("the faults are injected into the moto server")
    server = request.getfixturevalue("moto_server")
    for name in ("a", "b", "c"):
        Folder(s3_url).create(f"{name}.png", picture())
    server.fault = lambda method, path: "deny" if path.endswith("/b.png") else ""
    try:
        assert run(["segment", s3_url, str(tmp_path / "out"), *INLINE]) == 3
        assert kinds(tmp_path / "out") == {"a.png": None, "b.png": "unreadable", "c.png": None}
        assert "AccessDenied" in rows_of(tmp_path / "out")["b.png"]["error"] or "PermissionError" in str(
            rows_of(tmp_path / "out")["b.png"]["error"]
        )
        # what the credentials no longer open stops the run, however much was read before
        server.fault = lambda method, path: "deny" if path.endswith(".png") else ""
        code = run(["segment", s3_url, str(tmp_path / "other"), *INLINE])
        assert code == 1
    finally:
        server.heal()
    assert run(["retry", str(tmp_path / "out"), "--engine", "inline"]) == 0


def test_truth_that_is_refused_fails_its_image_and_all_of_it_the_run(server: WebServer, tmp_path: Path) -> None:
    images = [server.put(f"/{number}.png", picture(number)) for number in range(3)]
    mask = io.BytesIO()
    Image.fromarray(np.eye(32, dtype=np.uint8) * 255).save(mask, "PNG")
    truth = [server.put(f"/truth/{number}.png", mask.getvalue()) for number in range(3)]
    server.put("/truth/1.png", 403)
    pq.write_table(pa.table({"uri": images, "truth_uri": truth}), tmp_path / "table.parquet")
    assert run(["segment", str(tmp_path / "table.parquet"), str(tmp_path / "out"), *INLINE]) == 3
    assert list(kinds(tmp_path / "out").values()) == [None, "unreadable", None]
    assert truth[1] in rows_of(tmp_path / "out")[images[1]]["error"]
    for number in range(3):
        server.put(f"/truth/{number}.png", 403)
    assert run(["segment", str(tmp_path / "table.parquet"), str(tmp_path / "other"), *INLINE]) == 1


@pytest.mark.slow
def test_what_others_are_asked_for_is_spread_over_the_plan(server: WebServer, tmp_path: Path) -> None:
    uris = [server.put(f"/{number}.png", 403) for number in range(160)]
    plan = make_plan(Folder(str(tmp_path)), pa.table({"image_id": uris, "uri": uris}), shard_size=10, source={})
    others = Others(plan)
    assert not others.are_given("uri", "http://another/a.png")
    # eight of each eighth of the plan
    eighths = [int(path[1:].removesuffix(".png")) // 20 for path in server.asked]
    assert Counter(eighths) == dict.fromkeys(range(8), 8)
    good = server.put(server.asked[3], picture())
    while not others.are_given("uri", "http://another/a.png"):
        assert len(server.asked) < 10_000
    # what had been begun beside it ends first
    time.sleep(1)
    # the one that was given is asked for first from then on
    server.asked.clear()
    assert others.are_given("uri", "http://another/a.png")
    assert server.asked == [good.removeprefix(server.url)]
    server.put(server.asked[0], 403)
    assert not others.are_given("uri", "http://another/a.png")


def test_other_hosts_are_asked_where_there_are_some(tmp_path: Path) -> None:
    dead, live = WebServer(), WebServer()
    uris = [dead.put(f"/{number}.png", 503) for number in range(63)] + [live.put("/a.png", picture())]
    plan = make_plan(Folder(str(tmp_path)), pa.table({"image_id": uris, "uri": uris}), shard_size=8, source={})
    assert Others(plan).are_given("uri", uris[0])
    assert len(dead.asked) < 16
    dead.stop()
    live.stop()


def test_those_that_are_silent_are_not_waited_for(tmp_path: Path) -> None:
    dead, live = WebServer(), WebServer()
    uris = [dead.put(f"/{number}.png", silent) for number in range(7)] + [live.put("/a.png", picture())]
    plan = make_plan(Folder(str(tmp_path)), pa.table({"image_id": uris, "uri": uris}), shard_size=8, source={})
    began = time.monotonic()
    assert Others(plan).are_given("uri", uris[0])
    # a host that is silent is given up after 30 s
    assert time.monotonic() - began < 15
    dead.stop()
    live.stop()


def test_an_image_alone_in_its_run_has_no_others(tmp_path: Path) -> None:
    plan = make_plan(Folder(str(tmp_path)), pa.table({"image_id": ["a"], "uri": ["/a"]}), shard_size=10, source={})
    assert not Others(plan).are_given("uri", "/a")
    assert not Others(None).are_given("uri", "/a")


def test_missing_images_are_not_found_as_ever_even_if_all_are(tmp_path: Path, s3_url: str) -> None:
    lines = ["gone.png", f"{s3_url}/gone.png", "s3://no-such-bucket-of-ours/a.png"]
    assert run(["segment", listed(tmp_path, lines), str(tmp_path / "out"), *INLINE]) == 3
    assert kinds(tmp_path / "out") == dict.fromkeys(lines, "not_found")
