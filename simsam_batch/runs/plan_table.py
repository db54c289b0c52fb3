"""The table of a plan: one Parquet file whose row groups end with shards, so that a shard is found without the rest."""

from __future__ import annotations

import io
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from simsam_batch.errors import RunError, SettingsError
from simsam_batch.runs.digest import content_digest
from simsam_batch.runs.schema import IMAGE, PLAN_FIELDS
from simsam_batch.storage import Folder
from simsam_batch.storage.parquet import ParquetReader

ROWS_PER_GROUP = 10_000
GROUPS_KEPT = 4
"""Row groups that a process holds of a table: one worker of many is given shards far apart and commits behind."""

_DUPLICATES_COUNTED = 1000
_OWN_TO_EACH_IMAGE = ("uri", "etag", "truth_uri")


@dataclass(frozen=True, slots=True)
class Part:
    """One table of a plan by its numbers. A plan has one, and another for each time that it grew.

    Attributes:
        table: content digest of the table with its shard boundaries; its file is ``plan/<digest>.parquet``.
        records: rows of the table.
        shards: how many slices it has.
        shard_size: rows in every shard but the last, which may have fewer.
        first_shard, first_record: numbers in the plan of the first shard and the first row.
    """

    table: str
    records: int
    shards: int
    shard_size: int
    first_shard: int = 0
    first_record: int = 0


def file_of(table: str) -> str:
    """The name of a table's file."""
    return f"plan/{table}.parquet"


def write_table(out: Folder, table: pa.Table, unit: str, shard_size: int, first_shard: int, first_record: int) -> Part:
    """Write the table of a part, with the column ``shard``; nothing happens if it is there already.

    Raises:
        SettingsError: no rows, two with one name, a column that is needed missing or holding nulls, or the size is
            below one.
        StorageError: OUT cannot be written.
    """
    if shard_size < 1:
        raise SettingsError(f"shard_size: {shard_size} given, at least 1 is needed")
    table = _checked(table, unit)
    numbers = first_shard + np.arange(table.num_rows, dtype=np.int64) // shard_size
    table = table.append_column(pa.field("shard", pa.int32(), nullable=False), pa.array(numbers.astype(np.int32)))
    digest = content_digest(table)
    out.create(file_of(digest), _as_parquet(table, unit, shard_size))
    return Part(digest, table.num_rows, -(-table.num_rows // shard_size), shard_size, first_shard, first_record)


class TableReader:
    """The file of a part, opened once in a process, with the row groups read last. Any thread may ask.

    Raises:
        RunError: the file does not hold what the plan says.
        StorageError: it cannot be read.
    """

    def __init__(self, out: Folder, part: Part, unit: str) -> None:
        self._part = part
        self._url = f"{out.url}/{file_of(part.table)}"
        self._lock = threading.Lock()
        self._kept: dict[int, pa.Table] = {}
        with _damage_reported(self._url):
            self._file = ParquetReader(out.open(file_of(part.table)))
        if self._file.metadata.num_rows != part.records:
            raise RunError(
                f"{self._url} holds {self._file.metadata.num_rows} records, but the plan says {part.records}. "
                "To mend it: restore the file, or start again in another OUT"
            )
        needed = [field.name for field in PLAN_FIELDS] if unit == IMAGE else [unit]
        missing = [name for name in needed if name not in self._file.schema.names]
        if missing:
            raise RunError(f"{self._url} has no columns {', '.join(missing)}. To mend it: restore the file")
        self._rows_per_group = self._file.metadata.row_group(0).num_rows

    def records(self, start: int) -> pa.Table:
        """The rows of the shard that begins with a row of this part."""
        group, offset = divmod(start, self._rows_per_group)
        with self._lock:
            if group not in self._kept:
                with _damage_reported(self._url):
                    table = self._file.read_row_group(group)
                    # Parquet does not check that its texts are UTF-8
                    table.validate(full=True)
                    self._kept[group] = table
                if len(self._kept) > GROUPS_KEPT:
                    del self._kept[next(iter(self._kept))]
            table = self._kept[group]
        return table.slice(offset, min(self._part.shard_size, self._part.records - start))


def ids_in(out: Folder, part: Part, unit: str) -> Iterator[pa.Array]:
    """The ids of a part in order, a row group at a time; no other column is read.

    Raises:
        RunError: the file cannot be read as a plan.
        StorageError: the storage did not answer.
    """
    name = file_of(part.table)
    with _damage_reported(f"{out.url}/{name}"), out.open(name) as source:
        for batch in ParquetReader(source).batches(ROWS_PER_GROUP, [unit]):
            yield batch[unit]


@contextmanager
def _damage_reported(url: str) -> Iterator[None]:
    try:
        yield
    # names that are not UTF-8 raise no error of Arrow's
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise RunError(
            f"{url} cannot be read as Parquet: {error}. To mend it: restore the file, or start again in another OUT"
        ) from error


def _checked(catalog: pa.Table, unit: str) -> pa.Table:
    what = "images" if unit == IMAGE else "records"
    if catalog.num_rows == 0:
        raise SettingsError(f"there are no {what} to plan for. To mend it: check IMAGES and the names of its files")
    if "shard" in catalog.column_names:
        raise SettingsError("the catalog has a column 'shard', which the plan makes itself. To mend it: rename it")
    columns: dict[str, Any] = {}
    wanted = PLAN_FIELDS if unit == IMAGE else [pa.field(unit, pa.string(), nullable=False)]
    for field in wanted:
        if field.name in catalog.column_names:
            columns[field.name] = catalog[field.name].cast(field.type)
        elif field.nullable:
            columns[field.name] = pa.nulls(catalog.num_rows, field.type)
        if not field.nullable and (field.name not in columns or columns[field.name].null_count):
            raise SettingsError(f"the catalog needs a value of {field.name} for every {what.removesuffix('s')}")
    others = [field for field in catalog.schema if field.name not in columns]
    schema = pa.schema([*wanted, *others])
    table = pa.Table.from_arrays([*columns.values(), *(catalog[field.name] for field in others)], schema=schema)
    require_unique(table[unit], unit)
    return table


def require_unique(ids: pa.ChunkedArray, unit: str) -> None:
    """Raise a `SettingsError` that names some if a value comes more than once.

    They are found by 8-byte hashes, so that millions of names need no second copy.
    """
    hashes = np.empty(len(ids), dtype=np.int64)
    for start, block in _blocks(ids):
        hashes[start : start + len(block)] = np.fromiter(map(hash, block.to_pylist()), dtype=np.int64, count=len(block))
    ordered = np.sort(hashes)
    again = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])[:_DUPLICATES_COUNTED]
    counts: Counter[str] = Counter()
    for start, block in _blocks(ids) if again.size else ():
        suspect = np.isin(hashes[start : start + len(block)], again)
        counts.update(block.filter(pa.array(suspect)).to_pylist())
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        what = "image" if unit == IMAGE else "record"
        raise SettingsError(
            f"{unit} must be unique, but more than one {what} has {', '.join(map(repr, twice[:5]))}"
            f"{' and others' if len(twice) > 5 else ''}. To mend it: list every {what} once"
        )


def _blocks(values: pa.ChunkedArray) -> Iterator[tuple[int, pa.Array]]:
    """A column in blocks of a bounded number of rows, each with the number of its first row."""
    start = 0
    for chunk in values.chunks:
        for first in range(0, len(chunk), ROWS_PER_GROUP):
            block = chunk.slice(first, ROWS_PER_GROUP)
            yield start, block
            start += len(block)


def _as_parquet(table: pa.Table, unit: str, shard_size: int) -> bytes:
    rows = max(1, ROWS_PER_GROUP // shard_size) * shard_size
    target = io.BytesIO()
    # dictionaries of values that come once only cost; names of neighbours begin alike, which this encoding leaves out
    own = (unit, *(_OWN_TO_EACH_IMAGE if unit == IMAGE else ()))
    repeating = [name for name in table.column_names if name not in own]
    alike = dict.fromkeys(("image_id", "uri") if unit == IMAGE else (unit,), "DELTA_BYTE_ARRAY")
    with pq.ParquetWriter(
        target, table.schema, compression="zstd", use_dictionary=repeating, column_encoding=alike
    ) as writer:
        for start in range(0, table.num_rows, rows):
            writer.write_table(table.slice(start, rows), row_group_size=rows)
    return target.getvalue()
