"""What was made last, kept in memory for the next who asks."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

V = TypeVar("V")


class Kept(Generic[V]):
    """Things by their keys, those asked for last; each is made once, however many ask for it at a time.

    What cannot be made is told to all who wait for it, and is tried again by the next. Safe to use from many threads.

    Args:
        most: of all weights together; what is heavier by itself is not kept.
        weigh: the weight of one thing; each counts 1 by default.
    """

    def __init__(self, most: int, weigh: Callable[[V], int] = lambda _: 1) -> None:
        self._most, self._weigh = most, weigh
        self._lock = threading.Lock()
        self._held: OrderedDict[Hashable, Future[V]] = OrderedDict()
        self._weights: dict[Hashable, int] = {}
        self._total = 0

    def get(self, key: Hashable, make: Callable[[], V]) -> V:
        """What is kept under a key, or else what ``make`` makes; raises what that raises."""
        with self._lock:
            there = self._held.get(key)
            if there is None:
                mine = self._held[key] = Future()
            else:
                self._held.move_to_end(key)
        if there is not None:
            return there.result()
        try:
            made = make()
        except BaseException as error:
            with self._lock:
                del self._held[key]
            mine.set_exception(error)
            raise
        mine.set_result(made)
        with self._lock:
            self._weights[key] = weight = self._weigh(made)
            self._total += weight
            if weight > self._most:
                self._drop(key)
            while self._total > self._most:
                self._drop(next(held for held in self._held if held in self._weights))
        return made

    def held(self, key: Hashable) -> V | None:
        """What is kept under a key; None if nothing is, or it is being made."""
        with self._lock:
            return self._held[key].result() if key in self._weights else None

    def _drop(self, key: Hashable) -> None:
        del self._held[key]
        self._total -= self._weights.pop(key)
