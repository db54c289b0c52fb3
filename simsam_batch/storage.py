"""Local disk and object storage by URL: list, read, write atomically, create conditionally. Nothing else opens a URL.

Object storage goes through fsspec. Directory listings are never cached, one filesystem object is shared by all threads
of a process, and a forked or spawned child makes its own.
"""

from __future__ import annotations

import errno
import inspect
import io
import os
import re
import stat
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, cast

from simsam_batch import local_disk
from simsam_batch.errors import SimsamError, StorageError

READ_THREADS = 16
_CONFLICT_PAUSES = (0.1, 0.4, 1.0)
_ABSENT_ERRNOS = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP}


class ObjectNotFound(StorageError):  # noqa: N818  the name says what happened, as FileNotFoundError does for files
    """No object has this name (nothing there, or a directory): a fault of the name and not of the storage."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What a listing says about one object.

    Attributes:
        name: relative to the listed folder, separated by ``/``.
        size: bytes.
        etag: changes when the content does; on local disk from modification time and size; None if not known.
        modified: unix time of the last change; None if not known.
    """

    name: str
    size: int
    etag: str | None
    modified: float | None


def _protocol(url: str) -> str:
    if re.match(r"[A-Za-z0-9+.-]+::", url) and "://" in url:
        raise StorageError(f"{redact(url)}: chained URLs (with '::') cannot be used. Give the plain URL of the storage")
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", url)
    return "file" if found is None or found[1] == "local" else found[1].lower()


def absolute_url(path_or_url: str) -> str:
    """The URL as given, without a trailing slash, or the absolute path of a local path or ``file://`` URL."""
    if _protocol(path_or_url) != "file":
        return path_or_url.rstrip("/") if not path_or_url.endswith("://") else path_or_url
    return str(Path(os.path.abspath(re.sub(r"^(file|local)://", "", path_or_url))))  # noqa: PTH100  keeps symbolic links


def redact(text: str) -> str:
    """Remove user names and passwords, and the values of secret query parameters, from every URL in a text."""
    # all repetitions are bounded, so that no text takes longer than its length
    text = re.sub(r"([A-Za-z][A-Za-z0-9+.-]{0,30}://)[^/\s@'\"]{1,500}@", r"\1", text)
    words = "key|secret|token|signature|credential|password|passwd|sig|auth"
    parameter = rf"([?&;][^?=&;\s'\"]{{0,40}}(?:{words})[^?=&;\s'\"]{{0,40}}=)[^&;\s'\"]*"
    return re.sub(parameter, r"\1***", text, flags=re.IGNORECASE)


def _mend(error: BaseException, protocol: str) -> str:
    if isinstance(error, ImportError):
        return (
            "install simsam-batch[s3]" if protocol in ("s3", "s3a") else "install the package that fsspec names for it"
        )
    if "credential" in type(error).__name__.lower():
        return "set the credentials in the environment (AWS_ACCESS_KEY_ID, ...) or in a profile"
    if isinstance(error, FileExistsError | NotADirectoryError):
        return "a file is where a folder is needed: choose another place"
    if isinstance(error, PermissionError) or (isinstance(error, OSError) and error.errno == errno.EROFS):
        return "check that the permissions or credentials allow it"
    if isinstance(error, FileNotFoundError):
        return "check the name; a bucket has to be made beforehand"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "free some space and run the same command again"
    return "check the storage and run the same command again"


def _as_storage_error(error: Exception, action: str, url: str) -> StorageError:
    cause = " ".join(str(error).split())[:500] or "no message"
    # the cause may quote the path without the protocol, by which a URL would be known
    user = re.match(r"[A-Za-z][A-Za-z0-9+.-]*://([^/\s@]+@)", url)
    cause = cause.replace(user[1], "") if user else cause
    shown = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in url)
    text = redact(
        f"cannot {action} {shown}: {type(error).__name__}: {cause}. To mend it: {_mend(error, _protocol(url))}"
    )
    absent = isinstance(error, OSError) and (isinstance(error, FileNotFoundError) or error.errno in _ABSENT_ERRNOS)
    return ObjectNotFound(text) if absent and action == "read" else StorageError(text)


@contextmanager
def _reported(action: str, url: str) -> Iterator[None]:
    """Turn whatever the storage raises into one line with the URL, the cause and the mend."""
    try:
        yield
    except SimsamError:
        raise
    except Exception as error:
        raise _as_storage_error(error, action, url) from error


_filesystems: dict[tuple[int, str, str], Any] = {}
_filesystems_lock = threading.Lock()
# fsspec's memory filesystem looks whether a name exists and then writes: exact only with a lock around it.
_memory_lock = threading.Lock()


def _new_locks() -> None:
    # a forked child may inherit them locked by a thread that it does not have
    global _filesystems_lock, _memory_lock
    _filesystems_lock, _memory_lock = threading.Lock(), threading.Lock()


os.register_at_fork(after_in_child=_new_locks)


def _filesystem(url: str) -> tuple[Any, str]:
    """The fsspec filesystem of a URL, one for each process and protocol, and the URL's path in it."""
    import fsspec

    protocol = _protocol(url)
    cls = fsspec.get_filesystem_class(protocol)
    options = cls._get_kwargs_from_urls(url)
    key = (os.getpid(), protocol, repr(sorted(options.items())))
    with _filesystems_lock:
        if key not in _filesystems:
            if protocol in ("s3", "s3a"):
                options = {"config_kwargs": {"max_pool_connections": 4 * READ_THREADS}, **options}
            _filesystems[key] = cls(use_listings_cache=False, skip_instance_cache=True, **options)
        return _filesystems[key], cls._strip_protocol(url)


def _is_s3(fs: Any) -> bool:
    return "s3" in fs.protocol


def _knows_create(fs: Any) -> bool:
    """Whether ``pipe_file(mode="create")`` is one request that the store itself decides.

    fsspec's own ``pipe_file`` asks whether the name exists and then overwrites; releases that do not know the mode
    ignore it. A filesystem qualifies by a ``pipe_file`` of its own with a parameter ``mode``: s3fs >= 2025.7, gcsfs and
    adlfs in their current releases; the memory filesystem under the lock of this module.
    """
    from fsspec import AbstractFileSystem
    from fsspec.asyn import AsyncFileSystem

    own = type(fs)._pipe_file if isinstance(fs, AsyncFileSystem) else type(fs).pipe_file
    inherited = own in (AbstractFileSystem.pipe_file, getattr(AsyncFileSystem, "_pipe_file", None))
    return not inherited and "mode" in inspect.signature(own).parameters


def _is_conflict(error: BaseException | None) -> bool:
    """Whether S3 answered 409: another conditional request on the same name was under way."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict) and response.get("ResponseMetadata", {}).get("HTTPStatusCode") == 409:
            return True
        error = error.__cause__
    return False


def _info(name: str, info: dict[str, Any]) -> ObjectInfo:
    etag = info.get("ETag") or info.get("etag")
    times = ("LastModified", "last_modified", "mtime", "updated", "created")
    modified = next((info[key] for key in times if info.get(key)), None)
    return ObjectInfo(
        name,
        int(info.get("size") or info.get("Size") or 0),
        str(etag).strip('"') if etag else None,
        modified.timestamp() if isinstance(modified, datetime) else modified if isinstance(modified, float) else None,
    )


def _s3_objects(fs: Any, path: str) -> Iterator[tuple[str, ObjectInfo]]:
    """Every object below a path of S3, as (URL, info), page by page, so that a long listing is never held whole."""
    bucket, key, _ = fs.split_path(path)
    prefix = key.rstrip("/") + "/" if key.strip("/") else ""
    more: dict[str, str] = {}
    while True:
        page = fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=prefix, **more, **fs.req_kw)
        for item in page.get("Contents", ()):
            if not item["Key"].endswith("/"):
                yield f"s3://{bucket}/{item['Key']}", _info(item["Key"][len(prefix) :], item)
        if not page.get("IsTruncated"):
            return
        more = {"ContinuationToken": page["NextContinuationToken"]}


def _read_remote(url: str, start: int | None = None, end: int | None = None) -> bytes:
    fs, path = _filesystem(url)
    try:
        # s3fs asks for the size first unless the read is a range or sequential
        options = {"max_concurrency": 1} if _is_s3(fs) and end is None else {}
        return bytes(fs.cat_file(path, start=start, end=end, **options))
    except Exception as error:
        # a range of an empty object is refused; after another error nothing is asked, lest an outage look like absence
        refused = getattr(error, "errno", None) == errno.EINVAL or getattr(error, "status", None) == 416
        if end is None or not refused or fs.info(path)["size"] != 0:
            raise
        return b""


def _local_info(name: str, status: os.stat_result | None) -> ObjectInfo:
    if status is None:
        return ObjectInfo(name, 0, None, None)
    return ObjectInfo(name, status.st_size, f"{status.st_mtime_ns:x}-{status.st_size:x}", status.st_mtime)


def read_url(uri: str, limit: int | None = None) -> bytes:
    """The content of one file or object; may be called from many threads.

    Args:
        uri: local path or URL.
        limit: read at most ``limit + 1`` bytes; more than ``limit`` returned means that the object is larger.

    Raises:
        ObjectNotFound: nothing is there, or a directory or device.
        StorageError: the storage did not answer; the read may be repeated.
    """
    with _reported("read", uri):
        if "\0" in uri:
            raise ObjectNotFound(f"cannot read {uri!r}: a name cannot hold a zero byte")
        if _protocol(uri) != "file":
            return _read_remote(uri) if limit is None else _read_remote(uri, 0, limit + 1)[: limit + 1]
        path = Path(absolute_url(uri))
        if not stat.S_ISREG(path.stat().st_mode):
            raise ObjectNotFound(f"cannot read {path}: it is a directory or device, not a file")
        with path.open("rb") as file:
            return file.read() if limit is None else file.read(limit + 1)


def walk(url: str) -> Iterator[tuple[str, ObjectInfo]]:
    """Every file below a folder as (absolute path or URL, info), streamed; names are relative to the folder.

    Raises:
        StorageError: the folder does not exist (on S3: nothing is below it) or cannot be listed.
    """
    url = absolute_url(url)
    with _reported("list", url):
        if _protocol(url) == "file":
            if not Path(url).is_dir():
                raise StorageError(f"cannot list {url}: there is no such folder. To mend it: check the path")
            yield from ((uri, _local_info(name, status)) for uri, name, status in local_disk.walk(Path(url)))
            return
        fs, path = _filesystem(url)
        empty = True
        for uri, info in _s3_objects(fs, path) if _is_s3(fs) else _walk_remote(fs, path):
            empty = False
            yield uri, info
        if empty:
            raise StorageError(redact(f"cannot list {url}: nothing is there. To mend it: check the URL"))


def entries(url: str) -> list[str]:
    """Names of the files and, with a slash behind them, folders directly in a folder, sorted; empty if there is none.

    Raises:
        StorageError: the storage did not answer.
    """
    url = absolute_url(url)
    with _reported("list", url):
        if _protocol(url) == "file":
            folder = Path(url)
            inside = folder.iterdir() if folder.is_dir() else ()
            return sorted(path.name + "/" * path.is_dir() for path in inside)
        fs, path = _filesystem(url)
        below = path.rstrip("/") + "/"
        try:
            listed = fs.ls(path, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return []
        names = [(info["name"].rstrip("/"), info["type"] == "directory") for info in listed]
        return sorted(name.removeprefix(below) + "/" * is_dir for name, is_dir in names if name.startswith(below))


def _walk_remote(fs: Any, path: str) -> Iterator[tuple[str, ObjectInfo]]:
    prefix = path.rstrip("/") + "/"
    for _, _, files in fs.walk(path, detail=True, on_error="raise"):
        for info in files.values():
            yield fs.unstrip_protocol(info["name"]), _info(info["name"].removeprefix(prefix), info)


class _RangeReader(io.RawIOBase):
    """A remote object as a seekable file; every read is one range request."""

    def __init__(self, url: str, size: int) -> None:
        self._url, self._size, self._position = url, size, 0

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
        with _reported("read", self._url):
            data = _read_remote(self._url, self._position, end)
        self._position += len(data)
        return data


class Folder:
    """A folder on local disk or object storage; a run lives in one. Picklable, and safe to use from many threads.

    Args:
        url: any fsspec URL or a local path. Nothing is read or made before the first use.

    Attributes:
        url: for messages and files: a local path made absolute, or the URL without credentials.
    """

    def __init__(self, url: str) -> None:
        self._url = absolute_url(url)
        self._local = Path(self._url) if _protocol(self._url) == "file" else None
        self.url = redact(self._url)

    def __reduce__(self) -> tuple[type[Folder], tuple[str]]:
        return Folder, (self._url,)

    def __repr__(self) -> str:
        return f"Folder({self.url!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Folder) and other._url == self._url

    def __hash__(self) -> int:
        return hash(self._url)

    def _full(self, name: str) -> str:
        if not name or "\\" in name or "\0" in name or any(part in ("", ".", "..") for part in name.split("/")):
            raise StorageError(f"{name!r} is not a name inside {self.url}: names are relative, without '..'")
        return self._url + name if self._url.endswith("/") else f"{self._url}/{name}"

    def list(self, prefix: str = "") -> list[ObjectInfo]:
        """Every object below the folder, or below its sub-folder ``prefix``, by name; empty if nothing is there."""
        sub = prefix.rstrip("/")
        top, start = (self._full(sub), sub + "/") if sub else (self._url, "")
        with _reported("list", top):
            if self._local is not None:
                return sorted(
                    (_local_info(start + name, status) for name, status in local_disk.files(Path(top))),
                    key=lambda info: info.name,
                )
            fs, path = _filesystem(top)
            try:
                if _is_s3(fs):
                    found = [info for _, info in _s3_objects(fs, path)]
                else:
                    below = path.rstrip("/") + "/"
                    listed = fs.find(path, detail=True)
                    found = [_info(k[len(below) :], v) for k, v in listed.items() if k.startswith(below)]
            except FileNotFoundError:
                return []
        renamed = (ObjectInfo(start + info.name, info.size, info.etag, info.modified) for info in found)
        return sorted(renamed, key=lambda info: info.name)

    def read(self, name: str) -> bytes:
        """The content of one object.

        Raises:
            ObjectNotFound: there is none of this name.
            StorageError: the storage did not answer.
        """
        return read_url(self._full(name))

    def read_many(self, names: Iterable[str]) -> Iterator[bytes]:
        """The contents in the order of the names, read ahead by at most `READ_THREADS` threads."""
        waiting: deque[Future[bytes]] = deque()
        with ThreadPoolExecutor(READ_THREADS, "simsam-read") as pool:
            try:
                for name in names:
                    waiting.append(pool.submit(self.read, name))
                    if len(waiting) >= 2 * READ_THREADS:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()

    def open(self, name: str) -> BinaryIO:
        """A seekable binary file for range reads; on object storage every larger read is one request."""
        url = self._full(name)
        with _reported("read", url):
            if self._local is not None:
                return Path(url).open("rb")
            fs, path = _filesystem(url)
            return cast("BinaryIO", io.BufferedReader(_RangeReader(url, int(fs.info(path)["size"])), 1 << 16))

    def create(self, name: str, data: bytes) -> bool:
        """Write an object that must not exist yet, whole or not at all, and tell whose object is there now.

        The store decides among racing writers. After a refusal or an error the object is read back and compared, since
        a reply may be lost after the write was done; callers put something unique into the data to know their own.

        Returns:
            True if the object now there has exactly these bytes, False if it has others.

        Raises:
            StorageError: nothing was written, or the outcome cannot be read, or the store has no conditional create.
        """
        url = self._full(name)
        with _reported("write", url):
            if self._local is not None:
                return local_disk.create(Path(url), data)
            fs, path = _filesystem(url)
            if not _knows_create(fs):
                raise StorageError(
                    f"cannot write {redact(url)}: {type(fs).__name__} has no conditional create: two writers "
                    "would overwrite each other. To mend it: update its package, or use s3:// or a local disk"
                )
            return self._create_remote(fs, path, name, data)

    def _create_remote(self, fs: Any, path: str, name: str, data: bytes) -> bool:
        for pause in (*_CONFLICT_PAUSES, None):
            try:
                if "memory" in fs.protocol:
                    with _memory_lock:
                        fs.pipe_file(path, data, mode="create")
                else:
                    fs.pipe_file(path, data, mode="create")
            except Exception as error:  # noqa: BLE001  whatever it was, the store knows what came of it
                try:
                    return self.read(name) == data
                except ObjectNotFound:
                    if pause is None or not _is_conflict(error):
                        raise error from None
                time.sleep(pause)
            else:
                return True
        raise AssertionError("the last round returns or raises")

    def replace(self, name: str, data: bytes) -> None:
        """Write an object over whatever has its name, whole or not at all."""
        url = self._full(name)
        with _reported("write", url):
            if self._local is not None:
                local_disk.replace(Path(url), data)
                return
            fs, path = _filesystem(url)
            if "memory" in fs.protocol:
                with _memory_lock:
                    fs.pipe_file(path, data)
            else:
                fs.pipe_file(path, data)
