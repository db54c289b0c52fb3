from __future__ import annotations

import dataclasses
import hashlib
import io
import itertools
import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_stage import SmallStage, output, small_plan

from simsam_batch.errors import RunError, SettingsError, StorageError
from simsam_batch.runs.digest import content_digest
from simsam_batch.runs.ledger import Ledger
from simsam_batch.runs.plan import Plan
from simsam_batch.runs.schema import ShardOutput
from simsam_batch.storage import Folder, ObjectNotFound


def _begun(url: str, images: int = 5) -> tuple[Ledger, Plan]:
    plan = small_plan(Folder(url), images)
    ledger = Ledger(plan.out, "small")
    ledger.begin(SmallStage(), plan)
    return ledger, plan


def test_at_first_everything_is_pending(out_url: str) -> None:
    ledger, plan = _begun(out_url)
    assert ledger.committed() == {}
    assert ledger.pending(plan.shards) == [0, 1, 2]


def test_a_committed_shard_is_no_longer_pending(out_url: str) -> None:
    ledger, plan = _begun(out_url)
    done = ledger.commit(output(plan, 1, [1.0, None]), ledger.start(1), started=10.0)
    assert (done.shard, done.generation, done.attempt, done.ours) == (1, 0, 1, True)
    assert ledger.pending(plan.shards) == [0, 2]
    assert ledger.committed() == {1: 0}
    assert list(ledger.manifests()) == [done.manifest] == [ledger.manifest(1, 0)]


def test_the_manifest_says_what_was_committed(out_url: str) -> None:
    ledger, plan = _begun(out_url)
    manifest = ledger.commit(output(plan, 0, [1.5, None]), ledger.start(0), started=10.0).manifest
    expected = {
        "schema_version": 2,
        "stage": "small",
        "shard": 0,
        "generation": 0,
        "attempt": 1,
        "images": 2,
        "ok": 1,
        "failed": 1,
        "failures": [{"image_id": "folder/000001.jpg", "error_type": "truncated", "error": "the file ends early"}],
        "errors_by_type": {"truncated": 1},
        "statistics": {"rows": 1, "sum": 1.5, "order": [0]},
        "seconds": {"decode": 0.5, "solve": 0.25},
        "facts": {"device": "cpu"},
        "started": 10.0,
    }
    assert {key: manifest[key] for key in expected} == expected
    assert manifest["committed"] > 1.7e9
    assert manifest["versions"]["numpy"] == np.__version__
    assert [file["name"] for file in manifest["files"]] == ["small/data/0000000.1.parquet", "small/data/0000000.1.npz"]
    for file in manifest["files"]:
        body = plan.out.read(file["name"])
        assert (file["size"], file["sha256"]) == (len(body), hashlib.sha256(body).hexdigest())


def test_rows_and_arrays_are_read_back_as_they_were(out_url: str) -> None:
    ledger, plan = _begun(out_url)
    given_output = output(plan, 0, [1.5, None])
    manifest = ledger.commit(given_output, ledger.start(0), started=0.0).manifest
    table = pq.read_table(io.BytesIO(plan.out.read("small/data/0000000.1.parquet")))
    assert table.to_pylist() == given_output.rows.to_pylist()
    assert table.schema.metadata[b"plan"].decode() == plan.digest
    with np.load(io.BytesIO(plan.out.read("small/data/0000000.1.npz")), allow_pickle=False) as arrays:
        assert arrays.files == ["0000000.eigenvectors"]
        assert arrays["0000000.eigenvectors"].dtype == np.float16
        assert arrays["0000000.eigenvectors"].tolist() == [[1.5] * 3] * 2
        held = [{"eigenvectors": arrays["0000000.eigenvectors"]}, {}]
    assert content_digest(table, held) == manifest["content_digest"]


def test_without_arrays_there_is_no_arrays_file(tmp_path: Path) -> None:
    ledger, plan = _begun(str(tmp_path))
    bare = dataclasses.replace(output(plan, 2, [3.0]), attachments=[])
    assert len(ledger.commit(bare, ledger.start(2), started=0.0).manifest["files"]) == 1


def test_starts_are_counted_from_one(out_url: str) -> None:
    ledger, plan = _begun(out_url)
    assert [ledger.start(2), ledger.start(2), ledger.start(0)] == [1, 2, 1]
    assert Ledger(plan.out, "small").start(2) == 3
    assert [info.name for info in plan.out.list("small/attempts")] == [
        "small/attempts/0000000.1",
        "small/attempts/0000002.1",
        "small/attempts/0000002.2",
        "small/attempts/0000002.3",
    ]


def test_starts_at_the_same_moment_get_different_numbers(out_url: str) -> None:
    ledger, _ = _begun(out_url)
    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(ledger.start, [1] * 8)) == [1, 2, 3, 4, 5, 6, 7, 8]


def test_a_second_attempt_at_a_committed_shard_stays_invisible(out_url: str) -> None:
    ledger, plan = _begun(out_url)
    first, second = ledger.start(0), ledger.start(0)
    winner = ledger.commit(output(plan, 0, [1.0, 2.0]), first, started=0.0)
    loser = ledger.commit(output(plan, 0, [7.0, 7.0]), second, started=0.0)
    assert (loser.ours, loser.attempt, loser.manifest) == (False, 1, winner.manifest)
    assert [manifest["statistics"]["sum"] for manifest in ledger.manifests()] == [3.0]


def test_of_racing_commits_exactly_one_is_in_force(out_url: str) -> None:
    ledger, plan = _begun(out_url)
    attempts = [ledger.start(2) for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        done = list(pool.map(lambda n: ledger.commit(output(plan, 2, [float(n)]), n, started=0.0), attempts))
    [winner] = [commit for commit in done if commit.ours]
    assert {commit.attempt for commit in done} == {winner.attempt}
    assert ledger.manifest(2, 0)["statistics"]["sum"] == float(winner.attempt)


def test_a_commit_called_again_after_its_reply_was_lost_is_ours(out_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger, plan = _begun(out_url)
    attempt = ledger.start(0)
    real = Folder.create

    def create(folder: Folder, name: str, data: bytes) -> bool:
        done = real(folder, name, data)
        if "manifests" in name:
            raise StorageError("neither the write nor the read-back was answered")
        return done

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "create", create)
        with pytest.raises(StorageError, match="read-back"):
            ledger.commit(output(plan, 0, [1.0, 2.0]), attempt, started=0.0)
    assert ledger.commit(output(plan, 0, [1.0, 2.0]), attempt, started=0.0).ours


def test_killed_between_data_and_manifest_the_shard_stays_pending(tmp_path: Path) -> None:
    ledger, plan = _begun(str(tmp_path / "out"))
    program = """
import os, signal, sys
sys.path.insert(0, sys.argv[2])
from small_stage import output
from simsam_batch.runs.ledger import Ledger
from simsam_batch.runs.plan import load_plan
from simsam_batch.storage import Folder
out = Folder(sys.argv[1])
create = Folder.create
def killed(self, name, data):
    if "manifests" in name:
        os.kill(os.getpid(), signal.SIGKILL)
    return create(self, name, data)
Folder.create = killed
ledger = Ledger(out, "small")
ledger.commit(output(load_plan(out), 0, [9.0, 9.0]), ledger.start(0), started=0.0)
"""
    here = str(Path(__file__).parent)
    done = subprocess.run([sys.executable, "-c", program, plan.out.url, here], check=False, timeout=120)
    assert done.returncode == -9
    assert [info.name for info in plan.out.list("small/data")] == [
        "small/data/0000000.1.npz",
        "small/data/0000000.1.parquet",
    ]
    assert ledger.pending(plan.shards) == [0, 1, 2]
    assert list(ledger.manifests()) == []
    again = ledger.commit(output(plan, 0, [1.0, 2.0]), ledger.start(0), started=0.0)
    assert (again.ours, again.attempt) == (True, 2)
    assert [manifest["statistics"]["sum"] for manifest in ledger.manifests()] == [3.0]


def test_a_worker_process_needs_only_the_folder_and_the_name(out_url: str) -> None:
    ledger, plan = _begun(out_url)
    fresh = Ledger(Folder(out_url), "small")
    travelled = pickle.loads(pickle.dumps(ledger))
    assert fresh.commit(output(plan, 0, [1.0, 2.0]), fresh.start(0), started=0.0).ours
    assert travelled.commit(output(plan, 1, [1.0, 2.0]), travelled.start(1), started=0.0).ours


def test_a_commit_to_a_stage_that_never_began_is_refused(tmp_path: Path) -> None:
    plan = small_plan(Folder(str(tmp_path)))
    with pytest.raises(RunError, match=r"has no small run: small/stage\.json is missing"):
        Ledger(plan.out, "small").commit(output(plan, 0, [1.0, 2.0]), 1, started=0.0)


def test_the_highest_generation_is_in_force(out_url: str) -> None:
    ledger, plan = _begun(out_url)
    first = ledger.commit(output(plan, 0, [1.0, None]), ledger.start(0), started=0.0).manifest
    ledger.commit(output(plan, 1, [5.0, 5.0]), ledger.start(1), started=0.0)
    second = ledger.commit(output(plan, 0, [1.0, 2.0]), ledger.start(0), started=0.0, previous=first).manifest
    assert ledger.committed() == {0: 1, 1: 0}
    assert [(m["shard"], m["generation"], m["ok"]) for m in ledger.manifests()] == [(0, 1, 2), (1, 0, 2)]
    assert ledger.manifest(0, 0)["ok"] == 1
    # by name 10 comes before 2
    for generation in (1, 9):
        before = second | {"generation": generation}
        ledger.commit(output(plan, 0, [1.0, 2.0]), ledger.start(0), started=0.0, previous=before)
    assert ledger.committed() == {0: 10, 1: 0}


def test_manifests_come_in_the_order_of_the_shards_however_they_are_asked_for(out_url: str) -> None:
    ledger, plan = _begun(out_url)
    for number, values in ((2, [8.0]), (0, [1.0, 2.0]), (1, [None, 4.0])):
        ledger.commit(output(plan, number, values), ledger.start(number), started=0.0)
    assert [manifest["shard"] for manifest in ledger.manifests({2: 0, 0: 0, 1: 0})] == [0, 1, 2]


def test_a_start_that_ended_for_the_storage_says_nothing_against_the_images(out_url: str) -> None:
    ledger, _ = _begun(out_url)
    assert [ledger.start(1) for _ in range(5)] == [1, 2, 3, 4, 5]
    for attempt in (1, 2, 4):
        ledger.note_storage_error(1, attempt)
    # the third and the fifth are left
    assert [ledger.unexplained_starts(1, 5, after=attempt) for attempt in (0, 2, 3, 5)] == [2, 2, 1, 0]
    assert ledger.unexplained_starts(1, 4) == 1
    assert ledger.starts() == [1] * 5


def test_pending_costs_one_listing_and_no_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger, plan = _begun(str(tmp_path))
    ledger.commit(output(plan, 1, [1.0, 2.0]), ledger.start(1), started=0.0)
    calls: list[str] = []
    for method in ("list", "read", "read_many", "open", "create"):
        real: Callable[..., Any] = getattr(Folder, method)

        def counted(*args: Any, method: str = method, real: Callable[..., Any] = real) -> Any:
            calls.append(method)
            return real(*args)

        monkeypatch.setattr(Folder, method, counted)
    assert ledger.pending(plan.shards) == [0, 2]
    assert calls == ["list"]


def test_foreign_files_among_the_manifests_are_not_manifests(tmp_path: Path) -> None:
    ledger, plan = _begun(str(tmp_path))
    for name in ("0000000.0.json.bak", ".DS_Store", "notes.json", "0000001.x.json"):
        (tmp_path / "small/manifests" / name).write_text("{}")
    assert ledger.pending(plan.shards) == [0, 1, 2]


@pytest.mark.parametrize("body", ["", "{", "[]", "{}", '{"schema_version": 1}'])
def test_a_damaged_manifest_is_named(tmp_path: Path, body: str) -> None:
    ledger, plan = _begun(str(tmp_path))
    ledger.commit(output(plan, 1, [1.0, 2.0]), ledger.start(1), started=0.0)
    (tmp_path / "small/manifests/0000001.0.json").write_text(body)
    with pytest.raises(RunError, match=r"small/manifests/0000001\.0\.json is damaged"):
        list(ledger.manifests())


def test_a_manifest_of_a_newer_release_is_refused(tmp_path: Path) -> None:
    ledger, _ = _begun(str(tmp_path))
    (tmp_path / "small/manifests/0000001.0.json").write_text('{"schema_version": 99}')
    with pytest.raises(RunError, match="newer release"):
        ledger.manifest(1, 0)


def test_what_is_not_committed_has_no_manifest(out_url: str) -> None:
    ledger, _ = _begun(out_url)
    with pytest.raises(ObjectNotFound):
        ledger.manifest(1, 0)


def test_beginning_again_with_the_same_settings_goes_on(out_url: str) -> None:
    ledger, plan = _begun(out_url)
    ledger.commit(output(plan, 1, [1.0, 2.0]), ledger.start(1), started=0.0)
    again = Ledger(Folder(out_url), "small")
    again.begin(SmallStage(), plan)
    assert again.pending(plan.shards) == [0, 2]


def test_beginning_with_other_settings_lists_each_difference(tmp_path: Path) -> None:
    ledger, plan = _begun(str(tmp_path))
    other = SmallStage(
        settings={"kappa": 12, "head": {"lr": 0.5, "steps": 3}},
        resolved={"weights": "sha256:cd"},
        schema=SmallStage().schema.append(pa.field("extra", pa.int8())),
    )
    with pytest.raises(SettingsError) as caught:
        ledger.begin(other, plan)
    assert str(caught.value).splitlines() == [
        f"{tmp_path} holds a small run with other settings:",
        "  kappa: the run in OUT has 10, this command has 12",
        '  weights: the run in OUT has "sha256:ab", this command has "sha256:cd"',
        "  head.steps: the run in OUT has nothing, this command has 3",
        '  column extra: the run in OUT has nothing, this command has "int8"',
        "To mend it: use the same settings, or another OUT",
    ]


def test_a_setting_that_is_younger_than_the_run_counts_as_what_runs_did_before(tmp_path: Path) -> None:
    ledger, plan = _begun(str(tmp_path))
    older = SmallStage().settings
    ledger.begin(SmallStage(settings=older | {"depth": 3}, unrecorded={"depth": 3}), plan)
    # and so it does for a worker that joins
    Ledger(plan.out, "small").join(SmallStage(settings=older | {"depth": 3}, unrecorded={"depth": 3}), plan)
    with pytest.raises(SettingsError, match="depth: the run in OUT has 3, this command has 4"):
        ledger.begin(SmallStage(settings=older | {"depth": 4}, unrecorded={"depth": 3}), plan)
    with pytest.raises(SettingsError, match="depth: the run in OUT has nothing, this command has 3"):
        ledger.begin(SmallStage(settings=older | {"depth": 3}), plan)
    # what is recorded counts as it is
    with pytest.raises(SettingsError, match="kappa: the run in OUT has 10, this command has 12"):
        ledger.begin(SmallStage(settings=older | {"kappa": 12}, unrecorded={"kappa": 12}), plan)


def test_beginning_with_another_plan_is_refused(tmp_path: Path) -> None:
    ledger, _ = _begun(str(tmp_path / "a"))
    with pytest.raises(SettingsError, match="plan: the run in OUT has"):
        ledger.begin(SmallStage(), small_plan(Folder(str(tmp_path / "b")), images=6))


def test_stages_of_one_run_do_not_meet(tmp_path: Path) -> None:
    ledger, plan = _begun(str(tmp_path))
    ledger.commit(output(plan, 1, [1.0, 2.0]), ledger.start(1), started=0.0)
    other = Ledger(plan.out, "other")
    other.begin(SmallStage(name="other", settings={"k": 3}), plan)
    assert other.pending(plan.shards) == [0, 1, 2]


def _changed(given_output: ShardOutput, column: str, values: list[Any]) -> ShardOutput:
    rows = given_output.rows
    index = rows.schema.get_field_index(column)
    return dataclasses.replace(
        given_output, rows=rows.set_column(index, column, pa.array(values, rows.schema.types[index]))
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda o: dataclasses.replace(o, rows=o.rows.take([1, 0])), "images in their order"),
        (lambda o: dataclasses.replace(o, rows=o.rows.slice(0, 1)), "images in their order: it has 1 rows"),
        (
            lambda o: dataclasses.replace(o, rows=o.rows.drop_columns(["value"])),
            "other columns than its stage: .'value'",
        ),
        (lambda o: dataclasses.replace(o, rows=o.rows.append_column("x", pa.array([1, 2]))), "other columns"),
        (lambda o: _changed(o, "status", ["ok", "done"]), "a status other than ok and failed"),
        (lambda o: dataclasses.replace(o, attachments=o.attachments[:1]), "attachments for 1 rows of 2"),
        (lambda o: dataclasses.replace(o, statistics={"sum": float("nan")}), "must be plain JSON"),
        (lambda o: dataclasses.replace(o, statistics={"n": np.int64(3)}), "must be plain JSON"),
        (lambda o: dataclasses.replace(o, attachments=[{"a": np.array([object()])}] * 2), "holds Python objects"),
        (lambda o: dataclasses.replace(o, number=3), "no shard 3"),
    ],
)
def test_an_output_that_does_not_fit_is_refused_before_anything_is_written(
    tmp_path: Path, change: Callable[[ShardOutput], ShardOutput], said: str
) -> None:
    ledger, plan = _begun(str(tmp_path))
    with pytest.raises(RunError, match=said):
        ledger.commit(change(output(plan, 1, [1.0, 2.0])), 1, started=0.0)
    assert plan.out.list("small/data") == []
    assert ledger.committed() == {}


def test_equal_outputs_give_equal_bytes(tmp_path: Path) -> None:
    ledger, plan = _begun(str(tmp_path))
    first = ledger.commit(output(plan, 0, [1.0, None]), ledger.start(0), started=0.0)
    again = ledger.commit(output(plan, 0, [1.0, None]), ledger.start(0), started=0.0, previous=first.manifest)
    two = [first, again]
    hashes = [[file["sha256"] for file in commit.manifest["files"]] for commit in two]
    assert hashes[0] == hashes[1]
    assert two[0].manifest["content_digest"] == two[1].manifest["content_digest"]


def test_no_credentials_reach_the_manifest_or_the_stage_file(tmp_path: Path) -> None:
    plan = small_plan(Folder(str(tmp_path)))
    ledger = Ledger(plan.out, "small")
    ledger.begin(SmallStage(settings={"weights": "https://me:hidden@host/w?token=hidden"}), plan)
    bad = dataclasses.replace(output(plan, 2, [None]), facts={"weights": "s3://me:hidden@host/w"})
    ledger.commit(_changed(bad, "error", ["cannot fetch https://h/x?X-Amz-Signature=hidden"]), 1, started=0.0)
    for name in ("small/stage.json", "small/manifests/0000002.0.json"):
        assert b"hidden" not in plan.out.read(name)


ROWS = pa.table(
    {
        "text": ["a", None, "", "é" * 40, "z"],
        "number": [1.5, None, float("nan"), -0.0, 0.0],
        "whole": pa.array([1, None, 0, -1, 2**40], pa.int64()),
        "flag": [True, None, False, True, False],
        "many": pa.array([[1, None], None, [], [3], [4, 5, 6]], pa.list_(pa.int32())),
        "mask": [
            {"size": [1, 2], "counts": "ab"},
            None,
            {"size": None, "counts": None},
            {"size": [], "counts": ""},
            None,
        ],
        "kind": pa.array(["x", None, "y", "x", "x"]).dictionary_encode(),
        "pair": pa.array([[1.0, 2.0], None, [3.0, 4.0], [5.0, None], [6.0, 7.0]], pa.list_(pa.float32(), 2)),
        "raw": [b"a", None, b"", b"\0", b"b"],
        "when": pa.array([1, None, 2, 3, 4], pa.timestamp("us")),
    }
)


@settings(max_examples=60, deadline=None)
@given(cuts=st.lists(st.integers(0, 5), max_size=4), before=st.integers(0, 3), after=st.integers(0, 3))
def test_the_content_digest_does_not_see_how_arrow_lays_a_table_out(cuts: list[int], before: int, after: int) -> None:
    edges = [0, *sorted(cuts), 5]
    chunked = pa.concat_tables([ROWS.slice(a, b - a) for a, b in itertools.pairwise(edges)])
    padded = pa.concat_tables([ROWS] * 2 + [ROWS.slice(0, after)]).combine_chunks()
    inside = pa.concat_tables([ROWS.slice(5 - before), ROWS, ROWS]).combine_chunks().slice(before, 5)
    assert content_digest(chunked) == content_digest(ROWS)
    assert content_digest(padded.slice(5, 5)) == content_digest(ROWS)
    assert content_digest(inside) == content_digest(ROWS)


def test_the_content_digest_survives_parquet() -> None:
    file = io.BytesIO()
    pq.write_table(ROWS, file, compression="zstd")
    assert content_digest(pq.read_table(file)) == content_digest(ROWS)


def test_the_content_digest_sees_every_single_value() -> None:
    seen = {content_digest(ROWS)}
    for column in ROWS.column_names:
        values = ROWS[column].to_pylist()
        for row in range(5):
            # the value of another row that differs; NaN differs from everything here
            other = (
                next(value for value in values if value is None or value != values[row])
                if values[row] is not None
                else values[0]
            )
            changed = [other if number == row else value for number, value in enumerate(values)]
            array = pa.array(changed, ROWS.schema.field(column).type)
            seen.add(content_digest(ROWS.set_column(ROWS.column_names.index(column), ROWS.schema.field(column), array)))
    assert len(seen) == 1 + 10 * 5


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ([float("nan")], [None], False),
        ([0.0], [-0.0], False),
        ([0.0], [None], False),
        (
            np.array([0x7FF8000000000000], np.uint64).view(np.float64),
            np.array([0xFFF8000000000001], np.uint64).view(np.float64),
            True,
        ),
    ],
)
def test_null_nan_and_minus_zero_are_told_apart(a: Any, b: Any, same: bool) -> None:
    digests = [content_digest(pa.table({"x": pa.array(values, pa.float64())})) for values in (a, b)]
    assert (digests[0] == digests[1]) == same


def test_the_content_digest_knows_names_types_and_bounds() -> None:
    tables = [
        pa.table({"x": ["ab", "c"]}),
        pa.table({"x": ["a", "bc"]}),
        pa.table({"y": ["ab", "c"]}),
        pa.table({"x": pa.array(["ab", "c"], pa.large_string())}),
        pa.table({"x": [["a"], ["b", "c"]]}),
        pa.table({"x": [["a", "b"], ["c"]]}),
        pa.table({"x": pa.array([1], pa.int32())}),
        pa.table({"x": pa.array([1], pa.int64())}),
        pa.table({"x": pa.array([], pa.int64())}),
    ]
    assert len({content_digest(table) for table in tables}) == len(tables)


def test_the_content_digest_knows_the_arrays() -> None:
    rows = pa.table({"x": [1, 2]})
    base = np.arange(6, dtype=np.float32).reshape(2, 3)
    half = base.astype(np.float16)
    half[1, 1] = np.nan
    variants: list[list[dict[str, Any]]] = [
        [{"e": base}, {}],
        [{}, {"e": base}],
        [{"f": base}, {}],
        [{"e": base.reshape(3, 2)}, {}],
        [{"e": base.astype(np.float64)}, {}],
        [{"e": base + 1}, {}],
        [{"e": -base}, {}],
        [{"e": half}, {}],
        [{"e": base, "f": base}, {}],
        [{}, {}],
    ]
    assert len({content_digest(rows, arrays) for arrays in variants}) == len(variants)
    for equal in (np.asfortranarray(base), base.astype(">f4"), np.repeat(base, 2, axis=1)[:, ::2]):
        assert content_digest(rows, [{"e": equal}, {}]) == content_digest(rows, variants[0])
    other_nan = half.copy()
    other_nan.view(np.uint16)[1, 1] = 0xFE01
    assert content_digest(rows, [{"e": other_nan}, {}]) == content_digest(rows, [{"e": half}, {}])


def test_a_stage_file_is_plain_json(tmp_path: Path) -> None:
    _, plan = _begun(str(tmp_path))
    record = json.loads((tmp_path / "small/stage.json").read_text())
    assert record["settings"] == {"kappa": 10, "head": {"lr": 0.5}}
    assert record["plan"] == {"digest": plan.digest, "unit": "image_id", "images": 5, "shards": 3, "shard_size": 2}
    assert record["reads"] == {}
