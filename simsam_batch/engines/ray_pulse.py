"""What workers of a run on Ray say while they work: an actor beside the driver hears it, and the silent are ended.

Ray notices a process that dies and a node that is lost, but not a process that is stopped; and a row that such a worker
holds would be waited for without end.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from simsam_batch.engines.contract import Progress, look_s

_ANSWER_S = 10.0
_END_S = 60.0
_LONGEST_BEAT_S = 3.0

_log = logging.getLogger(__name__)


class Process(NamedTuple):
    """A worker's process: the id of its Ray node, its own, and when it was born, for numbers are used again."""

    node: str
    pid: int
    born: str


class Pulses:
    """When each process was last heard of, by the clock of this one, and how far it said it was."""

    def __init__(self) -> None:
        self._heard: dict[Process, float] = {}
        self._far: dict[Process, Progress] = {}

    def beat(self, process: Process, far: Progress | None = None) -> None:
        """Note that a process gets on, or has nothing to do; and how far it is, if it said so since it last did."""
        self._heard[process] = time.monotonic()
        if far is not None:
            self._far[process] = far

    def look(self, silence_s: float) -> tuple[list[Process], list[Progress]]:
        """Those not heard of for so long, and what was said of shards since the last look; each is told of once."""
        before = time.monotonic() - silence_s
        silent = [process for process, heard in self._heard.items() if heard < before]
        for process in silent:
            del self._heard[process]
        far = [*self._far.values()]
        self._far.clear()
        return silent, far


@contextmanager
def workers_heard(ray: Any, silence_s: float, on_progress: Callable[[Progress], None]) -> Iterator[Any]:
    """While the block runs, end processes that send beats and fall silent; Ray starts afresh what they held.

    Args:
        ray: the module, connected.
        silence_s: after how long; 0: never, and nothing is heard of them.
        on_progress: told, in another thread, how far they say they are.

    Yields:
        What workers send their beats to; None if nothing is heard of them.
    """
    if not silence_s:
        yield None
        return
    pulses = ray.remote(Pulses).options(num_cpus=0, **_on(ray.get_runtime_context().get_node_id())).remote()
    over = threading.Event()
    listening = (ray, pulses, silence_s, on_progress, over)
    watch = threading.Thread(target=_watch, args=listening, name="pulses", daemon=True)
    watch.start()
    try:
        yield pulses
    finally:
        over.set()
        ray.kill(pulses)
        # a thread that still asks Ray while it is shut down takes the whole process with it (SIGSEGV)
        watch.join(_ANSWER_S + _END_S)


def _watch(
    ray: Any, pulses: Any, silence_s: float, on_progress: Callable[[Progress], None], over: threading.Event
) -> None:
    end = ray.remote(end_process)
    while not over.wait(_beat_s(silence_s)):
        try:
            silent, far = ray.get(pulses.look.remote(silence_s), timeout=_ANSWER_S)
            for process in silent:
                # one that has ended by itself is silent too
                if ray.get(end.options(num_cpus=0, max_retries=0, **_on(process.node)).remote(process), timeout=_END_S):
                    _log.warning(
                        "a worker (process %d on node %s) was silent for %.0f s, and was ended",
                        *(process.pid, process.node, silence_s),
                    )
            for each in far:
                on_progress(each)
        except Exception as error:  # noqa: BLE001 - the run does not depend on it, and ends where Ray does
            _log.debug("workers were not heard, or a silent one could not be ended: %s", error)


def _beat_s(silence_s: float) -> float:
    """Seconds between two beats, and between two looks for them: people wait for a bar to move."""
    return min(look_s(silence_s), _LONGEST_BEAT_S)


def _on(node: str) -> dict[str, Any]:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=False)}


def end_process(process: Process) -> bool:
    """On its machine: SIGKILL to a process, unless it has ended already; returns whether it was there."""
    try:
        there = _born(process.pid) == process.born
        if there:
            os.kill(process.pid, signal.SIGKILL)
    except (FileNotFoundError, ProcessLookupError):
        return False
    return there


def _born(pid: int) -> str:
    """When a process began, in ticks since the machine did (proc(5), the 22nd field of ``stat``)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]


def send_beats(pulses: Any, silence_s: float, gets_on: Callable[[], tuple[bool, Progress | None]]) -> None:
    """Send beats from a thread of this worker for as long as it lives, whenever it got on or has nothing to do.

    Args:
        pulses: what `workers_heard` gave.
        silence_s: as given there.
        gets_on: asked before each beat whether it does, and how far it is, if there is news of that.
    """

    def send() -> None:
        import ray

        process = Process(ray.get_runtime_context().get_node_id(), os.getpid(), _born(os.getpid()))
        while True:
            got_on, far = gets_on()
            if got_on:
                pulses.beat.remote(process, far)
            time.sleep(_beat_s(silence_s))

    threading.Thread(target=send, name="pulse", daemon=True).start()
