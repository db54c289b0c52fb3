"""Read in threads ahead of the consumer, in order and bounded."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def read_ahead(
    items: Iterable[T], read: Callable[[T], R], *, threads: int, most: int, name: str
) -> Generator[R, None, None]:
    """What ``read`` makes of the items, in their order.

    When the consumer stops early, what has not begun is dropped, and what runs is waited for.

    Args:
        items: drawn in the consumer's own thread, as they are wanted.
        read: called from ``threads`` threads at once.
        threads: size of the pool.
        most: items drawn and not yet handed out, read or not; at least 1.
        name: of the threads, with a number behind it.

    Raises:
        Exception: what ``read`` raised, after the results of all items before it.
    """
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(threads, name) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(read, item))
                if len(waiting) >= most:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
