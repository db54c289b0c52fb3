"""Atomic writes, range reads and listings on a local or network disk; `simsam_batch.storage` decides when."""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO

from simsam_batch.errors import StorageError
from simsam_batch.storage.failures import ONE_DRIVER_ALONE
from simsam_batch.storage.retrying import retried

_Found = tuple[str, str, os.stat_result | None]
_COPIED_AT_ONCE = 1 << 20
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{32}\.tmp", re.DOTALL)
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EXDEV)


def _sync_folder(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(path: Path) -> None:
    """Make a folder and those above it, so that they are on the disk; nothing if it is there."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        _sync_folder(path.parent)


def require_place(folder: Path) -> None:
    """Raise an OSError if a folder is not there and cannot be made, or nothing can be written in it; writes nothing."""
    place = next(path for path in (folder, *folder.parents) if path.exists())
    if not place.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(place))
    if not os.access(place, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(place))


@contextmanager
def _temporary(target: Path, data: bytes | Path, makes: bool) -> Iterator[Path]:
    """A synced file of the data, or of another file's, beside the target; gone afterwards, and never in a listing."""
    if makes:
        make_folder(target.parent)
    elif not target.parent.is_dir():
        raise StorageError(
            f"cannot write {target}: its folder has gone: it was removed or moved, or its disk is no longer mounted. "
            "To mend it: bring it back and run the same command again"
        )
    temporary = target.with_name(f".{target.name[:100]}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("xb") as file:
            if isinstance(data, Path):
                with data.open("rb") as source:
                    shutil.copyfileobj(source, file, _COPIED_AT_ONCE)
            else:
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def create(target: Path, data: bytes | Path, *, or_rename: bool = False, makes: bool = True) -> bool:
    """Write a file that must not exist yet: True if the file now there has exactly these bytes, False if others.

    The link is what makes it appear, whole and to one writer only; file and folder are on the disk when this returns.

    Args:
        target: where.
        data: what, or the local file that holds it.
        or_rename: on a file system without hard links look whether the file is there, and else rename; of two writers
            at once the last one's file stays.
        makes: make the folder it goes into, and those above, where they are missing.

    Raises:
        StorageError: there is no such folder, or there are no hard links.
    """
    try:
        with _temporary(target, data, makes) as temporary:
            os.link(temporary, target)
            _sync_folder(target.parent)
    except OSError as error:
        # also after an error the disk decides: network file systems report links that they did make as failed
        if target.is_file():
            with target.open("rb") as there:
                return same_bytes(there, data)
        if error.errno in _NO_LINKS and or_rename:
            replace(target, data, makes=makes)
            return True
        if error.errno in _NO_LINKS:
            raise StorageError(
                f"cannot write {target}: this file system has no hard links ({error.strerror}), and without them two "
                "writers cannot be told apart. To mend it: choose an OUT on another disk or on s3://, or "
                f"{ONE_DRIVER_ALONE}"
            ) from error
        raise
    return True


def same_bytes(there: BinaryIO, data: bytes | Path) -> bool:
    """Whether what is left of an open file is exactly this; neither it nor another file is held whole."""
    if isinstance(data, bytes):
        return there.read(len(data) + 1) == data
    with data.open("rb") as ours:
        while True:
            part = ours.read(_COPIED_AT_ONCE)
            # at the end of ours one byte more tells whether there is more
            if there.read(len(part) or 1) != part:
                return False
            if not part:
                return True


def replace(target: Path, data: bytes | Path, *, makes: bool = True) -> None:
    """Write a file over whatever has its name, its bytes or those of another file; a reader sees the old or the new."""
    with _temporary(target, data, makes) as temporary:
        temporary.replace(target)
    _sync_folder(target.parent)


def read_range(path: str, start: int, end: int) -> bytes:
    """Bytes ``start`` up to ``end`` of a file; opened anew each time, so that a handle gone stale is no matter."""
    with Path(path).open("rb") as file:
        file.seek(start)
        return file.read(end - start)


def walk(folder: Path) -> Iterator[_Found]:
    """Files below a folder as (path, name relative to the folder, status), in the order of their names.

    Symbolic links are followed unless they lead back up. One that leads nowhere has no status: it is listed, so that
    reading it gives a reason instead of silence.
    """
    yield from _walk(folder, "", frozenset())


def _walk(folder: Path, names: str, above: frozenset[tuple[int, int]]) -> Iterator[_Found]:
    here = retried(f"list {folder}", folder.stat)
    above |= {(here.st_dev, here.st_ino)}
    ordered = sorted(retried(f"list {folder}", partial(_scan, folder)), key=lambda entry: entry.name)
    for entry in ordered:
        name = names + entry.name
        try:
            name.encode()
        except UnicodeEncodeError:
            message = f"cannot list {entry.path!r}: its name is not UTF-8. To mend it: rename it"
            raise StorageError(message) from None
        status = retried(f"list {entry.path}", partial(_status, entry))
        if status is None or stat.S_ISREG(status.st_mode):
            yield entry.path, name, status
        elif stat.S_ISDIR(status.st_mode) and (status.st_dev, status.st_ino) not in above:
            yield from _walk(Path(entry.path), name + "/", above)


def _scan(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return list(entries)


def _status(entry: os.DirEntry[str]) -> os.stat_result | None:
    try:
        return entry.stat()
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            raise
        return None


def files(folder: Path, name: str = "", *, temporary: bool = False) -> Iterator[tuple[str, os.stat_result]]:
    """Files below a folder that this module wrote as (relative name, status), in no order; none if it is missing.

    Temporary files, those being written and those a crash left, are not among them, or with ``temporary`` they alone.
    """
    try:
        found = _scan(folder)
    except (FileNotFoundError, NotADirectoryError):
        return
    for entry in found:
        if entry.is_dir(follow_symlinks=False):
            yield from files(Path(entry.path), f"{name}{entry.name}/", temporary=temporary)
        elif (_TEMPORARY.fullmatch(entry.name) is not None) is temporary:
            status = _status(entry)
            if status is not None:
                yield name + entry.name, status
