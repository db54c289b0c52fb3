"""What no decoder is asked to do: work on without end, or unpack a TIFF of a million pieces."""

from __future__ import annotations

import io
import struct
import time

from simsam_batch.errors import ImageError

MOST_TIFF_PIECES = 1_000_000
"""Strips or tiles of a TIFF; the decoder makes some 300 bytes of Python objects for each."""

_STRIP_OFFSETS, _TILE_OFFSETS = 0x0111, 0x0144
_MOST_ENTRIES = 65_536


class TimedFile(io.BytesIO):
    """Bytes as a file that ends a decoder which has used too much processor time.

    A decoder cannot be interrupted from outside; it is ended when it asks for more bytes. That is enough where the
    work can be out of all proportion to the pixels: each scan of a progressive JPEG, a few bytes of the file, goes
    over the whole image. Between two reads the work is bounded by the limit on pixels. The clock is that of the
    thread, so that a busy or suspended machine costs no image.

    Args:
        data: the file.
        seconds: of processor time, from now on and in this thread.
    """

    def __init__(self, data: bytes, seconds: float) -> None:
        super().__init__(data)
        self._seconds, self._end = seconds, time.thread_time() + seconds

    def read(self, size: int | None = -1, /) -> bytes:
        """Some bytes.

        Raises:
            ImageError: ``timed_out``.
        """
        if time.thread_time() > self._end:
            raise ImageError(
                "timed_out",
                f"decoding it takes more than {self._seconds:g} seconds of processor time. "
                "To mend it: raise --decode-seconds, or leave it out",
                "decode",
            )
        return super().read(size)


def check_tiff_pieces(data: bytes) -> None:
    """Look into the first directory of a TIFF before a decoder makes Python objects of all its pieces.

    What cannot be followed is left for the decoder to name.

    Raises:
        ImageError: ``unsupported``, for more than `MOST_TIFF_PIECES` strips or tiles.
    """
    order = "<" if data[:2] == b"II" else ">"
    is_big = struct.unpack_from(order + "H", data, 2)[0] == 43
    at, head, entry = ("Q", "Q", "HHQQ") if is_big else ("L", "H", "HHLL")
    try:
        (start,) = struct.unpack_from(order + at, data, 8 if is_big else 4)
        (entries,) = struct.unpack_from(order + head, data, start)
        directory = start + struct.calcsize(order + head)
        size = struct.calcsize(order + entry)
        for position in range(directory, directory + min(entries, _MOST_ENTRIES) * size, size):
            tag, _, count, _ = struct.unpack_from(order + entry, data, position)
            if tag in (_STRIP_OFFSETS, _TILE_OFFSETS) and count > MOST_TIFF_PIECES:
                raise ImageError(
                    "unsupported", f"a TIFF of {count} strips or tiles: {MOST_TIFF_PIECES} are allowed", "decode"
                )
    except (struct.error, OverflowError):
        return
