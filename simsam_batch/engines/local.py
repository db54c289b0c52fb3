"""Shards on this machine: so many worker processes, each with its own model."""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from multiprocessing import connection
from multiprocessing.connection import Connection
from typing import cast

from simsam_batch.engines.child import Child, Failure, Receive, Send
from simsam_batch.engines.contract import Progress, Runner, ShardReport, Task
from simsam_batch.engines.devices import gpu_for_each, thread_environment
from simsam_batch.errors import RunError, SettingsError

_IN_FLIGHT = 2
_FAILED_STARTS = 3
_LOOK_S = 0.5
_READY = "ready"
_GETTING_ON = "getting on"
_START_S = 300.0
"""What a process may take to be ready at least, on a machine that is busy or reads its packages over a network."""

_log = logging.getLogger(__name__)


class LocalEngine:
    """Worker processes fed through pipes, at most two shards in flight in each, so that it decodes ahead.

    A dead worker's shards go first to fresh processes, each shard alone, so that the one that kills is soon known
    by its starts and takes no neighbour along. The processes end with `run`, and with this process however it ends.

    Args:
        workers: number of processes; 0 for ``workers_per_gpu`` on each GPU, and of a task without GPUs one for each
            ``threads`` cores.
        threads: threads of BLAS and OpenMP in each.
        gpus: give each process one of the visible GPUs, but for a task without.
        recycle_after: end a process that has had so many shards and start a fresh one in its place; 0: never.
        workers_per_gpu: processes that share a GPU.

    Raises:
        SettingsError: fewer than no worker or than one thread, or fewer GPUs than workers.
    """

    own_processes = True

    def __init__(
        self, workers: int, threads: int = 1, gpus: bool = False, recycle_after: int = 0, workers_per_gpu: int = 1
    ) -> None:
        if workers < 0:
            raise SettingsError(f"workers is {workers}; it is 0 for as many as there is room for, or more")
        self._recycle_after = recycle_after
        self._stopped = False
        environment = thread_environment(threads)
        in_all = workers or max(1, len(os.sched_getaffinity(0)) // threads)
        self._on_cores = [environment] * in_all
        self._on_gpus = (
            [{**environment, "CUDA_VISIBLE_DEVICES": name} for name in gpu_for_each(workers, workers_per_gpu)]
            if gpus
            else self._on_cores
        )

    def run(
        self, make_runner: Callable[[], Runner], shards: Sequence[int], task: Task = Task()
    ) -> Iterator[ShardReport]:
        """Yield one report for each shard, as they come.

        Raises:
            RunError: three processes in a row ended before they were ready, or a runner broke its contract.
        """
        environments = self._on_gpus if task.gpu else self._on_cores
        most = min(len(shards), task.workers or len(shards))
        seats = [_Seat(environment) for environment in environments[:most]]
        line = _Line(deque(shards), self._recycle_after)
        target = _ServeRunner(make_runner)
        try:
            while line.waiting or any(seat.in_flight for seat in seats):
                if self._stopped:
                    line.waiting.clear()
                line.feed(seats, target)
                began = time.monotonic()
                children = {seat.child.connection: seat for seat in seats if seat.child}
                for ready in connection.wait([*children], _LOOK_S):
                    seat = children[cast("Connection", ready)]
                    message = seat.receive()
                    if isinstance(message, ShardReport):
                        line.done(seat, message.shard)
                        yield message
                    elif isinstance(message, Progress):
                        task.on_progress(message)
                    elif message == _READY:
                        seat.ready, line.failed_starts = True, 0
                    elif message != _GETTING_ON:
                        line.ended(seat, message)
                if task.silence_s:
                    # of a time in which this process itself stood still, little is held against them
                    line.end_silent(seats, min(time.monotonic() - began, 2 * _LOOK_S), task.silence_s)
        finally:
            for seat in seats:
                seat.clear(None)

    def stop(self) -> bool:
        """Give out no further shard: `run` ends once those in flight are reported."""
        self._stopped = True
        return True

    def close(self) -> None:
        """Give back what is held between runs: nothing."""


@dataclass(frozen=True, slots=True)
class _ServeRunner:
    """The child's work: numbers in, reports out; ``None`` ends a sequence of numbers, so that nothing is held back."""

    make_runner: Callable[[], Runner]

    def __call__(self, receive: Receive, send: Send) -> None:
        runner = self.make_runner()
        send(_READY)
        while True:
            first: int | None = receive()
            if first is not None:
                for report in runner.run(_until_none(first, receive)):
                    send(_GETTING_ON if report is None else report)


def _until_none(first: int, receive: Receive) -> Iterator[int]:
    number: int | None = first
    while number is not None:
        yield number
        number = receive()


@dataclass(slots=True)
class _Seat:
    """One worker's place: its process, if it has one, how many shards that was given, and those it holds.

    ``silent_s`` counts how long it was listened to without a word, while it held some.
    """

    environment: dict[str, str]
    child: Child | None = None
    ready: bool = False
    flushed: bool = False
    given: int = 0
    silent_s: float = 0.0
    in_flight: list[int] = field(default_factory=list)

    def receive(self) -> ShardReport | Progress | str | Failure | None:
        """The child's next message; None if it has ended."""
        assert self.child is not None  # noqa: S101 - only seats with a child are waited for
        self.silent_s = 0.0
        try:
            message: ShardReport | Progress | str | Failure = self.child.receive()
        except EOFError:
            return None
        return message

    def clear(self, failure: ShardReport | str | Failure | None) -> str:
        """End the child; returns why it ended. What was in flight stays noted."""
        reason = self.child.end() if self.child else ""
        self.child, self.ready, self.flushed, self.given, self.silent_s = None, False, False, 0, 0.0
        return failure.reason if isinstance(failure, Failure) else reason


@dataclass(slots=True)
class _Line:
    """The shards that wait. Suspects, whose process died, stand in front and run alone."""

    waiting: deque[int]
    recycle_after: int
    suspects: set[int] = field(default_factory=set)
    failed_starts: int = 0

    def feed(self, seats: Sequence[_Seat], target: _ServeRunner) -> None:
        """Give every seat what it may take, all a first shard before any a second."""
        for full in range(1, _IN_FLIGHT + 1):
            for seat in seats:
                if self.waiting and len(seat.in_flight) < full and self._may_take(seat):
                    if seat.child is None:
                        seat.child = Child(target, seat.environment)
                    seat.silent_s = seat.silent_s if seat.in_flight else 0.0
                    seat.in_flight.append(self.waiting.popleft())
                    seat.given += 1
                    seat.flushed = False
                    seat.child.send(seat.in_flight[-1])
        for seat in seats:
            # A runner may wait for its next shard before it computes the one it has: say when none will come for now.
            more_may_come = self.waiting and self._may_take(seat)
            if seat.child and seat.in_flight and not seat.flushed and not more_may_come:
                seat.child.send(None)
                seat.flushed = True

    def _may_take(self, seat: _Seat) -> bool:
        """A suspect comes only to an empty seat, and nothing comes to it while it is there."""
        if self._is_used_up(seat):
            return False
        return not seat.in_flight or (self.waiting[0] not in self.suspects and self.suspects.isdisjoint(seat.in_flight))

    def done(self, seat: _Seat, shard: int) -> None:
        if shard not in seat.in_flight:
            raise RunError(f"a worker reported shard {shard}, which it did not hold; this is a defect of the runner")
        seat.in_flight.remove(shard)
        self.suspects.discard(shard)
        if self._is_used_up(seat) and not seat.in_flight:
            seat.clear(None)

    def _is_used_up(self, seat: _Seat) -> bool:
        return 0 < self.recycle_after <= seat.given

    def end_silent(self, seats: Sequence[_Seat], listened_s: float, silence_s: float) -> None:
        """End processes that hold shards and have long said nothing: stopped, or stuck where no signal reaches them."""
        for seat in seats:
            if seat.child and seat.in_flight:
                seat.silent_s += listened_s
                if seat.silent_s > (silence_s if seat.ready else max(silence_s, _START_S)):
                    _log.warning("a worker process was silent for %.0f s, and is ended", seat.silent_s)
                    seat.child.kill()
                    self.ended(seat, None)

    def ended(self, seat: _Seat, failure: ShardReport | str | Failure | None) -> None:
        """Take back what a process held that has ended.

        Raises:
            RunError: so many in a row ended before they were ready, or its runner broke its contract.
        """
        was_ready, reason = seat.ready, seat.clear(failure)
        self.failed_starts = 0 if was_ready else self.failed_starts + 1
        if self.failed_starts == _FAILED_STARTS or (was_ready and failure):
            raise RunError(
                f"no worker process can be kept alive: the last one ended with {reason}. To mend it: see what it wrote "
                "above; one that was killed mostly lacked memory: fewer --workers"
            )
        if seat.in_flight:
            _log.warning("a worker process ended (%s); shard(s) %s start again", reason, seat.in_flight)
        self.suspects.update(seat.in_flight)
        self.waiting.extendleft(reversed(seat.in_flight))
        seat.in_flight.clear()
