"""Members of zip and plain tar archives: where each lies, and its content from the bytes that are there."""

from __future__ import annotations

import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from simsam_batch.storage.failures import UnusableMember

_MEMBER = re.compile(r"(?i)(.*?\.(?:zip|tar))#(.+)", re.DOTALL)
_BLOCK = tarfile.BLOCKSIZE
_LOCAL_HEADER_BYTES = 30
_LONGEST_EXTRA = 1024
"""What is read of a zip behind the name and before the content, where the extra fields may be; more is read again."""

_METHODS = {9: "deflate64", 12: "bzip2", 14: "LZMA", 93: "Zstandard", 95: "XZ", 98: "PPMd"}


def is_archive(url: str) -> bool:
    """Whether a URL is that of a zip or plain tar archive, by its end in any case."""
    return url.lower().rstrip("/").endswith((".zip", ".tar"))


def split_member(uri: str) -> tuple[str, str] | None:
    """Archive and member of ``archive.zip#folder/a.jpg``; None for any other URL."""
    found = _MEMBER.fullmatch(uri)
    return None if found is None else (found[1], found[2])


@dataclass(frozen=True, slots=True)
class Member:
    """One file in an archive.

    Attributes:
        start: byte at which its header begins.
        stored: bytes of its content as it is stored.
        size: bytes of its content.
        check: CRC-32 of its content, in a tar the checksum of its header.
        method: as zip numbers methods of compression; -1 for what is encrypted.
        etag: changes when the content does.
    """

    start: int
    stored: int
    size: int
    check: int
    method: int
    etag: str


class MisplacedError(Exception):
    """Where a member should be is something else: it is damaged, or another archive is there by now."""


def members_of(file: BinaryIO, url: str) -> dict[str, Member]:
    """The files in an archive by their names; of two of one name the last, as whoever unpacks it would have it.

    Args:
        file: seekable; of a zip the directory at its end is read, of a tar the header of each member.
        url: of the archive, whose end says which of both it is.

    Raises:
        ValueError: it is none, or is not there whole.
    """
    try:
        return dict(_of_zip(file) if url.lower().endswith(".zip") else _of_tar(file))
    except (zipfile.BadZipFile, tarfile.TarError, NotImplementedError, UnicodeDecodeError, struct.error) as error:
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from error


def _of_zip(file: BinaryIO) -> Iterator[tuple[str, Member]]:
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            if not info.is_dir():
                method = -1 if info.flag_bits & 1 else info.compress_type
                etag = f"{info.CRC:08x}-{info.file_size:x}"
                member = Member(info.header_offset, info.compress_size, info.file_size, info.CRC, method, etag)
                yield _plain(info.filename), member


def _of_tar(file: BinaryIO) -> Iterator[tuple[str, Member]]:
    # a second name of a file, a hard link, has no bytes of its own
    held: dict[str, Member] = {}
    # names that are not UTF-8 are spelled out, for a catalog holds none
    with tarfile.open(fileobj=file, mode="r:", errors="backslashreplace") as archive:
        while (info := archive.next()) is not None:
            # it would keep them all, a kilobyte for each
            archive.members.clear()  # type: ignore[attr-defined]
            if info.isreg() and not info.issparse():
                etag = f"{int(info.mtime):x}-{info.size:x}"
                name = _plain(info.name)
                held[name] = Member(info.offset_data - _BLOCK, info.size, info.size, info.chksum, 0, etag)
                yield name, held[name]
            elif info.islnk() and (linked := held.get(_plain(info.linkname))) is not None:
                held[_plain(info.name)] = linked
                yield _plain(info.name), linked


def _plain(name: str) -> str:
    while name.startswith("./"):
        name = name[2:].lstrip("/")
    return name


def place_of(member: Member, name: str, url: str, limit: int | None) -> tuple[int, int]:
    """Where in an archive to read, and how much, to have a member; ``limit`` as for `content_of`.

    Raises:
        UnusableMember: it is encrypted, or packed by a method that is not read.
    """
    shown = f"cannot read {url}#{name}"
    if member.method == -1:
        mend = "To mend it: unpack the archive with its password, or pack it without one"
        raise UnusableMember(f"{shown}: it is encrypted. {mend}", "unsupported")
    if member.method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        method = _METHODS.get(member.method, f"method {member.method}")
        mend = "To mend it: unpack the archive, or pack it by deflate or without compression"
        raise UnusableMember(f"{shown}: it is packed by {method}, which is not read. {mend}", "unsupported")
    # deflate makes what it cannot pack longer by 5 bytes for each 16,383 at most
    most = member.stored if limit is None else min(member.stored, limit + limit // 1000 + 1024)
    if url.lower().endswith(".tar"):
        return member.start, _BLOCK + most
    return member.start, _LOCAL_HEADER_BYTES + len(name.encode()) + _LONGEST_EXTRA + most


def content_of(member: Member, name: str, url: str, data: bytes, limit: int | None) -> tuple[bytes, int]:
    """The content of a member from the bytes at its place, and how many further ones are needed to have it.

    Args:
        member: as it is listed.
        name: its name.
        url: of the archive.
        data: from where it begins.
        limit: at most ``limit + 1`` bytes are wanted.

    Raises:
        MisplacedError: this is another member, or none.
        UnusableMember: it is damaged.
    """
    if url.lower().endswith(".tar"):
        if len(data) < _BLOCK or _tar_checksum(data) != member.check:
            raise MisplacedError
        begins = _BLOCK
    else:
        begins = _zip_content_begins(name, data)
    wanted = member.stored if limit is None else min(member.stored, limit + limit // 1000 + 1024)
    if (missing := begins + wanted - len(data)) > 0:
        return b"", missing
    content = data[begins : begins + wanted]
    whole = wanted == member.stored and (limit is None or member.size <= limit)
    if member.method == zipfile.ZIP_DEFLATED:
        try:
            content = zlib.decompressobj(-15).decompress(content, member.size + 1 if whole else (limit or 0) + 1)
        except zlib.error as error:
            raise _damaged(name, url, str(error)) from error
    if whole and len(content) != member.size:
        raise _damaged(name, url, f"it has another size than the {member.size} bytes that are listed")
    if whole and url.lower().endswith(".zip") and zlib.crc32(content) != member.check:
        raise _damaged(name, url, "its content has another checksum than is listed")
    return content if limit is None else content[: limit + 1], 0


def _zip_content_begins(name: str, data: bytes) -> int:
    """Where the content begins behind the header of a member of a zip (APPNOTE.TXT, 4.3.7)."""
    if len(data) < _LOCAL_HEADER_BYTES or data[:4] != b"PK\3\4":
        raise MisplacedError
    flags, name_bytes, extra_bytes = (int.from_bytes(data[at : at + 2], "little") for at in (6, 26, 28))
    here = data[_LOCAL_HEADER_BYTES : _LOCAL_HEADER_BYTES + name_bytes]
    if _plain(here.decode("utf-8" if flags & 0x800 else "cp437", "replace").partition("\0")[0]) != name:
        raise MisplacedError
    return _LOCAL_HEADER_BYTES + name_bytes + extra_bytes


def _tar_checksum(block: bytes) -> int | None:
    """What the header of a member of a tar says is the sum of its bytes; None if it is not (POSIX, ustar)."""
    digits = block[148:156].strip(b"\0 ")
    if not digits.isdigit():
        return None
    counted = sum(block[:148]) + 8 * ord(" ") + sum(block[156:_BLOCK])
    return counted if counted == int(digits, 8) else None


def _damaged(name: str, url: str, why: str) -> UnusableMember:
    mend = "To mend it: copy the archive again, or pack it anew"
    return UnusableMember(f"cannot read {url}#{name}: it is damaged in the archive: {why}. {mend}", "undecodable")


def lost(name: str, url: str) -> UnusableMember:
    """The error of a member that is not where the archive says."""
    return _damaged(name, url, "it is not where the archive's own list says")
