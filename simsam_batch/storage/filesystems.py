"""The fsspec filesystems behind URLs, and what each kind of store can do."""

from __future__ import annotations

import errno
import inspect
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from simsam_batch.errors import StorageError
from simsam_batch.storage import web
from simsam_batch.storage.retrying import retried
from simsam_batch.storage.urls import WEB, protocol_of

READ_THREADS = 16
_DELETED_AT_ONCE = 1000
_PARTS_AT_ONCE = 2


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


_filesystems: dict[tuple[int, str, str], Any] = {}
_filesystems_lock = threading.Lock()
_memory_lock = threading.Lock()


def _new_locks() -> None:
    # a forked child may inherit them locked by a thread that it does not have
    global _filesystems_lock, _memory_lock
    _filesystems_lock, _memory_lock = threading.Lock(), threading.Lock()


os.register_at_fork(after_in_child=_new_locks)


def filesystem(url: str) -> tuple[Any, str]:
    """The fsspec filesystem of a URL, one for each process and protocol, and the URL's path in it."""
    import fsspec

    protocol = protocol_of(url)
    cls = fsspec.get_filesystem_class(protocol)
    options: dict[str, Any]
    if protocol in ("s3", "s3a"):
        from simsam_batch.storage.bucket_keys import ExactKeys

        cls, options = ExactKeys, {"config_kwargs": {"max_pool_connections": 4 * READ_THREADS}}
    else:
        options = cls._get_kwargs_from_urls(url)
    key = (os.getpid(), protocol, repr(sorted(options.items())))
    with _filesystems_lock:
        if key not in _filesystems:
            _filesystems[key] = cls(use_listings_cache=False, skip_instance_cache=True, **options)
        return _filesystems[key], cls._strip_protocol(url)


def writing(fs: Any) -> AbstractContextManager[Any]:
    """To be held while writing: fsspec's memory filesystem looks whether a name exists and then writes."""
    return _memory_lock if "memory" in fs.protocol else nullcontext()


def is_s3(fs: Any) -> bool:
    """Whether the paged listing and the bulk deletion of S3 can be used."""
    return "s3" in fs.protocol


def is_web(fs: Any) -> bool:
    """Whether it is that of web servers, which are read as `simsam_batch.storage.web` does."""
    return WEB[0] in fs.protocol


def knows_create(fs: Any) -> bool:
    """Whether ``pipe_file(mode="create")`` is one request that the store itself decides.

    fsspec's own ``pipe_file`` asks whether the name exists and then overwrites; releases that do not know the mode
    ignore it. A filesystem qualifies by a ``pipe_file`` of its own with a parameter ``mode``: s3fs >= 2025.7, gcsfs and
    adlfs in their current releases; the memory filesystem under the lock of `writing`.
    """
    from fsspec import AbstractFileSystem
    from fsspec.asyn import AsyncFileSystem

    own = type(fs)._pipe_file if isinstance(fs, AsyncFileSystem) else type(fs).pipe_file
    inherited = own in (AbstractFileSystem.pipe_file, getattr(AsyncFileSystem, "_pipe_file", None))
    return not inherited and "mode" in inspect.signature(own).parameters


def write_new(fs: Any, path: str, data: bytes | Path) -> None:
    """Write a remote object that must not exist yet, by requests that the store decides and that are not repeated.

    A local file is sent in a few parts at a time where the filesystem knows how to create an object from one, which
    shows as in `knows_create`; else it is read whole.

    Raises:
        Exception: there is one, or the store did not answer.
    """
    if isinstance(data, bytes):
        fs.pipe_file(path, data, mode="create")
        return
    own = getattr(type(fs), "_put_file", type(fs).put_file)
    if "mode" not in inspect.signature(own).parameters:
        fs.pipe_file(path, data.read_bytes(), mode="create")
        return
    # s3fs holds as many parts of 50 MB as it sends at once
    options = {"max_concurrency": _PARTS_AT_ONCE} if is_s3(fs) else {}
    fs.put_file(str(data), path, mode="create", **options)


def read_range(url: str, start: int | None = None, end: int | None = None, *, although_silent: bool = False) -> bytes:
    """Bytes ``start`` up to ``end`` of a remote object, or all of it, by one request that is not repeated here.

    ``although_silent`` as for `simsam_batch.storage.web.read`.
    """
    fs, path = filesystem(url)
    if is_web(fs):
        return web.read(fs, path, start or 0, end, although_silent=although_silent)
    try:
        # s3fs asks for the size first unless the read is a range or sequential
        options = {"max_concurrency": 1} if is_s3(fs) and end is None else {}
        return bytes(fs.cat_file(path, start=start, end=end, **options))
    except Exception as error:
        # a range of an empty object is refused; after another error nothing is asked, lest an outage look like absence
        refused = getattr(error, "errno", None) == errno.EINVAL or getattr(error, "status", None) == 416
        if end is None or not refused or fs.info(path)["size"] != 0:
            raise
        return b""


def objects(fs: Any, path: str) -> Iterator[tuple[str, ObjectInfo]]:
    """Every object below a remote path as (URL, info), streamed, so that a long listing is never held whole.

    Each page, or each folder, is asked for again after a transient fault.
    """
    return _s3_objects(fs, path) if is_s3(fs) else _objects_by_folder(fs, path, path.rstrip("/") + "/")


def _s3_objects(fs: Any, path: str) -> Iterator[tuple[str, ObjectInfo]]:
    bucket, key, _ = fs.split_path(path)
    prefix = key.rstrip("/") + "/" if key.strip("/") else ""
    more: dict[str, str] = {}
    while True:
        call = partial(fs.call_s3, "list_objects_v2", Bucket=bucket, Prefix=prefix, **more, **fs.req_kw)
        page = retried(f"list s3://{bucket}/{prefix}", call)
        for item in page.get("Contents", ()):
            if not item["Key"].endswith("/"):
                yield f"s3://{bucket}/{item['Key']}", info_of(item["Key"][len(prefix) :], item)
        if not page.get("IsTruncated"):
            return
        more = {"ContinuationToken": page["NextContinuationToken"]}


def _objects_by_folder(fs: Any, path: str, top: str) -> Iterator[tuple[str, ObjectInfo]]:
    found = retried(f"list {fs.unstrip_protocol(path)}", partial(fs.ls, path, detail=True))
    for info in sorted(found, key=lambda info: str(info["name"])):
        below = info["name"].rstrip("/")
        if below == path.rstrip("/"):
            continue
        if info["type"] == "directory":
            yield from _objects_by_folder(fs, below, top)
        else:
            yield fs.unstrip_protocol(info["name"]), info_of(info["name"].removeprefix(top), info)


def info_of(name: str, info: dict[str, Any]) -> ObjectInfo:
    """What a filesystem says about an object, by this name."""
    etag = info.get("ETag") or info.get("etag")
    times = ("LastModified", "last_modified", "mtime", "updated", "created")
    modified = next((info[key] for key in times if info.get(key)), None)
    return ObjectInfo(
        name,
        int(info.get("size") or info.get("Size") or 0),
        str(etag).strip('"') if etag else None,
        modified.timestamp() if isinstance(modified, datetime) else modified if isinstance(modified, float) else None,
    )


def delete_objects(fs: Any, paths: Sequence[str], where: str) -> None:
    """Delete remote objects, on S3 a thousand by one request; one that is not there is as good as deleted.

    Raises:
        StorageError: S3 refused some of them.
    """
    if not is_s3(fs):
        for path in paths:
            retried(f"delete {fs.unstrip_protocol(path)}", partial(_delete_one, fs, path))
        return
    for start in range(0, len(paths), _DELETED_AT_ONCE):
        split = [fs.split_path(path) for path in paths[start : start + _DELETED_AT_ONCE]]
        keys = {"Objects": [{"Key": key} for _, key, _ in split], "Quiet": True}
        call = partial(fs.call_s3, "delete_objects", Bucket=split[0][0], Delete=keys)
        refused = retried(f"delete {len(split)} objects of {where}", call).get("Errors", [])
        if refused:
            first = f"{refused[0].get('Key')}: {refused[0].get('Code')} {refused[0].get('Message')}"
            raise StorageError(
                f"cannot delete {len(refused)} of {len(split)} objects of {where}, the first is {first}. "
                "To mend it: check that the credentials allow it (s3:DeleteObject)"
            )


def _delete_one(fs: Any, path: str) -> None:
    try:
        fs.rm_file(path)
    except FileNotFoundError:
        return
