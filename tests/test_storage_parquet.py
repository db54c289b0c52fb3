"""Parquet is read in the thread that asks, with few requests, and holds what was written."""

from __future__ import annotations

import ast
import io
import os
import re
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import simsam_batch
from simsam_batch.storage.parquet import ParquetReader, _FetchedAhead, read_table

COLUMNS = ["image_id", "found.here", "found", "area"]


@pytest.fixture(scope="module")
def table() -> pa.Table:
    """Short and long columns, texts with a dictionary, a nested one, and a name with a dot in it."""
    rng = np.random.default_rng(0)
    return pa.table(
        {
            "image_id": [f"{number:05d}" for number in range(3000)],
            "mask": [rng.bytes(200) for _ in range(3000)],
            "found.here": pa.array(rng.integers(0, 9, 3000)),
            "found": [[{"x": float(x), "name": "ab"[int(x) % 2]} for x in range(number % 4)] for number in range(3000)],
            "area": pa.array(rng.random(3000)),
        }
    )


@pytest.fixture(scope="module")
def written(table: pa.Table) -> bytes:
    target = io.BytesIO()
    pq.write_table(table, target, row_group_size=1000)
    return target.getvalue()


class Watched(io.BytesIO):
    """Notes which thread reads, from where and how much."""

    def __init__(self, content: bytes) -> None:
        super().__init__(content)
        self.reads: list[tuple[int, int]] = []
        self.threads: set[int] = set()

    def read(self, size: int | None = -1, /) -> bytes:
        self.threads.add(threading.get_ident())
        start = self.tell()
        found = super().read(size)
        self.reads.append((start, len(found)))
        return found


@pytest.mark.parametrize("columns", [None, COLUMNS, ["area"]], ids=["all", "some", "one"])
def test_what_was_written_is_read_by_the_thread_that_asks_alone(
    table: pa.Table, written: bytes, columns: list[str] | None
) -> None:
    """Arrow's own threads keep the file until the interpreter ends, which then aborts in a few of a hundred runs."""
    expected = table if columns is None else table.select(columns)
    source = Watched(written)
    reader = ParquetReader(source)
    assert reader.read(columns).equals(expected)
    groups = [reader.read_row_group(number, columns) for number in range(3)]
    assert [group.num_rows for group in groups] == [1000, 1000, 1000]
    assert pa.concat_tables(groups).equals(expected)
    batches = list(reader.batches(300, columns))
    assert max(batch.num_rows for batch in batches) <= 300
    assert pa.Table.from_batches(batches, expected.schema).equals(expected)
    assert read_table(io.BytesIO(written), columns).equals(expected)
    assert reader.read([]).num_rows == 3000
    assert source.threads == {threading.get_ident()}


def test_a_row_group_takes_one_request_and_no_byte_too_many(written: bytes) -> None:
    source = Watched(written)
    reader = ParquetReader(source)
    metadata = reader.metadata
    for number in range(3):
        source.reads.clear()
        whole = reader.read_row_group(number)
        group = metadata.row_group(number)
        sizes = [group.column(column).total_compressed_size for column in range(group.num_columns)]
        assert len(source.reads) == 1
        assert source.reads[0][1] == sum(sizes)
        source.reads.clear()
        # the masks between the two are not read
        assert reader.read_row_group(number, ["image_id", "area"]).equals(whole.select(["image_id", "area"]))
        assert len(source.reads) == 2
        assert sum(size for _, size in source.reads) == sizes[0] + sizes[-1]


def test_a_footer_that_is_known_is_not_read_again(table: pa.Table, written: bytes) -> None:
    source = Watched(written)
    reader = ParquetReader(source, ParquetReader(io.BytesIO(written)).metadata)
    assert source.reads == []
    assert reader.schema.names == table.column_names
    assert reader.read_row_group(1).equals(table.slice(1000, 1000))


def test_it_closes_its_file_when_told_to_and_not_before(written: bytes) -> None:
    source = io.BytesIO(written)
    read_table(source)
    assert not source.closed
    with ParquetReader(source) as reader:
        assert reader.metadata.num_rows == 3000
    assert source.closed


def test_a_file_that_ends_early_is_an_error_of_arrow(written: bytes) -> None:
    metadata = ParquetReader(io.BytesIO(written)).metadata
    cut = ParquetReader(io.BytesIO(written[: len(written) // 2]), metadata)
    with pytest.raises((pa.ArrowException, OSError)):
        cut.read_row_group(2)


@pytest.mark.parametrize("place", [(-5, 20), (10, 5), (0, 1 << 62), (1 << 62, 1 << 63)])
def test_places_that_a_file_does_not_have_are_not_fetched(place: tuple[int, int]) -> None:
    """As a damaged footer names them: asking for so many bytes would take the memory for them."""
    source = Watched(b"abcdefgh")
    file = _FetchedAhead(source)
    file.fetch([place, (2, 5)])
    assert source.reads == [(2, 3)]
    file.seek(2)
    assert (file.read(3), file.tell()) == (b"cde", 5)
    assert source.reads == [(2, 3)]
    assert (file.seek(-2, os.SEEK_END), file.read(), file.seek(-1, os.SEEK_CUR), file.read(9)) == (6, b"gh", 7, b"h")


def test_no_other_module_reads_parquet() -> None:
    sources = Path(simsam_batch.__file__).parent
    readers = re.compile(r"pq\.(ParquetFile|read_\w+|ParquetDataset)|parquet\.read_table|.*dataset\.dataset")
    found = {
        path.relative_to(sources).as_posix()
        for path in sources.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and readers.fullmatch(ast.unparse(node.func))
    }
    assert found == {"storage/parquet.py"}
