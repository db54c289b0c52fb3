"""One committed shard against its manifest and its plan: every byte, row and array of it."""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from simsam_batch.errors import RunError
from simsam_batch.runs.digest import content_digest
from simsam_batch.runs.ledger import ARRAY_ROWS_KEY, Ledger, files_of
from simsam_batch.runs.plan import Plan
from simsam_batch.runs.verify_report import Problem
from simsam_batch.storage import Folder, ObjectNotFound

HELD_BYTES = 32_000_000
"""Files up to this size are read by one request and held; larger ones are streamed, twice if they hold arrays."""

_CHUNK = 8_000_000
_MEMBER = re.compile(r"(\d{7,})\.(.+)\.npy")


@dataclass(slots=True)
class CheckedShard:
    """What was found behind one manifest.

    Attributes:
        shard, generation: which manifest, by its name.
        manifest: what of it the whole stage is checked by; None if it cannot be read.
        rows_digest: content digest of the rows without arrays, if they are as committed.
        bytes: how much was hashed.
        problems: what is wrong.
    """

    shard: int
    generation: int
    manifest: dict[str, Any] | None = None
    rows_digest: str | None = None
    bytes: int = 0
    problems: list[Problem] = field(default_factory=list)


_KEPT = ("files", "content_digest", "first_content_digest", "images", "ok", "failed", "errors_by_type")


def check_shard(ledger: Ledger, plan: Plan, schema: pa.Schema, shard: int, generation: int) -> CheckedShard:
    """Read everything that one manifest names, and compare.

    Args:
        ledger: of the stage.
        plan: of the run.
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
            handle = self._out.open(name)
        except ObjectNotFound:
            self._problem("it is missing", name)
            return None
        size = handle.seek(0, io.SEEK_END)
        handle.seek(0)
        if size != file["size"]:
            self._problem(f"it has {size} bytes, committed were {file['size']}", name)
            return None
        if size <= HELD_BYTES:
            handle = io.BytesIO(handle.read())
        digest = hashlib.sha256()
        while chunk := handle.read(_CHUNK):
            digest.update(chunk)
        handle.seek(0)
        self._found.bytes += size
        if digest.hexdigest() != file["sha256"]:
            self._problem("its bytes are not those that were committed (sha256 differs)", name)
            return None
        return handle

    def _compare(self, manifest: Mapping[str, Any], rows: BinaryIO, arrays: BinaryIO | None, name: str) -> None:
        table = pq.read_table(rows)
        about = table.schema.metadata or {}
        if about.get(b"plan", b"").decode() != self._plan.digest:
            self._problem("it belongs to another plan", name)
        table = table.replace_schema_metadata(None).cast(self._schema)
        planned = self._plan.shard(self._found.shard).records
        if not table["image_id"].equals(planned["image_id"]):
            self._problem(f"it has not the plan's {planned.num_rows} images in their order", name)
        status = Counter(table["status"].to_pylist())
        counts = {"images": table.num_rows, "ok": status["ok"], "failed": status["failed"]}
        said = {key: manifest[key] for key in counts}
        if counts != said:
            self._problem(f"the manifest says {said}, the rows are {counts}", self._name)
        held = _Arrays(arrays, table.num_rows)
        wanted = set(json.loads(about.get(ARRAY_ROWS_KEY.encode(), b"[]")))
        if held.rows() != wanted:
            odd = sorted(held.rows() ^ wanted)
            self._problem(f"the arrays of {len(odd)} rows are missing or too many (the first is row {odd[0]})", name)
        elif content_digest(table, held) != manifest["content_digest"]:
            self._problem("rows and arrays do not have the content digest of the manifest", name)
        elif not self._found.problems:
            self._found.rows_digest = content_digest(table)


class _Arrays:
    """The arrays of an ``.npz`` file by row; a row's are read when they are asked for, and not kept."""

    def __init__(self, file: BinaryIO | None, rows: int) -> None:
        self._archive = zipfile.ZipFile(file) if file is not None else None
        self._count = rows
        self._members: dict[int, dict[str, str]] = defaultdict(dict)
        for member in self._archive.namelist() if self._archive is not None else ():
            found = _MEMBER.fullmatch(member)
            if found is None:
                raise ValueError(f"{member!r} is no name of an array")
            self._members[int(found[1])][found[2]] = member

    def rows(self) -> set[int]:
        """Rows that have arrays."""
        return set(self._members)

    def __iter__(self) -> Iterator[Mapping[str, NDArray[Any]]]:
        for row in range(self._count):
            yield {name: self._read(member) for name, member in self._members.get(row, {}).items()}

    def _read(self, member: str) -> NDArray[Any]:
        assert self._archive is not None  # noqa: S101  there are no members without it
        with self._archive.open(member) as file:
            array: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
        return array
