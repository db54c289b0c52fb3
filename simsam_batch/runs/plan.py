"""The plan: which images a run is about and which shard each belongs to, written once and never listed again."""

from __future__ import annotations

import io
import os
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from simsam_batch import __version__
from simsam_batch.errors import RunError, SettingsError
from simsam_batch.runs.digest import content_digest
from simsam_batch.runs.records import from_json, to_json
from simsam_batch.runs.schema import PLAN_FIELDS, SCHEMA_VERSION, Shard
from simsam_batch.storage import Folder, ObjectNotFound

RUN_FILE = "run.json"
ROWS_PER_GROUP = 10_000
GROUPS_KEPT = 4
"""Row groups that a process holds of the plan: one worker of many is given shards far apart and commits behind."""

_DUPLICATES_COUNTED = 1000
_OWN_TO_EACH_IMAGE = ("image_id", "uri", "etag", "truth_uri")


def default_shard_size(images: int) -> int:
    """Images in a shard when nothing is asked for: a 64th of all, at least 8 and at most 1024."""
    return min(max(-(-images // 64), 8), 1024)


@dataclass(frozen=True, slots=True)
class Plan:
    """A run's plan by its numbers; the table stays on storage. Small and picklable.

    Attributes:
        out: the run's folder.
        digest: content digest of the table with its shard boundaries.
        images: rows of the table.
        shards: how many slices it has, numbered from 0.
        shard_size: rows in every shard but the last, which may have fewer.
        source: where the images came from, for people; as recorded when the plan was made.
    """

    out: Folder
    digest: str
    images: int
    shards: int
    shard_size: int
    source: dict[str, Any]

    def __hash__(self) -> int:
        return hash((self.out, self.digest))

    def images_of(self, number: int) -> int:
        """How many images a shard has."""
        return min(self.shard_size, self.images - number * self.shard_size)

    def shard(self, number: int) -> Shard:
        """One shard's records; reads only the part of the plan that holds them, and keeps the last few parts.

        Raises:
            RunError: the plan's file does not hold what ``run.json`` says, or there is no such shard.
            StorageError: it cannot be read.
        """
        if not 0 <= number < self.shards:
            raise RunError(f"there is no shard {number} in the plan of {self.out.url}: it has {self.shards}")
        return Shard(number, _reader(os.getpid(), self).records(number))


class _Reader:
    """The plan's Parquet file, opened once in a process, with the row groups read last."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._name = _plan_name(plan.digest)
        self._lock = threading.Lock()
        self._kept: dict[int, pa.Table] = {}
        with _damage_reported(f"{plan.out.url}/{self._name}"):
            self._file = pq.ParquetFile(plan.out.open(self._name), pre_buffer=True)
        if self._file.metadata.num_rows != plan.images:
            raise RunError(
                f"{plan.out.url}/{self._name} holds {self._file.metadata.num_rows} images, but {RUN_FILE} says "
                f"{plan.images}. To mend it: restore the file, or start again in another OUT"
            )
        missing = [field.name for field in PLAN_FIELDS if field.name not in self._file.schema_arrow.names]
        if missing:
            raise RunError(
                f"{plan.out.url}/{self._name} has no columns {', '.join(missing)}. To mend it: restore the file"
            )
        self._rows_per_group = self._file.metadata.row_group(0).num_rows

    def records(self, number: int) -> pa.Table:
        start = number * self._plan.shard_size
        group, offset = divmod(start, self._rows_per_group)
        with self._lock:
            if group not in self._kept:
                with _damage_reported(f"{self._plan.out.url}/{self._name}"):
                    table = self._file.read_row_group(group)
                    # Parquet does not check that its texts are UTF-8
                    table.validate(full=True)
                    self._kept[group] = table
                if len(self._kept) > GROUPS_KEPT:
                    del self._kept[next(iter(self._kept))]
            table = self._kept[group]
        return table.slice(offset, min(self._plan.shard_size, self._plan.images - start))


@contextmanager
def _damage_reported(url: str) -> Iterator[None]:
    try:
        yield
    # names that are not UTF-8 raise no error of Arrow's
    except (pa.ArrowException, OSError, ValueError) as error:
        raise RunError(
            f"{url} cannot be read as Parquet: {error}. To mend it: restore the file, or start again in another OUT"
        ) from error


# Two plans at most are open at once in a process: the run's own and, in a comparison, another's.
@lru_cache(maxsize=2)
def _reader(process: int, plan: Plan) -> _Reader:  # noqa: ARG001  a forked child opens its own
    return _Reader(plan)


def image_ids_of(plan: Plan) -> Iterator[pa.Array]:
    """The ids of all images in order, a row group at a time; no other column is read.

    Raises:
        RunError: the plan cannot be read.
        StorageError: the storage did not answer.
    """
    name = _plan_name(plan.digest)
    with _damage_reported(f"{plan.out.url}/{name}"), plan.out.open(name) as source:
        for batch in pq.ParquetFile(source).iter_batches(ROWS_PER_GROUP, columns=["image_id"]):
            yield batch["image_id"]


def _plan_name(digest: str) -> str:
    return f"plan/{digest}.parquet"


def make_plan(out: Folder, catalog: pa.Table, *, shard_size: int | None, source: Mapping[str, Any]) -> Plan:
    """Fix the images and shards of a new run; if another driver did so first, that plan is the one returned.

    Args:
        out: the run's folder.
        catalog: `PLAN_FIELDS` (the nullable ones may be absent) and any further columns, in the order of the run.
        shard_size: images in a shard; None for `default_shard_size`.
        source: where the images come from, as plain JSON values, for ``run.json``.

    Raises:
        SettingsError: no images, two with one ``image_id``, a required column missing or holding nulls.
        StorageError: OUT cannot be written.
    """
    table = _checked(catalog)
    size = shard_size if shard_size is not None else default_shard_size(table.num_rows)
    if size < 1:
        raise SettingsError(f"shard_size: {size} given, at least 1 is needed")
    numbers = np.arange(table.num_rows, dtype=np.int64) // size
    table = table.append_column(pa.field("shard", pa.int32(), nullable=False), pa.array(numbers.astype(np.int32)))
    digest = content_digest(table)
    out.create(_plan_name(digest), _as_parquet(table, size))
    run = {
        "schema_version": SCHEMA_VERSION,
        "plan": digest,
        "images": table.num_rows,
        "shards": int(numbers[-1]) + 1,
        "shard_size": size,
        "source": dict(source),
        "version": __version__,
        "created": time.time(),
        "token": uuid.uuid4().hex,
    }
    body = to_json(run, RUN_FILE)
    return _plan_of(out, body if out.create(RUN_FILE, body) else out.read(RUN_FILE))


def load_plan(out: Folder) -> Plan | None:
    """The plan of the run in a folder; None if there is no run.

    Raises:
        RunError: ``run.json`` is damaged or was written by a newer release.
    """
    try:
        return _plan_of(out, out.read(RUN_FILE))
    except ObjectNotFound:
        return None


def _plan_of(out: Folder, body: bytes) -> Plan:
    run = from_json(body, f"{out.url}/{RUN_FILE}", "plan", "images", "shards", "shard_size", "source")
    images, shards, size = run["images"], run["shards"], run["shard_size"]
    if images < 1 or size < 1 or shards != -(-images // size):
        raise RunError(
            f"{out.url}/{RUN_FILE} is damaged: {images} images are not {shards} shards of {size}. "
            "To mend it: restore the file"
        )
    return Plan(out, run["plan"], images, shards, size, dict(run["source"]))


def _checked(catalog: pa.Table) -> pa.Table:
    if catalog.num_rows == 0:
        raise SettingsError("there are no images to plan for. To mend it: check IMAGES and the names of its files")
    if "shard" in catalog.column_names:
        raise SettingsError("the catalog has a column 'shard', which the plan makes itself. To mend it: rename it")
    columns: dict[str, Any] = {}
    for field in PLAN_FIELDS:
        if field.name in catalog.column_names:
            columns[field.name] = catalog[field.name].cast(field.type)
        elif field.nullable:
            columns[field.name] = pa.nulls(catalog.num_rows, field.type)
        if not field.nullable and (field.name not in columns or columns[field.name].null_count):
            raise SettingsError(f"the catalog needs a value of {field.name} for every image")
    others = [field for field in catalog.schema if field.name not in columns]
    schema = pa.schema([*PLAN_FIELDS, *others])
    table = pa.Table.from_arrays([*columns.values(), *(catalog[field.name] for field in others)], schema=schema)
    twice = _duplicates(table["image_id"])
    if twice:
        raise SettingsError(
            f"image_id must be unique, but more than one image has {', '.join(map(repr, twice[:5]))}"
            f"{' and others' if len(twice) > 5 else ''}. To mend it: list every image once"
        )
    return table


def _duplicates(ids: pa.ChunkedArray) -> list[str]:
    """Values that come more than once, found by 8-byte hashes so that millions of names need no second copy.

    Of very many some are returned, whichever.
    """
    hashes = np.empty(len(ids), dtype=np.int64)
    for start, block in _blocks(ids):
        hashes[start : start + len(block)] = np.fromiter(map(hash, block.to_pylist()), dtype=np.int64, count=len(block))
    ordered = np.sort(hashes)
    again = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])[:_DUPLICATES_COUNTED]
    if again.size == 0:
        return []
    counts: Counter[str] = Counter()
    for start, block in _blocks(ids):
        suspect = np.isin(hashes[start : start + len(block)], again)
        counts.update(block.filter(pa.array(suspect)).to_pylist())
    return [name for name, count in counts.items() if count > 1]


def _blocks(values: pa.ChunkedArray) -> Iterator[tuple[int, pa.Array]]:
    """A column in blocks of a bounded number of rows, each with the number of its first row."""
    start = 0
    for chunk in values.chunks:
        for first in range(0, len(chunk), ROWS_PER_GROUP):
            block = chunk.slice(first, ROWS_PER_GROUP)
            yield start, block
            start += len(block)


def _as_parquet(table: pa.Table, shard_size: int) -> bytes:
    rows = max(1, ROWS_PER_GROUP // shard_size) * shard_size
    target = io.BytesIO()
    # dictionaries of values that come once only cost; names of neighbours begin alike, which this encoding leaves out
    repeating = [name for name in table.column_names if name not in _OWN_TO_EACH_IMAGE]
    alike = dict.fromkeys(("image_id", "uri"), "DELTA_BYTE_ARRAY")
    with pq.ParquetWriter(
        target, table.schema, compression="zstd", use_dictionary=repeating, column_encoding=alike
    ) as writer:
        for start in range(0, table.num_rows, rows):
            writer.write_table(table.slice(start, rows), row_group_size=rows)
    return target.getvalue()
