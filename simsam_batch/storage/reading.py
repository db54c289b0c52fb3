"""Reading by URL: whole files, ranges, and what a folder holds."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, cast

from simsam_batch.errors import StorageError
from simsam_batch.storage import local_disk, web
from simsam_batch.storage.failures import ObjectNotFound, reported
from simsam_batch.storage.filesystems import ObjectInfo, filesystem, info_of, is_web, objects, read_range
from simsam_batch.storage.retrying import retried
from simsam_batch.storage.urls import absolute_url, is_bucket, protocol_of, redact

_BUFFER = 1 << 16


def read_url(uri: str, limit: int | None = None) -> bytes:
    """The content of one file or object; may be called from many threads.

    Args:
        uri: local path or URL.
        limit: read at most ``limit + 1`` bytes; more than ``limit`` returned means that the object is larger.

    Raises:
        ObjectNotFound: nothing is there, or a directory or device.
        ObjectRefused: it is not given out, and no waiting mends it.
        StorageError: the storage did not answer, also when asked again; the read may be repeated.
    """
    with reported("read", uri):
        if "\0" in uri:
            raise ObjectNotFound(f"cannot read {uri!r}: a name cannot hold a zero byte")
        if is_bucket(uri):
            raise ObjectNotFound(f"cannot read {redact(uri)}: it names a bucket, and no object in it")
        return retried(f"read {uri}", partial(_read_once, uri, limit))


def is_given(uri: str) -> bool:
    """Whether the storage gives the beginning of a file or object now, when it is asked once."""
    try:
        _read_once(uri, 0, although_silent=True)
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


def open_url(url: str) -> BinaryIO:
    """A seekable binary file; on object storage every larger read is one range request.

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
    return cast("BinaryIO", io.BufferedReader(_RangeReader(url, size), _BUFFER))


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

    Raises:
        StorageError: the folder does not exist (on S3: nothing is below it) or cannot be listed.
    """
    url = absolute_url(url)
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
