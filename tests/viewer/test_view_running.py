"""Runs that go on, are tried again, are damaged or vanish while they are looked at, on local disk and in a bucket."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from s3_server import S3Server
from viewing import Client, Small, make_small_run, serving
from whole import Whole

from simsam_batch import open_run
from simsam_batch.cli import run
from simsam_batch.storage import Folder
from simsam_batch.viewer import pictures
from simsam_batch.viewer.kept import Kept


def ids_of(client: Client, **query: Any) -> list[str]:
    """Of the images that are listed, once their columns have been read."""
    while True:
        answer = client.get("api/rows", stage="segment", limit=200, **query)
        assert answer.status == 200, answer.text
        if answer.json()["complete"]:
            return [row["id"] for row in answer.json()["rows"]]
        time.sleep(0.05)


@pytest.fixture
def half(small_run: Small, tmp_path: Path) -> Iterator[tuple[Client, Path, Path]]:
    """A run in progress of which the middle one of three shards is not committed, and where its manifest lies."""
    out = tmp_path / "out"
    shutil.copytree(small_run.out, out)
    shutil.rmtree(out / "results")
    manifests = sorted((out / "segment" / "manifests").iterdir())
    assert len(manifests) == 3
    aside = tmp_path / manifests[1].name
    manifests[1].rename(aside)
    with serving(out) as client:
        yield client, aside, manifests[1]


def test_of_a_run_in_progress_what_is_committed_is_shown(half: tuple[Client, Path, Path], small_run: Small) -> None:
    client, _, _ = half
    assert ids_of(client) == [*small_run.names[:5], *small_run.names[10:]]
    # rows keep their places in the plan
    rows = client.get("api/rows", stage="segment").json()["rows"]
    assert [row["row"] for row in rows] == [0, 1, 2, 3, 4, 10, 11]
    assert client.get("api/images/10", stage="segment").json()["id"] == small_run.names[10]
    assert client.get("api/images/7", stage="segment").status in (404, 409)
    status = client.get("api/status").json()["stages"]["segment"]
    assert (status["done"], status["pending"], status["newer_rows"]) == (7, 5, 0)
    assert not status["published"]


def test_what_is_committed_later_is_told_and_shown_when_asked_for(
    half: tuple[Client, Path, Path], small_run: Small
) -> None:
    client, aside, manifest = half
    before = ids_of(client)
    aside.rename(manifest)
    assert client.get("api/status").json()["stages"]["segment"]["newer_rows"] == 5
    # never by themselves: whoever judges images keeps his list
    assert ids_of(client) == before
    assert client.post("api/reopen").status == 200
    assert ids_of(client) == small_run.names
    assert client.get("api/status").json()["stages"]["segment"]["newer_rows"] == 0


def test_a_stage_that_begins_later_is_told_and_shown_when_asked_for(whole_run: Whole, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole_run.maps, out)
    shutil.move(out / "semantic", tmp_path / "semantic")
    shutil.move(out / "results" / "semantic.json", tmp_path / "semantic.json")
    with serving(out) as client:
        assert "semantic" not in [stage["name"] for stage in client.get("api/run").json()["stages"]]
        assert client.get("api/status").json()["new_stages"] == []
        shutil.move(tmp_path / "semantic", out / "semantic")
        assert client.get("api/status").json()["new_stages"] == ["semantic"]
        assert client.post("api/reopen").status == 200
        assert "semantic" in [stage["name"] for stage in client.get("api/run").json()["stages"]]
        assert client.get("api/rows", stage="semantic").json()["total"] == 6


def test_a_shard_that_vanishes_or_is_damaged_is_told_and_costs_no_other(small_run: Small, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(small_run.out, out)
    with serving(out) as client:
        assert client.get("api/images/0", stage="segment").status == 200
        files = sorted((out / "segment" / "data").glob("0000001*.parquet"))
        assert len(files) == 1
        files[0].write_bytes(files[0].read_bytes()[:-9] + b"123456789")
        answer = client.get("api/images/6", stage="segment")
        assert answer.status == 409
        assert "not what was committed" in answer.json()["error"]
        assert str(out) not in answer.text
        files[0].unlink()
        answer = client.get("api/images/8", stage="segment")
        assert answer.status in (404, 409, 503)
        assert "Traceback" not in answer.text
        assert client.get("images/6.jpg", stage="segment", side=256).status in (404, 409, 503)
        assert client.get("api/images/11", stage="segment").status == 200
        assert len(ids_of(client)) == 12


def test_an_image_that_has_changed_or_gone_is_never_shown_as_another_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = make_small_run(tmp_path)
    # servers of one process share photographs by their content, and other tests have the same ones
    monkeypatch.setattr(pictures, "_PHOTOGRAPHS", Kept(2**20, lambda picture: picture.width * picture.height * 3))
    changed, gone = small.names.index("val/z.png"), small.names.index("val/plain2.png")
    shutil.copy(small.photos / "train/plain.png", small.photos / "val/z.png")
    (small.photos / "val/plain2.png").unlink()
    with serving(small.out) as client:
        for row in (changed, gone):
            answer = client.get(f"images/{row}.jpg", stage="segment", side=640, overlay="mask")
            assert answer.status in (404, 409)
            assert "error" in answer.json()
            assert str(small.photos) not in answer.text
            # what the run holds is still there
            assert client.get(f"layers/segment/{row}/mask").status == 200


def test_what_retry_replaced_is_shown_after_asking(tmp_path: Path) -> None:
    small = make_small_run(tmp_path)
    with serving(small.out) as client:
        assert client.get(f"images/{small.failed}.jpg", stage="segment", side=256).status in (404, 409)
        shutil.copy(small.photos / "val/z.png", small.photos / small.names[small.failed])
        assert run(["retry", str(small.out), "--engine", "inline", "--quiet"]) == 0
        assert client.post("api/reopen").status == 200
        assert ids_of(client, q="status:failed") == []
        assert client.get(f"images/{small.failed}.jpg", stage="segment", side=256).status == 200


@pytest.fixture
def in_bucket(small_run: Small, s3_url: str) -> str:
    """The small run's folder as it is, in a bucket."""
    there = Folder(f"{s3_url}/out")
    for path in sorted(small_run.out.rglob("*")):
        if path.is_file():
            there.replace(path.relative_to(small_run.out).as_posix(), path.read_bytes())
    return f"{s3_url}/out"


_ASKED = ["api/run", "api/status", "api/rows?stage=segment&q=status:ok&sort=confidence", "api/facets?stage=segment"]
_ASKED += [
    "api/images/3?stage=segment",
    "images/3.jpg?stage=segment&side=256&overlay=mask",
    "api/list.txt?stage=segment",
]
_ASKED += ["layers/segment/3/mask", "layers/segment/3/eigenvectors", "layers/segment/3/truth"]


def test_from_a_bucket_all_is_as_from_local_disk(
    in_bucket: str, served: Callable[..., Client], small_run: Small
) -> None:
    local = served(small_run.out)
    with serving(in_bucket) as client:
        for path in _ASKED:
            here, there = local.get(path), client.get(path)
            assert (here.status, there.status) == (200, 200), (path, here.text, there.text)
            if path in ("api/run", "api/status") or path.startswith(("api/rows", "api/facets")):
                continue
            assert here.body == there.body, path
        assert ids_of(client, q="status:ok", sort="confidence") == ids_of(local, q="status:ok", sort="confidence")


@pytest.mark.slow
def test_storage_that_stops_answering_is_said_within_seconds_and_nothing_else_stops(
    in_bucket: str, moto_server: S3Server
) -> None:
    # as people start it: the process knows that somebody waits
    view = open_run(in_bucket).view()
    try:
        client = Client(view.url, None)
        client.open()
        ids = ids_of(client, q="status:ok")
        moto_server.fault = lambda method, path: "refuse"
        began = time.monotonic()
        answer = client.get("api/images/3", stage="segment")
        assert time.monotonic() - began < 20
        assert answer.status == 503
        assert "storage did not answer" in answer.json()["error"]
        # what is in memory is still answered
        assert ids_of(client, q="status:ok") == ids
        moto_server.heal()
        assert client.get("api/images/3", stage="segment").status == 200
    finally:
        moto_server.heal()
        view.close()
