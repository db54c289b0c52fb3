"""Parquet files of any storage, read in the thread that asks for them, and with few requests.

Arrow's own threads may still hold a file of Python's when the interpreter ends, which then aborts or never ends
(apache/arrow, issues 34314 and 50482). So none is given to them here, and the columns of a row group that lie side by
side, which they would fetch ahead, are fetched by one request all the same.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

_GAP_BYTES = 8192
"""What is fetched for nothing rather than by another request; Arrow's own measure."""


class ParquetReader:
    """The tables in an open file, which `close` closes too.

    Args:
        source: a seekable binary file.
        metadata: what its footer says, if that is known, which is then not read.

    Raises:
        pa.ArrowException, OSError: the file is no Parquet, or does not hold what its footer says. Its other methods
            raise the same.
    """

    def __init__(self, source: BinaryIO, metadata: pq.FileMetaData | None = None) -> None:
        self._below = source
        self._source = _FetchedAhead(source)
        self._file = pq.ParquetFile(self._source, metadata=metadata, pre_buffer=False)

    @property
    def metadata(self) -> pq.FileMetaData:
        """What the footer says."""
        return self._file.metadata

    @property
    def schema(self) -> pa.Schema:
        """Of the whole table, with its metadata."""
        return self._file.schema_arrow

    def null_count(self, path: str) -> int:
        """How many values of a column, ``struct.field`` for one inside, are null; 0 where the file does not say."""
        found = 0
        for number in range(self.metadata.num_row_groups):
            group = self.metadata.row_group(number)
            for each in map(group.column, range(group.num_columns)):
                if each.path_in_schema == path and each.statistics is not None and each.statistics.has_null_count:
                    found += each.statistics.null_count
        return found

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The whole table, or some of its columns."""
        groups = [self.read_row_group(number, columns) for number in range(self.metadata.num_row_groups)]
        if groups and groups[0].num_columns:
            return pa.concat_tables(groups)
        return self._file.read(_listed(columns), use_threads=False)

    def read_row_group(self, number: int, columns: Sequence[str] | None = None) -> pa.Table:
        """One row group, or some of its columns."""
        with self._fetched(number, columns):
            return self._file.read_row_group(number, _listed(columns), use_threads=False)

    def batches(self, rows: int, columns: Sequence[str] | None = None) -> Iterator[pa.RecordBatch]:
        """All rows in order, at most so many at once, and of one row group."""
        for number in range(self.metadata.num_row_groups):
            with self._fetched(number, columns):
                yield from self._file.iter_batches(rows, [number], _listed(columns), use_threads=False)

    @contextmanager
    def _fetched(self, number: int, columns: Sequence[str] | None) -> Iterator[None]:
        self._source.fetch(_places(self.metadata.row_group(number), columns))
        try:
            yield
        finally:
            self._source.fetch([])

    def close(self) -> None:
        """Close the file; without this it stays open."""
        self._file.close()
        self._below.close()

    def __enter__(self) -> ParquetReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_table(source: BinaryIO, columns: Sequence[str] | None = None) -> pa.Table:
    """The table in an open file, whole or of some columns; raises what `ParquetReader` does."""
    return ParquetReader(source).read(columns)


def _listed(columns: Sequence[str] | None) -> list[str] | None:
    return None if columns is None else list(columns)


def _places(group: Any, columns: Sequence[str] | None) -> list[tuple[int, int]]:
    """Where in the file some columns of a row group begin and end; a nested column has several."""
    places = []
    for number in range(group.num_columns):
        column = group.column(number)
        path = column.path_in_schema
        if columns is None or any(path == name or path.startswith(f"{name}.") for name in columns):
            start = column.data_page_offset
            # some writers give zero for a place they do not know
            if column.has_dictionary_page and 0 < column.dictionary_page_offset < start:
                start = column.dictionary_page_offset
            places.append((start, start + column.total_compressed_size))
    return sorted(places)


class _FetchedAhead(io.RawIOBase):
    """A file that answers from what was fetched of it, and asks the file below for all else."""

    def __init__(self, source: BinaryIO) -> None:
        self._below = source
        self._at = 0
        self._fetched: list[tuple[int, bytes]] = []

    def fetch(self, places: Sequence[tuple[int, int]]) -> None:
        """Hold these places, in order, instead of those held before; what is nearly side by side is read at once.

        Places that the file does not have, of a footer that is damaged, are left to whoever then asks for them.
        """
        joined: list[tuple[int, int]] = []
        size = self._below.seek(0, os.SEEK_END) if places else 0
        for start, end in (place for place in places if 0 <= place[0] < place[1] <= size):
            if joined and start - joined[-1][1] <= _GAP_BYTES:
                joined[-1] = joined[-1][0], max(joined[-1][1], end)
            else:
                joined.append((start, end))
        self._fetched = []
        for start, end in joined:
            self._below.seek(start)
            self._fetched.append((start, self._below.read(end - start)))

    def read(self, size: int = -1) -> bytes:
        start = self._at
        for begins, held in self._fetched:
            if size >= 0 and begins <= start and start + size <= begins + len(held):
                found = held[start - begins : start - begins + size]
                break
        else:
            self._below.seek(start)
            found = self._below.read(size)
        self._at += len(found)
        return found

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence == os.SEEK_END:
            self._at = self._below.seek(offset, whence)
        else:
            self._at = offset + (self._at if whence == os.SEEK_CUR else 0)
        return self._at

    def tell(self) -> int:
        return self._at

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True
