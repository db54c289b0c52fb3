"""What no decoder is asked to do: work on without end, or hold more pixels at once than memory is meant for."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from simsam_batch.errors import ImageError


class Deadline:
    """The processor time that one image may take in this thread, from now on.

    The clock is that of the thread, so that a busy or suspended machine costs no image, and neither does waiting.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds, self._end = seconds, time.thread_time() + seconds

    def check(self) -> None:
        """Go on, if there is time left.

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


class TimedFile(io.BytesIO):
    """Bytes as a file that ends a decoder which has used too much processor time.

    A decoder cannot be interrupted from outside; it is ended when it asks for more bytes. That is enough where the
    work can be out of all proportion to the pixels: each scan of a progressive JPEG, a few bytes of the file, goes
    over the whole image. Between two reads the work is bounded by the limit on pixels.
    """

    def __init__(self, data: bytes, deadline: Deadline) -> None:
        super().__init__(data)
        self._deadline = deadline

    def read(self, size: int | None = -1, /) -> bytes:
        """Some bytes.

        Raises:
            ImageError: ``timed_out``.
        """
        self._deadline.check()
        return super().read(size)


class PixelBudget:
    """How many pixels all threads of a process may have between header and end of decoding at once.

    An image that is larger than the whole budget is let in when it is alone. Those that wait keep their order, so that
    small images do not pass a large one for ever. A thread must not ask again while it holds some.
    """

    def __init__(self, most: int) -> None:
        self._most, self._held = most, 0
        self._next, self._changed = threading.Lock(), threading.Condition()

    @contextmanager
    def held(self, pixels: int) -> Iterator[None]:
        """Count so many pixels in until the block ends; waits for room first."""
        with self._next, self._changed:
            self._changed.wait_for(lambda: not self._held or self._held + pixels <= self._most)
            self._held += pixels
        try:
            yield
        finally:
            with self._changed:
                self._held -= pixels
                self._changed.notify_all()


IN_FLIGHT = PixelBudget(250_000_000)
"""Of this process. Decoding takes about eight bytes for each of these pixels at its peak, so some 2 GB, or what the
largest image alone takes, if that is more."""
