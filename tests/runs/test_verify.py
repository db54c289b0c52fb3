from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_stage import SmallStage, catalog, output, small_plan

from simsam_batch.errors import StorageError
from simsam_batch.runs import committed
from simsam_batch.runs.ledger import Ledger
from simsam_batch.runs.plan import Plan, make_plan
from simsam_batch.runs.publish import publish
from simsam_batch.runs.verify import verify
from simsam_batch.runs.verify_report import VerifyReport
from simsam_batch.storage import Folder
from simsam_batch.telling.verify import verify_lines

VALUES: dict[int, list[float | None]] = {0: [1.0, 2.0], 1: [None, 4.0], 2: [8.0]}
"""Five images in three shards; the third image failed."""

DAY = 24 * 3600.0


def _run(url: str, shards: tuple[int, ...] = (0, 1, 2)) -> tuple[Ledger, Plan]:
    plan = small_plan(Folder(url), images=5, shard_size=2)
    ledger = Ledger(plan.out, "small")
    ledger.begin(SmallStage(), plan)
    for number in shards:
        ledger.commit(output(plan, number, VALUES[number]), ledger.start(number), started=0.0)
    if len(shards) == plan.shards:
        publish(plan.out, plan, SmallStage())
    return ledger, plan


def _problems(report: VerifyReport) -> list[tuple[str, str]]:
    return [(problem.where, problem.what) for problem in report.problems]


def _age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def _rewrite_manifest(out: Path, shard: int, change: Callable[[dict[str, Any]], None]) -> None:
    path = out / f"small/manifests/{shard:07d}.0.json"
    manifest = json.loads(path.read_bytes())
    change(manifest)
    path.write_text(json.dumps(manifest))


def test_a_finished_run_is_as_it_was(out_url: str) -> None:
    _, plan = _run(out_url)
    report = verify(plan.out, plan)
    assert (report.problems, report.orphans, report.foreign, report.damaged) == ([], [], [], False)
    [stage] = report.stages
    size = sum(info.size for info in plan.out.list("small/data"))
    # three files of rows; the five images have arrays but for the failed one, so each shard has an arrays file
    assert dataclasses.asdict(stage) == {
        "stage": "small",
        "unit": "image_id",
        "shards": 3,
        "committed": 3,
        "pending": 0,
        "images": 5,
        "ok": 4,
        "failed": 1,
        "files": 6,
        "bytes": size,
        "published": True,
    }
    assert json.loads(json.dumps(report.as_record()))["damaged"] is False
    text = "\n".join(verify_lines(report))
    assert "all that is committed is as it was" in text
    assert "small: 3 of 3 shards; 5 images, 1 of them failed; 6 files" in text


def test_verifying_writes_nothing(tmp_path: Path) -> None:
    _, plan = _run(str(tmp_path))
    before = [(info.name, info.etag) for info in plan.out.list()]
    verify(plan.out, plan, delete_orphans=True)
    assert [(info.name, info.etag) for info in plan.out.list()] == before


def test_pending_shards_are_reported_and_no_damage(tmp_path: Path) -> None:
    ledger, plan = _run(str(tmp_path), shards=(1,))
    ledger.start(0)
    report = verify(plan.out, plan)
    assert not report.damaged
    [stage] = report.stages
    assert (stage.committed, stage.pending, stage.images, stage.published) == (1, 2, 2, False)
    assert "1 of 3 shards, 2 pending; 2 images" in "\n".join(verify_lines(report))


def test_a_stage_that_only_began_is_no_damage(tmp_path: Path) -> None:
    _, plan = _run(str(tmp_path), shards=())
    report = verify(plan.out, plan)
    assert not report.damaged
    assert report.stages[0].pending == 3


@pytest.mark.parametrize("held", [0, 32_000_000])
@pytest.mark.parametrize("ending", ["parquet", "npz"])
def test_every_single_byte_counts(tmp_path: Path, ending: str, held: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(committed, "HELD_BYTES", held)
    _, plan = _run(str(tmp_path))
    path = tmp_path / f"small/data/0000001.1.{ending}"
    good = path.read_bytes()
    for position in (0, len(good) // 2, len(good) - 1):
        bad = bytearray(good)
        bad[position] ^= 1
        path.write_bytes(bad)
        report = verify(plan.out, plan)
        [(where, what)] = _problems(report)
        assert where == f"small/data/0000001.1.{ending}"
        assert "sha256 differs" in what
        assert "delete small/manifests/0000001.0.json" in report.problems[0].mend
        assert f"small/data/0000001.1.{ending}: its bytes are not those" in "\n".join(verify_lines(report))
    path.write_bytes(good)
    assert not verify(plan.out, plan).damaged


def test_a_lost_file_is_found(out_url: str) -> None:
    _, plan = _run(out_url)
    plan.out.delete(["small/data/0000002.1.npz"])
    assert _problems(verify(plan.out, plan)) == [("small/data/0000002.1.npz", "it is missing")]


def test_a_truncated_file_is_found_by_its_size(tmp_path: Path) -> None:
    _, plan = _run(str(tmp_path))
    path = tmp_path / "small/data/0000000.1.parquet"
    whole = path.read_bytes()
    for body in (whole[:100], whole + b"tail"):
        path.write_bytes(body)
        expected = ("small/data/0000000.1.parquet", f"it has {len(body)} bytes, committed were {len(whole)}")
        assert _problems(verify(plan.out, plan)) == [expected]


def test_deleting_the_manifest_and_running_again_mends_a_shard(tmp_path: Path) -> None:
    ledger, plan = _run(str(tmp_path))
    before = json.loads(plan.out.read("results/small.json"))["content_digest"]
    (tmp_path / "small/data/0000001.1.parquet").write_bytes(b"")
    plan.out.delete(["small/manifests/0000001.0.json"])
    assert ledger.pending(3) == [1]
    ledger.commit(output(plan, 1, VALUES[1]), ledger.start(1), started=0.0)
    assert publish(plan.out, plan, SmallStage())["content_digest"] == before
    report = verify(plan.out, plan)
    assert not report.damaged
    assert [orphan.name for orphan in report.orphans] == ["small/data/0000001.1.npz", "small/data/0000001.1.parquet"]


@pytest.mark.parametrize("body", ["", "{", "[]", '{"schema_version": 1}', "null", '{"schema_version": 99}'])
def test_a_damaged_manifest_is_found_and_its_files_are_kept(tmp_path: Path, body: str) -> None:
    _, plan = _run(str(tmp_path))
    (tmp_path / "small/manifests/0000001.0.json").write_text(body)
    for path in (tmp_path / "small/data").iterdir():
        _age(path, 100 * DAY)
    report = verify(plan.out, plan, delete_orphans=True)
    assert [where for where, _ in _problems(report)] == ["small/manifests/0000001.0.json"]
    assert [(orphan.name, orphan.deleted) for orphan in report.orphans] == [
        ("small/data/0000001.1.npz", False),
        ("small/data/0000001.1.parquet", False),
    ]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"stage": "other"}, "it speaks of other, shard 0, generation 0"),
        ({"shard": 1}, "it speaks of small, shard 1, generation 0"),
        ({"generation": 7}, "generation 7"),
        ({"files": [{"name": "../../etc/passwd", "size": 1, "sha256": ""}]}, "names no rows"),
        ({"files": [{"name": "small/data/0000001.1.parquet", "size": 1, "sha256": ""}]}, "it names 'small/data/00000"),
        ({"files": [{"name": "/etc/x.parquet", "size": 1, "sha256": ""}]}, "it names '/etc/x.parquet'"),
        ({"files": 3}, "it is no manifest"),
        ({"images": 3}, "the manifest says {'images': 3, 'ok': 2, 'failed': 0}, the rows are {'images': 2"),
        ({"content_digest": "0" * 64}, "do not have the content digest"),
    ],
)
def test_a_foreign_manifest_is_found(tmp_path: Path, change: dict[str, Any], what: str) -> None:
    _, plan = _run(str(tmp_path), shards=(0,))
    _rewrite_manifest(tmp_path, 0, lambda manifest: manifest.update(change))
    [(_, found)] = _problems(verify(plan.out, plan))
    assert what in found


def test_a_manifest_of_a_shard_that_the_plan_does_not_have_is_found(tmp_path: Path) -> None:
    _, plan = _run(str(tmp_path))
    manifest = json.loads(plan.out.read("small/manifests/0000000.0.json")) | {"shard": 99}
    plan.out.create("small/manifests/0000099.0.json", json.dumps(manifest).encode())
    [(where, what)] = _problems(verify(plan.out, plan))
    assert where == "small/manifests/0000099.0.json"
    assert "the plan has 3 shards" in what


def _resealed(out: Path, rows: pa.Table, arrays: bytes | None) -> None:
    """Replace the files of shard 0, with a manifest that vouches for their sizes and hashes."""
    file = io.BytesIO()
    pq.write_table(rows, file)
    bodies = {"small/data/0000000.1.parquet": file.getvalue()}
    if arrays is not None:
        bodies["small/data/0000000.1.npz"] = arrays
    for name, body in bodies.items():
        (out / name).write_bytes(body)
    files = [
        {"name": name, "size": len(body), "sha256": hashlib.sha256(body).hexdigest()} for name, body in bodies.items()
    ]
    _rewrite_manifest(out, 0, lambda manifest: manifest.update(files=files))


def test_rows_other_than_the_plans_are_found_though_all_hashes_agree(tmp_path: Path) -> None:
    _, plan = _run(str(tmp_path), shards=(0,))
    rows = pq.read_table(tmp_path / "small/data/0000000.1.parquet")
    _resealed(tmp_path, rows.take([1, 0]), (tmp_path / "small/data/0000000.1.npz").read_bytes())
    whats = [what for _, what in _problems(verify(plan.out, plan))]
    assert whats == [
        "it has not the plan's 2 images in their order",
        "rows and attachments do not have the content digest of the manifest",
    ]


def test_rows_of_another_plan_are_found_though_all_hashes_agree(tmp_path: Path) -> None:
    _, plan = _run(str(tmp_path), shards=(0,))
    rows = pq.read_table(tmp_path / "small/data/0000000.1.parquet")
    moved = rows.replace_schema_metadata({**rows.schema.metadata, b"plan": b"0" * 64})
    _resealed(tmp_path, moved, (tmp_path / "small/data/0000000.1.npz").read_bytes())
    assert _problems(verify(plan.out, plan)) == [("small/data/0000000.1.parquet", "it belongs to another plan")]


def test_arrays_that_are_missing_are_found_though_all_hashes_agree(tmp_path: Path) -> None:
    _, plan = _run(str(tmp_path), shards=(0,))
    rows = pq.read_table(tmp_path / "small/data/0000000.1.parquet")
    archive = io.BytesIO()
    np.savez(archive, **{"0000000.eigenvectors": np.full((2, 3), 1.0, np.float16)})
    _resealed(tmp_path, rows, archive.getvalue())
    [(_, what)] = _problems(verify(plan.out, plan))
    assert what == "the attachments of 1 rows are missing or too many (the first is row 1)"
    _resealed(tmp_path, rows, None)
    [(_, what)] = _problems(verify(plan.out, plan))
    assert what == "the attachments of 2 rows are missing or too many (the first is row 0)"


@pytest.mark.parametrize("arrays", [b"no archive", b"PK\5\6" + bytes(18)])
def test_arrays_that_cannot_be_read_are_found(tmp_path: Path, arrays: bytes) -> None:
    _, plan = _run(str(tmp_path), shards=(0,))
    _resealed(tmp_path, pq.read_table(tmp_path / "small/data/0000000.1.parquet"), arrays)
    assert verify(plan.out, plan).damaged


def test_another_value_in_an_array_is_found_though_all_hashes_agree(tmp_path: Path) -> None:
    _, plan = _run(str(tmp_path), shards=(0,))
    rows = pq.read_table(tmp_path / "small/data/0000000.1.parquet")
    archive = io.BytesIO()
    members = {f"{row:07d}.eigenvectors": np.full((2, 3), value, np.float16) for row, value in ((0, 1.0), (1, 2.5))}
    np.savez(archive, **members)
    _resealed(tmp_path, rows, archive.getvalue())
    [(_, what)] = _problems(verify(plan.out, plan))
    assert what == "rows and attachments do not have the content digest of the manifest"


def test_results_that_disagree_with_the_manifests_are_found(tmp_path: Path) -> None:
    _, plan = _run(str(tmp_path))
    path = tmp_path / "results/small.json"
    good = json.loads(path.read_bytes())
    for change, said in (
        ({"ok": 5}, "ok is 5, by the manifests 4"),
        ({"content_digest": "ab"}, "content_digest is ab"),
    ):
        path.write_text(json.dumps(good | change))
        report = verify(plan.out, plan)
        [(where, what)] = _problems(report)
        assert where == "results/small.json"
        assert said in what
        assert "publishes the results anew" in report.problems[0].mend
    path.write_text("{")
    assert [where for where, _ in _problems(verify(plan.out, plan))] == ["results/small.json"]
    publish(plan.out, plan, SmallStage())
    assert not verify(plan.out, plan).damaged


def test_published_rows_that_differ_are_found(tmp_path: Path) -> None:
    _, plan = _run(str(tmp_path))
    path = tmp_path / "results/small/part-00000.parquet"
    table = pq.read_table(path)
    values = table["value"].to_pylist()
    changed = table.set_column(table.column_names.index("value"), "value", pa.array([*values[:4], 8.5]))
    with pq.ParquetWriter(path, changed.schema) as writer:
        for start, rows in ((0, 2), (2, 2), (4, 1)):
            writer.write_table(changed.slice(start, rows))
    expected = ("results/small/part-00000.parquet", "its rows of shard 2 are not those committed")
    assert _problems(verify(plan.out, plan)) == [expected]
    path.write_bytes(path.read_bytes()[:-10])
    [(where, what)] = _problems(verify(plan.out, plan))
    assert where == "results/small/part-00000.parquet"
    assert "cannot be read" in what
    path.unlink()
    assert _problems(verify(plan.out, plan)) == [("results/small", "the rows of the last 3 shards are missing")]


def test_a_published_row_that_leads_to_another_shards_arrays_is_found(tmp_path: Path) -> None:
    _, plan = _run(str(tmp_path))
    path = tmp_path / "results/small/part-00000.parquet"
    table = pq.read_table(path)
    there = table["arrays_path"].to_pylist()
    assert there[4] == "small/data/0000002.1.npz"
    elsewhere = pa.array([*there[:4], there[0]], pa.string())
    pq.write_table(table.set_column(table.column_names.index("arrays_path"), "arrays_path", elsewhere), path)
    assert [what for _, what in _problems(verify(plan.out, plan))] == ["its rows of shard 2 are not those committed"]


def test_published_rows_that_end_one_shard_early_are_found(tmp_path: Path) -> None:
    _, plan = _run(str(tmp_path))
    path = tmp_path / "results/small/part-00000.parquet"
    pq.write_table(pq.read_table(path).slice(0, 4), path)
    assert _problems(verify(plan.out, plan)) == [("results/small", "the rows of the last 1 shards are missing")]


def test_manifests_lost_after_publishing_are_damage(tmp_path: Path) -> None:
    _, plan = _run(str(tmp_path))
    (tmp_path / "small/manifests/0000000.0.json").unlink()
    [(where, what)] = _problems(verify(plan.out, plan))
    assert where == "small/manifests"
    assert "1 shards have no manifest any more" in what


def test_every_generation_is_checked_and_the_last_one_counts(tmp_path: Path) -> None:
    ledger, plan = _run(str(tmp_path))
    first = ledger.manifest(1, 0)
    ledger.commit(output(plan, 1, [3.0, 4.0]), ledger.start(1), started=0.0, previous=first)
    stale = verify(plan.out, plan)
    assert [where for where, _ in _problems(stale)] == ["results/small.json"]
    publish(plan.out, plan, SmallStage())
    report = verify(plan.out, plan)
    assert (report.problems, report.orphans) == ([], [])
    assert (report.stages[0].ok, report.stages[0].failed, report.stages[0].files) == (5, 0, 8)
    (tmp_path / "small/data/0000001.1.npz").unlink()
    assert _problems(verify(plan.out, plan)) == [("small/data/0000001.1.npz", "it is missing")]


def _with_orphans(tmp_path: Path) -> tuple[Plan, list[str]]:
    """A finished run with the files of a lost race at shard 0, half of them old."""
    ledger, plan = _run(str(tmp_path))
    ledger.commit(output(plan, 0, [9.0, 9.0]), ledger.start(0), started=0.0)
    names = ["small/data/0000000.2.npz", "small/data/0000000.2.parquet"]
    _age(tmp_path / names[0], 25 * 3600.0)
    return plan, names


def test_orphans_are_listed_and_not_touched_unless_asked(tmp_path: Path) -> None:
    plan, names = _with_orphans(tmp_path)
    report = verify(plan.out, plan)
    assert not report.damaged
    assert [(orphan.name, orphan.deleted) for orphan in report.orphans] == [(name, False) for name in names]
    assert [orphan.bytes for orphan in report.orphans] == [(tmp_path / name).stat().st_size for name in names]
    assert report.orphans[0].age_s == pytest.approx(25 * 3600, abs=60)
    assert "2 orphans" in "\n".join(verify_lines(report))
    assert all((tmp_path / name).exists() for name in names)


def test_only_old_orphans_are_deleted(tmp_path: Path) -> None:
    plan, (old, young) = _with_orphans(tmp_path)
    report = verify(plan.out, plan, delete_orphans=True)
    assert [(orphan.name, orphan.deleted) for orphan in report.orphans] == [(old, True), (young, False)]
    assert not (tmp_path / old).exists()
    assert (tmp_path / young).exists()
    again = verify(plan.out, plan, delete_orphans=True, orphan_age_s=0.0)
    assert [orphan.name for orphan in again.orphans if orphan.deleted] == [young]
    assert verify(plan.out, plan).orphans == []
    assert not verify(plan.out, plan).damaged


@pytest.mark.slow
def test_orphans_are_deleted_on_every_storage(out_url: str) -> None:
    ledger, plan = _run(out_url)
    ledger.commit(output(plan, 0, [9.0, 9.0]), ledger.start(0), started=0.0)
    names = [info.name for info in plan.out.list()]
    time.sleep(1.1)  # S3 gives times in whole seconds
    report = verify(plan.out, plan, delete_orphans=True, orphan_age_s=0.1)
    gone = ["small/data/0000000.2.npz", "small/data/0000000.2.parquet"]
    assert [orphan.name for orphan in report.orphans if orphan.deleted] == gone
    assert [info.name for info in plan.out.list()] == [name for name in names if name not in gone]
    assert not verify(plan.out, plan).damaged


def test_files_from_which_a_damaged_shard_could_be_mended_are_kept(tmp_path: Path) -> None:
    plan, names = _with_orphans(tmp_path)
    (tmp_path / "small/data/0000000.1.npz").write_bytes(b"")
    report = verify(plan.out, plan, delete_orphans=True, orphan_age_s=0.0)
    assert report.damaged
    assert [(orphan.name, orphan.deleted) for orphan in report.orphans] == [(name, False) for name in names]


def test_without_the_stage_file_nothing_is_deleted(tmp_path: Path) -> None:
    plan, _ = _with_orphans(tmp_path)
    (tmp_path / "small/stage.json").unlink()
    report = verify(plan.out, plan, delete_orphans=True, orphan_age_s=0.0)
    assert _problems(report) == [("small/stage.json", "it is missing")]
    assert not any(orphan.deleted for orphan in report.orphans)
    assert len(list((tmp_path / "small/data").iterdir())) == 8


def test_what_is_not_the_runs_own_is_named_and_never_deleted(tmp_path: Path) -> None:
    _, plan = _run(str(tmp_path))
    foreign = [
        "plan/backup.parquet",
        "small/data/notes.txt",
        "small/manifests/0000000.0.json.bak",
    ]
    for name in foreign:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
        _age(path, 100 * DAY)
    report = verify(plan.out, plan, delete_orphans=True, orphan_age_s=0.0)
    assert sorted(report.foreign) == foreign
    assert all((tmp_path / name).exists() for name in foreign)
    assert "3 files not of this run" in "\n".join(verify_lines(report))


def test_temporary_files_of_a_crash_are_orphans(tmp_path: Path) -> None:
    _, plan = _run(str(tmp_path))
    left = tmp_path / "small/data/.0000001.2.parquet.0123456789abcdef0123456789abcdef.tmp"
    left.write_bytes(b"half")
    assert [orphan.name for orphan in verify(plan.out, plan, delete_orphans=True).orphans if orphan.deleted] == []
    _age(left, 2 * DAY)
    [orphan] = verify(plan.out, plan, delete_orphans=True).orphans
    assert (orphan.name, orphan.bytes, orphan.deleted) == (str(left.relative_to(tmp_path)), 4, True)
    assert not left.exists()


def test_only_names_of_the_runs_own_are_orphans(tmp_path: Path) -> None:
    _, plan = _run(str(tmp_path))
    others = ["small/data/.notes.tmp", "small/data/0000001.2.parquet.tmp", ".cache.tmp", "small/data/0000001.2.npy"]
    for name in others:
        (tmp_path / name).write_text("mine")
        _age(tmp_path / name, 100 * DAY)
    report = verify(plan.out, plan, delete_orphans=True, orphan_age_s=0.0)
    assert report.orphans == []
    assert sorted(report.foreign) == sorted(name for name in others if "/" in name)
    assert all((tmp_path / name).exists() for name in others)


@pytest.mark.parametrize("ahead_s", [3 * DAY, -3 * DAY])
def test_age_goes_by_the_clock_of_the_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead_s: float) -> None:
    # the clock of this machine is wrong by days
    plan, (old, young) = _with_orphans(tmp_path)
    real = time.time
    monkeypatch.setattr("simsam_batch.runs.verify.time.time", lambda: real() + ahead_s)
    report = verify(plan.out, plan, delete_orphans=True)
    assert [(orphan.name, orphan.deleted) for orphan in report.orphans] == [(old, True), (young, False)]
    assert report.orphans[1].age_s == pytest.approx(0.0, abs=60.0)


def test_nothing_is_deleted_while_a_shard_is_started_and_not_committed_unless_told(tmp_path: Path) -> None:
    ledger, plan = _run(str(tmp_path), shards=(0, 1))
    ledger.commit(output(plan, 0, [9.0, 9.0]), ledger.start(0), started=0.0)
    names = ["small/data/0000000.2.npz", "small/data/0000000.2.parquet"]
    for name in names:
        _age(tmp_path / name, 2 * DAY)
    ledger.start(2)
    report = verify(plan.out, plan, delete_orphans=True)
    assert (report.at_work, [orphan.deleted for orphan in report.orphans]) == (["small"], [False, False])
    assert "shards of small are started and not committed, so that a command may be at work" in "\n".join(
        verify_lines(report)
    )
    report = verify(plan.out, plan, delete_orphans=True, nobody_at_work=True)
    assert (report.at_work, [orphan.deleted for orphan in report.orphans]) == ([], [True, True])


def test_a_stage_that_waits_to_be_gone_on_with_is_not_at_work(tmp_path: Path) -> None:
    ledger, plan = _run(str(tmp_path), shards=(0,))
    ledger.commit(output(plan, 0, [9.0, 9.0]), ledger.start(0), started=0.0)
    report = verify(plan.out, plan, delete_orphans=True, orphan_age_s=-1.0)
    assert [orphan.deleted for orphan in report.orphans] == [True, True]


def test_the_plan_of_a_driver_that_came_second_is_an_orphan(tmp_path: Path) -> None:
    _, plan = _run(str(tmp_path))
    make_plan(plan.out, catalog(9), shard_size=3, source={})
    [orphan] = verify(plan.out, plan).orphans
    assert orphan.name.startswith("plan/")
    assert orphan.name != f"plan/{plan.digest}.parquet"


def test_a_damaged_plan_is_found(tmp_path: Path) -> None:
    _, plan = _run(str(tmp_path))
    path = tmp_path / f"plan/{plan.digest}.parquet"
    table = pq.read_table(path)
    ids = [*table["image_id"].to_pylist()[:4], "another.jpg"]
    pq.write_table(table.set_column(0, table.schema.field("image_id"), pa.array(ids)), path)
    problems = dict(_problems(verify(plan.out, plan)))
    assert problems[f"plan/{plan.digest}.parquet"] == "its rows are not those that the plan was made of"


def test_one_stage_alone_can_be_verified(tmp_path: Path) -> None:
    _, plan = _run(str(tmp_path))
    other = Ledger(plan.out, "other")
    other.begin(SmallStage(name="other"), plan)
    other.commit(output(plan, 0, [1.0, 2.0]), other.start(0), started=0.0)
    (tmp_path / "other/data/0000000.1.npz").unlink()
    assert [stage.stage for stage in verify(plan.out, plan).stages] == ["other", "small"]
    assert not verify(plan.out, plan, ["small"]).damaged
    assert verify(plan.out, plan, ["other"]).damaged


def test_progress_is_told(tmp_path: Path) -> None:
    _, plan = _run(str(tmp_path))
    told: list[tuple[str, int, int]] = []
    verify(plan.out, plan, on_shard=lambda *what: told.append(what))
    assert told == [("small", 1, 3), ("small", 2, 3), ("small", 3, 3)]


def test_a_storage_that_does_not_answer_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, plan = _run(str(tmp_path))
    real = Folder.open

    def silent(folder: Folder, name: str) -> Any:
        if name.endswith(".npz"):
            raise StorageError("the connection was cut")
        return real(folder, name)

    monkeypatch.setattr(Folder, "open", silent)
    with pytest.raises(StorageError, match="was cut"):
        verify(plan.out, plan, delete_orphans=True)
