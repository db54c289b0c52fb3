"""What is committed for a shard, read back and checked by the hashes of its manifest. Nothing else reads data files."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa

from simsam_batch.errors import RunError
from simsam_batch.runs.archive import HELD_BYTES, ArchivedAttachments, ByteRange, hash_of
from simsam_batch.runs.schema import ARRAY_FIELDS, Attachment
from simsam_batch.storage import Folder
from simsam_batch.storage.parquet import ParquetReader, read_table

ARRAY_ROWS_KEY = "array_rows"
"""Key of a data file's Parquet metadata: JSON list of the rows that have attachments."""

RANGES_KEY = "attachment_ranges"
"""Likewise: for each of these rows the start and size of its bytes in the archive. Absent in runs of schema 1."""


class CommittedShard:
    """The rows and attachments of one committed shard. Nothing is read before it is asked for.

    Args:
        out: the run's folder.
        manifest: of the shard; ``shard`` and ``files`` are looked at.
        body: the file of rows, where it has been read already; it is checked like any other.

    Attributes:
        number: the shard's.

    Raises:
        RunError: the manifest names no rows.
    """

    def __init__(self, out: Folder, manifest: Mapping[str, Any], body: bytes | None = None) -> None:
        self._out = out
        self._rows, self._archive = files_of(manifest)
        self._body = body
        self._checked = False
        self.number = int(manifest["shard"])

    def rows(self, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows as they were committed, without metadata; of all columns or of some.

        Raises:
            RunError: the file is not what the manifest says, or cannot be read as Parquet.
            StorageError: it cannot be read.
        """
        return self._read(columns).replace_schema_metadata(None)

    def placed_rows(self) -> pa.Table:
        """The rows with where the attachments of each lie, in the columns `ARRAY_FIELDS`; raises like `rows`."""
        table = self._read(None)
        ranges = byte_ranges(table.schema.metadata)
        count = table.num_rows
        there = np.zeros(count, dtype=bool)
        starts, sizes = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.int64)
        for row in array_rows(table.schema.metadata):
            there[row] = True
        for each in ranges:
            starts[each.row], sizes[each.row] = each.start, each.size
        unplaced = ~there if ranges else np.ones(count, dtype=bool)
        name = None if self._archive is None else str(self._archive["name"])
        values = [
            pa.array([name if has else None for has in there.tolist()], pa.string()),
            pa.array([f"{row:07d}" if has else None for row, has in enumerate(there.tolist())], pa.string()),
            pa.array(starts, mask=unplaced),
            pa.array(sizes, mask=unplaced),
        ]
        for field, column in zip(ARRAY_FIELDS, values, strict=True):
            table = table.append_column(field, column)
        return table.replace_schema_metadata(None)

    def attachments(self) -> Sequence[Mapping[str, Attachment]]:
        """What is attached to each row, by name, read as it is asked for; an empty mapping where there is nothing.

        Raises:
            RunError: the archive is not what the manifest says.
            StorageError: it cannot be read.
        """
        rows = ParquetReader(io.BytesIO(self._checked_body())).metadata.num_rows
        if self._archive is None:
            return ArchivedAttachments(None, rows)
        try:
            return ArchivedAttachments(opened(self._out, self._archive), rows)
        except (ValueError, zipfile.BadZipFile) as error:
            raise RunError(
                f"{self._out.url}/{self._archive['name']} cannot be read: {error}. To mend it: restore the file"
            ) from error

    def _read(self, columns: Sequence[str] | None) -> pa.Table:
        body = self._checked_body()
        try:
            return read_table(io.BytesIO(body), columns)
        except (pa.ArrowException, OSError) as error:
            raise RunError(
                f"{self._out.url}/{self._rows['name']} cannot be read as Parquet: {error}. To mend it: restore the file"
            ) from error

    def _checked_body(self) -> bytes:
        if self._body is None:
            self._body = self._out.read(str(self._rows["name"]))
        damage = "" if self._checked else _difference(self._rows, len(self._body), sha256(self._body).hexdigest())
        if damage:
            raise DamagedFileError(self._out, self._rows, damage)
        self._checked = True
        return self._body


def committed_shards(out: Folder, manifests: Iterable[Mapping[str, Any]]) -> Iterator[CommittedShard]:
    """The shards of some manifests in their order, the files of their rows read ahead.

    Raises:
        RunError: a manifest names no rows.
        StorageError: a file cannot be read.
    """
    held = list(manifests)
    names = [str(files_of(manifest)[0]["name"]) for manifest in held]
    for manifest, body in zip(held, out.read_many(names), strict=True):
        yield CommittedShard(out, manifest, body)


def files_of(manifest: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any] | None]:
    """The entries of a shard's rows and, if it has some, of its attachments in its manifest."""
    try:
        by_ending = {file["name"].rpartition(".")[2]: file for file in manifest["files"]}
        complete = all({"size", "sha256"} <= file.keys() for file in manifest["files"])
    except (TypeError, KeyError, AttributeError):
        complete = False
    if not complete or "parquet" not in by_ending:
        raise RunError(f"the manifest of shard {manifest['shard']} names no rows. To mend it: restore it")
    return by_ending["parquet"], by_ending.get("npz")


class DamagedFileError(RunError):
    """A file that a manifest names has other bytes.

    Attributes:
        what: how it differs.
        hashed: how many bytes were looked at.
    """

    def __init__(self, out: Folder, file: Mapping[str, Any], what: str, hashed: int = 0) -> None:
        super().__init__(f"{out.url}/{file['name']} is not what was committed: {what}. To mend it: restore the file")
        self.what, self.hashed = what, hashed


def opened(out: Folder, file: Mapping[str, Any]) -> BinaryIO:
    """A file that a manifest names, at its start: held up to `HELD_BYTES`, else read from storage a second time.

    Raises:
        DamagedFileError: it is not what the manifest says.
        ObjectNotFound: it is missing.
        StorageError: it cannot be read.
    """
    handle = out.open(str(file["name"]))
    size = handle.seek(0, io.SEEK_END)
    handle.seek(0)
    if size == file["size"] and size <= HELD_BYTES:
        handle = io.BytesIO(handle.read())
    # another size tells enough
    hashed = size if size == file["size"] else 0
    damage = _difference(file, size, hash_of(handle) if hashed else "")
    if damage:
        raise DamagedFileError(out, file, damage, hashed)
    return handle


def _difference(file: Mapping[str, Any], size: int, digest: str) -> str:
    if size != file["size"]:
        return f"it has {size} bytes, committed were {file['size']}"
    return "" if digest == file["sha256"] else "its bytes are not those that were committed (sha256 differs)"


def array_rows(metadata: Mapping[bytes, bytes] | None) -> list[int]:
    """The rows that have attachments, by the metadata of their file."""
    return [int(row) for row in json.loads((metadata or {}).get(ARRAY_ROWS_KEY.encode(), b"[]"))]


def byte_ranges(metadata: Mapping[bytes, bytes] | None) -> list[ByteRange]:
    """Where these rows' attachments lie in the archive, likewise; empty where the file does not tell."""
    ranges = json.loads((metadata or {}).get(RANGES_KEY.encode(), b"[]"))
    rows = array_rows(metadata) if ranges else []
    return [ByteRange(row, int(start), int(size)) for row, (start, size) in zip(rows, ranges, strict=True)]
