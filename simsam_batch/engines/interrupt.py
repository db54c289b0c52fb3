"""SIGINT and SIGTERM: the first asks for an orderly end; a second one, or the end of a grace time, ends at once."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_SAME_SIGNAL_S = 1.0


@contextmanager
def interruptible(stop: Callable[[], bool], grace_s: float) -> Iterator[threading.Event]:
    """Let SIGINT and SIGTERM inside ask for an orderly end; outside the main thread nothing is changed.

    The first one calls ``stop``; KeyboardInterrupt is raised by the next one, or when the grace time is over, or at
    once if ``stop`` returns False or there is no grace time. Within a second a repeat is taken for the same one: a
    terminal and a launcher may both send it. A signal that has a handler already keeps it.

    Args:
        stop: lets no new work begin; called in the signal handler.
        grace_s: seconds that work in hand may still take.

    Yields:
        An event that is set once an orderly end is asked for.
    """
    asked = threading.Event()
    first = 0.0

    def ask(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - a signal handler's signature
        nonlocal first
        if asked.is_set() and time.monotonic() - first < _SAME_SIGNAL_S:
            return
        if asked.is_set() or grace_s <= 0 or not stop():
            raise KeyboardInterrupt
        first = time.monotonic()
        asked.set()
        signal.setitimer(signal.ITIMER_REAL, grace_s)

    def give_up(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - a signal handler's signature
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    handlers = {signal.SIGINT: ask, signal.SIGTERM: ask, signal.SIGALRM: give_up}
    before = {number: signal.getsignal(number) for number in handlers}
    ours = [number for number in handlers if before[number] in (signal.SIG_DFL, signal.default_int_handler)]
    if signal.SIGALRM not in ours:
        # the timer is somebody else's, and without it nothing would end the grace time
        grace_s = 0.0
    try:
        for number in ours:
            signal.signal(number, handlers[number])
        yield asked
    finally:
        if asked.is_set():
            signal.setitimer(signal.ITIMER_REAL, 0.0)
        for number in ours:
            signal.signal(number, before[number])
