"""Reading by URL: whole files, ranges, members of archives, and what a folder or an archive holds."""

from __future__ import annotations

import io
import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

from simsam_batch.errors import StorageError
from simsam_batch.storage import local_disk, web
from simsam_batch.storage.archives import (
    Member,
    MisplacedError,
    content_of,
    is_archive,
    lost,
    members_of,
    place_of,
    split_member,
)
from simsam_batch.storage.failures import ObjectNotFound, ObjectRefused, UnusableMember, reported
from simsam_batch.storage.filesystems import ObjectInfo, filesystem, info_of, is_web, objects, read_range
from simsam_batch.storage.retrying import retried
from simsam_batch.storage.rows import read_row, split_row
from simsam_batch.storage.urls import WEB, absolute_url, is_bucket, local_path, protocol_of, redact

_BUFFER = 1 << 16
_LOCAL_HEADERS = 1 << 12
_REMOTE_HEADERS = 1 << 20
"""Read at once of an archive: a tar of small images is rather read whole than by a request for each."""

_ARCHIVES_HELD = 16


def read_url(uri: str, limit: int | None = None) -> bytes:
    """The content of one file or object; may be called from many threads.

    Args:
        uri: local path or URL; or ``archive.zip#folder/a.jpg``, likewise of a ``.tar``, for a member of an archive, of
            which no more than this is read; or ``file.arrow#image/12``, likewise of ``.parquet``, for a row of a table.
        limit: read at most ``limit + 1`` bytes; more than ``limit`` returned means that the object is larger.

    Raises:
        ObjectNotFound: nothing is there, or a directory or device.
        UnusableMember: an archive has it, and it is damaged, encrypted, or packed as is not read.
        ObjectRefused: it is not given out, and no waiting mends it.
        StorageError: the storage did not answer, also when asked again; the read may be repeated.
    """
    read = _inside(uri)
    if read is None:
        return _read_plain(uri, limit)
    try:
        return read(limit)
    except UnusableMember:
        raise
    except ObjectNotFound:
        if protocol_of(uri) in ("file", *WEB):
            raise
        # a key of object storage may look like this, too
        with suppress(ObjectNotFound):
            return _read_plain(uri, limit)
        raise


def _inside(uri: str) -> Callable[[int | None], bytes] | None:
    """What reads a member of an archive or a row of a table, with the limit as of `read_url`; None for a plain URL."""
    if (member := _member(uri)) is not None:
        return partial(_read_member, *member)
    row = split_row(uri)
    return None if row is None or _is_local_file(uri) else partial(_read_row, *row)


def _read_row(url: str, column: str, row: int, limit: int | None) -> bytes:
    found = read_row(url, column, row, open_url)
    return found if limit is None else found[: limit + 1]


def _read_plain(uri: str, limit: int | None) -> bytes:
    with reported("read", uri):
        if "\0" in uri:
            raise ObjectNotFound(f"cannot read {uri!r}: a name cannot hold a zero byte")
        if is_bucket(uri):
            raise ObjectNotFound(f"cannot read {redact(uri)}: it names a bucket, and no object in it")
        return retried(f"read {uri}", partial(_read_once, uri, limit))


def is_given(uri: str) -> bool:
    """Whether the storage gives the beginning of a file or object now, when it is asked once."""
    inside = _member(uri) or split_row(uri)
    try:
        _read_once(uri if inside is None else inside[0], 0, although_silent=True)
    except Exception:  # noqa: BLE001  whatever it was, it is not given
        return False
    return True


def _read_once(uri: str, limit: int | None, *, although_silent: bool = False) -> bytes:
    if protocol_of(uri) == "file":
        return _read_file(Path(absolute_url(uri)), limit)
    if limit is None:
        return read_range(uri, although_silent=although_silent)
    return read_range(uri, 0, limit + 1, although_silent=although_silent)[: limit + 1]


def object_info(url: str) -> ObjectInfo:
    """What a listing would say about one file or object; its ``name`` is the last part of the URL.

    Raises:
        ObjectNotFound: nothing is there, or a directory or device.
        StorageError: the storage did not answer.
    """
    name = absolute_url(url).rpartition("/")[2]
    if (parts := _member(url)) is not None:
        member = _index(parts[0]).get(parts[1])
        if member is None:
            raise ObjectNotFound(redact(f"cannot read {url}: the archive has no such member"))
        return ObjectInfo(name, member.size, member.etag, None)
    with reported("read", url):
        if protocol_of(url) == "file":
            return file_info(name, retried(f"read {url}", partial(_regular_file, Path(absolute_url(url)))))
        if is_bucket(url):
            raise ObjectNotFound(f"cannot read {redact(url)}: it names a bucket, and no object in it")
        fs, path = filesystem(url)
        found = retried(f"read {url}", partial(fs.info, path))
        if found["type"] == "directory":
            raise ObjectNotFound(f"cannot read {redact(url)}: it is a directory, not a file")
        return info_of(name, found)


def _member(uri: str) -> tuple[str, str] | None:
    """Archive and member of a URL; None where it is a plain one, or a local file has this very name."""
    found = split_member(uri)
    return None if found is None or _is_local_file(uri) else found


def _is_local_file(uri: str) -> bool:
    return protocol_of(uri) == "file" and Path(local_path(uri)).is_file()


_indexes: OrderedDict[str, tuple[object, dict[str, Member]]] = OrderedDict()
"""The members of the archives that were read last, with what tells one state of a local archive from another."""

_indexes_lock = threading.Lock()


def _new_lock() -> None:
    # a forked child may inherit it locked by a thread that it does not have
    global _indexes_lock  # noqa: PLW0603  a lock is replaced in no other way
    _indexes_lock = threading.Lock()


os.register_at_fork(after_in_child=_new_lock)


def _index(archive: str, known: dict[str, Member] | None = None) -> dict[str, Member]:
    """The members of an archive, listed once in a process while it stays the same; anew if it is the ``known``.

    Raises:
        ObjectNotFound: no such archive.
        StorageError: the storage did not answer, or it is no archive or not whole (`UnusableMember`).
    """
    url = absolute_url(archive)
    state: object = None
    with reported("read", url):
        if protocol_of(url) == "file":
            status = retried(f"read {url}", partial(_regular_file, Path(url)))
            state = status.st_mtime_ns, status.st_size, status.st_ino
    with _indexes_lock:
        held = _indexes.get(url)
        if held is not None and held[0] == state and held[1] is not known:
            _indexes.move_to_end(url)
            return held[1]
        try:
            with open_url(url, _LOCAL_HEADERS if state else _REMOTE_HEADERS) as file:
                members = members_of(file, url)
        except ValueError as error:
            mend = "To mend it: copy it again, or pack it anew as .zip or plain .tar"
            message = f"cannot read {url}: it is no archive of its kind, or not whole: {error}. {mend}"
            raise UnusableMember(message, "undecodable") from error
        _indexes[url] = state, members
        while len(_indexes) > _ARCHIVES_HELD:
            _indexes.popitem(last=False)
        return members


def _read_member(archive: str, name: str, limit: int | None) -> bytes:
    members = _index(archive)
    try:
        return _member_content(archive, members, name, limit)
    except MisplacedError:
        # of object storage nothing tells that another archive is there but its content
        try:
            return _member_content(archive, _index(archive, known=members), name, limit)
        except MisplacedError as error:
            raise lost(name, archive) from error


def _member_content(archive: str, members: dict[str, Member], name: str, limit: int | None) -> bytes:
    member = members.get(name)
    if member is None:
        raise ObjectNotFound(redact(f"cannot read {archive}#{name}: the archive has no such member"))
    start, size = place_of(member, name, archive, limit)
    try:
        data = read_url_range(archive, start, size)
    except ObjectRefused as error:
        # as a store does where the archive ends before; if it refuses the archive, so it does when that is listed anew
        raise MisplacedError from error
    content, missing = content_of(member, name, archive, data, limit)
    if missing:
        # extra fields that are longer than usual, or an archive that has been cut
        data += read_url_range(archive, start + len(data), missing)
        content, missing = content_of(member, name, archive, data, limit)
    if missing:
        raise MisplacedError
    return content


def read_url_range(url: str, start: int, size: int) -> bytes:
    """The ``size`` bytes from ``start`` on, by one request; fewer where the object ends before.

    Raises:
        ObjectNotFound: nothing is there, or a directory.
        StorageError: the storage did not answer, also when asked again, or the object ends before ``start``.
    """
    read = local_disk.read_range if protocol_of(url) == "file" else read_range
    with reported("read", url):
        return retried(f"read {url}", partial(read, url, start, start + size))


def _read_file(path: Path, limit: int | None) -> bytes:
    _regular_file(path)
    with path.open("rb") as file:
        return file.read() if limit is None else file.read(limit + 1)


def _regular_file(path: Path) -> os.stat_result:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        raise ObjectNotFound(f"cannot read {path}: it is a directory or device, not a file")
    return status


def open_url(url: str, buffer: int = _BUFFER) -> BinaryIO:
    """A seekable binary file; on object storage every read larger than the buffer is one range request.

    What is on a web server that knows no ranges is read whole.
    """
    with reported("read", url):
        if protocol_of(url) == "file":
            size = retried(f"read {url}", partial(_regular_file, Path(url))).st_size
        else:
            fs, path = filesystem(url)
            if is_web(fs):
                known = retried(f"read {url}", partial(web.size, fs, path))
                if known is None:
                    return io.BytesIO(read_url(url))
                size = known
            else:
                size = int(retried(f"read {url}", partial(fs.info, path))["size"])
    return cast("BinaryIO", io.BufferedReader(_RangeReader(url, size), buffer))


class _RangeReader(io.RawIOBase):
    """A file or remote object, seekable; every read is a call of its own, and so can be repeated."""

    def __init__(self, url: str, size: int) -> None:
        self._url, self._size, self._position = url, size, 0
        self._local = protocol_of(url) == "file"

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def readinto(self, buffer: Any) -> int:
        data = self._next(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        return self._next(self._size)

    def _next(self, length: int) -> bytes:
        end = min(self._position + length, self._size)
        if end <= self._position:
            return b""
        read = local_disk.read_range if self._local else read_range
        with reported("read", self._url):
            data = retried(f"read {self._url}", partial(read, self._url, self._position, end))
        self._position += len(data)
        return data


def walk(url: str) -> Iterator[tuple[str, ObjectInfo]]:
    """Every file below a folder as (absolute path or URL, info), streamed; names are relative to the folder.

    An archive is a folder, too, and its members are what is below it; ``archive.zip#folder`` is one inside of it.

    Raises:
        StorageError: the folder does not exist (on S3: nothing is below it) or cannot be listed.
    """
    url = absolute_url(url)
    archive, inside = _member(url) or (url, "")
    if is_archive(archive) and _is_object(archive):
        top = f"{inside}/" if inside else ""
        found = [(name, member) for name, member in _index(archive).items() if name.startswith(top)]
        if not found and inside:
            raise StorageError(redact(f"cannot list {url}: the archive has no such folder. To mend it: check the name"))
        for name, member in found:
            yield f"{archive}#{name}", ObjectInfo(name.removeprefix(top), member.size, member.etag, None)
        return
    with reported("list", url):
        if protocol_of(url) == "file":
            if not Path(url).is_dir():
                raise StorageError(f"cannot list {url}: there is no such folder. To mend it: check the path")
            yield from ((uri, file_info(name, status)) for uri, name, status in local_disk.walk(Path(url)))
            return
        empty = True
        for uri, info in objects(*filesystem(url)):
            empty = False
            yield uri, info
        if empty:
            raise StorageError(redact(f"cannot list {url}: nothing is there. To mend it: check the URL"))


def _is_object(url: str) -> bool:
    try:
        read_url(url, 0)
    except ObjectNotFound:
        return False
    return True


def file_info(name: str, status: os.stat_result | None) -> ObjectInfo:
    """What a listing says about a file on local disk; ``status`` is None for a link that leads nowhere."""
    if status is None:
        return ObjectInfo(name, 0, None, None)
    return ObjectInfo(name, status.st_size, f"{status.st_mtime_ns:x}-{status.st_size:x}", status.st_mtime)


def entries(url: str) -> list[str]:
    """Names of the files and, with a slash behind them, folders directly in a folder, sorted; empty if there is none.

    Raises:
        StorageError: the storage did not answer.
    """
    url = absolute_url(url)
    with reported("list", url):
        return retried(f"list {url}", partial(_entries, url))


def _entries(url: str) -> list[str]:
    if protocol_of(url) == "file":
        folder = Path(url)
        inside = folder.iterdir() if folder.is_dir() else ()
        return sorted(path.name + "/" * path.is_dir() for path in inside)
    fs, path = filesystem(url)
    below = path.rstrip("/") + "/"
    try:
        listed = fs.ls(path, detail=True)
    except (FileNotFoundError, NotADirectoryError):
        return []
    names = [(info["name"].rstrip("/"), info["type"] == "directory") for info in listed]
    return sorted(name.removeprefix(below) + "/" * is_dir for name, is_dir in names if name.startswith(below))
