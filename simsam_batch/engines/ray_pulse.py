"""Workers of a run on Ray that stand still: an actor beside the driver hears of each, and the silent are ended.

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

from simsam_batch.engines.contract import look_s

_ANSWER_S = 10.0
_END_S = 60.0

_log = logging.getLogger(__name__)


class Process(NamedTuple):
    """A worker's process: the id of its Ray node, its own, and when it was born, for numbers are used again."""

    node: str
    pid: int
    born: str


class Pulses:
    """When each process was last heard of, by the clock of this one."""

    def __init__(self) -> None:
        self._heard: dict[Process, float] = {}

    def beat(self, process: Process) -> None:
        """Note that a process gets on, or has nothing to do."""
        self._heard[process] = time.monotonic()

    def silent(self, seconds: float) -> list[Process]:
        """Those not heard of for so long; each is told of once."""
        before = time.monotonic() - seconds
        found = [process for process, heard in self._heard.items() if heard < before]
        for process in found:
            del self._heard[process]
        return found


@contextmanager
def silent_workers_ended(ray: Any, silence_s: float) -> Iterator[Any]:
    """While the block runs, end processes that send beats and fall silent; Ray starts afresh what they held.

    Args:
        ray: the module, connected.
        silence_s: after how long; 0: never.

    Yields:
        What workers send their beats to; None if nothing is watched.
    """
    if not silence_s:
        yield None
        return
    pulses = ray.remote(Pulses).options(num_cpus=0, **_on(ray.get_runtime_context().get_node_id())).remote()
    over = threading.Event()
    watch = threading.Thread(target=_watch, args=(ray, pulses, silence_s, over), name="pulses", daemon=True)
    watch.start()
    try:
        yield pulses
    finally:
        over.set()
        ray.kill(pulses)
        # a thread that still asks Ray while it is shut down takes the whole process with it (SIGSEGV)
        watch.join(_ANSWER_S + _END_S)


def _watch(ray: Any, pulses: Any, silence_s: float, over: threading.Event) -> None:
    end = ray.remote(end_process)
    while not over.wait(look_s(silence_s)):
        try:
            for process in ray.get(pulses.silent.remote(silence_s), timeout=_ANSWER_S):
                # one that has ended by itself is silent too
                if ray.get(end.options(num_cpus=0, max_retries=0, **_on(process.node)).remote(process), timeout=_END_S):
                    _log.warning(
                        "a worker (process %d on node %s) was silent for %.0f s, and was ended",
                        *(process.pid, process.node, silence_s),
                    )
        except Exception as error:  # noqa: BLE001 - the run does not depend on it, and ends where Ray does
            _log.debug("a silent worker could not be ended: %s", error)


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


def send_beats(pulses: Any, silence_s: float, gets_on: Callable[[], bool]) -> None:
    """Send beats from a thread of this worker for as long as it lives, whenever it got on or has nothing to do.

    Args:
        pulses: what `silent_workers_ended` gave.
        silence_s: as given there.
        gets_on: asked before each beat.
    """

    def send() -> None:
        import ray

        process = Process(ray.get_runtime_context().get_node_id(), os.getpid(), _born(os.getpid()))
        while True:
            if gets_on():
                pulses.beat.remote(process)
            time.sleep(look_s(silence_s))

    threading.Thread(target=send, name="pulse", daemon=True).start()
