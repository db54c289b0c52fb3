"""Shards in this very process, without a child: to debug a stage, for notebooks, and for tests that look at stages."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from threadpoolctl import threadpool_limits

from simsam_batch.engines.contract import Progress, Runner, ShardReport, Task


class InlineEngine:
    """One worker in the process that calls `run`; results are those of every other engine.

    A breakpoint in a worker holds, an image that kills its process ends this one, and nothing is watched for standing
    still. A worker sets the number of threads for the whole process; that is undone when `run` ends.

    Args:
        threads: of BLAS and OpenMP while shards are worked on.
    """

    own_processes = False

    def __init__(self, threads: int = 1) -> None:
        self._threads = threads
        self._stopped = False

    def run(
        self, make_runner: Callable[[], Runner], shards: Sequence[int], task: Task = Task()
    ) -> Iterator[ShardReport]:
        """Yield one report for each shard, as they come."""
        with _threads(self._threads):
            for report in make_runner().run(self._until_stopped(shards)):
                if isinstance(report, Progress):
                    task.on_progress(report)
                elif report is not None:
                    yield report

    def _until_stopped(self, shards: Sequence[int]) -> Iterator[int]:
        for number in shards:
            if self._stopped:
                return
            yield number

    def stop(self) -> bool:
        """Give out no further shard: `run` ends once those in flight are reported."""
        self._stopped = True
        return True

    def close(self) -> None:
        """Give back what is held between runs: nothing."""


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """So many threads for BLAS, OpenMP and torch, and afterwards as many as before."""
    with threadpool_limits(count):
        before = sys.modules["torch"].get_num_threads() if "torch" in sys.modules else None
        try:
            yield
        finally:
            if before is not None:
                sys.modules["torch"].set_num_threads(before)
