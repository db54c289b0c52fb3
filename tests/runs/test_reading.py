"""Rows are read back the same from published parts and from shards, and nothing is read that was not asked for."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_stage import SmallStage, output, small_plan

from simsam_batch.errors import RunError, SettingsError
from simsam_batch.runs import publish as publish_module
from simsam_batch.runs.ledger import Ledger
from simsam_batch.runs.plan import Plan, make_plan_of
from simsam_batch.runs.publish import publish
from simsam_batch.runs.reading import StageRows
from simsam_batch.runs.schema import ARRAY_FIELDS, row_fields
from simsam_batch.storage import Folder

VALUES = {0: [0.0, 1.0], 1: [2.0, None], 2: [4.0, 5.0], 3: [6.0]}
"""Seven images in four shards; the value is the row's number. The fourth image failed."""


def run_at(url: str, shards: tuple[int, ...] = (0, 1, 2, 3)) -> Plan:
    plan = small_plan(Folder(url), images=7, shard_size=2)
    ledger = Ledger(plan.out, "small")
    ledger.begin(SmallStage(), plan)
    for number in shards:
        ledger.commit(output(plan, number, VALUES[number]), ledger.start(number), started=0.0)
    return plan


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of two shards at most, each in two row groups."""
    monkeypatch.setattr(publish_module, "PART_ROWS", 4)
    monkeypatch.setattr(publish_module, "GROUP_ROWS", 1)


@pytest.mark.usefixtures("small_parts")
def test_rows_are_the_same_before_and_after_publishing(out_url: str) -> None:
    plan = run_at(out_url)
    before = StageRows(plan.out, "small")
    result = publish(plan.out, plan, SmallStage())
    after = StageRows(plan.out, "small")
    assert (before.published, after.published) == (False, True)
    assert len(before) == len(after) == 7
    assert before.schema.equals(after.schema)
    assert before.schema.names == [*SmallStage().schema.names, *(field.name for field in ARRAY_FIELDS)]
    for rows in (before, after):
        assert rows.settings == {"kappa": 10, "head": {"lr": 0.5}}
        assert rows.resolved == {"weights": "sha256:ab"}
        assert rows.plan == plan.digest
        assert rows.content_digest == result["content_digest"]
    assert list(before.each()) == list(after.each())
    for rows in (before, after):
        assert rows.take([6, 1, 5], ["image_id", "value"])["value"].to_pylist() == [6.0, 1.0, 5.0]
    assert [number for number, _ in after.each()] == list(range(7))
    assert [row["value"] for _, row in after.each()] == [0.0, 1.0, 2.0, None, 4.0, 5.0, 6.0]


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("published", [False, True])
def test_rows_come_in_batches_of_the_columns_asked_for(tmp_path: Path, published: bool) -> None:
    plan = run_at(str(tmp_path))
    if published:
        publish(plan.out, plan, SmallStage())
    rows = StageRows(plan.out, "small")
    assert [(first, table.num_rows) for first, table in rows.batches(rows=1)] == [(n, 1) for n in range(7)]
    batches = list(rows.batches(["value", "no such column", "image_id"]))
    assert all(table.column_names == ["image_id", "value"] for _, table in batches)
    assert all(table["image_id"][0].as_py() == f"folder/{first:06d}.jpg" for first, table in batches)


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("published", [False, True])
def test_rows_are_taken_by_number_in_the_order_asked(tmp_path: Path, published: bool) -> None:
    plan = run_at(str(tmp_path))
    if published:
        publish(plan.out, plan, SmallStage())
    rows = StageRows(plan.out, "small")
    assert rows.take([6, 0, 5, 0], ["value"]).to_pydict() == {"value": [6.0, 0.0, 5.0, 0.0]}
    assert rows.take([]).num_rows == 0
    for missing in (7, -1):
        with pytest.raises(RunError, match=f"no row {missing} of small: it has 7 rows"):
            rows.take([0, missing])


def test_a_run_in_progress_has_the_rows_of_its_committed_shards_under_their_own_numbers(out_url: str) -> None:
    plan = run_at(out_url, shards=(3, 1))
    rows = StageRows(plan.out, "small")
    assert len(rows) == 3
    assert [(number, row["image_id"]) for number, row in rows.each(["image_id"])] == [
        (2, "folder/000002.jpg"),
        (3, "folder/000003.jpg"),
        (6, "folder/000006.jpg"),
    ]
    assert rows.take([6, 2], ["value"])["value"].to_pylist() == [6.0, 2.0]
    assert rows.spread(2) == [2, 6]
    with pytest.raises(RunError, match="no row 4 of small: it has 3 rows, those of the shards that are committed"):
        rows.take([4])


def test_results_of_a_publishing_that_did_not_end_are_not_read(tmp_path: Path) -> None:
    plan = run_at(str(tmp_path))
    publish(plan.out, plan, SmallStage())
    (tmp_path / "results/small.json").unlink()
    assert not StageRows(plan.out, "small").published


def test_a_stage_that_has_begun_and_committed_nothing_has_no_rows(tmp_path: Path) -> None:
    rows = StageRows(run_at(str(tmp_path), shards=()).out, "small")
    assert (len(rows), list(rows.each()), rows.spread(3)) == (0, [], [])


@pytest.mark.parametrize(("count", "numbers"), [(1, [0]), (2, [0, 6]), (3, [0, 3, 6]), (99, [0, 1, 2, 3, 4, 5, 6])])
def test_a_sample_is_spread_from_the_first_to_the_last(tmp_path: Path, count: int, numbers: list[int]) -> None:
    plan = run_at(str(tmp_path))
    assert StageRows(plan.out, "small").spread(count) == numbers


@pytest.mark.usefixtures("small_parts")
def test_only_the_row_groups_asked_for_are_read(tmp_path: Path) -> None:
    """Of the first part the pages of the first row group are overwritten: rows of the second can still be taken."""
    plan = run_at(str(tmp_path))
    publish(plan.out, plan, SmallStage())
    part = tmp_path / "results/small/part-00000.parquet"
    group = pq.read_metadata(part).row_group(0)
    start = min(group.column(i).dictionary_page_offset or group.column(i).data_page_offset for i in range(8))
    body = bytearray(part.read_bytes())
    body[start : start + group.total_byte_size // 2] = bytes(group.total_byte_size // 2)
    part.write_bytes(body)
    rows = StageRows(plan.out, "small")
    assert rows.take([2, 4], ["image_id", "value"])["value"].to_pylist() == [2.0, 4.0]
    with pytest.raises(RunError, match=r"(?s)part-00000\.parquet cannot be read.*run the same command again"):
        rows.take([0])
    with pytest.raises(RunError, match=r"part-00000\.parquet cannot be read"):
        list(rows.batches())


@pytest.mark.parametrize("published", [False, True])
def test_the_arrays_of_a_row_are_those_it_was_committed_with(out_url: str, published: bool) -> None:
    plan = run_at(out_url)
    if published:
        publish(plan.out, plan, SmallStage())
    rows = StageRows(plan.out, "small")
    for number, row in rows.each(["image_id", *(field.name for field in ARRAY_FIELDS)]):
        found = rows.arrays(row)
        # as rows of an earlier release have it
        of_old = {name: row[name] for name in ("image_id", "arrays_path", "arrays_member")}
        assert {name: array.tolist() for name, array in rows.arrays(of_old).items()} == {
            name: array.tolist() for name, array in found.items()
        }
        if number == 3:
            assert found == {}
        else:
            assert list(found) == ["eigenvectors"]
            assert found["eigenvectors"].dtype == np.float16
            assert (found["eigenvectors"] == np.full((2, 3), number)).all()


def test_arrays_of_other_rows_are_not_read_and_damaged_ones_are_named(tmp_path: Path) -> None:
    """The numbers of the first member are overwritten, which its checksum would not let pass."""
    plan = run_at(str(tmp_path))
    path = tmp_path / "small/data/0000000.1.npz"
    body = bytearray(path.read_bytes())
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        second = archive.getinfo("0000001.eigenvectors.npy").header_offset
    body[second - 12 : second] = b"\xff" * 12
    path.write_bytes(body)
    rows = StageRows(plan.out, "small")
    damaged, whole = rows.take([0, 1]).to_pylist()
    assert (rows.arrays(whole)["eigenvectors"] == 1).all()
    with pytest.raises(RunError, match=r"0000000\.1\.npz: the arrays of 'folder/000000\.jpg' cannot be read"):
        rows.arrays(damaged)
    with pytest.raises(RunError, match=r"is another row's"):
        rows.arrays(whole | {"arrays_member": "0000009"})
    with pytest.raises(RunError, match=r"it has no member 0000009\.\*"):
        rows.arrays(whole | {"arrays_member": "0000009", "arrays_offset": None})


def test_arrays_are_never_unpickled(tmp_path: Path) -> None:
    plan = run_at(str(tmp_path))
    np.savez(tmp_path / "small/data/0000000.1.npz", **{"0000000.eigenvectors": np.array([{}], dtype=object)})
    with zipfile.ZipFile(tmp_path / "small/data/0000000.1.npz") as archive:
        size = archive.start_dir
    rows = StageRows(plan.out, "small")
    [row] = rows.take([0]).to_pylist()
    for place in ({"arrays_offset": None}, {"arrays_bytes": size}):
        with pytest.raises(RunError, match="cannot be read: Object arrays cannot be loaded"):
            rows.arrays(row | place)


def test_parts_that_do_not_add_up_are_reported(tmp_path: Path) -> None:
    plan = run_at(str(tmp_path))
    publish(plan.out, plan, SmallStage())
    part = tmp_path / "results/small/part-00000.parquet"
    part.with_name("part-00001.parquet").write_bytes(part.read_bytes())
    with pytest.raises(RunError, match=r"holds 14 rows, but results/small\.json says 7\. To mend it: delete"):
        StageRows(plan.out, "small")


@pytest.mark.parametrize("stage", ["small", "other"])
def test_a_folder_without_the_stage_is_refused(tmp_path: Path, stage: str) -> None:
    if stage == "other":
        run_at(str(tmp_path))
    with pytest.raises(SettingsError, match=f"holds no results of '{stage}'"):
        StageRows(Folder(str(tmp_path)), stage)


@pytest.mark.parametrize("shards", [(0, 1, 2, 3), (1, 3), ()])
@pytest.mark.parametrize("others", [(0, 1, 2, 3), (0, 3), (), None])
def test_rows_of_two_stages_go_together_by_number_though_both_are_incomplete(
    tmp_path: Path, shards: tuple[int, ...], others: tuple[int, ...] | None
) -> None:
    plan = run_at(str(tmp_path), shards)
    if others is not None:
        ledger = Ledger(plan.out, "other")
        ledger.begin(SmallStage(name="other"), plan)
        for number in others:
            ledger.commit(output(plan, number, VALUES[number]), ledger.start(number), started=0.0)
    rows = StageRows(plan.out, "small")
    here = [number for number in range(7) if number // 2 in shards]
    expected = [
        (number, {"value": VALUES[number // 2][number % 2]} if number // 2 in (others or ()) else None)
        for number in here
    ]
    assert list(rows.beside("other", ["value", "no such column"])) == expected
    assert [number for number, _ in rows.each()] == here


def test_rows_of_stages_about_other_records_do_not_go_together(tmp_path: Path) -> None:
    plan = run_at(str(tmp_path))
    pairs = make_plan_of(plan.out, pa.table({"pair_id": ["a", "b"]}), unit="pair_id", shard_size=2)
    schema = pa.schema(row_fields("pair_id"))
    Ledger(plan.out, "pairs").begin(SmallStage(name="pairs", unit="pair_id", schema=schema), pairs)
    with pytest.raises(SettingsError, match="the stages small and pairs are about other records"):
        list(StageRows(plan.out, "small").beside("pairs", ["status"]))
