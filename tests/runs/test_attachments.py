"""Arrays and files of a row: kept in one archive, found again by one range, and never held all at once."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_stage import SmallStage, output, small_plan

from simsam_batch.errors import RunError
from simsam_batch.runs import archive, committed
from simsam_batch.runs.archive import ArchivedAttachments, ArchiveWriter, attachments_in
from simsam_batch.runs.committed import CommittedShard, committed_shards
from simsam_batch.runs.digest import content_digest
from simsam_batch.runs.ledger import Ledger
from simsam_batch.runs.plan import Plan
from simsam_batch.runs.publish import publish
from simsam_batch.runs.reading import StageRows
from simsam_batch.runs.retry import with_second_try
from simsam_batch.runs.schema import Attachment, File, ShardOutput
from simsam_batch.runs.verify import verify
from simsam_batch.storage import Folder

PNG = File(b"\x89PNG and so on", "png")
MASK = np.arange(6, dtype=np.uint8).reshape(2, 3)


def run_at(url: str) -> tuple[Ledger, Plan]:
    """Two shards of two images; the first of each has a picture and an array, the second an array or nothing."""
    plan = small_plan(Folder(url), images=4, shard_size=2)
    ledger = Ledger(plan.out, "small")
    ledger.begin(SmallStage(), plan)
    attached: list[list[dict[str, Attachment]]] = [
        [{"mask": MASK, "overlay": PNG}, {"mask": MASK + np.uint8(1)}],
        [{"overlay": File(b"", "txt"), "vector.long": np.array(2.5)}, {}],
    ]
    for number, of_shard in enumerate(attached):
        given_output = dataclasses.replace(output(plan, number, [1.0, 2.0]), attachments=of_shard)
        ledger.commit(given_output, ledger.start(number), started=0.0)
    return ledger, plan


def plain(attachments: Mapping[str, Attachment]) -> dict[str, Any]:
    return {name: one if isinstance(one, File) else one.tolist() for name, one in attachments.items()}


EXPECTED: list[dict[str, Any]] = [
    {"mask": [[0, 1, 2], [3, 4, 5]], "overlay": PNG},
    {"mask": [[1, 2, 3], [4, 5, 6]]},
    {"overlay": File(b"", "txt"), "vector.long": 2.5},
    {},
]


@pytest.mark.parametrize("published", [False, True])
def test_a_row_has_its_arrays_and_files_again(out_url: str, published: bool) -> None:
    _, plan = run_at(out_url)
    if published:
        publish(plan.out, plan, SmallStage())
    rows = StageRows(plan.out, "small")
    assert [plain(rows.attachments(row)) for _, row in rows.each()] == EXPECTED
    assert [[*rows.arrays(row)] for _, row in rows.each()] == [["mask"], ["mask"], ["vector.long"], []]
    assert not verify(plan.out, plan).damaged


def test_files_lie_beside_arrays_in_one_stored_archive_under_row_name_and_suffix(tmp_path: Path) -> None:
    run_at(str(tmp_path))
    with zipfile.ZipFile(tmp_path / "small/data/0000000.1.npz") as held:
        assert held.namelist() == ["0000000.mask.npy", "0000000.overlay.png", "0000001.mask.npy"]
        assert {member.compress_type for member in held.infolist()} == {zipfile.ZIP_STORED}
        assert held.read("0000000.overlay.png") == PNG.data
    with np.load(tmp_path / "small/data/0000000.1.npz") as arrays:
        assert arrays["0000001.mask"].tolist() == (MASK + 1).tolist()


def test_one_request_fetches_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the archive: the directory is at its end and is not looked at, nor is any other row's member."""
    _, plan = run_at(str(tmp_path))
    publish(plan.out, plan, SmallStage())
    rows = StageRows(plan.out, "small")
    [first, second] = rows.take([0, 1]).to_pylist()
    with zipfile.ZipFile(tmp_path / "small/data/0000000.1.npz") as held:
        starts = [held.getinfo(name).header_offset for name in ("0000000.mask.npy", "0000001.mask.npy")]
        end = held.start_dir
    assert [(row["arrays_offset"], row["arrays_bytes"]) for row in (first, second)] == [
        (starts[0], starts[1] - starts[0]),
        (starts[1], end - starts[1]),
    ]
    asked: list[tuple[str, int, int]] = []
    real = Folder.read_range

    def counted(folder: Folder, name: str, start: int, size: int) -> bytes:
        asked.append((name, start, size))
        return real(folder, name, start, size)

    monkeypatch.setattr(Folder, "read_range", counted)
    monkeypatch.setattr(Folder, "open", None)
    monkeypatch.setattr(Folder, "read", None)
    assert plain(rows.attachments(second)) == EXPECTED[1]
    assert asked == [("small/data/0000000.1.npz", starts[1], end - starts[1])]


def test_an_archive_cut_short_is_damage_and_named(tmp_path: Path) -> None:
    _, plan = run_at(str(tmp_path))
    path = tmp_path / "small/data/0000000.1.npz"
    rows = StageRows(plan.out, "small")
    [row] = rows.take([1]).to_pylist()
    path.write_bytes(path.read_bytes()[: row["arrays_offset"] + 40])
    with pytest.raises(
        RunError, match=rf"the arrays of 'folder/000001\.jpg' cannot .* ends after {path.stat().st_size}"
    ):
        rows.attachments(row)


def test_the_digest_of_arrays_is_what_it_always_was() -> None:
    """By its definition: a JSON header of row, name, type and shape before the bytes of each array."""
    rows = pa.table({"a": pa.array([1], pa.int64())})
    expected = hashlib.sha256(
        b'{"rows": 1, "columns": [["a", "int64"]]}' + b"\x80" + (1).to_bytes(8, "little") + b'[0, "m", "|u1", [2, 3]]'
    )
    expected.update(MASK.tobytes())
    assert content_digest(rows, [{"m": MASK}]) == expected.hexdigest()
    expected.update(b'[0, "p", "png", 14]' + PNG.data)
    assert content_digest(rows, [{"p": PNG, "m": MASK}]) == expected.hexdigest()


@pytest.mark.parametrize(
    "other",
    [
        {"p": File(PNG.data, "jpg")},
        {"q": PNG},
        {"p": File(PNG.data + b"!", "png")},
        {"p": np.frombuffer(PNG.data, np.uint8)},
    ],
)
def test_another_file_gives_another_digest(other: dict[str, Attachment]) -> None:
    rows = pa.table({"a": [1]})
    assert content_digest(rows, [other]) != content_digest(rows, [{"p": PNG}])


@pytest.mark.parametrize("suffix", ["npy", "", "tar.gz", "../x", "a/b"])
def test_a_suffix_that_is_none_is_refused_and_nothing_written(tmp_path: Path, suffix: str) -> None:
    plan = small_plan(Folder(str(tmp_path)), images=2, shard_size=2)
    ledger = Ledger(plan.out, "small")
    ledger.begin(SmallStage(), plan)
    bad = dataclasses.replace(output(plan, 0, [1.0, 2.0]), attachments=[{"a": File(b"", suffix)}, {}])
    with pytest.raises(RunError, match="file a of row 0 has the suffix"):
        ledger.commit(bad, 1, started=0.0)
    assert list((tmp_path / "small/data").iterdir()) == []


class Lazy(Sequence[Mapping[str, Attachment]]):
    """Attachments that are made as they are asked for; knows how many rows were, and how many at once."""

    def __init__(self, rows: int, values: int) -> None:
        self.rows, self.values, self.asked = rows, values, 0

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, row: Any) -> Any:
        if row >= self.rows:
            raise IndexError(row)
        self.asked += 1
        return {"a": np.full(self.values, row, np.float64)}


def test_a_shard_larger_than_memory_is_committed_and_tried_again_a_row_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """80 MB in 100 rows stand for what does not fit, by the count of tracemalloc."""
    import tracemalloc

    monkeypatch.setattr(archive, "HELD_BYTES", 1000)
    monkeypatch.setattr(committed, "HELD_BYTES", 1000)
    plan = small_plan(Folder(str(tmp_path)), images=100, shard_size=100)
    ledger = Ledger(plan.out, "small")
    ledger.begin(SmallStage(), plan)
    values: list[float | None] = [float(number) for number in range(100)]
    given_output = output(plan, 0, [*values[:-1], None])
    lazy = Lazy(100, 100_000)
    attempt, again = ledger.start(0), ledger.start(0)
    tracemalloc.start()
    try:
        first = ledger.commit(dataclasses.replace(given_output, attachments=lazy), attempt, started=0.0)
        second = with_second_try(ledger, SmallStage().fold, first.manifest, _last_again(plan))
        ledger.commit(second, again, started=0.0, previous=first.manifest)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert lazy.asked == 100
    # two blocks of 8 MB and their buffer while hashing, and one row
    assert peak < 30e6
    found = CommittedShard(plan.out, ledger.manifest(0, 1)).attachments()
    assert [row["a"][0] for row in found[:-1]] == list(range(99))
    assert found[99]["a"].tolist() == [7.0]
    assert not verify(plan.out, plan).damaged


def _last_again(plan: Plan) -> ShardOutput:
    rows = output(plan, 0, [1.0] * 100).rows.slice(99)
    return ShardOutput(0, rows, [{"a": np.array([7.0])}], {"rows": 1, "sum": 1.0, "order": [0]})


def test_verify_finds_ranges_that_lead_astray(tmp_path: Path) -> None:
    _, plan = run_at(str(tmp_path))
    path = tmp_path / "small/data/0000000.1.parquet"
    table = pq.read_table(path)
    metadata = dict(table.schema.metadata)
    ranges = json.loads(metadata[b"attachment_ranges"])
    metadata[b"attachment_ranges"] = json.dumps(ranges[::-1]).encode()
    pq.write_table(table.replace_schema_metadata(metadata), path)
    manifest = tmp_path / "small/manifests/0000000.0.json"
    record = json.loads(manifest.read_bytes())
    record["files"][0] |= {"size": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    manifest.write_text(json.dumps(record))
    [problem] = verify(plan.out, plan).problems
    assert problem.what == "it says that attachments lie where they do not"


def test_verify_finds_published_ranges_that_lead_astray(tmp_path: Path) -> None:
    _, plan = run_at(str(tmp_path))
    publish(plan.out, plan, SmallStage())
    path = tmp_path / "results/small/part-00000.parquet"
    table = pq.read_table(path)
    place = table.column_names.index("arrays_offset")
    moved = pa.array([1, *table["arrays_offset"].to_pylist()[1:]], pa.int64())
    pq.write_table(table.set_column(place, table.schema.field(place), moved), path)
    [problem] = verify(plan.out, plan).problems
    assert problem.what == "its rows of shard 0 are not those committed"


def test_rows_of_committed_shards_are_checked_and_have_the_columns_asked_for(out_url: str) -> None:
    ledger, plan = run_at(out_url)
    shards = list(committed_shards(plan.out, ledger.manifests()))
    assert [shard.number for shard in shards] == [0, 1]
    assert [shard.rows(["value"]).to_pydict() for shard in shards] == [{"value": [1.0, 2.0]}] * 2
    assert [plain(row) for shard in shards for row in shard.attachments()] == EXPECTED
    name = "small/data/0000001.1.parquet"
    plan.out.replace(name, plan.out.read(name)[:-1] + b"?")
    fine, damaged = committed_shards(plan.out, ledger.manifests())
    assert fine.rows().num_rows == 2
    with pytest.raises(RunError, match=r"0000001\.1\.parquet is not what was committed.*To mend it: restore"):
        damaged.rows()


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.dictionaries(
            st.text("abc.é_", min_size=1, max_size=5),
            st.one_of(
                st.builds(File, st.binary(max_size=50), st.sampled_from(["png", "json", "b"])),
                st.lists(st.integers(0, 255), max_size=9).map(lambda values: np.array(values, np.int64)),
            ),
            max_size=3,
        ),
        max_size=5,
    )
)
def test_what_goes_into_an_archive_comes_out_of_it_and_of_each_range(rows: list[dict[str, Attachment]]) -> None:
    with ArchiveWriter() as writer:
        assert list(writer.written(rows)) == rows
        finished = writer.finish()
        ranges = writer.ranges
    assert [each.row for each in ranges] == [row for row, attached in enumerate(rows) if attached]
    if finished is None:
        assert not any(rows)
        return
    body, size, sha256 = finished
    assert isinstance(body, bytes)
    assert (size, sha256) == (len(body), hashlib.sha256(body).hexdigest())
    again = ArchivedAttachments(io.BytesIO(body), len(rows))
    assert [plain(found) for found in again] == [plain(row) for row in rows]
    assert [plain(again[-place]) for place in range(1, len(rows) + 1)] == [plain(row) for row in reversed(rows)]
    by_range: Iterator[dict[str, Any]] = (
        plain(attachments_in(body[each.start : each.start + each.size], each.row)) for each in ranges
    )
    assert list(by_range) == [plain(row) for row in rows if row]


def test_equal_attachments_give_equal_bytes_in_whatever_order_they_are_named() -> None:
    archives = []
    for names in (("mask", "overlay"), ("overlay", "mask")):
        row: dict[str, Attachment] = {"mask": MASK, "overlay": PNG}
        with ArchiveWriter() as writer:
            list(writer.written([{name: row[name] for name in names}]))
            archives.append(writer.finish())
    assert archives[0] == archives[1] is not None
