"""Files too large for memory: written to the local disk first, and put in their place whole."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from simsam_batch.errors import StorageError
from simsam_batch.storage.folder import Folder


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
        folder.replace(name, Path(file.name))


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
