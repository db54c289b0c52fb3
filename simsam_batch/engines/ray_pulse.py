"""Actors of a run on Ray that stand still: an actor beside the driver hears of each, and ends those that fall silent.

Ray notices a process that dies and a node that is lost, but not a process that is stopped or stuck in the kernel; and a
row that such an actor holds would be waited for without end.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_LOOK_S = 10.0
_LOOKS = 8

_log = logging.getLogger(__name__)


class Pulses:
    """When each actor was last heard of, by the clock of this process."""

    def __init__(self) -> None:
        self._heard: dict[str, tuple[float, Any]] = {}

    def beat(self, name: str, actor: Any) -> None:
        """Note that an actor gets on, or has nothing to do."""
        self._heard[name] = (time.monotonic(), actor)

    def silent(self, seconds: float) -> list[tuple[str, Any]]:
        """Name and handle of those not heard of for so long; each is told of once."""
        before = time.monotonic() - seconds
        found = [(name, actor) for name, (heard, actor) in self._heard.items() if heard < before]
        for name, _ in found:
            del self._heard[name]
        return found


@contextmanager
def silent_actors_ended(ray: Any, silence_s: float) -> Iterator[Any]:
    """While the block runs, end actors that send `beats` and fall silent; Ray starts them afresh with what they held.

    Args:
        ray: the module, connected.
        silence_s: after how long; 0: never.

    Yields:
        What actors send their beats to; None if nothing is watched.
    """
    if not silence_s:
        yield None
        return
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    pulses = ray.remote(Pulses).options(num_cpus=0, scheduling_strategy=here).remote()
    over = threading.Event()
    threading.Thread(target=_watch, args=(ray, pulses, silence_s, over), name="pulses", daemon=True).start()
    try:
        yield pulses
    finally:
        over.set()
        ray.kill(pulses)


def _watch(ray: Any, pulses: Any, silence_s: float, over: threading.Event) -> None:
    while not over.wait(look_s(silence_s)):
        try:
            for name, actor in ray.get(pulses.silent.remote(silence_s), timeout=_LOOK_S):
                _log.warning("a worker (%s) was silent for %.0f s, and is ended", name, silence_s)
                ray.kill(actor, no_restart=False)
        except Exception as error:  # noqa: BLE001 - the run does not depend on it, and ends where Ray does
            _log.debug("silent actors could not be looked for: %s", error)


def look_s(silence_s: float) -> float:
    """Seconds between two looks, and two beats."""
    return min(silence_s / _LOOKS, _LOOK_S)


def send_beats(pulses: Any, silence_s: float, gets_on: Callable[[], bool]) -> None:
    """Send beats from a thread of this actor for as long as it lives, whenever it got on or has nothing to do.

    Args:
        pulses: what `silent_actors_ended` gave.
        silence_s: as given there.
        gets_on: asked before each beat.
    """

    def send() -> None:
        import ray

        context = ray.get_runtime_context()
        name, actor = f"actor {context.get_actor_id()} on node {context.get_node_id()}", context.current_actor
        while True:
            if gets_on():
                pulses.beat.remote(name, actor)
            time.sleep(look_s(silence_s))

    threading.Thread(target=send, name="pulse", daemon=True).start()
