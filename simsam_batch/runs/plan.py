"""The plan: which records a stage is about and which shard each belongs to, written once and never listed again."""

from __future__ import annotations

import os
import re
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import islice
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from simsam_batch import __version__
from simsam_batch.errors import RunError, SettingsError, did_you_mean
from simsam_batch.runs.plan_table import Part, TableReader, file_of, ids_in, require_unique, write_table
from simsam_batch.runs.records import from_json, to_json
from simsam_batch.runs.schema import IMAGE, PLAN_FIELDS, SCHEMA_VERSION, Shard
from simsam_batch.storage import Folder, ObjectNotFound

RUN_FILE = "run.json"

FURTHER_PLANS = "plans"
"""In the ``source`` of a run's plan: by name what is recorded of plans of other records, which its stages work on."""
_PART_KEYS = ("images", "shards", "shard_size")
_DIGEST = re.compile(r"[0-9a-f]+")
_NAMED = 5
_GUESSED = 10_000


def default_shard_size(images: int) -> int:
    """Images in a shard when nothing is asked for: a 64th of all, at least 8 and at most 1024."""
    return min(max(-(-images // 64), 8), 1024)


@dataclass(frozen=True, slots=True)
class Plan:
    """A plan by its numbers; the tables stay on storage. Small and picklable.

    A record goes by its number, its place from 0 over all parts, and so does a shard. A plan may grow
    (`append_to_plan`): what is there keeps its numbers.

    Attributes:
        out: the run's folder.
        parts: its tables, in order; the first is what the plan is known by.
        unit: the column that names a record, unique over all parts.
        source: where the records came from, for people; as recorded when the run was planned, and what is said anew
            with records that it has grown by.
    """

    out: Folder
    parts: tuple[Part, ...]
    unit: str = IMAGE
    source: dict[str, Any] = field(default_factory=dict, compare=False)

    @property
    def digest(self) -> str:
        """What the plan is known by, however it grew: the content digest of its first table."""
        return self.parts[0].table

    @property
    def records(self) -> int:
        """How many there are."""
        return self.parts[-1].first_record + self.parts[-1].records

    @property
    def shards(self) -> int:
        """How many slices they are in, numbered from 0."""
        return self.parts[-1].first_shard + self.parts[-1].shards

    @property
    def shard_size(self) -> int:
        """Records in a shard of the first part."""
        return self.parts[0].shard_size

    def first_record_of(self, shard: int) -> int:
        """The number of a shard's first record; for the number of shards that of all records."""
        part = self._part_of(shard)
        return part.first_record + min((shard - part.first_shard) * part.shard_size, part.records)

    def records_of(self, shard: int) -> int:
        """How many records a shard has."""
        return self.first_record_of(shard + 1) - self.first_record_of(shard)

    def place_of(self, record: int) -> tuple[int, int]:
        """The shard of a record, and its place in it from 0."""
        part = next(part for part in reversed(self.parts) if part.first_record <= record)
        shard, place = divmod(record - part.first_record, part.shard_size)
        return part.first_shard + shard, place

    def shard(self, number: int) -> Shard:
        """One shard's records; reads only the part of a table that holds them, and keeps the last few parts.

        Raises:
            RunError: a file does not hold what the plan says, or there is no such shard.
            StorageError: it cannot be read.
        """
        if not 0 <= number < self.shards:
            raise RunError(f"there is no shard {number} in the plan of {self.out.url}: it has {self.shards}")
        part = self._part_of(number)
        reader = _reader(os.getpid(), self.out, part, self.unit)
        return Shard(number, reader.records((number - part.first_shard) * part.shard_size))

    def shards_of_first(self, records: int) -> int | None:
        """How many shards the plan had when it had so many records; None if it never had."""
        ends = {part.first_record + part.records: part.first_shard + part.shards for part in self.parts}
        return ends.get(records)

    def files(self) -> list[str]:
        """The names of its files below the run's folder."""
        numbered = [f"plan/{self.digest}.{number}.json" for number in range(1, len(self.parts))]
        return [file_of(part.table) for part in self.parts] + numbered

    def about(self) -> dict[str, Any]:
        """What a stage records of the plan it works on: `recorded_plan` finds it again, with what it has grown by."""
        first = self.parts[0]
        numbers = {"images": first.records, "shards": first.shards, "shard_size": first.shard_size}
        return {"digest": self.digest, "unit": self.unit, **numbers}

    def _part_of(self, shard: int) -> Part:
        return next(part for part in reversed(self.parts) if part.first_shard <= shard or part is self.parts[0])


# Two plans at most are open at once in a process, the run's own and another's, and each may have grown.
@lru_cache(maxsize=4)
def _reader(process: int, out: Folder, part: Part, unit: str) -> TableReader:  # noqa: ARG001  a forked child opens its own
    return TableReader(out, part, unit)


def ids_of(plan: Plan) -> Iterator[pa.Array]:
    """The ids of all records in order, a row group at a time; no other column is read.

    Raises:
        RunError: the plan cannot be read.
        StorageError: the storage did not answer.
    """
    for part in plan.parts:
        yield from ids_in(plan.out, part, plan.unit)


def kept_columns(plan: Plan) -> list[pa.Field]:
    """The plan's columns beyond its own, which pass through to the rows."""
    own = {f.name for f in PLAN_FIELDS} | {plan.unit, "shard"}
    return [f.with_nullable(True) for f in plan.shard(0).records.schema if f.name not in own]


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
    size = shard_size if shard_size is not None else default_shard_size(catalog.num_rows)
    part = write_table(out, catalog, IMAGE, size, 0, 0)
    run = {
        "schema_version": SCHEMA_VERSION,
        "plan": part.table,
        "images": part.records,
        "shards": part.shards,
        "shard_size": size,
        "source": dict(source),
        "version": __version__,
        "created": time.time(),
        "token": uuid.uuid4().hex,
    }
    body = to_json(run, RUN_FILE)
    return _plan_of(out, body if out.create(RUN_FILE, body) else out.read(RUN_FILE))


def make_plan_of(out: Folder, table: pa.Table, *, unit: str, shard_size: int) -> Plan:
    """The plan of a stage that is about other records than the run's images; the same table makes the same plan.

    Nothing names it before a stage begins with it.

    Args:
        out: the run's folder.
        table: the records in their order; any columns.
        unit: the column that names each, text without nulls.
        shard_size: records in a shard.

    Raises:
        SettingsError: no records, two with one name, or a name missing.
        StorageError: OUT cannot be written.
    """
    return Plan(out, _grown(out, write_table(out, table, unit, shard_size, 0, 0))[0], unit)


class PlanGrownError(RunError):
    """The plan has grown meanwhile by other records than were to be appended."""


def append_to_plan(plan: Plan, table: pa.Table, shard_size: int, source: Mapping[str, Any] | None = None) -> Plan:
    """The plan with further records in shards of their own. Of several drivers the first one's records come next.

    Args:
        plan: as it is on storage.
        table: the records, columns as in the first part.
        shard_size: records in a shard.
        source: what is otherwise than in the plan's ``source`` from now on.

    Raises:
        SettingsError: a record is in the plan already, or the table cannot be a plan's.
        PlanGrownError: the plan has grown meanwhile by something else.
        StorageError: OUT cannot be read or written.
    """
    out = plan.out
    names = table[plan.unit] if plan.unit in table.column_names else pa.chunked_array([], pa.string())
    require_unique(pa.chunked_array([*ids_of(plan), *names.cast(pa.string()).chunks], pa.string()), plan.unit)
    part = write_table(out, table, plan.unit, shard_size, plan.shards, plan.records)
    name = f"plan/{plan.digest}.{len(plan.parts)}.json"
    record: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "table": part.table,
        "images": part.records,
        "shards": part.shards,
        "shard_size": part.shard_size,
        "first_shard": part.first_shard,
        "first_image": part.first_record,
        "source": dict(source or {}),
    }
    if not out.create(name, to_json(record, name)):
        raise PlanGrownError(
            f"{out.url}: the plan has grown by other records meanwhile ({name}). To mend it: load it again, and append "
            "what it still lacks"
        )
    return Plan(out, (*plan.parts, part), plan.unit, plan.source | record["source"])


def load_plan(out: Folder) -> Plan | None:
    """The plan of the run in a folder, as far as it has grown; None if there is no run.

    Raises:
        RunError: ``run.json`` is damaged or was written by a newer release.
    """
    try:
        return _plan_of(out, out.read(RUN_FILE))
    except ObjectNotFound:
        return None


def recorded_plan(out: Folder, about: Mapping[str, Any], where: str) -> Plan:
    """The plan that a stage has recorded (`Plan.about`), as far as it has grown.

    Args:
        out: the run's folder.
        about: what is recorded.
        where: URL of the record, for messages.

    Raises:
        RunError: the record is damaged, or was written by a newer release.
    """
    texts = [about.get(key) for key in ("digest", "unit")]
    if not all(isinstance(text, str) for text in texts) or not all(type(about.get(key)) is int for key in _PART_KEYS):
        raise RunError(f"{where} is damaged: it names no plan. To mend it: restore the file")
    parts, later = _grown(out, _part(about, about["digest"], where))
    return Plan(out, parts, str(about["unit"]), later)


def as_grown(plan: Plan) -> Plan:
    """The plan as it is on storage by now.

    Raises:
        RunError: what it has grown by is damaged.
        StorageError: the storage did not answer.
    """
    parts, later = _grown(plan.out, plan.parts[0])
    return replace(plan, parts=parts, source=plan.source | later)


def further_plans(plan: Plan) -> dict[str, Plan]:
    """The plans of other records that a run was planned with, by name; most have none.

    Raises:
        RunError: the record is damaged.
    """
    held = plan.source.get(FURTHER_PLANS) or {}
    return {name: recorded_plan(plan.out, about, f"{plan.out.url}/{RUN_FILE}") for name, about in held.items()}


def _plan_of(out: Folder, body: bytes) -> Plan:
    where = f"{out.url}/{RUN_FILE}"
    run = from_json(body, where, "plan", *_PART_KEYS, "source")
    parts, later = _grown(out, _part(run, run["plan"], where))
    return Plan(out, parts, IMAGE, run["source"] | later)


def _part(record: Mapping[str, Any], table: str, where: str, first_shard: int = 0, first_record: int = 0) -> Part:
    records, shards, size = (record[key] for key in _PART_KEYS)
    if _DIGEST.fullmatch(table) is None:
        raise RunError(f"{where} is damaged: it names no plan. To mend it: restore the file")
    if records < 1 or size < 1 or shards != -(-records // size):
        raise RunError(
            f"{where} is damaged: {records} images are not {shards} shards of {size}. To mend it: restore the file"
        )
    return Part(table, records, shards, size, first_shard, first_record)


def _grown(out: Folder, first: Part) -> tuple[tuple[Part, ...], dict[str, Any]]:
    """A plan's parts, and what was said anew of their source.

    Each that was appended has a file of the plan's name and a number, the next one free.
    """
    parts = [first]
    source: dict[str, Any] = {}
    while True:
        name = f"plan/{first.table}.{len(parts)}.json"
        try:
            body = out.read(name)
        except ObjectNotFound:
            return tuple(parts), source
        where = f"{out.url}/{name}"
        record = from_json(body, where, "table", *_PART_KEYS, "first_shard", "first_image")
        last = parts[-1]
        starts = last.first_shard + last.shards, last.first_record + last.records
        if (record["first_shard"], record["first_image"]) != starts:
            raise RunError(f"{where} is damaged: it does not go on where the plan ends. To mend it: restore the file")
        parts.append(_part(record, str(record["table"]), where, *starts))
        source |= record.get("source") or {}


def row_numbers(plan: Plan, ids: Sequence[str]) -> list[int]:
    """Where records stand in a plan, from 0: the numbers by which `simsam_batch.runs.reading` knows their rows.

    One pass over the ids of the plan, which ends with the last one that was looked for; memory holds a row group.

    Args:
        plan: of the stage.
        ids: in any order; an id may come more than once.

    Raises:
        SettingsError: the plan has no such record, or an id is no text.
        RunError: the plan cannot be read.
        StorageError: the storage did not answer.
    """
    try:
        wanted = sorted(set(ids))
        values = pa.array(wanted, pa.string())
    except (TypeError, ValueError, pa.ArrowException) as error:
        raise SettingsError(f"{plan.unit}: an id is no text: {error}. To mend it: give ids as in the column") from error
    numbers = np.full(len(wanted), -1, dtype=np.int64)
    first, start = "", 0
    for block in ids_of(plan):
        if not (numbers < 0).any():
            break
        first = first or block[0].as_py()
        places = pc.index_in(block, values)
        found = np.flatnonzero(places.is_valid().to_numpy(zero_copy_only=False))
        numbers[places.drop_null().to_numpy()] = start + found
        start += len(block)
    missing = [wanted[place] for place in np.flatnonzero(numbers < 0)]
    if missing:
        named = ", ".join(map(repr, missing[:_NAMED])) + (" and others" if len(missing) > _NAMED else "")
        what = "image" if plan.unit == IMAGE else "record"
        guess = _guess(plan, missing[0]) if len(missing) == 1 else ""
        raise SettingsError(
            f"{plan.unit}: {plan.out.url} has no {what} {named}{guess or '.'} To mend it: give ids as in the column "
            f"{plan.unit}, such as {first!r}"
        )
    of = dict(zip(wanted, numbers.tolist(), strict=True))
    return [of[each] for each in ids]


def _guess(plan: Plan, missing: str) -> str:
    """What was meant: an id that ends as this one does or has it in its name, else one that is like it."""
    known = [each for block in islice(ids_of(plan), 1) for each in block[:_GUESSED].to_pylist()]
    name = PurePosixPath(missing).name
    alike = [each for each in known if name in (PurePosixPath(each).name, PurePosixPath(each).stem)]
    return f"; did you mean {alike[0]!r}?" if len(alike) == 1 else did_you_mean(missing, known)
