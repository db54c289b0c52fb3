"""A folder on any storage: the only way by which a run reads and writes."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from simsam_batch.errors import StorageError
from simsam_batch.storage import local_disk
from simsam_batch.storage.ahead import read_ahead
from simsam_batch.storage.failures import (
    ONE_DRIVER_ALONE,
    ObjectNotFound,
    causes,
    http_status,
    is_transient,
    reported,
)
from simsam_batch.storage.filesystems import (
    READ_THREADS,
    ObjectInfo,
    delete_objects,
    filesystem,
    is_s3,
    knows_create,
    objects,
    write_new,
    writing,
)
from simsam_batch.storage.reading import entries, file_info, open_url, read_url, read_url_range
from simsam_batch.storage.retrying import Patience, retried
from simsam_batch.storage.urls import absolute_url, protocol_of, redact

PROBE = "conditional-create.json"
"""The object by which `Folder.check_create` asks the store."""


class Folder:
    """A folder on local disk or object storage; a run lives in one. Picklable, and safe to use from many threads.

    Faults that pass by themselves are waited out within the bounds of `simsam_batch.storage.retrying`.

    Args:
        url: any fsspec URL or a local path. Nothing is read or made before the first use.
        single_driver: the weaker mode for a store without conditional create: `create` looks and then writes. Exact as
            long as no two writers of one name are at work at once; of two, the last one's object stays, whole.
        makes_folders: on local disk a write makes the folders that it needs; else it is refused where they have gone.

    Attributes:
        url: for messages and files: a local path made absolute, or the URL without credentials.
        single_driver, makes_folders: as given.
    """

    def __init__(self, url: str, *, single_driver: bool = False, makes_folders: bool = True) -> None:
        self._url = absolute_url(url)
        self._local = Path(self._url) if protocol_of(self._url) == "file" else None
        self.url = redact(self._url)
        self.single_driver = single_driver
        self.makes_folders = makes_folders

    def __reduce__(self) -> tuple[Any, tuple[str, bool, bool]]:
        return _folder, (self._url, self.single_driver, self.makes_folders)

    def __repr__(self) -> str:
        return f"Folder({self.url!r}{', single_driver=True' * self.single_driver})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Folder) and (other._url, other.single_driver) == (self._url, self.single_driver)

    def __hash__(self) -> int:
        return hash((self._url, self.single_driver))

    def _full(self, name: str) -> str:
        if not name or "\\" in name or "\0" in name or any(part in ("", ".", "..") for part in name.split("/")):
            raise StorageError(f"{name!r} is not a name inside {self.url}: names are relative, without '..'")
        return self._url + name if self._url.endswith("/") else f"{self._url}/{name}"

    def as_found(self) -> Folder:
        """The same for those who only work in it: on local disk none of their writes makes a folder anew.

        So what was removed while they work, or has its disk no longer mounted, is not written elsewhere.
        """
        if self._local is None:
            return self
        return Folder(self._url, single_driver=self.single_driver, makes_folders=False)

    def make(self, *names: str) -> None:
        """Make folders in this one, where storage has folders and they are not there yet.

        Raises:
            StorageError: they cannot be made.
        """
        if self._local is None:
            return
        for name in names:
            url = self._full(name)
            with reported("make", url):
                retried(f"make {url}", partial(local_disk.make_folder, Path(url)))

    def entries(self) -> list[str]:
        """Names of the files and, with a slash behind them, folders directly in this one, sorted."""
        return entries(self._url)

    def unfinished(self) -> list[ObjectInfo]:
        """Temporary files of writes under way, and of writes that a crash cut off; only local disk has any."""
        if self._local is None:
            return []
        with reported("list", self._url):
            files = retried(f"list {self._url}", partial(_list_files, self._local, temporary=True))
        return sorted((file_info(name, status) for name, status in files), key=lambda info: info.name)

    def list(self, prefix: str = "") -> list[ObjectInfo]:
        """Every object below the folder, or below its sub-folder ``prefix``, by name; empty if nothing is there."""
        sub = prefix.rstrip("/")
        top, start = (self._full(sub), sub + "/") if sub else (self._url, "")
        with reported("list", top):
            if self._local is not None:
                files = retried(f"list {top}", partial(_list_files, Path(top), temporary=False))
                found = [file_info(name, status) for name, status in files]
            else:
                try:
                    found = [info for _, info in objects(*filesystem(top))]
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
        return read_ahead(names, self.read, threads=READ_THREADS, most=2 * READ_THREADS, name="simsam-read")

    def open(self, name: str) -> BinaryIO:
        """A seekable binary file for range reads; on object storage every larger read is one request."""
        return open_url(self._full(name))

    def read_range(self, name: str, start: int, size: int) -> bytes:
        """The ``size`` bytes of one object from ``start`` on, by one request; fewer where it ends before.

        Raises:
            ObjectNotFound: there is none of this name.
            StorageError: the storage did not answer, or the object ends before ``start``.
        """
        return read_url_range(self._full(name), start, size)

    def create(self, name: str, data: bytes | Path) -> bool:
        """Write an object that must not exist yet, whole or not at all, and tell whose object is there now.

        The data are its bytes, or a local file that holds them and is not read whole.

        The store decides among racing writers. After a refusal or an error the object is read back and compared, since
        a reply may be lost after the write was done; callers put something unique into the data to know their own.

        Returns:
            True if the object now there has exactly these bytes, False if it has others.

        Raises:
            StorageError: nothing was written, or the outcome cannot be read, or the store has no conditional create.
        """
        url = self._full(name)
        with reported("write", url):
            if self._local is not None:
                create = partial(
                    local_disk.create, Path(url), data, or_rename=self.single_driver, makes=self.makes_folders
                )
                return retried(f"write {url}", create)
            fs, path = filesystem(url)
            if self.single_driver:
                return self._look_then_write(name, data)
            if not knows_create(fs):
                raise StorageError(
                    f"cannot write {redact(url)}: {type(fs).__name__} has no conditional create: two writers would "
                    "overwrite each other. To mend it: update its package, use s3:// or a local disk, or "
                    f"{ONE_DRIVER_ALONE}"
                )
            if isinstance(data, Path):
                # of an upload in parts not every gateway heeds the condition
                with suppress(ObjectNotFound):
                    return self._holds(name, data)
            return self._create_remote(fs, path, name, data)

    def _create_remote(self, fs: Any, path: str, name: str, data: bytes | Path) -> bool:
        patience = Patience(f"write {self.url}/{name}")
        while True:
            try:
                with writing(fs):
                    write_new(fs, path, data)
            except Exception as error:  # noqa: BLE001  whatever it was, the store knows what came of it
                try:
                    return self._holds(name, data)
                except ObjectNotFound:
                    # S3 answers 409 while another conditional request on the same name is under way
                    passing = is_transient(error) or any(http_status(cause) == 409 for cause in causes(error))
                    if not (passing and patience.wait(error)):
                        raise error from error.__cause__
            else:
                return True

    def _holds(self, name: str, data: bytes | Path) -> bool:
        if isinstance(data, bytes):
            return self.read(name) == data
        with self.open(name) as there:
            return local_disk.same_bytes(there, data)

    def _look_then_write(self, name: str, data: bytes | Path) -> bool:
        try:
            return self._holds(name, data)
        except ObjectNotFound:
            self.replace(name, data)
            return True

    def check_place(self) -> None:
        """Find out, without writing, whether the folder is there or can be made, as far as that can be told.

        Raises:
            StorageError: a file is in its way, this user may not write there, there is no such bucket, or the storage
                does not answer.
        """
        with reported("write", self._url):
            if self._local is not None:
                retried(f"look at {self._url}", partial(local_disk.require_place, self._local))
                return
            fs, path = filesystem(self._url)
            if is_s3(fs):
                # one page of a listing, which a bucket that is not there refuses
                next(objects(fs, path), None)

    def check_create(self) -> None:
        """Ask the store whether it honours conditional create, by an object that stays (`PROBE`).

        Nothing is asked with ``single_driver``.

        Raises:
            StorageError: a second writer may overwrite what the first one wrote, or the folder cannot be written.
        """
        if self.single_driver:
            return
        first, second = (json.dumps({"about": _PROBE_TEXT, "token": uuid.uuid4().hex}).encode() for _ in range(2))
        self.create(PROBE, first)
        if self.create(PROBE, second):
            raise StorageError(
                f"{self.url}: this store overwrites an object that was to be written only if it is not there (it "
                "ignores If-None-Match), so that two writers would undo each other's work. To mend it: use a store "
                f"that honours it, or {ONE_DRIVER_ALONE}"
            )

    def replace(self, name: str, data: bytes | Path) -> None:
        """Write an object over whatever has its name, whole or not at all: its bytes, or those of a local file."""
        url = self._full(name)
        with reported("write", url):
            retried(f"write {url}", partial(self._replace_once, url, data))

    def _replace_once(self, url: str, data: bytes | Path) -> None:
        if self._local is not None:
            local_disk.replace(Path(url), data, makes=self.makes_folders)
            return
        fs, path = filesystem(url)
        with writing(fs):
            if isinstance(data, Path):
                fs.put_file(str(data), path)
            else:
                fs.pipe_file(path, data)

    def delete(self, names: Iterable[str]) -> None:
        """Delete objects; one that is not there is as good as deleted.

        No run has a use for it: `simsam verify` deletes orphans, an export what an earlier one left.

        Raises:
            StorageError: some may still be there.
        """
        urls = [self._full(name) for name in names]
        if not urls:
            return
        with reported("delete from", self._url):
            if self._local is not None:
                for url in urls:
                    retried(f"delete {url}", partial(Path(url).unlink, missing_ok=True))
                return
            fs, _ = filesystem(self._url)
            delete_objects(fs, [filesystem(url)[1] for url in urls], self.url)


_PROBE_TEXT = "written once; whoever writes it again must be refused"


def _folder(url: str, single_driver: bool, makes_folders: bool) -> Folder:
    return Folder(url, single_driver=single_driver, makes_folders=makes_folders)


def _list_files(folder: Path, temporary: bool) -> list[tuple[str, os.stat_result]]:
    return list(local_disk.files(folder, temporary=temporary))
