"""The ledger: which shards of a stage are committed. A manifest, created conditionally, is the only commit point."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import platform
import re
import socket
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from simsam_batch import __version__
from simsam_batch.errors import RunError, SettingsError
from simsam_batch.runs import version_1
from simsam_batch.runs.archive import ArchiveWriter, ByteRange
from simsam_batch.runs.committed import ARRAY_ROWS_KEY, RANGES_KEY
from simsam_batch.runs.digest import content_digest
from simsam_batch.runs.plan import Plan, recorded_plan
from simsam_batch.runs.records import PUBLISH_ANEW, from_json, to_json
from simsam_batch.runs.schema import IMAGE, SCHEMA_VERSION, ShardOutput, Stage
from simsam_batch.storage import Folder, ObjectNotFound

_FAILURES_LISTED = 20
_DIFFERENCES_LISTED = 12
_LONGEST_SHOWN = 120
_ATTEMPT_NAME = re.compile(r"(\d{7,})\.\d+")
_MANIFEST_NAME = re.compile(r"(\d{7,})\.(\d+)\.json")
_STAGE_KEYS = ("stage", "settings", "resolved", "started_with", "arrow_schema")
_MANIFEST_KEYS = (
    *("shard", "generation", "attempt", "files", "content_digest", "images", "ok", "failed", "errors_by_type"),
    *("statistics", "seconds", "versions", "started", "committed"),
)
_VERSIONED = ("numpy", "scipy", "torch", "timm", "pyarrow", "pillow", "safetensors", "cupy-cuda12x", "cupy-cuda13x")


@dataclass(frozen=True, slots=True)
class Committed:
    """What is committed for a shard after an attempt to do so.

    Attributes:
        shard, generation: which manifest.
        attempt: the attempt whose output it names, ours or another's.
        ours: whether that is the attempt just made.
        manifest: its content.
    """

    shard: int
    generation: int
    attempt: int
    ours: bool
    manifest: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Begun:
    """What ``stage.json`` fixes for every attempt."""

    schema: pa.Schema
    plan: Plan


@dataclass(frozen=True, slots=True)
class _Content:
    """A data file about to be written: its bytes, or the local file that holds them."""

    name: str
    data: bytes | Path
    size: int
    sha256: str


class Ledger:
    """Starts and commits of one stage of one run. Picklable; any number of processes may use their own at once.

    Args:
        out: the run's folder.
        stage: the stage's name, its folder below ``out``.
    """

    def __init__(self, out: Folder, stage: str) -> None:
        self.out = out
        self.stage = stage
        self._begun: _Begun | None = None

    def begin(self, stage: Stage, plan: Plan, started_with: Mapping[str, Any] | None = None) -> bool:
        """Record what the stage is about to do, or check that it is what the run in OUT has been doing.

        Args:
            stage: the stage.
            plan: what it works on from then on.
            started_with: what else its first command said, for people and for `retry`; never compared.

        Returns:
            Whether this is the first to begin it; another driver may be at work otherwise.

        Raises:
            SettingsError: OUT has this stage with other settings, another plan or other results of what it reads, the
                differences are listed; what it reads is not finished; or OUT is of an earlier release.
        """
        if stage.unit != plan.unit:
            raise RunError(f"the stage {stage.name} is about {stage.unit}, and was given a plan of {plan.unit}")
        version_1.require_none(self.out)
        name = f"{self.stage}/stage.json"
        record = {
            "schema_version": SCHEMA_VERSION,
            "stage": stage.name,
            "settings": stage.settings,
            "resolved": stage.resolved,
            "reads": {read: self._finished(read) for read in stage.reads},
            "plan": plan.about(),
            "started_with": dict(started_with or {}),
            "arrow_schema": base64.b64encode(stage.schema.remove_metadata().serialize().to_pybytes()).decode(),
            "token": uuid.uuid4().hex,
        }
        body = to_json(record, name)
        first = self.out.create(name, body)
        if not first:
            here = json.loads(body)
            there = self.record()
            differences = [
                f"{read}: has been computed anew with other results than those that the {self.stage} run in OUT read"
                for read, digest in here["reads"].items()
                if there["reads"].get(read, digest) != digest
            ]
            differences += _differences(_comparable(there), _comparable(here))
            if differences:
                raise SettingsError(
                    f"{self.out.url} holds a {self.stage} run with other settings:",
                    *(f"  {difference}" for difference in differences),
                    "To mend it: use the same settings, or another OUT",
                )
        self._begun = _Begun(stage.schema.remove_metadata(), plan)
        return first

    def committed(self) -> dict[int, int]:
        """Highest generation of every committed shard, by one listing."""
        generations: dict[int, int] = {}
        for shard, generation, _ in self.commit_times():
            generations[shard] = max(generation, generations.get(shard, 0))
        return generations

    def commit_times(self) -> list[tuple[int, int, float | None]]:
        """Shard, generation and unix time of every manifest, by one listing; None where the store tells no times."""
        times = []
        for info in self.out.list(f"{self.stage}/manifests"):
            found = _MANIFEST_NAME.fullmatch(info.name.rpartition("/")[2])
            if found is not None:
                times.append((int(found[1]), int(found[2]), info.modified))
        return times

    def starts(self) -> list[int]:
        """The shard of every start that was ever recorded, by one listing."""
        names = (info.name.rpartition("/")[2] for info in self.out.list(f"{self.stage}/attempts"))
        return [int(found[1]) for name in names if (found := _ATTEMPT_NAME.fullmatch(name)) is not None]

    def pending(self, shards: int) -> list[int]:
        """Numbers below ``shards`` that have no manifest, by one listing."""
        committed = self.committed()
        return [number for number in range(shards) if number not in committed]

    def start(self, shard: int) -> int:
        """Record that an attempt at a shard begins; returns which one it is, from 1 over the life of the run."""
        body = to_json(
            {"shard": shard, "host": socket.gethostname(), "pid": os.getpid(), "time": time.time(), "token": _token()},
            "attempt",
        )
        attempt = 1
        while not self.out.create(f"{self.stage}/attempts/{shard:07d}.{attempt}", body):
            attempt += 1
        return attempt

    def note_storage_error(self, shard: int, attempt: int) -> None:
        """Record that an attempt ended because storage did not answer, which says nothing against its images."""
        self.out.create(f"{self.stage}/storage-errors/{shard:07d}/{attempt}", to_json({"token": _token()}, "note"))

    def storage_errors(self, shard: int, *, after: int = 0) -> int:
        """How many attempts at a shard, of those after one, ended so; by one listing of that shard's notes."""
        notes = self.out.list(f"{self.stage}/storage-errors/{shard:07d}")
        return sum(int(note.name.rpartition("/")[2]) > after for note in notes)

    def commit(
        self, output: ShardOutput, attempt: int, *, started: float, previous: Mapping[str, Any] | None = None
    ) -> Committed:
        """Write a shard's rows and attachments, then make them visible by creating its manifest.

        Args:
            output: what the worker produced.
            attempt: the number that `start` gave; the data files carry it, so that no two attempts share one.
            started: unix time at which the attempt began.
            previous: for a second try of a committed shard the manifest that this one is to follow.

        Returns:
            The manifest now in force: of this attempt, or of the one that was first.

        Raises:
            RunError: the output does not fit the stage or the plan; nothing was written.
            StorageError: the outcome is not known to be written; the attempt may be repeated.
        """
        begun = self._fixed()
        rows = _checked_rows(output, begun)
        stem = f"{self.stage}/data/{output.number:07d}.{attempt}"
        with ArchiveWriter() as writer:
            digest = content_digest(rows, writer.written(output.attachments))
            table = _parquet(rows, writer.ranges, self.stage, begun.plan.digest)
            contents = [_Content(f"{stem}.parquet", table, len(table), hashlib.sha256(table).hexdigest())]
            archive = writer.finish()
            if archive is not None:
                contents.append(_Content(f"{stem}.npz", *archive))
            return self._commit(output, rows, digest, contents, attempt, started, previous)

    def _commit(
        self,
        output: ShardOutput,
        rows: pa.Table,
        digest: str,
        contents: Sequence[_Content],
        attempt: int,
        started: float,
        previous: Mapping[str, Any] | None,
    ) -> Committed:
        generation = 0 if previous is None else int(previous["generation"]) + 1
        manifest = {
            "schema_version": SCHEMA_VERSION,
            "stage": self.stage,
            "shard": output.number,
            "generation": generation,
            "attempt": attempt,
            "token": _token(),
            "files": [{"name": file.name, "size": file.size, "sha256": file.sha256} for file in contents],
            "content_digest": digest,
            **_counts(rows, self._fixed().plan.unit),
            "statistics": output.statistics,
            "seconds": output.seconds,
            "facts": output.facts,
            "versions": versions(),
            "host": {"kind": f"{platform.system()} {platform.machine()}", "cpus": os.cpu_count()},
            "started": started,
            "committed": time.time(),
        }
        if previous is not None:
            manifest |= {
                "first_content_digest": previous.get("first_content_digest", previous["content_digest"]),
                "earlier": [*previous.get("earlier", ()), [previous["started"], previous["committed"]]],
            }
        name = self._manifest_name(output.number, generation)
        to_json(manifest, name)
        for file in contents:
            if not self.out.create(file.name, file.data):
                raise RunError(
                    f"{self.out.url}/{file.name} exists with other content: attempt {attempt} was started twice"
                )
        manifest["committed"] = time.time()
        if not self.out.create(name, to_json(manifest, name)):
            manifest = self.manifest(output.number, generation)
        # a commit called again after its first reply was lost finds its own manifest under another token
        winner = int(manifest["attempt"])
        return Committed(output.number, generation, winner, winner == attempt, manifest)

    def manifest(self, shard: int, generation: int) -> dict[str, Any]:
        """One shard's manifest.

        Raises:
            ObjectNotFound: it is not committed.
            RunError: the file is damaged or was written by a newer release.
        """
        name = self._manifest_name(shard, generation)
        return from_json(self.out.read(name), f"{self.out.url}/{name}", *_MANIFEST_KEYS)

    def manifests(self, generations: Mapping[int, int] | None = None) -> Iterator[dict[str, Any]]:
        """The manifest in force of every committed shard, in shard order; each is read once.

        Args:
            generations: what `committed` gave, where that is known; else it is listed.
        """
        held = self.committed() if generations is None else generations
        names = [self._manifest_name(shard, generation) for shard, generation in sorted(held.items())]
        for name, body in zip(names, self.out.read_many(names), strict=True):
            yield from_json(body, f"{self.out.url}/{name}", *_MANIFEST_KEYS)

    def _manifest_name(self, shard: int, generation: int) -> str:
        return f"{self.stage}/manifests/{shard:07d}.{generation}.json"

    def record(self) -> dict[str, Any]:
        """What ``stage.json`` says.

        Raises:
            RunError: OUT has no such stage, or the file is damaged or was written by a newer release.
        """
        name = f"{self.stage}/stage.json"
        try:
            record = from_json(self.out.read(name), f"{self.out.url}/{name}", *_STAGE_KEYS)
            if record["schema_version"] == version_1.VERSION:
                return version_1.stage_record(record, self.out)
        except ObjectNotFound as error:
            raise RunError(
                f"{self.out.url} has no {self.stage} run: {name} is missing. To mend it: start one"
            ) from error

        if not isinstance(record.get("plan"), dict) or not isinstance(record.get("reads"), dict):
            raise RunError(f"{self.out.url}/{name} is damaged: it names no plan. To mend it: restore the file")
        return record

    def plan(self, record: Mapping[str, Any] | None = None) -> Plan:
        """The plan that the stage works on, as far as it has grown.

        Args:
            record: what `record` gave, where that is known.

        Raises:
            RunError: OUT has no such stage, or its record is damaged.
        """
        about = (self.record() if record is None else record)["plan"]
        return recorded_plan(self.out, about, f"{self.out.url}/{self.stage}/stage.json")

    def _finished(self, read: str) -> str:
        """The digest of another stage's results, as they were before any second try of failed records.

        Raises:
            SettingsError: it has none yet.
        """
        name = f"results/{read}.json"
        try:
            where = f"{self.out.url}/{name}"
            result = from_json(self.out.read(name), where, "first_content_digest", mend=PUBLISH_ANEW)
        except ObjectNotFound as error:
            raise SettingsError(
                f"the stage {self.stage} reads {read}, which {self.out.url} has not finished: {name} is missing. "
                f"To mend it: run the command that makes {read} to its end"
            ) from error
        return str(result["first_content_digest"])

    def _fixed(self) -> _Begun:
        """What the stage began with: from `begin` in this process, or from storage, read once."""
        if self._begun is None:
            record = self.record()
            self._begun = _Begun(schema_of(record), self.plan(record))
        return self._begun


def _token() -> str:
    return uuid.uuid4().hex


def schema_of(record: Mapping[str, Any]) -> pa.Schema:
    """The Arrow schema of a stage's rows, from the record in its ``stage.json``.

    Raises:
        ValueError, pa.ArrowException: it is no schema.
    """
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(record["arrow_schema"])))


def _comparable(record: Mapping[str, Any]) -> dict[str, Any]:
    """A stage record as flat entries: settings and resolved by their dotted keys, the plan, what is read, the columns.

    The plan goes by what it is known by, since it may have grown; of what is read, which stages it is.
    """
    entries = {"plan": record["plan"]["digest"], "unit": record["plan"]["unit"], "reads": [*record["reads"]]}
    for section in ("settings", "resolved"):
        _flatten(record[section], "", entries)
    entries.update({f"column {field.name}": str(field.type) for field in schema_of(record)})
    return entries


def _flatten(value: Any, key: str, entries: dict[str, Any]) -> None:
    if isinstance(value, dict) and (value or not key):
        for name, inner in value.items():
            _flatten(inner, f"{key}.{name}" if key else str(name), entries)
    else:
        # a key that settings and resolved share is compared in both
        entries[key if key not in entries else f"resolved {key}"] = value


def _differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """What differs, in a few lines that people can read: the first entries, and of each the beginning."""
    keys = [*there, *(key for key in here if key not in there)]
    texts = {key: [json.dumps(held[key]) if key in held else "nothing" for held in (there, here)] for key in keys}
    found = [
        f"{key}: the run in OUT has {_beginning(one)}, this command has {_beginning(other)}"
        for key, (one, other) in texts.items()
        if one != other
    ]
    more = len(found) - _DIFFERENCES_LISTED
    return found if more <= 0 else [*found[:_DIFFERENCES_LISTED], f"and {more} more"]


def _beginning(text: str) -> str:
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def _checked_rows(output: ShardOutput, begun: _Begun) -> pa.Table:
    """The rows in the stage's schema, if they are exactly the plan's records of this shard in their order."""
    where = f"the output of shard {output.number}"
    if output.rows.schema.names != begun.schema.names:
        odd = sorted(set(output.rows.schema.names) ^ set(begun.schema.names)) or "their order"
        raise RunError(f"{where} has other columns than its stage: {odd}")
    try:
        rows = output.rows.replace_schema_metadata(None).cast(begun.schema)
    except (pa.ArrowException, ValueError) as error:
        raise RunError(f"{where} does not fit the schema of its stage: {error}") from error
    records = begun.plan.shard(output.number).records
    unit = begun.plan.unit
    if not rows[unit].equals(records[unit]):
        what = "images" if unit == IMAGE else "records"
        raise RunError(
            f"{where} is not the plan's {records.num_rows} {what} in their order: it has {rows.num_rows} rows"
        )
    if not pc.all(pc.is_in(rows["status"], pa.array(["ok", "failed"]))).as_py():
        raise RunError(f"{where} has a status other than ok and failed")
    if len(output.attachments) not in (0, rows.num_rows):
        raise RunError(f"{where} has attachments for {len(output.attachments)} rows of {rows.num_rows}")
    return rows


def _counts(rows: pa.Table, unit: str) -> dict[str, Any]:
    failed = rows.filter(pc.equal(rows["status"], "failed")).select([unit, "error_type", "error"])
    kinds = Counter(kind or "unknown" for kind in failed["error_type"].to_pylist())
    return {
        "images": rows.num_rows,
        "ok": rows.num_rows - failed.num_rows,
        "failed": failed.num_rows,
        "failures": failed.slice(0, _FAILURES_LISTED).to_pylist(),
        "errors_by_type": dict(sorted(kinds.items())),
    }


def _parquet(rows: pa.Table, ranges: Sequence[ByteRange], stage: str, plan: str) -> bytes:
    about = {
        "schema_version": str(SCHEMA_VERSION),
        "stage": stage,
        "plan": plan,
        ARRAY_ROWS_KEY: json.dumps([each.row for each in ranges]),
        RANGES_KEY: json.dumps([[each.start, each.size] for each in ranges]),
    }
    target = io.BytesIO()
    pq.write_table(rows.replace_schema_metadata(about), target, compression="zstd")
    return target.getvalue()


@cache
def versions() -> dict[str, str]:
    """Of this package, Python, and those that numbers depend on, by name."""
    found = {"simsam-batch": __version__, "python": platform.python_version()}
    for package in _VERSIONED:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
