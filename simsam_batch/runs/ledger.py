"""The ledger: which shards of a stage are committed. A manifest, created conditionally, is the only commit point."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import socket
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import pyarrow as pa

from simsam_batch import __version__
from simsam_batch.errors import RunError, SettingsError
from simsam_batch.runs import version_1
from simsam_batch.runs.archive import ArchiveWriter
from simsam_batch.runs.contents import checked_rows, counts, parquet
from simsam_batch.runs.digest import content_digest
from simsam_batch.runs.plan import Plan, recorded_plan
from simsam_batch.runs.records import PUBLISH_ANEW, from_json, to_json
from simsam_batch.runs.schema import SCHEMA_VERSION, ShardOutput, Stage
from simsam_batch.runs.stage_record import (
    ForeignManifestError,
    StageLostError,
    differences,
    new_record,
    read_record,
    record_name,
    require_same,
    schema_of,
)
from simsam_batch.storage import Folder, ObjectNotFound

_FOLDERS = ("attempts", "data", "manifests")
_NAMED = 3
_STORAGE_ERROR = ".storage-error"
"""Behind the name of an attempt that ended so."""

_ATTEMPT_NAME = re.compile(r"(\d{7,})\.\d+")
_MANIFEST_NAME = re.compile(r"(\d{7,})\.(\d+)\.json")
_MANIFEST_KEYS = (
    *("shard", "generation", "attempt", "files", "content_digest", "images", "ok", "failed", "errors_by_type"),
    *("statistics", "seconds", "versions", "started", "committed"),
)
_VERSIONED = (
    "numpy",
    "scipy",
    "torch",
    "timm",
    "pyarrow",
    "pillow",
    "pillow-heif",
    "safetensors",
    "cupy-cuda12x",
    "cupy-cuda13x",
)


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

    It keeps to the beginning of the stage that it found first: what is committed names it by its token, and what names
    another one is refused.

    Args:
        out: the run's folder.
        stage: the stage's name, its folder below ``out``.
    """

    def __init__(self, out: Folder, stage: str) -> None:
        self.out = out
        self.stage = stage
        self._record: Mapping[str, Any] | None = None
        self._begun: _Begun | None = None

    def begin(self, stage: Stage, plan: Plan, started_with: Mapping[str, Any] | None = None) -> bool:
        """Record what the stage is about to do, or check that it is what the run in OUT has been doing.

        On local disk this makes the stage's folders; nothing that works on shards makes them anew.

        Args:
            stage: the stage.
            plan: what it works on from then on.
            started_with: what else its first command said, for people and for `retry`; never compared.

        Returns:
            Whether this is the first to begin it; another driver may be at work otherwise.

        Raises:
            SettingsError: OUT has this stage with other settings, another plan or other results of what it reads, the
                differences are listed; it has manifests of the stage and no record; what it reads is not finished; or
                OUT is of an earlier release.
        """
        if stage.unit != plan.unit:
            raise RunError(f"the stage {stage.name} is about {stage.unit}, and was given a plan of {plan.unit}")
        version_1.require_none(self.out)
        name = record_name(self.stage)
        there, first = read_record(self.out, self.stage), False
        known = {} if there is None else there["reads"]
        reads = {read: self._finished(read, plan, known.get(read)) for read in stage.reads}
        body = to_json(new_record(stage, plan, reads, started_with), name)
        if there is None:
            self._require_no_manifests()
            first = self.out.create(name, body)
            there = json.loads(body) if first else self.record()
        require_same(self.out, there, json.loads(body), stage.unrecorded)
        self.out.make(*(f"{self.stage}/{folder}" for folder in _FOLDERS))
        self._record, self._begun = there, _Begun(stage.schema.remove_metadata(), plan)
        return first

    def join(self, stage: Stage, plan: Plan) -> str:
        """Keep to the beginning of the stage in OUT, if that is of this very stage and plan; returns its token.

        Raises:
            StageLostError: it is of another one, or there is none.
        """
        if self._begun is None:
            there = read_record(self.out, self.stage)
            if there is None:
                raise self._gone()
            here = to_json(new_record(stage, plan, there["reads"], None), record_name(self.stage))
            found = differences(there, json.loads(here), stage.unrecorded)
            if found:
                raise StageLostError(f"{self._another()} ({found[0]})")
            self._record, self._begun = there, _Begun(stage.schema.remove_metadata(), plan)
        return str(self.known()["token"])

    def _require_no_manifests(self) -> None:
        """Raise a `SettingsError` if there are manifests that no record goes with, which would count as this run's."""
        left = sorted(self.committed().items())
        # another driver may have begun it in this moment
        if left and read_record(self.out, self.stage) is None:
            names = ", ".join(self._manifest_name(*each) for each in left[:_NAMED])
            more = f" and {len(left) - _NAMED} more" if len(left) > _NAMED else ""
            raise SettingsError(
                f"{self.out.url} has {len(left)} manifest(s) of a {self.stage} run whose {record_name(self.stage)} is "
                f"missing ({names}{more}), so that nothing tells how they were made. To mend it: restore "
                f"{record_name(self.stage)}, delete the folder {self.stage}, or use another OUT"
            )

    def _require_record(self) -> str:
        """The token of the beginning that this ledger keeps to, if it still stands in OUT.

        Raises:
            StageLostError: it does not.
        """
        token = self.known()["token"]
        there = read_record(self.out, self.stage)
        if there is None:
            raise self._gone()
        if there["token"] != token:
            raise StageLostError(self._another())
        return str(token)

    def _gone(self) -> StageLostError:
        return StageLostError(
            f"{self.out.url}/{record_name(self.stage)} has gone: OUT was removed or moved while this command works on "
            "it, or its disk is no longer mounted. To mend it: bring OUT back, or take a fresh one, and run the same "
            "command again"
        )

    def _another(self) -> str:
        return (
            f"{self.out.url}/{record_name(self.stage)} is not what this command began: OUT was removed and begun anew "
            "by another command, and this one can commit nothing more. To mend it: give each command an OUT of its own"
        )

    def known(self) -> Mapping[str, Any]:
        """The record that this ledger keeps to; read once."""
        if self._record is None:
            self._record = self.record()
        return self._record

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
        """Record that an attempt at a shard begins; returns which one it is, from 1 over the life of the run.

        Raises:
            StageLostError: the stage's record has gone or is another's; nothing was written.
        """
        about = {"shard": shard, "host": socket.gethostname(), "pid": os.getpid(), "time": time.time()}
        body = to_json({**about, "stage_token": self._require_record(), "token": _token()}, "attempt")
        attempt = 1
        while not self.out.create(self._attempt_name(shard, attempt), body):
            attempt += 1
        return attempt

    def note_storage_error(self, shard: int, attempt: int) -> None:
        """Record that an attempt ended because storage did not answer, which says nothing against its images."""
        self.out.create(f"{self._attempt_name(shard, attempt)}{_STORAGE_ERROR}", to_json({"token": _token()}, "note"))

    def unexplained_starts(self, shard: int, attempt: int, *, after: int = 0) -> int:
        """How many starts of a shard, those after one up to another, may have ended over its images.

        Those of another beginning of the stage do not count, nor those that ended because storage did not answer. Each
        costs two reads.
        """
        return sum(self._is_unexplained(shard, number) for number in range(after + 1, attempt + 1))

    def _is_unexplained(self, shard: int, attempt: int) -> bool:
        name = self._attempt_name(shard, attempt)
        try:
            if json.loads(self.out.read(name)).get("stage_token") != self.known()["token"]:
                return False
            self.out.read(name + _STORAGE_ERROR)
        except ObjectNotFound:
            return True
        return False

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
            StageLostError: the stage's record has gone or is another's; nothing is committed.
            StorageError: the outcome is not known to be written; the attempt may be repeated.
        """
        begun = self._fixed()
        rows = checked_rows(output, begun.schema, begun.plan)
        stem = f"{self.stage}/data/{output.number:07d}.{attempt}"
        with ArchiveWriter() as writer:
            digest = content_digest(rows, writer.written(output.attachments))
            table = parquet(rows, writer.ranges, self.stage, begun.plan.digest)
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
            "stage_token": self.known()["token"],
            "token": _token(),
            "files": [{"name": file.name, "size": file.size, "sha256": file.sha256} for file in contents],
            "content_digest": digest,
            **counts(rows, self._fixed().plan.unit),
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
        # asked before anything is written and, files may be long on their way, again before it becomes visible
        self._require_record()
        for file in contents:
            if not self.out.create(file.name, file.data):
                raise RunError(
                    f"{self.out.url}/{file.name} exists with other content: attempt {attempt} was started twice"
                )
        self._require_record()
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
            ForeignManifestError: it is of another beginning of the stage.
            RunError: the file is damaged or was written by a newer release.
        """
        name = self._manifest_name(shard, generation)
        return self._own(self.out.read(name), name)

    def manifests(self, generations: Mapping[int, int] | None = None) -> Iterator[dict[str, Any]]:
        """The manifest in force of every committed shard, in shard order; each is read once.

        Args:
            generations: what `committed` gave, where that is known; else it is listed.

        Raises:
            ForeignManifestError, RunError: as `manifest`.
        """
        held = self.committed() if generations is None else generations
        names = [self._manifest_name(shard, generation) for shard, generation in sorted(held.items())]
        for name, body in zip(names, self.out.read_many(names), strict=True):
            yield self._own(body, name)

    def _own(self, body: bytes, name: str) -> dict[str, Any]:
        manifest = from_json(body, f"{self.out.url}/{name}", *_MANIFEST_KEYS)
        if manifest.get("stage_token") != self.known()["token"]:
            raise ForeignManifestError(
                f"{self.out.url}/{name} is of another {self.stage} run than {record_name(self.stage)}: it was written "
                "under other settings perhaps, by a command that was at work when OUT was removed and begun anew. To "
                "mend it: delete it and run the same command again, which computes the shard anew; `simsam verify` "
                "names all such files"
            )
        return manifest

    def _manifest_name(self, shard: int, generation: int) -> str:
        return f"{self.stage}/manifests/{shard:07d}.{generation}.json"

    def _attempt_name(self, shard: int, attempt: int) -> str:
        return f"{self.stage}/attempts/{shard:07d}.{attempt}"

    def record(self) -> dict[str, Any]:
        """What ``stage.json`` says.

        Raises:
            RunError: OUT has no such stage, or the file is damaged or was written by a newer release.
        """
        record = read_record(self.out, self.stage)
        if record is None:
            raise RunError(
                f"{self.out.url} has no {self.stage} run: {record_name(self.stage)} is missing. To mend it: start one"
            )
        self._record = self._record or record
        return record

    def plan(self, record: Mapping[str, Any] | None = None) -> Plan:
        """The plan that the stage works on, as far as it has grown.

        Args:
            record: what `record` gave, where that is known.

        Raises:
            RunError: OUT has no such stage, or its record is damaged.
        """
        about = (self.record() if record is None else record)["plan"]
        return recorded_plan(self.out, about, f"{self.out.url}/{record_name(self.stage)}")

    def published(self, *keys: str) -> dict[str, Any] | None:
        """What ``results/<stage>.json`` holds; None if there is none, or it is of another beginning than the record.

        Args:
            keys: what must stand in it, beside ``images``, ``metrics`` and ``content_digest``.

        Raises:
            RunError: it or the record is damaged, or was written by a newer release.
        """
        name = f"results/{self.stage}.json"
        try:
            where, needed = f"{self.out.url}/{name}", ("images", "metrics", "content_digest", *keys)
            result = from_json(self.out.read(name), where, *needed, mend=PUBLISH_ANEW)
        except ObjectNotFound:
            return None
        self._record = record = self._record or read_record(self.out, self.stage)
        # results may be kept without what they were made of
        ours = record is None or result.get("stage_token") == record["token"]
        return result if ours else None

    def _finished(self, read: str, plan: Plan, known: str | None) -> str:
        """The digest of another stage's results, as they were before any second try of failed records.

        Of one that has grown since this stage began, the digest that it was known by then.

        Raises:
            SettingsError: it has none yet, or lacks images that the plan has grown by.
        """
        other = Ledger(self.out, read)
        result = other.published("first_content_digest")
        if result is None:
            raise SettingsError(
                f"the stage {self.stage} reads {read}, which {self.out.url} has not finished: results/{read}.json is "
                f"missing, or of another run. To mend it: run the command that makes {read} to its end"
            )
        there = other.plan()
        if there.digest == plan.digest and result["images"] < plan.records:
            raise SettingsError(
                f"the stage {self.stage} reads {read}, which has {result['images']} of {plan.records} images: the run "
                f"has grown. To mend it: run the command that makes {read} again"
            )
        digest = str(result["first_content_digest"])
        return known if known not in (None, digest) and known in other._digests_of_parts(there) else digest

    def _digests_of_parts(self, plan: Plan) -> Iterator[str]:
        """What the results were known by each time before the plan grew, before any second try of failed records."""
        ends = {part.first_shard for part in plan.parts[1:]}
        digest = hashlib.sha256()
        for manifest in self.manifests() if ends else ():
            if manifest["shard"] in ends:
                yield digest.hexdigest()
            digest.update(manifest.get("first_content_digest", manifest["content_digest"]).encode())

    def _fixed(self) -> _Begun:
        """What the stage began with: from `begin` or `join` in this process, or from storage, read once."""
        if self._begun is None:
            record = self.known()
            self._begun = _Begun(schema_of(record), self.plan(record))
        return self._begun


def _token() -> str:
    return uuid.uuid4().hex


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
