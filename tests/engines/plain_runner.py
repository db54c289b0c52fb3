"""Runners that need nothing but the engine: no ledger, no arrays. Importable by every worker process."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from simsam_batch.engines.contract import Progress, ShardReport


@dataclass(frozen=True)
class PlainRunner:
    """Reports each number with its process and environment in ``error``; draws one number ahead.

    Attributes:
        folder: where deaths are counted.
        fatal: numbers that kill the process at their first ``deaths`` starts.
        behaviour: ``""``; ``no-start`` (the process ends before it is ready); ``no-build``; ``raises``; ``lies``;
            ``stops`` (SIGSTOP at the first start of a fatal number, in the place of SIGKILL); ``slow`` (a second and a
            half for each number, saying now and then that it gets on); ``far`` (says how far it is before each report).
    """

    folder: str
    fatal: tuple[int, ...] = ()
    deaths: int = 1
    behaviour: str = ""

    def __call__(self) -> PlainRunner:
        if self.behaviour == "no-start":
            os.kill(os.getpid(), signal.SIGSEGV)
        if self.behaviour == "no-build":
            raise ValueError("no model here")
        return self

    def run(self, shards: Iterator[int]) -> Iterator[ShardReport | Progress | None]:
        following = next(shards, None)
        while following is not None:
            current, following = following, next(shards, None)
            if self.behaviour == "raises":
                raise ValueError("a runner must not")
            for _ in range(15 if self.behaviour == "slow" else 0):
                time.sleep(0.1)
                yield None
            if self.behaviour == "far":
                yield Progress(current, 7)
            yield self._report(current)

    def _report(self, number: int) -> ShardReport:
        starts = Path(self.folder) / f"starts.{number}"
        with starts.open("ab") as file:
            file.write(b".")
        attempt = starts.stat().st_size
        if number in self.fatal and attempt <= self.deaths:
            os.kill(os.getpid(), signal.SIGSTOP if self.behaviour == "stops" else signal.SIGKILL)
        time.sleep(0.01)
        import torch

        facts = f"{os.getpid()} {os.environ['OMP_NUM_THREADS']} {torch.get_num_threads()}"
        shown = number + 1000 if self.behaviour == "lies" else number
        return ShardReport(shown, attempt, "error", error=facts)
