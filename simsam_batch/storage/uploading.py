"""Files too large for memory: written to the local disk first, and put in their place whole."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO, cast

from simsam_batch.errors import StorageError
from simsam_batch.storage.failures import reported
from simsam_batch.storage.filesystems import filesystem, writing
from simsam_batch.storage.folder import Folder
from simsam_batch.storage.retrying import retried
from simsam_batch.storage.urls import protocol_of


@contextmanager
def streamed(folder: Folder, name: str) -> Iterator[BinaryIO]:
    """A file to write to, which takes its place in a folder when the block ends, over whatever has its name.

    Until then it is a `temporary_file`, which needs room for it. Nothing is written to ``folder`` if the block raises.

    Args:
        folder: where it goes.
        name: relative to the folder.

    Raises:
        StorageError: nothing was written, or the outcome is not known.
    """
    with temporary_file() as file:
        yield file
        file.flush()
        _upload(folder, name, Path(file.name))


@contextmanager
def temporary_file() -> Iterator[BinaryIO]:
    """A file in the local folder for temporary files (``TMPDIR``), which is gone when the block ends.

    Raises:
        StorageError: there is no such folder, or no room in it.
    """
    try:
        with tempfile.NamedTemporaryFile() as file:
            yield cast("BinaryIO", file)
    except OSError as error:
        # decoders raise it too, without a number
        if error.errno is None:
            raise
        where = tempfile.tempdir or os.environ.get("TMPDIR", "none was found")
        raise StorageError(
            f"cannot write to the folder for temporary files ({where}): {error}. To mend it: free some space there, or "
            "set TMPDIR to a folder that has room, and run the same command again"
        ) from error


def _upload(folder: Folder, name: str, source: Path) -> None:
    url = folder._full(name)
    with reported("write", url):
        retried(f"write {url}", partial(_upload_once, url, source))


def _upload_once(url: str, source: Path) -> None:
    if protocol_of(url) == "file":
        _copy(source, Path(url))
        return
    fs, path = filesystem(url)
    with writing(fs):
        fs.put_file(str(source), path)


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name[:100]}.{uuid.uuid4().hex}.tmp")
    try:
        with source.open("rb") as reader, temporary.open("xb") as file:
            shutil.copyfileobj(reader, file, 1 << 20)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
