"""One row with its arrays: from its shard's file, beside what belongs to it, by few requests."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from viewing import Client, Small

from simsam_batch.errors import RunError
from simsam_batch.storage import Folder
from simsam_batch.viewer.answers import RefusedError
from simsam_batch.viewer.kept import Kept
from simsam_batch.viewer.payload import arrays_of, row_of
from simsam_batch.viewer.session import OpenedStage, Session


def segment(out: Path | str) -> OpenedStage:
    return Session(str(out)).run().stage("segment")


@pytest.fixture
def copied(small_run: Small, tmp_path: Path) -> Path:
    """The run, to be damaged."""
    return Path(shutil.copytree(small_run.out, tmp_path / "out"))


def test_a_row_is_that_of_the_published_table_with_its_arrays(small_run: Small) -> None:
    published = pq.read_table(small_run.out / "results" / "segment").to_pylist()
    stage = segment(small_run.out)
    for number, expected in enumerate(published):
        assert row_of(stage, number) == expected
        if expected["arrays_path"] is None:
            assert arrays_of(stage, number) == {}
            continue
        with np.load(small_run.out / expected["arrays_path"]) as archive:
            held = {name: archive[f"{expected['arrays_member']}.{name}"] for name in ("eigenvectors", "outside")}
        found = arrays_of(stage, number)
        assert {name: value.tobytes() for name, value in found.items()} == {
            name: value.tobytes() for name, value in held.items()
        }


def test_a_row_that_is_not_there_is_refused_in_words(small_run: Small) -> None:
    stage = segment(small_run.out)
    for number in (len(small_run.names), -1, 2**40):
        with pytest.raises(RefusedError, match="row") as refused:
            row_of(stage, number)
        assert refused.value.status == 404


def test_a_row_that_is_not_committed_yet_is_refused_until_the_run_is_opened_anew(copied: Path) -> None:
    shutil.rmtree(copied / "results")
    manifest = copied / "segment" / "manifests" / "0000001.0.json"
    held = manifest.read_bytes()
    manifest.unlink()
    session = Session(str(copied))
    assert row_of(session.run().stage("segment"), 11)["status"] == "ok"
    with pytest.raises(RefusedError, match="not committed yet"):
        row_of(session.run().stage("segment"), 6)
    manifest.write_bytes(held)
    with pytest.raises(RefusedError, match="not committed yet"):
        row_of(session.run().stage("segment"), 6)
    session.reopen()
    assert row_of(session.run().stage("segment"), 6)["status"] == "ok"


def data_file(out: Path, shard: int, suffix: str) -> Path:
    (found,) = (out / "segment" / "data").glob(f"{shard:07d}*.{suffix}")
    return found


def test_a_shard_that_is_damaged_or_has_gone_is_told_as_a_conflict_and_costs_no_other(
    copied: Path, served: Any
) -> None:
    damaged = data_file(copied, 0, "parquet")
    body = bytearray(damaged.read_bytes())
    body[100] ^= 1
    damaged.write_bytes(body)
    data_file(copied, 1, "parquet").unlink()
    data_file(copied, 2, "npz").unlink()
    client: Client = served(copied)
    for path in ("api/images/0", "api/images/6", "layers/segment/11/eigenvectors"):
        answer = client.get(path)
        assert answer.status == 409, answer.text
        assert "To mend it" in answer.json()["error"]
        assert str(copied) not in answer.text
    assert client.get("layers/segment/11/mask").status == 200


def test_what_was_damaged_is_read_again_once_it_is_restored(copied: Path) -> None:
    stage, path = segment(copied), data_file(copied, 0, "parquet")
    held = path.read_bytes()
    path.unlink()
    with pytest.raises(RunError, match="gone"):
        row_of(stage, 0)
    path.write_bytes(held)
    assert row_of(stage, 0)["status"] == "ok"


def test_a_shard_is_read_once_however_many_ask_for_its_rows_at_a_time(
    small_run: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    from simsam_batch.runs.committed import CommittedShard

    read: list[int] = []
    plain = CommittedShard.placed_rows

    def counted(self: CommittedShard) -> Any:
        read.append(self.number)
        return plain(self)

    monkeypatch.setattr(CommittedShard, "placed_rows", counted)
    stage = segment(small_run.out)
    threads = [threading.Thread(target=row_of, args=(stage, number % 5)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read == [0]


def test_what_is_kept_is_what_was_asked_for_last() -> None:
    kept: Kept[int] = Kept(10, lambda value: value)
    made: list[str] = []

    def ask(key: str, value: int) -> int:
        return kept.get(key, lambda: (made.append(key), value)[1])

    for key, value in (("a", 4), ("b", 4), ("a", 4), ("c", 4), ("a", 4), ("b", 4), ("too heavy", 11)):
        assert ask(key, value) == value
    # c pushes b out, which had not been asked for since; b then pushes c out
    assert made == ["a", "b", "c", "b", "too heavy"]
    ask("too heavy", 11)
    ask("a", 4)
    assert made[5:] == ["too heavy"]


def test_what_cannot_be_made_is_tried_again() -> None:
    kept: Kept[int] = Kept(10)
    with pytest.raises(ZeroDivisionError):
        kept.get("a", lambda: 1 // 0)
    assert kept.get("a", lambda: 1) == 1


def test_the_payload_of_an_image_on_s3_takes_three_requests(
    small_run: Small, s3_url: str, request: pytest.FixtureRequest
) -> None:
    if os.environ.get("SIMSAM_TEST_S3_URL"):
        pytest.skip("the requests to another store cannot be counted")
    server = request.getfixturevalue("moto_server")
    out = Folder(s3_url)
    for path in sorted(small_run.out.rglob("*")):
        if path.is_file():
            out.replace(path.relative_to(small_run.out).as_posix(), path.read_bytes())
    stage, asked = segment(s3_url), []
    server.fault = lambda method, path: asked.append(f"{method} {path}") or ""
    try:
        assert row_of(stage, 1)["status"] == "ok"
        assert set(arrays_of(stage, 1)) == {"eigenvectors", "outside"}
        assert len(asked) <= 3, asked
        assert all(each.startswith("GET ") for each in asked)
        row_of(stage, 2)
        arrays_of(stage, 1)
        assert len(asked) <= 3, asked
    finally:
        server.heal()
