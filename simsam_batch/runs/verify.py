"""Whether OUT still holds what was committed: every file re-hashed, every count and digest made again.

Nothing is written. Only orphans are deleted, and only when asked: data files that no manifest names, left by attempts
that crashed or lost a race. An attempt writes its data files moments before its manifest, so that a file of an attempt
still at work is young, by the clock of the storage that dates it; and a day is far longer than any commit takes. While
a shard is started and not committed, somebody may be at work, and nothing is deleted unless the caller knows better.
"""

from __future__ import annotations

import hashlib
import re
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from simsam_batch.errors import RunError
from simsam_batch.runs import version_1
from simsam_batch.runs.committed import files_of
from simsam_batch.runs.digest import content_digest
from simsam_batch.runs.gone import GONE, GONE_FIELD, gone_files, gone_records
from simsam_batch.runs.ledger import Ledger
from simsam_batch.runs.plan import Plan, further_plans
from simsam_batch.runs.plan_table import file_of
from simsam_batch.runs.records import from_json
from simsam_batch.runs.schema import ARRAY_FIELDS, IMAGE
from simsam_batch.runs.shard_check import CheckedShard, check_shard
from simsam_batch.runs.stage_record import record_name, schema_of
from simsam_batch.runs.verify_report import Orphan, Problem, StageVerified, VerifyReport
from simsam_batch.storage import Folder, ObjectInfo, ObjectNotFound, read_ahead
from simsam_batch.storage.parquet import ParquetReader, read_table

ORPHAN_AGE_S = 24 * 3600.0
SHARDS_AT_ONCE = 8
"""Shards read ahead; with `simsam_batch.runs.archive.HELD_BYTES` this bounds the memory."""

_MANIFEST = re.compile(r"(\d{7,})\.(\d+)\.json")
_DATA = re.compile(r"(\d{7,})\.\d+\.(parquet|npz)")
_PLAN_FILE = re.compile(r"[0-9a-f]{64}(\.parquet|\.\d+\.json)")
_PRUNE = "run the command that made the run once more with --prune"
_RESTORE = "restore the file, or start again in another OUT"
_PUBLISH_ANEW = "run the same command again: it publishes the results anew"


def verify(
    out: Folder,
    plan: Plan,
    stages: Sequence[str] | None = None,
    *,
    delete_orphans: bool = False,
    orphan_age_s: float = ORPHAN_AGE_S,
    nobody_at_work: bool = False,
    on_shard: Callable[[str, int, int], None] | None = None,
) -> VerifyReport:
    """Compare all that OUT holds with its manifests and its plans.

    Memory holds the plan's columns once, as planning does, then the rows and small array files of `SHARDS_AT_ONCE`
    shards and about a kilobyte for each shard.

    Args:
        out: the run's folder.
        plan: the run's own; those that stages record are looked at as well.
        stages: names of stages; None for all that OUT holds.
        delete_orphans: delete those older than the age, but none of a shard that has a problem: it may be what the
            shard can be mended from.
        orphan_age_s: in seconds. Below the time that a commit may take (minutes, while storage is being waited for)
            it is safe only with no driver at work on this OUT.
        nobody_at_work: delete them also while shards are started and not committed, as a command leaves them that was
            killed.
        on_shard: called with the stage, and how many of how many manifests are done.

    Raises:
        StorageError: the storage did not answer, which says nothing about what it holds.
    """
    report = VerifyReport(out.url)
    now = _time_of(out) if delete_orphans else time.time()
    inside = out.entries()
    plans = {each.digest: each for each in (plan, *further_plans(plan).values())}
    for each in plans.values():
        _check_plan(out, each, report)
    kept: set[str] = set()
    # a folder belongs to the stages whose records name files in it
    files: dict[str, str] = {}
    names = stages if stages is not None else [name[:-1] for name in inside if name.endswith("/")]
    for name in names:
        # listed before the manifests, so that what is committed meanwhile is no orphan
        data = out.list(f"{name}/data")
        manifests = out.list(f"{name}/manifests")
        begun = _begun(out, name, bool(manifests), report)
        if begun is None:
            kept.update(info.name for info in data)
            continue
        if begun.plan.digest not in plans:
            plans[begun.plan.digest] = begun.plan
            _check_plan(out, begun.plan, report)
        files |= begun.files
        stage = _Stage(out, begun.plan, name, begun.schema, report, now)
        stage.check(manifests, on_shard)
        kept |= stage.find_orphans(data)
    _check_files(out, files, report, now)
    if stages is None:
        named = {file for each in plans.values() for file in (*each.files(), *gone_files(each))}
        _find_unnamed(out, "plan", _PLAN_FILE, named, report, now)
        report.orphans += [_orphan(info, now) for info in out.unfinished()]
    if delete_orphans and not nobody_at_work:
        report.at_work = [stage.stage for stage in report.stages if _is_at_work(out, stage.stage)]
    if delete_orphans and not report.at_work:
        old = [o for o in report.orphans if o.age_s is not None and o.age_s >= orphan_age_s and o.name not in kept]
        out.delete([orphan.name for orphan in old])
        for orphan in old:
            orphan.deleted = True
    return report


def _check_plan(out: Folder, plan: Plan, report: VerifyReport) -> None:
    for part in plan.parts:
        name = file_of(part.table)
        try:
            with out.open(name) as file:
                table = read_table(file)
            same = content_digest(table) == part.table and table.num_rows == part.records
            what = "" if same else "its rows are not those that the plan was made of"
        except ObjectNotFound:
            what = "it is missing"
        except (pa.ArrowException, OSError) as error:
            what = f"it cannot be read: {error}"
        if what:
            report.problems.append(Problem(what, name, _RESTORE))
    if plan.unit == IMAGE and (marks := gone_files(plan)):
        try:
            gone_records(plan)
        except RunError:
            report.problems.append(Problem("it cannot be read", marks[-1], _PRUNE))


@dataclass(frozen=True, slots=True)
class _Begun:
    """What ``stage.json`` says: the schema of the rows, the plan, and the sha256 of files that the stage rests on."""

    schema: pa.Schema
    plan: Plan
    files: dict[str, str]


def _begun(out: Folder, name: str, has_manifests: bool, report: VerifyReport) -> _Begun | None:
    """None if the folder is not a stage's, or its ``stage.json`` is damaged."""
    where = f"{name}/stage.json"
    ledger = Ledger(out, name)
    try:
        out.read(where)
    except ObjectNotFound:
        if has_manifests:
            report.problems.append(Problem("it is missing", where, _RESTORE))
        return None
    try:
        record = ledger.record()
        return _Begun(schema_of(record), ledger.plan(record), dict(version_1.codebooks_of(record)))
    except (RunError, ValueError, TypeError, pa.ArrowException) as error:
        report.problems.append(Problem(f"it is damaged: {error}", where, _RESTORE))
        return None


class _Stage:
    """The check of one stage."""

    def __init__(
        self, out: Folder, plan: Plan, name: str, schema: pa.Schema, report: VerifyReport, now: float | None
    ) -> None:
        self._out, self._plan, self._name, self._schema, self._report = out, plan, name, schema, report
        self._now = now
        self._found = StageVerified(name, plan.unit, plan.shards)
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
        self._check_results()
        report.stages.append(found)

    def _checked(self, numbers: Sequence[tuple[int, int]]) -> Iterator[CheckedShard]:
        """In the order of the numbers, some of them ahead."""
        ledger = Ledger(self._out, self._name)

        def check(number: tuple[int, int]) -> CheckedShard:
            return check_shard(ledger, self._plan, self._schema, *number)

        return read_ahead(numbers, check, threads=SHARDS_AT_ONCE, most=SHARDS_AT_ONCE, name="simsam-verify")

    def _check_results(self) -> None:
        name = f"results/{self._name}.json"
        try:
            body = self._out.read(name)
        except ObjectNotFound:
            return
        self._found.published = True
        try:
            result = from_json(body, f"{self._out.url}/{name}", "images", "ok", "failed", "content_digest")
        except RunError as error:
            self._report.problems.append(Problem(f"it is damaged: {error}", name, _PUBLISH_ANEW))
            return
        if result.get("stage_token") != Ledger(self._out, self._name).record()["token"]:
            what = f"it is of another {self._name} run than {record_name(self._name)}"
            self._report.problems.append(Problem(what, name, _PUBLISH_ANEW))
            return
        # a plan may have grown since, and what it grew by is no damage while it is computed
        shards = self._plan.shards_of_first(result["images"]) or self._plan.shards
        found = [self._in_force[number] for number in range(shards) if number in self._in_force]
        if len(found) < shards:
            what = f"results were published, and {shards - len(found)} shards have no manifest any more"
            mend = "restore the manifests, or run the same command again, which computes those shards anew"
            self._report.problems.append(Problem(what, f"{self._name}/manifests", mend))
            return
        readable = [shard.manifest for shard in found if shard.manifest is not None]
        if len(readable) < shards:
            return
        digest = hashlib.sha256("".join(manifest["content_digest"] for manifest in readable).encode()).hexdigest()
        # what is gone counts neither as good nor as failed
        counted = ("images",) if result.get(GONE) else ("images", "ok", "failed")
        here = {key: sum(m[key] for m in readable) for key in counted} | {"content_digest": digest}
        odd = [
            f"{key} is {result[key]}, by the manifests {value}" for key, value in here.items() if result[key] != value
        ]
        if odd:
            self._report.problems.append(Problem("; ".join(odd), name, _PUBLISH_ANEW))
        else:
            self._check_parts(found)

    def _check_parts(self, published: Iterable[CheckedShard]) -> None:
        """The published files hold the rows of every shard, in order; a row group has those of whole shards."""
        shards = iter(published)
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
        with ParquetReader(self._out.open(part)) as parquet:
            for group in range(parquet.metadata.num_row_groups):
                table = parquet.read_row_group(group)
                while len(table):
                    shard = next(shards, None)
                    if shard is None or shard.manifest is None:
                        return f"it has rows of more than {self._plan.shards} shards"
                    images = self._plan.records_of(shard.shard)
                    if not self._are_of(shard, table.slice(0, images)):
                        return f"its rows of shard {shard.shard} are not those committed"
                    table = table.slice(images)
        return ""

    def _are_of(self, shard: CheckedShard, table: pa.Table) -> bool:
        """Whether published rows are those of a shard; of one that is damaged itself, as far as can be told."""
        arrays = files_of((shard.manifest or {}) | {"shard": shard.shard})[1]
        paths = table["arrays_path"].drop_null().unique().to_pylist()
        added = [field.name for field in (*ARRAY_FIELDS, GONE_FIELD) if field.name in table.column_names]
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
                self._report.orphans.append(_orphan(info, self._now))
                if int(match[1]) in self._troubled:
                    kept.add(info.name)
        return kept


def _orphan(info: ObjectInfo, now: float | None) -> Orphan:
    return Orphan(info.name, info.size, None if info.modified is None or now is None else now - info.modified)


def _time_of(out: Folder) -> float | None:
    """Unix time by the storage's own clock, which dates what it holds; None if it tells no times.

    It is that of an object written for it, and deleted.
    """
    name = f"plan/clock.{uuid.uuid4().hex}"
    out.replace(name, b"{}")
    try:
        return next((info.modified for info in out.list("plan") if info.name == name), None)
    finally:
        out.delete([name])


def _is_at_work(out: Folder, stage: str) -> bool:
    """Whether some shard of a stage was started and is not committed."""
    ledger = Ledger(out, stage)
    starts, committed = ledger.starts(), ledger.committed()
    return any(shard not in committed for shard in starts)


def _find_unnamed(
    out: Folder, folder: str, own: re.Pattern[str], named: set[str], report: VerifyReport, now: float | None
) -> None:
    for info in out.list(folder):
        if info.name not in named:
            ours = own.fullmatch(info.name.removeprefix(f"{folder}/")) is not None
            report.orphans.append(_orphan(info, now)) if ours else report.foreign.append(info.name)


def _check_files(out: Folder, files: Mapping[str, str], report: VerifyReport, now: float | None) -> None:
    """The files that stages rest on, and no manifest names, have the hashes of their records."""
    for name, sha256 in files.items():
        try:
            if hashlib.sha256(out.read(name)).hexdigest() != sha256:
                report.problems.append(
                    Problem("its bytes are not those that were committed (sha256 differs)", name, _RESTORE)
                )
        except ObjectNotFound:
            report.problems.append(Problem("it is missing", name, _RESTORE))
    for folder in sorted({name.rpartition("/")[0] for name in files}):
        for info in out.list(folder):
            if info.name not in (*files, f"{folder}/{version_1.FIT}"):
                ours = version_1.CODEBOOK.fullmatch(info.name.removeprefix(f"{folder}/")) is not None
                report.orphans.append(_orphan(info, now)) if ours else report.foreign.append(info.name)
