"""Prepare items in threads ahead of their consumer, in order and bounded."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

_LAST_WAIT = 1.0


class _Exhausted(Exception):  # noqa: N818  an end, and no error
    """The source has no more items."""


def decode_ahead(
    items: Iterator[T], prepare: Callable[[T], R], *, threads: int, max_pending: int
) -> Generator[tuple[T, R | Exception], None, None]:
    """Run ``prepare`` on the items in a thread pool and give the results back in the items' order.

    A thread of its own draws the items, so a source that blocks holds back no result that is ready. When the consumer
    stops early, what has not begun is dropped, and what runs is waited for. A source that blocks at that moment cannot
    be interrupted: its thread, a daemon, is left to end when the source answers.

    Args:
        items: drawn from one other thread, at most ``max_pending`` ahead of the consumer.
        prepare: called from ``threads`` threads at once.
        threads: size of the pool.
        max_pending: items drawn and not yet handed out, prepared or not.

    Yields:
        Each item with its result, or with the exception that ``prepare`` raised for it.

    Raises:
        Exception: what the source raised, after the results of all items before it.
    """
    slots = threading.Semaphore(max_pending)
    drawn: SimpleQueue[tuple[T, Future[R]] | BaseException] = SimpleQueue()
    stopped = threading.Event()
    pool = ThreadPoolExecutor(threads, "simsam-decode")

    def feed() -> None:
        try:
            while True:
                slots.acquire()
                if stopped.is_set():
                    return
                try:
                    item = next(items)
                except StopIteration:
                    drawn.put(_Exhausted())
                    return
                if stopped.is_set():
                    return
                drawn.put((item, pool.submit(prepare, item)))
        except BaseException as error:  # noqa: BLE001  it is raised in the consumer's thread
            drawn.put(error)

    def take() -> tuple[T, R | Exception]:
        arrived = drawn.get()
        if isinstance(arrived, BaseException):
            raise arrived
        item, future = arrived
        error = future.exception()
        slots.release()
        if error is None:
            return item, future.result()
        if isinstance(error, Exception):
            return item, error
        raise error

    feeder = threading.Thread(target=feed, name="simsam-feed", daemon=True)
    feeder.start()
    try:
        while True:
            # nothing of it is named here: the consumer alone decides how long an image stays in memory
            yield take()
    except _Exhausted:
        return
    finally:
        stopped.set()
        slots.release()
        feeder.join(_LAST_WAIT)
        pool.shutdown(wait=True, cancel_futures=True)
