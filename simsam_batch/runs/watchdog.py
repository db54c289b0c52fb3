"""The watchdog of a worker process: it ends the process when nothing gets on, and says what the process was doing."""

from __future__ import annotations

import faulthandler
import os
import threading
import time
from collections.abc import Callable
from typing import NoReturn

from simsam_batch.plain_text import plain

STALLED_EXIT_CODE = 70
POISONED_EXIT_CODE = 71
_LOOK_S = 10.0
_LAST_REPORTS_S = 1.0


class Watchdog:
    """Ends this process when shards are in hand and nothing has got on for too long, however the worker is stuck.

    Args:
        stall_seconds: how long is too long.
        on_stall: told what was in hand and for how long nothing got on; reports the shards in hand.

    Attributes:
        look_s: seconds between two looks.
        last: when something last got on, on the monotonic clock.
    """

    def __init__(self, stall_seconds: float, on_stall: Callable[[str], None]) -> None:
        self._stall_seconds, self._on_stall = stall_seconds, on_stall
        self.look_s = min(stall_seconds / 4, _LOOK_S)
        self.last = time.monotonic()
        self._in_hand: dict[int, int] = {}
        self._lock = threading.Lock()
        self._over = threading.Event()

    def __enter__(self) -> None:
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def beat(self) -> None:
        """Note that something got on."""
        self.last = time.monotonic()

    def watch(self, number: int, attempt: int = 0) -> None:
        """Note that a shard is in hand, and which start of it this is; 0 while that is not known."""
        with self._lock:
            self._in_hand[number] = attempt
        self.beat()

    def unwatch(self, number: int) -> bool:
        """Note that a shard is reported; returns whether it was in hand until now."""
        self.beat()
        with self._lock:
            return self._in_hand.pop(number, None) is not None

    def watched(self) -> dict[int, int]:
        """The shards in hand, in order of their numbers, and which start of each it is."""
        with self._lock:
            return dict(sorted(self._in_hand.items()))

    def _watch(self) -> None:
        over = False
        while not over:
            # This thread cannot run while another one holds the interpreter's lock; the timer of faulthandler can.
            faulthandler.dump_traceback_later(self._stall_seconds + 2 * self.look_s, exit=True, file=2)
            over = self._over.wait(self.look_s)
            in_hand = self.watched()
            if not over and in_hand and time.monotonic() - self.last > self._stall_seconds:
                self._on_stall(f"no progress for {self._stall_seconds:g} s on shard(s) {[*in_hand]}")
        faulthandler.cancel_dump_traceback_later()


def end_this_process(why: str, code: int) -> NoReturn:
    """End the process from any thread, so that an engine starts a fresh one; what was reported has time to leave.

    Args:
        why: for standard error.
        code: the exit code.
    """
    os.write(2, f"process {os.getpid()} ends itself: {plain(why)}\n".encode())
    time.sleep(_LAST_REPORTS_S)
    os._exit(code)
