"""The time of the steps of a worker."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch


@dataclass(slots=True)
class Timer:
    """Adds up the time of named steps; on a GPU between events in its queue, so that work counts where it is done.

    Nothing waits for the GPU at the end of a step. `settle` does, once for all steps before it.
    """

    device: torch.device
    seconds: dict[str, float] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = field(default_factory=list, init=False)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Count what runs inside as time of ``name``."""
        if self.device.type == "cuda":
            begin = self._event()
            try:
                yield
            finally:
                end = self._event()
                with self._lock:
                    self._events.append((name, begin, end))
            return
        with self.on_host(name):
            yield

    @contextmanager
    def on_host(self, name: str) -> Iterator[None]:
        """Count what runs inside, which no GPU has part in, as time of ``name``; from any thread."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self._add(name, time.perf_counter() - started)

    def settle(self) -> None:
        """Wait until the GPU has done the steps given to it, and enter their times."""
        with self._lock:
            events, self._events = self._events, []
        for name, begin, end in events:
            end.synchronize()
            self._add(name, begin.elapsed_time(end) / 1000)

    def take(self) -> dict[str, float]:
        """Return the seconds of each step, and begin anew."""
        self.settle()
        with self._lock:
            taken = dict(self.seconds)
            self.seconds.clear()
        return taken

    def _event(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self.device))
        return event

    def _add(self, name: str, seconds: float) -> None:
        with self._lock:
            self.seconds[name] = self.seconds.get(name, 0.0) + seconds
