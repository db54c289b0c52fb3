"""Where the flags of one session go: numbered objects beside the results, or lines of a local file."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from simsam_batch.errors import StorageError
from simsam_batch.results.flags import FOLDER
from simsam_batch.storage import Folder
from simsam_batch.storage.numbered import NumberedObjects


class FlagObjects:
    """Flags in the run's folder, in objects of this session; they are held until they are written.

    Args:
        out: the run's folder.
    """

    def __init__(self, out: Folder) -> None:
        self._lock = threading.Lock()
        self._lines: list[str] = []
        self._objects = NumberedObjects(out, FOLDER, self._taken)
        self.where = f"{out.url}/{self._objects.name}"

    def add(self, lines: str) -> None:
        """Hold lines until they are written."""
        with self._lock:
            self._lines.append(lines)

    def put(self) -> None:
        """Write what is held.

        Raises:
            StorageError: it is still held.
        """
        self._objects.put()

    def held(self) -> bytes:
        """What is not written yet."""
        with self._lock:
            return self._objects.refused + "".join(self._lines).encode()

    def _taken(self) -> bytes:
        with self._lock:
            lines, self._lines = self._lines, []
        return "".join(lines).encode()


class LocalFile:
    """A file of JSON lines on this machine; each addition is on disk when it has been made.

    Args:
        path: of the file; it is made with the first line.
        run: the run's folder, which every line names, as one file may be about many runs.
    """

    def __init__(self, path: Path, run: str) -> None:
        self.path, self.run = path, run
        self.where = str(path)
        self._lock = threading.Lock()

    def check(self) -> None:
        """Refuse a place where nothing can be written.

        Raises:
            StorageError: it is a folder, or may not be written.
        """
        writable = os.access(self.path if self.path.exists() else self.path.parent, os.W_OK)
        if self.path.is_dir() or not self.path.parent.is_dir() or not writable:
            raise StorageError(f"{self.path} cannot be written. To mend it: give another file by --flags")

    def add(self, lines: str) -> None:
        """Append lines.

        Raises:
            StorageError: the disk has refused them.
        """
        try:
            with self._lock, self.path.open("ab+") as file:
                # what a crash cut off stays a line of its own
                end = file.seek(0, os.SEEK_END)
                if end and os.pread(file.fileno(), 1, end - 1) != b"\n":
                    lines = "\n" + lines
                file.write(lines.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise StorageError(f"{self.path} cannot be written: {error}") from error

    def read(self) -> bytes:
        """All of it; nothing if there is none yet."""
        try:
            return self.path.read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as error:
            raise StorageError(f"{self.path} cannot be read: {error}") from error
