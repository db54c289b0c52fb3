"""The rows of a run, read back as they are asked for: published ones, or those that a run in progress has committed."""

from __future__ import annotations

import json
import zipfile
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from hashlib import sha256
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from simsam_batch.errors import RunError, SettingsError
from simsam_batch.runs.archive import ArchivedAttachments, attachments_in
from simsam_batch.runs.committed import CommittedShard
from simsam_batch.runs.gone import GONE, GONE_FIELD
from simsam_batch.runs.ledger import Ledger
from simsam_batch.runs.schema import ARRAY_FIELDS, Attachment, File
from simsam_batch.runs.stage_record import read_record, schema_of
from simsam_batch.storage import Folder, read_ahead
from simsam_batch.storage.filesystems import READ_THREADS
from simsam_batch.storage.parquet import ParquetReader

BATCH_ROWS = 256

_ABOUT = ("settings", "resolved")


class StageRows:
    """The rows of one stage, in the order of the plan. Nothing but their number and schema is held.

    A row goes by its number, its place in the plan from 0. Where the results are published, all rows are there; else
    those of the shards that were committed when this was made, so that numbers may be missing.

    Args:
        out: the run's folder.
        stage: the stage's name.

    Attributes:
        out, stage: as given.
        ledger: of what is committed.
        published: whether the rows are those of ``results/``.
        result: what ``results/<stage>.json`` holds; None if not.
        schema: of the rows, `ARRAY_FIELDS` last; without metadata.
        settings: the result settings they were computed with.
        resolved: what those came down to.
        plan: digest of the plan.
        unit: the column that names a row.

    Raises:
        SettingsError: OUT has no such stage.
        RunError: what is there is damaged, or was written by a newer release.
        StorageError: the storage did not answer.
    """

    def __init__(self, out: Folder, stage: str) -> None:
        self.out, self.stage = out, stage
        self.ledger = ledger = Ledger(out, stage)
        self.result = ledger.published()
        self.published = self.result is not None
        about: Mapping[str, Any]
        self._files: Sequence[_Part | _Shard]
        if self.result is not None:
            self._files, self.schema, about = _parts(out, stage, int(self.result["images"]))
        else:
            self._files, self.schema, about = _shards(ledger)
        self.settings: dict[str, Any] = about["settings"]
        self.resolved: dict[str, Any] = about["resolved"]
        self.plan: str = about["plan"]
        # rows begin with it
        self.unit: str = self.schema.names[0]
        self._starts = [file.numbers.start for file in self._files]

    @cached_property
    def settings_of_reading(self) -> dict[str, Any]:
        """The settings, and what they do not say those of the stages that it rests on: how its images were read.

        Raises:
            RunError: the record of a stage is damaged.
            StorageError: the storage did not answer.
        """
        return {**_settings_along(self.out, self.stage), **self.settings}

    def __len__(self) -> int:
        """How many rows are there."""
        return sum(len(file.numbers) for file in self._files)

    @cached_property
    def numbers(self) -> NDArray[np.int64]:
        """The numbers of the rows that are there, ascending."""
        return np.concatenate(
            [np.zeros(0, np.int64), *(np.arange(f.numbers.start, f.numbers.stop) for f in self._files)]
        )

    @cached_property
    def content_digest(self) -> str:
        """What ``results/<stage>.json`` says under that name; of a run in progress the same over what is committed."""
        if self.result is not None:
            return str(self.result["content_digest"])
        generations = {file.shard: file.generation for file in self._files if isinstance(file, _Shard)}
        digest = sha256()
        for manifest in Ledger(self.out, self.stage).manifests(generations):
            digest.update(manifest["content_digest"].encode())
        return digest.hexdigest()

    def batches(self, columns: Iterable[str] | None = None, rows: int = BATCH_ROWS) -> Iterator[tuple[int, pa.Table]]:
        """All rows in order, in tables of at most ``rows`` with the number of the first; numbers go on within a table.

        Memory holds one row group of these columns (`simsam_batch.runs.publish.GROUP_BYTES`), or one shard.

        Args:
            columns: names; those that the stage has not are left out. None: all.
            rows: at most so many at once.
        """
        yield from self._batches(self._known(columns), rows)

    def leaves(self, columns: Iterable[str], rows: int = BATCH_ROWS) -> Iterator[tuple[int, pa.Table]]:
        """As `batches`, of lists of structures some fields alone, such as ``segments.list.element.label``.

        Nothing else of them is read of published rows; of those of a run in progress the others may be there too.

        Args:
            columns: paths as Parquet has them; those whose column the stage has not are left out.
            rows: at most so many at once.
        """
        known = set(self.schema.names)
        yield from self._batches([path for path in columns if path.partition(".")[0] in known], rows)

    def _batches(self, names: list[str], rows: int) -> Iterator[tuple[int, pa.Table]]:
        for file in self._files:
            number = file.numbers.start
            for table in file.tables(self.out, names, rows):
                yield number, table
                number += table.num_rows

    def each(self, columns: Iterable[str] | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
        """All rows in order as Python values, with their numbers; see `batches`."""
        for first, table in self.batches(columns):
            yield from enumerate(table.to_pylist(), first)

    def beside(self, stage: str, columns: Iterable[str]) -> Iterator[tuple[int, dict[str, Any] | None]]:
        """For each row that is here, in order, its number and some columns of another stage's row of that number.

        Goes along with `each`. Memory holds what `batches` does, of the other stage.

        Args:
            stage: of the same run, and of the same plan. Either stage may be incomplete.
            columns: of the other stage; those that it has not are left out.

        Returns:
            None in place of the columns where the other stage has no such row, or has not begun.

        Raises:
            SettingsError: the other stage is about other records.
        """
        other: Iterator[tuple[int, dict[str, Any]]] = iter(())
        rows = _rows_if_begun(self.out, stage)
        if rows is not None:
            other = rows.each(columns)
            if rows.plan != self.plan:
                raise SettingsError(
                    f"{self.out.url}: the stages {self.stage} and {stage} are about other records, so that their rows "
                    "do not go together. To mend it: name stages of one plan"
                )
        at, row = next(other, (-1, {}))
        for number in (number for file in self._files for number in file.numbers):
            while -1 < at < number:
                at, row = next(other, (-1, {}))
            yield number, row if at == number else None

    def take(self, numbers: Sequence[int], columns: Iterable[str] | None = None) -> pa.Table:
        """The rows of these numbers, in this order; of a part file only the row groups that hold some are read.

        Args:
            numbers: of rows.
            columns: as for `batches`.

        Raises:
            RunError: a number is not there.
        """
        names = self._known(columns)
        wanted = sorted(set(numbers))
        by_file: dict[int, list[int]] = {}
        for number in wanted:
            by_file.setdefault(self._file_of(number), []).append(number)
        found = [self._files[place].take(self.out, names, inside) for place, inside in by_file.items()]
        empty = self.schema.empty_table().select(names)
        return pa.concat_tables([empty, *found]).take(np.searchsorted(wanted, numbers).astype(np.int64))

    def spread(self, count: int) -> list[int]:
        """Numbers of at most ``count`` rows spread evenly from the first to the last."""
        total = len(self)
        places = np.linspace(0, total - 1, min(count, total)).round().astype(int).tolist()
        ends = np.cumsum([len(file.numbers) for file in self._files])
        files = np.searchsorted(ends, places, side="right").tolist()
        found = {self._files[file].numbers[place - int(ends[file])] for place, file in zip(places, files, strict=True)}
        return sorted(found)

    def arrays(self, row: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        """The arrays of one row by name; see `attachments`."""
        found = self.attachments(row)
        return {name: value for name, value in found.items() if not isinstance(value, File)}

    def attachments(self, row: Mapping[str, Any]) -> dict[str, Attachment]:
        """The arrays and files of one row by name; none if none were stored. No other row's are read.

        One request fetches them where the row says where they lie; else the archive's directory is read first.

        Args:
            row: with the columns of `ARRAY_FIELDS`; ``arrays_offset`` and ``arrays_bytes`` may be absent.

        Raises:
            RunError: they are not there or cannot be read.
        """
        return attachments_of(self.out, row, self.unit)

    def _known(self, columns: Iterable[str] | None) -> list[str]:
        names: list[str] = self.schema.names
        wanted = set(names if columns is None else columns)
        return [name for name in names if name in wanted]

    def _file_of(self, number: int) -> int:
        place = bisect_right(self._starts, number) - 1
        if place < 0 or number not in self._files[place].numbers:
            there = f"{len(self)} rows" + ("" if self.published else ", those of the shards that are committed")
            raise RunError(f"{self.out.url} has no row {number} of {self.stage}: it has {there}")
        return place


def _settings_along(out: Folder, stage: str) -> dict[str, Any]:
    """The settings that a stage has recorded, and below them those of each that it reads; the first of these wins."""
    record = read_record(out, stage)
    if record is None:
        return {}
    held: dict[str, Any] = {}
    for name in reversed([*record["reads"]]):
        held |= _settings_along(out, name)
    return {**held, **record["settings"]}


def attachments_of(out: Folder, row: Mapping[str, Any], unit: str) -> dict[str, Attachment]:
    """What is attached to one row of a run, by name; see `StageRows.attachments`.

    Args:
        out: the run's folder.
        row: as there.
        unit: the column that names a row.

    Raises:
        RunError: they are not there or cannot be read.
    """
    if row["arrays_path"] is None:
        return {}
    try:
        found = _in_range(out, row) if row.get("arrays_offset") is not None else _in_archive(out, row)
    except (KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise _without_attachments(out, row, unit, str(error)) from error
    if not found:
        raise _without_attachments(out, row, unit, f"it has no member {row['arrays_member']}.*")
    return found


def _in_range(out: Folder, row: Mapping[str, Any]) -> dict[str, Attachment]:
    body = out.read_range(row["arrays_path"], row["arrays_offset"], row["arrays_bytes"])
    if len(body) != row["arrays_bytes"]:
        raise ValueError(f"it ends after {row['arrays_offset'] + len(body)} bytes")
    return attachments_in(body, int(row["arrays_member"]))


def _in_archive(out: Folder, row: Mapping[str, Any]) -> dict[str, Attachment]:
    number = int(row["arrays_member"])
    with out.open(row["arrays_path"]) as file:
        return dict(ArchivedAttachments(file, number + 1)[number])


def _without_attachments(out: Folder, row: Mapping[str, Any], unit: str, how: str) -> RunError:
    which = f" of {row[unit]!r}" if unit in row else ""
    return RunError(
        f"{out.url}/{row['arrays_path']}: the arrays{which} cannot be read: {how}. To mend it: restore the file"
    )


def _rows_if_begun(out: Folder, stage: str) -> StageRows | None:
    try:
        return StageRows(out, stage)
    except SettingsError:
        return None


@dataclass(frozen=True, slots=True)
class _Part:
    """One published file: whole row groups are read, of the columns asked for."""

    numbers: range
    name: str
    metadata: pq.FileMetaData

    def tables(self, out: Folder, columns: list[str], rows: int) -> Iterator[pa.Table]:
        with _damage_reported(out, self.name), out.open(self.name) as source:
            for batch in ParquetReader(source, self.metadata).batches(rows, self._read(columns)):
                yield _marked(pa.Table.from_batches([batch])).replace_schema_metadata(None)

    def take(self, out: Folder, columns: list[str], numbers: list[int]) -> pa.Table:
        places = np.array(numbers) - self.numbers.start
        sizes = [self.metadata.row_group(group).num_rows for group in range(self.metadata.num_row_groups)]
        ends = np.cumsum(sizes)
        groups = np.searchsorted(ends, places, side="right")
        found = []
        with _damage_reported(out, self.name), out.open(self.name) as source:
            file = ParquetReader(source, self.metadata)
            for group in np.unique(groups).tolist():
                inside = places[groups == group] - (ends[group] - sizes[group])
                found.append(_marked(file.read_row_group(group, self._read(columns)).take(inside)))
        return pa.concat_tables(found).replace_schema_metadata(None)

    def _read(self, columns: list[str]) -> list[str]:
        """With what tells that an image is gone, which becomes its status."""
        marked = "status" in columns and GONE_FIELD.name in self.metadata.schema.to_arrow_schema().names
        return [*columns, GONE_FIELD.name] if marked else columns


@dataclass(frozen=True, slots=True)
class _Shard:
    """The rows of one committed shard, a file small enough to be read and checked whole."""

    numbers: range
    shard: int
    generation: int
    ledger: Ledger

    def tables(self, out: Folder, columns: list[str], rows: int) -> Iterator[pa.Table]:
        # a shard's file is read whole, to be checked
        table = self._read(out, [*dict.fromkeys(path.partition(".")[0] for path in columns)])
        for start in range(0, table.num_rows, rows):
            yield table.slice(start, rows)

    def take(self, out: Folder, columns: list[str], numbers: list[int]) -> pa.Table:
        return self._read(out, columns).take(np.array(numbers) - self.numbers.start)

    def _read(self, out: Folder, columns: list[str]) -> pa.Table:
        manifest = self.ledger.manifest(self.shard, self.generation)
        return CommittedShard(out, manifest).placed_rows().select(columns)


def _marked(rows: pa.Table) -> pa.Table:
    """The rows with the status of those whose images are gone."""
    if GONE_FIELD.name not in rows.column_names:
        return rows
    place = rows.schema.get_field_index("status")
    status = pc.if_else(rows[GONE_FIELD.name], GONE, rows["status"])
    return rows.set_column(place, rows.schema.field(place), status).drop_columns([GONE_FIELD.name])


def _parts(out: Folder, stage: str, images: int) -> tuple[list[_Part], pa.Schema, dict[str, Any]]:
    parts: list[_Part] = []
    schema, about, start = pa.schema([]), {}, 0
    names = [info.name for info in out.list(f"results/{stage}") if info.name.endswith(".parquet")]
    footers = read_ahead(
        names, partial(_footer, out), threads=READ_THREADS, most=2 * READ_THREADS, name="simsam-footers"
    )
    for name, (metadata, schema) in zip(names, footers, strict=True):
        with _damage_reported(out, name):
            held = schema.metadata or {}
            about = {"plan": held[b"plan"].decode(), **{key: json.loads(held[key.encode()]) for key in _ABOUT}}
        parts.append(_Part(range(start, start + metadata.num_rows), name, metadata))
        start += metadata.num_rows
    if start != images:
        raise RunError(
            f"{out.url}/results/{stage} holds {start} rows, but results/{stage}.json says {images}. To mend it: delete "
            "the folder and run the same command again, which publishes it anew"
        )
    return parts, pa.schema([field for field in schema if field.name != GONE_FIELD.name]), about


def _footer(out: Folder, name: str) -> tuple[pq.FileMetaData, pa.Schema]:
    with _damage_reported(out, name), out.open(name) as source:
        file = ParquetReader(source)
        return file.metadata, file.schema


def _shards(ledger: Ledger) -> tuple[list[_Shard], pa.Schema, dict[str, Any]]:
    out, stage = ledger.out, ledger.stage
    if f"{stage}/" not in out.entries():
        raise SettingsError(
            f"{out.url} holds no results of {stage!r}. To mend it: give the OUT of a run that has this stage"
        )
    about = ledger.known()
    plan = ledger.plan(about)
    shards = []
    for shard, generation in sorted(ledger.committed().items()):
        start = plan.first_record_of(shard)
        shards.append(_Shard(range(start, start + plan.records_of(shard)), shard, generation, ledger))
    return shards, pa.schema([*schema_of(about), *ARRAY_FIELDS]), {**about, "plan": plan.digest}


@contextmanager
def _damage_reported(out: Folder, name: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise RunError(
            f"{out.url}/{name} cannot be read: {error}. To mend it: run the same command again, which publishes it anew"
        ) from error
