"""The arrays and files of a shard's rows while it is worked on: in memory as long as they are small, else on disk."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from typing import IO, Any

import numpy as np

from simsam_batch.runs.schema import Attachment, AttachmentsByRow, File

MOST_BYTES = 256_000_000
"""What rows may hold in memory before the next ones go to a temporary file."""


class Spool(AttachmentsByRow):
    """Attachments by row; rows come in any order, and are read back one at a time.

    Args:
        rows: how many there are.
    """

    def __init__(self, rows: int) -> None:
        self._rows: list[Mapping[str, Attachment | _Stored]] = [{}] * rows
        self._file: IO[bytes] | None = None
        self._bytes = 0

    def put(self, row: int, attachments: Mapping[str, Attachment]) -> None:
        """Take those of one row."""
        self._bytes += sum(map(_nbytes, attachments.values()))
        if self._bytes <= MOST_BYTES:
            self._rows[row] = attachments
            return
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="simsam-shard-")  # noqa: SIM115  open as long as this lives
        self._rows[row] = {name: self._stored(self._file, each) for name, each in attachments.items()}

    def _stored(self, file: IO[bytes], attachment: Attachment) -> _Stored:
        start = file.seek(0, 2)
        data = attachment.data if isinstance(attachment, File) else np.ascontiguousarray(attachment).data
        size = file.write(data)
        if isinstance(attachment, File):
            return _Stored(start, size, suffix=attachment.suffix)
        return _Stored(start, size, dtype=attachment.dtype, shape=attachment.shape)

    def __len__(self) -> int:
        return len(self._rows)

    def of(self, row: int) -> Mapping[str, Attachment]:
        """What is attached to a row, by name."""
        return {name: self._read(each) if isinstance(each, _Stored) else each for name, each in self._rows[row].items()}

    def _read(self, stored: _Stored) -> Attachment:
        assert self._file is not None  # noqa: S101  nothing is stored without it
        self._file.seek(stored.start)
        data = self._file.read(stored.size)
        if stored.dtype is None:
            return File(data, stored.suffix)
        return np.frombuffer(data, stored.dtype).reshape(stored.shape)

    def __reduce__(self) -> tuple[Any, ...]:
        # a process that works on one image at a time sends them to its parent
        return list, (list(self),)


class _Stored:
    """Where an attachment lies in the temporary file."""

    __slots__ = ("dtype", "shape", "size", "start", "suffix")

    def __init__(
        self,
        start: int,
        size: int,
        *,
        dtype: np.dtype[Any] | None = None,
        shape: tuple[int, ...] = (),
        suffix: str = "",
    ) -> None:
        self.start, self.size, self.dtype, self.shape, self.suffix = start, size, dtype, shape, suffix


def _nbytes(attachment: Attachment) -> int:
    return len(attachment.data) if isinstance(attachment, File) else attachment.nbytes
