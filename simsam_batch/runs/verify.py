"""Whether OUT still holds what was committed: every file re-hashed, every count and digest made again.

Nothing is written. Only orphans are deleted, and only when asked: data files that no manifest names, left by attempts
that crashed or lost a race. An attempt writes its data files moments before its manifest, so that a file of an attempt
still at work is young; the age is what protects a run in progress, and a day is far longer than any commit takes.
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from simsam_batch.errors import RunError
from simsam_batch.runs.committed import files_of
from simsam_batch.runs.digest import content_digest
from simsam_batch.runs.ledger import Ledger, schema_of
from simsam_batch.runs.plan import Plan
from simsam_batch.runs.records import from_json
from simsam_batch.runs.schema import ARRAY_FIELDS
from simsam_batch.runs.shard_check import CheckedShard, check_shard
from simsam_batch.runs.verify_report import Orphan, Problem, StageVerified, VerifyReport
from simsam_batch.storage import Folder, ObjectInfo, ObjectNotFound, read_ahead

ORPHAN_AGE_S = 24 * 3600.0
SHARDS_AT_ONCE = 8
"""Shards read ahead; with `simsam_batch.runs.archive.HELD_BYTES` this bounds the memory."""

_MANIFEST = re.compile(r"(\d{7,})\.(\d+)\.json")
_DATA = re.compile(r"(\d{7,})\.\d+\.(parquet|npz)")
_CODEBOOK = re.compile(r"codebook\.\d+\.[0-9a-f]{16}\.npz")
_PLAN_FILE = re.compile(r"[0-9a-f]{64}\.parquet")
_CODEBOOKS = {"semantic": "clusters", "labels": "node-clusters"}
"""Stages that have codebooks, and the folder of each with their record, ``clusters.json``."""

_RESTORE = "restore the file, or start again in another OUT"
_PUBLISH_ANEW = "run the same command again: it publishes the results anew"


def verify(
    out: Folder,
    plan: Plan,
    stages: Sequence[str] | None = None,
    *,
    delete_orphans: bool = False,
    orphan_age_s: float = ORPHAN_AGE_S,
    on_shard: Callable[[str, int, int], None] | None = None,
) -> VerifyReport:
    """Compare all that OUT holds with its manifests and its plan.

    Memory holds the plan's columns once, as planning does, then the rows and small array files of `SHARDS_AT_ONCE`
    shards and about a kilobyte for each shard.

    Args:
        out: the run's folder.
        plan: its plan.
        stages: names of stages, whose codebooks belong to them; None for all that OUT holds.
        delete_orphans: delete those older than the age, but none of a shard that has a problem: it may be what the
            shard can be mended from.
        orphan_age_s: in seconds. Below the time that a commit may take (minutes, while storage is being waited for)
            it is safe only with no driver at work on this OUT.
        on_shard: called with the stage, and how many of how many manifests are done.

    Raises:
        StorageError: the storage did not answer, which says nothing about what it holds.
    """
    report = VerifyReport(out.url)
    inside = out.entries()
    _check_plan(out, plan, report)
    kept: set[str] = set()
    names = stages if stages is not None else [name[:-1] for name in inside if name.endswith("/")]
    for name in names:
        # listed before the manifests, so that what is committed meanwhile is no orphan
        data = out.list(f"{name}/data")
        manifests = out.list(f"{name}/manifests")
        schema = _stage_schema(out, plan, name, bool(manifests), report)
        if schema is None:
            kept.update(info.name for info in data)
        else:
            stage = _Stage(out, plan, name, schema, report)
            stage.check(manifests, on_shard)
            kept |= stage.find_orphans(data)
    for name, folder in _CODEBOOKS.items():
        if stages is None or name in stages:
            _check_codebooks(out, folder, report)
    if stages is None:
        _find_unnamed(out, "plan", _PLAN_FILE, {f"plan/{plan.digest}.parquet"}, report)
        report.orphans += [_orphan(info) for info in out.unfinished()]
    if delete_orphans:
        old = [o for o in report.orphans if o.age_s is not None and o.age_s > orphan_age_s and o.name not in kept]
        out.delete([orphan.name for orphan in old])
        for orphan in old:
            orphan.deleted = True
    return report


def _check_plan(out: Folder, plan: Plan, report: VerifyReport) -> None:
    name = f"plan/{plan.digest}.parquet"
    try:
        with out.open(name) as file:
            same = content_digest(pq.read_table(file)) == plan.digest
        what = "" if same else "its rows are not those that run.json names"
    except ObjectNotFound:
        what = "it is missing"
    except (pa.ArrowException, OSError) as error:
        what = f"it cannot be read: {error}"
    if what:
        report.problems.append(Problem(what, name, _RESTORE))


def _stage_schema(out: Folder, plan: Plan, name: str, has_manifests: bool, report: VerifyReport) -> pa.Schema | None:
    """The Arrow schema of a stage's rows; None if the folder is not a stage's, or its ``stage.json`` is damaged."""
    where = f"{name}/stage.json"
    try:
        record = from_json(out.read(where), f"{out.url}/{where}", "plan", "arrow_schema")
        schema = schema_of(record)
        what = "" if record["plan"] == plan.digest else "it names another plan than run.json"
    except ObjectNotFound:
        what, schema = ("it is missing" if has_manifests else ""), None
    except (RunError, ValueError, pa.ArrowException) as error:
        what, schema = f"it is damaged: {error}", None
    if what:
        report.problems.append(Problem(what, where, _RESTORE))
    return schema


class _Stage:
    """The check of one stage."""

    def __init__(self, out: Folder, plan: Plan, name: str, schema: pa.Schema, report: VerifyReport) -> None:
        self._out, self._plan, self._name, self._schema, self._report = out, plan, name, schema, report
        self._found = StageVerified(name, plan.shards)
        self._named: set[str] = set()
        self._troubled: set[int] = set()
        self._in_force: dict[int, CheckedShard] = {}

    def check(self, manifests: Iterable[ObjectInfo], on_shard: Callable[[str, int, int], None] | None) -> None:
        """Check every manifest with its files, then the published results."""
        report, found = self._report, self._found
        numbers = []
        for info in manifests:
            match = _MANIFEST.fullmatch(info.name.removeprefix(f"{self._name}/manifests/"))
            if match is None:
                report.foreign.append(info.name)
            else:
                numbers.append((int(match[1]), int(match[2])))
        for done, shard in enumerate(self._checked(sorted(numbers)), 1):
            report.problems += shard.problems
            if shard.problems:
                self._troubled.add(shard.shard)
            if shard.manifest is not None:
                self._named |= {str(file["name"]) for file in shard.manifest["files"]}
                found.files += len(shard.manifest["files"])
                found.bytes += shard.bytes
            if 0 <= shard.shard < self._plan.shards:
                self._in_force[shard.shard] = shard
            if on_shard is not None:
                on_shard(self._name, done, len(numbers))
        found.committed = len(self._in_force)
        found.pending = self._plan.shards - found.committed
        readable = [shard.manifest for shard in self._in_force.values() if shard.manifest is not None]
        found.images, found.ok, found.failed = (sum(m[key] for m in readable) for key in ("images", "ok", "failed"))
        self._check_results(readable)
        report.stages.append(found)

    def _checked(self, numbers: Sequence[tuple[int, int]]) -> Iterator[CheckedShard]:
        """In the order of the numbers, some of them ahead."""
        ledger = Ledger(self._out, self._name)

        def check(number: tuple[int, int]) -> CheckedShard:
            return check_shard(ledger, self._plan, self._schema, *number)

        return read_ahead(numbers, check, threads=SHARDS_AT_ONCE, most=SHARDS_AT_ONCE, name="simsam-verify")

    def _check_results(self, readable: Sequence[Mapping[str, Any]]) -> None:
        name = f"results/{self._name}.json"
        try:
            body = self._out.read(name)
        except ObjectNotFound:
            return
        self._found.published = True
        if self._found.pending:
            what = f"results were published, and {self._found.pending} shards have no manifest any more"
            mend = "restore the manifests, or run the same command again, which computes those shards anew"
            self._report.problems.append(Problem(what, f"{self._name}/manifests", mend))
            return
        if len(readable) < self._plan.shards:
            return
        try:
            result = from_json(body, f"{self._out.url}/{name}", "images", "ok", "failed", "content_digest")
        except RunError as error:
            self._report.problems.append(Problem(f"it is damaged: {error}", name, _PUBLISH_ANEW))
            return
        digest = hashlib.sha256("".join(manifest["content_digest"] for manifest in readable).encode()).hexdigest()
        here = {key: getattr(self._found, key) for key in ("images", "ok", "failed")} | {"content_digest": digest}
        odd = [
            f"{key} is {result[key]}, by the manifests {value}" for key, value in here.items() if result[key] != value
        ]
        if odd:
            self._report.problems.append(Problem("; ".join(odd), name, _PUBLISH_ANEW))
        else:
            self._check_parts()

    def _check_parts(self) -> None:
        """The published files hold the rows of every shard, in order; a row group has those of whole shards."""
        shards = iter(self._in_force.values())
        folder = f"results/{self._name}"
        parts = [info.name for info in self._out.list(folder) if info.name.endswith(".parquet")]
        for part in parts:
            try:
                what = self._compare_part(part, shards)
            except ObjectNotFound:
                what = "it is missing"
            except (pa.ArrowException, OSError, KeyError, ValueError) as error:
                what = f"it cannot be read: {' '.join(str(error).split())[:300]}"
            if what:
                self._report.problems.append(Problem(what, part, _PUBLISH_ANEW))
                return
        left = len(list(shards))
        if left:
            self._report.problems.append(
                Problem(f"the rows of the last {left} shards are missing", folder, _PUBLISH_ANEW)
            )

    def _compare_part(self, part: str, shards: Iterator[CheckedShard]) -> str:
        with self._out.open(part) as file, pq.ParquetFile(file) as parquet:
            for group in range(parquet.num_row_groups):
                table = parquet.read_row_group(group)
                while len(table):
                    shard = next(shards, None)
                    if shard is None or shard.manifest is None:
                        return f"it has rows of more than {self._plan.shards} shards"
                    images = self._plan.images_of(shard.shard)
                    if not self._are_of(shard, table.slice(0, images)):
                        return f"its rows of shard {shard.shard} are not those committed"
                    table = table.slice(images)
        return ""

    def _are_of(self, shard: CheckedShard, table: pa.Table) -> bool:
        """Whether published rows are those of a shard; of one that is damaged itself, as far as can be told."""
        arrays = files_of((shard.manifest or {}) | {"shard": shard.shard})[1]
        paths = table["arrays_path"].drop_null().unique().to_pylist()
        added = [field.name for field in ARRAY_FIELDS if field.name in table.column_names]
        rows = table.drop_columns(added).replace_schema_metadata(None)
        if shard.rows_digest is not None and "arrays_offset" in added:
            placed = zip(table["arrays_offset"].to_pylist(), table["arrays_bytes"].to_pylist(), strict=True)
            where = {(row, start, size) for row, (start, size) in enumerate(placed) if start is not None}
            if where != {(each.row, each.start, each.size) for each in shard.ranges}:
                return False
        same = shard.rows_digest in (None, content_digest(rows.cast(self._schema)))
        return same and paths == ([arrays["name"]] if arrays is not None else [])

    def find_orphans(self, data: Iterable[ObjectInfo]) -> set[str]:
        """Report the data files that no manifest names; returns those that are not to be deleted."""
        kept = set()
        for info in data:
            match = _DATA.fullmatch(info.name.removeprefix(f"{self._name}/data/"))
            if match is None:
                self._report.foreign.append(info.name)
            elif info.name not in self._named:
                self._report.orphans.append(_orphan(info))
                if int(match[1]) in self._troubled:
                    kept.add(info.name)
        return kept


def _orphan(info: ObjectInfo) -> Orphan:
    return Orphan(info.name, info.size, None if info.modified is None else time.time() - info.modified)


def _find_unnamed(out: Folder, folder: str, own: re.Pattern[str], named: set[str], report: VerifyReport) -> None:
    for info in out.list(folder):
        if info.name not in named:
            ours = own.fullmatch(info.name.removeprefix(f"{folder}/")) is not None
            report.orphans.append(_orphan(info)) if ours else report.foreign.append(info.name)


def _check_codebooks(out: Folder, folder: str, report: VerifyReport) -> None:
    """The codebooks of a stage have the hashes that their record names."""
    where = f"{folder}/clusters.json"
    named = {where}
    try:
        record = from_json(out.read(where), f"{out.url}/{where}", "codebooks")
        codebooks = [(str(file["name"]), str(file["sha256"])) for file in record["codebooks"]]
    except ObjectNotFound:
        codebooks = []
    except (RunError, KeyError, TypeError) as error:
        # what it named is not known, so nothing here is taken for an orphan
        report.problems.append(Problem(f"it is damaged: {error}", where, _RESTORE))
        return
    for name, sha256 in codebooks:
        named.add(name)
        try:
            if hashlib.sha256(out.read(name)).hexdigest() != sha256:
                report.problems.append(
                    Problem("its bytes are not those that were committed (sha256 differs)", name, _RESTORE)
                )
        except ObjectNotFound:
            report.problems.append(Problem("it is missing", name, _RESTORE))
    _find_unnamed(out, folder, _CODEBOOK, named, report)
