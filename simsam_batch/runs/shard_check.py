"""One committed shard against its manifest and its plan: every byte, row and array of it."""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import pyarrow as pa

from simsam_batch.errors import RunError
from simsam_batch.runs.archive import ArchivedAttachments, ByteRange
from simsam_batch.runs.committed import DamagedFileError, array_rows, byte_ranges, files_of, opened
from simsam_batch.runs.digest import content_digest
from simsam_batch.runs.ledger import Ledger
from simsam_batch.runs.plan import Plan
from simsam_batch.runs.schema import IMAGE
from simsam_batch.runs.stage_record import ForeignManifestError, record_name
from simsam_batch.runs.verify_report import Problem
from simsam_batch.storage import Folder, ObjectNotFound
from simsam_batch.storage.parquet import read_table


@dataclass(slots=True)
class CheckedShard:
    """What was found behind one manifest.

    Attributes:
        shard, generation: which manifest, by its name.
        manifest: what of it the whole stage is checked by; None if it cannot be read.
        rows_digest: content digest of the rows without attachments, if they are as committed.
        ranges: where these lie in the archive, likewise.
        bytes: how much was hashed.
        problems: what is wrong.
    """

    shard: int
    generation: int
    manifest: dict[str, Any] | None = None
    rows_digest: str | None = None
    ranges: list[ByteRange] = field(default_factory=list)
    bytes: int = 0
    problems: list[Problem] = field(default_factory=list)


_KEPT = ("files", "content_digest", "first_content_digest", "images", "ok", "failed", "errors_by_type")


def check_shard(ledger: Ledger, plan: Plan, schema: pa.Schema, shard: int, generation: int) -> CheckedShard:
    """Read everything that one manifest names, and compare.

    Args:
        ledger: of the stage.
        plan: of the stage.
        schema: Arrow schema of the stage's rows.
        shard: number of the manifest.
        generation: of the manifest.

    Raises:
        StorageError: the storage did not answer, which says nothing about what it holds.
    """
    return _Check(ledger, plan, schema, CheckedShard(shard, generation)).run()


class _Check:
    def __init__(self, ledger: Ledger, plan: Plan, schema: pa.Schema, found: CheckedShard) -> None:
        self._ledger, self._plan, self._schema, self._found = ledger, plan, schema, found
        self._out: Folder = ledger.out
        self._name = f"{ledger.stage}/manifests/{found.shard:07d}.{found.generation}.json"
        self._mend = (
            f"restore the file, or delete {self._name} and run the same command again, which computes the shard anew"
        )

    def run(self) -> CheckedShard:
        found = self._found
        try:
            manifest = self._ledger.manifest(found.shard, found.generation)
            rows, arrays = files_of(manifest)
            self._require_own(manifest)
        except ForeignManifestError:
            self._mend = f"delete {self._name} and run the same command again, which computes the shard anew"
            what = f"it is of another {self._ledger.stage} run than {record_name(self._ledger.stage)}"
            self._problem(what, self._name)
            return found
        except (RunError, ObjectNotFound, KeyError, TypeError, AttributeError) as error:
            self._problem(f"it is no manifest of this shard: {' '.join(str(error).split())[:300]}", self._name)
            return found
        found.manifest = {key: manifest[key] for key in _KEPT if key in manifest}
        with_rows = self._opened(rows)
        with_arrays = self._opened(arrays) if arrays is not None else None
        if with_rows is None or (arrays is not None and with_arrays is None):
            return found
        try:
            self._compare(manifest, with_rows, with_arrays, str(rows["name"]))
        except (pa.ArrowException, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            # the hashes agree: so it was written
            self._problem(f"it cannot be read: {error}", str(rows["name"]))
        return found

    def _problem(self, what: str, where: str) -> None:
        self._found.problems.append(Problem(what, where, self._mend))

    def _require_own(self, manifest: Mapping[str, Any]) -> None:
        """Raise unless the manifest speaks of this shard of this stage, and names files of it alone."""
        found, stage = self._found, self._ledger.stage
        said = (manifest["stage"], int(manifest["shard"]), int(manifest["generation"]))
        if said != (stage, found.shard, found.generation):
            raise RunError(f"it speaks of {said[0]}, shard {said[1]}, generation {said[2]}")
        if not 0 <= found.shard < self._plan.shards:
            raise RunError(f"the plan has {self._plan.shards} shards")
        own = f"{stage}/data/{found.shard:07d}."
        foreign = [file["name"] for file in manifest["files"] if not str(file["name"]).startswith(own)]
        if foreign:
            raise RunError(f"it names {foreign[0]!r}")

    def _opened(self, file: Mapping[str, Any]) -> BinaryIO | None:
        """The file, at its start, if size and hash are those committed."""
        name = str(file["name"])
        try:
            handle = opened(self._out, file)
        except ObjectNotFound:
            self._problem("it is missing", name)
            return None
        except DamagedFileError as error:
            self._found.bytes += error.hashed
            self._problem(error.what, name)
            return None
        self._found.bytes += int(file["size"])
        return handle

    def _compare(self, manifest: Mapping[str, Any], rows: BinaryIO, arrays: BinaryIO | None, name: str) -> None:
        table = read_table(rows)
        about = table.schema.metadata or {}
        if about.get(b"plan", b"").decode() != self._plan.digest:
            self._problem("it belongs to another plan", name)
        table = table.replace_schema_metadata(None).cast(self._schema)
        planned = self._plan.shard(self._found.shard).records
        unit = self._plan.unit
        if not table[unit].equals(planned[unit]):
            what = "images" if unit == IMAGE else "records"
            self._problem(f"it has not the plan's {planned.num_rows} {what} in their order", name)
        status = Counter(table["status"].to_pylist())
        counts = {"images": table.num_rows, "ok": status["ok"], "failed": status["failed"]}
        said = {key: manifest[key] for key in counts}
        if counts != said:
            self._problem(f"the manifest says {said}, the rows are {counts}", self._name)
        held = ArchivedAttachments(arrays, table.num_rows)
        wanted, ranges = set(array_rows(about)), byte_ranges(about)
        if held.rows() != wanted:
            odd = sorted(held.rows() ^ wanted)
            self._problem(
                f"the attachments of {len(odd)} rows are missing or too many (the first is row {odd[0]})", name
            )
        elif content_digest(table, held) != manifest["content_digest"]:
            self._problem("rows and attachments do not have the content digest of the manifest", name)
        elif ranges and {each.row: each.start for each in ranges} != held.starts():
            self._problem("it says that attachments lie where they do not", name)
        elif not self._found.problems:
            self._found.rows_digest, self._found.ranges = content_digest(table), ranges
