"""The archive of a shard's attachments: a stored ``.npz``, in which the members of one row lie side by side.

A member is called ``<row>.<name>.npy`` if it is an array, else ``<row>.<name>.<suffix>``, with the row's number in the
shard in seven digits. Nothing is compressed or pickled, and equal attachments give equal bytes.
"""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from struct import error as StructError  # noqa: N812  a class, whatever its name
from struct import unpack_from
from typing import BinaryIO, Self

import numpy as np

from simsam_batch.errors import RunError
from simsam_batch.runs.schema import Attachment, AttachmentsByRow, File
from simsam_batch.storage.uploading import temporary_file

HELD_BYTES = 32_000_000
"""Files up to this size are held in memory; larger ones stay on disk or storage and are read in parts."""

_CHUNK = 8_000_000
_MEMBER = re.compile(r"(\d{7,})\.(.+)\.([A-Za-z0-9]+)")
_SUFFIX = re.compile(r"[A-Za-z0-9]{1,16}")
_LOCAL_HEADER = b"PK\x03\x04"
_LOCAL_HEADER_BYTES = 30
_IN_EXTRA_FIELD = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Where the members of a row lie in the archive, their headers included: ``size`` bytes from ``start`` on."""

    row: int
    start: int
    size: int


class ArchiveWriter:
    """Writes an archive to a temporary file, so that it need not fit in memory. A context; the file ends with it.

    Attributes:
        ranges: of the rows that have attachments, in order.
    """

    def __init__(self) -> None:
        self.ranges: list[ByteRange] = []
        self._stack = ExitStack()
        self._file: BinaryIO | None = None
        self._archive: zipfile.ZipFile | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def written(self, attachments: Iterable[Mapping[str, Attachment]]) -> Iterator[Mapping[str, Attachment]]:
        """Write what passes, a row after the other, and hand it on.

        Raises:
            RunError: an array holds Python objects, or a file has no proper suffix.
            StorageError: there is no room for temporary files.
        """
        for row, by_name in enumerate(attachments):
            if by_name:
                self._write(row, by_name)
            yield by_name

    def _write(self, row: int, by_name: Mapping[str, Attachment]) -> None:
        if self._file is None or self._archive is None:
            self._file = self._stack.enter_context(temporary_file())
            self._archive = zipfile.ZipFile(self._file, "w", zipfile.ZIP_STORED)
        start = self._file.tell()
        for name in sorted(by_name):
            suffix, body = _member(row, name, by_name[name])
            self._archive.writestr(zipfile.ZipInfo(f"{row:07d}.{name}.{suffix}"), body)
        self.ranges.append(ByteRange(row, start, self._file.tell() - start))

    def finish(self) -> tuple[bytes | Path, int, str] | None:
        """The archive, or the local file that holds it, with its size and sha256; None if no row has attachments."""
        if self._file is None or self._archive is None:
            return None
        self._archive.close()
        self._file.flush()
        size = self._file.seek(0, io.SEEK_END)
        self._file.seek(0)
        if size <= HELD_BYTES:
            body = self._file.read()
            return body, size, sha256(body).hexdigest()
        return Path(self._file.name), size, hash_of(self._file)


def hash_of(file: BinaryIO) -> str:
    """SHA-256 (hex) of an open file from where it is; it is at its start again afterwards."""
    digest = sha256()
    while chunk := file.read(_CHUNK):
        digest.update(chunk)
    file.seek(0)
    return digest.hexdigest()


def _member(row: int, name: str, attachment: Attachment) -> tuple[str, bytes | memoryview]:
    if isinstance(attachment, File):
        if attachment.suffix == "npy" or _SUFFIX.fullmatch(attachment.suffix) is None:
            raise RunError(
                f"file {name} of row {row} has the suffix {attachment.suffix!r}. To mend it: give one of letters and "
                "digits such as png, and arrays as arrays"
            )
        return attachment.suffix, attachment.data
    body = io.BytesIO()
    try:
        np.lib.format.write_array(body, np.asarray(attachment), allow_pickle=False)
    except ValueError as error:
        raise RunError(f"array {name} of row {row} holds Python objects: only numbers are kept") from error
    return "npy", body.getbuffer()


class ArchivedAttachments(AttachmentsByRow):
    """The attachments of a shard by row, read from its archive when they are asked for, and not kept.

    Args:
        file: the archive; None for a shard that has none.
        rows: how many rows the shard has.

    Raises:
        ValueError, zipfile.BadZipFile: it is no such archive.
    """

    def __init__(self, file: BinaryIO | None, rows: int) -> None:
        self._archive = zipfile.ZipFile(file) if file is not None else None
        self._count = rows
        self._members: dict[int, list[zipfile.ZipInfo]] = defaultdict(list)
        for member in self._archive.infolist() if self._archive is not None else ():
            self._members[_parted(member.filename)[0]].append(member)

    def rows(self) -> set[int]:
        """Rows that have attachments."""
        return set(self._members)

    def starts(self) -> dict[int, int]:
        """Where the first member of each row that has some begins."""
        return {row: min(member.header_offset for member in found) for row, found in self._members.items()}

    def __len__(self) -> int:
        return self._count

    def of(self, row: int) -> Mapping[str, Attachment]:
        """What is attached to a row, by name."""
        found = {}
        for member in self._members.get(row, ()):
            assert self._archive is not None  # noqa: S101  there are no members without it
            _, name, suffix = _parted(member.filename)
            found[name] = _attachment(suffix, self._archive.read(member))
        return found


def attachments_in(body: bytes, row: int) -> dict[str, Attachment]:
    """What is attached to one row, by name, from the bytes of its `ByteRange`.

    Raises:
        ValueError: these are not whole members, they are another row's, or a check sum differs.
    """
    found: dict[str, Attachment] = {}
    at = 0
    while at < len(body):
        try:
            member, data, at = _next_member(body, at)
        except StructError as error:
            raise ValueError(f"it is cut off: {error}") from error
        whose, name, suffix = _parted(member)
        if whose != row:
            raise ValueError(f"the member {member!r} is another row's")
        found[name] = _attachment(suffix, data)
    return found


def _next_member(body: bytes, at: int) -> tuple[str, bytes, int]:
    """Name and data of the member that begins at a place, and the place after it."""
    if body[at : at + 4] != _LOCAL_HEADER:
        raise ValueError(f"no member begins at byte {at}")
    method, check, stored, _, name_bytes, extra_bytes = unpack_from("<8xH4xIIIHH", body, at)
    first = at + _LOCAL_HEADER_BYTES
    if stored == _IN_EXTRA_FIELD:
        # zip64: a field of 20 bytes, whose last eight are the stored size
        stored = unpack_from("<4xQQ", body, first + name_bytes)[1]
    member = body[first : first + name_bytes].decode()
    start = first + name_bytes + extra_bytes
    data = body[start : start + stored]
    if method != zipfile.ZIP_STORED or len(data) != stored or zlib.crc32(data) != check:
        raise ValueError(f"the member {member!r} is damaged or cut off")
    return member, data, start + stored


def _parted(member: str) -> tuple[int, str, str]:
    """Row, name and suffix of a member."""
    found = _MEMBER.fullmatch(member)
    if found is None:
        raise ValueError(f"{member!r} is no name of an attachment")
    return int(found[1]), found[2], found[3]


def _attachment(suffix: str, data: bytes) -> Attachment:
    if suffix != "npy":
        return File(data, suffix)
    return np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
