"""Preparing ahead: order, bound, early stops, faults, and sources that block."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Iterator

import pytest

from simsam_batch.images import decode_ahead


def own_threads() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith(("simsam-feed", "simsam-decode"))]


@pytest.fixture(autouse=True)
def _no_threads_stay() -> Iterator[None]:
    yield
    deadline = time.monotonic() + 5
    while own_threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert own_threads() == []


def test_results_come_in_the_items_order_whatever_takes_longest() -> None:
    def slow_first(n: int) -> int:
        time.sleep(0.02 if n % 3 == 0 else 0)
        return n * n

    found = list(decode_ahead(iter(range(20)), slow_first, threads=4, max_pending=6))
    assert found == [(n, n * n) for n in range(20)]


def test_work_is_done_at_the_same_time() -> None:
    # each waits for all three: with fewer than three at once the barrier would break
    barrier = threading.Barrier(3, timeout=5)
    found = list(decode_ahead(iter(range(3)), lambda n: barrier.wait() >= 0, threads=3, max_pending=3))
    assert found == [(0, True), (1, True), (2, True)]


@pytest.mark.parametrize(("threads", "max_pending"), [(1, 1), (2, 3), (4, 2)])
def test_no_more_than_the_bound_is_drawn_ahead_of_the_consumer(threads: int, max_pending: int) -> None:
    drawn = 0

    def source() -> Iterator[int]:
        nonlocal drawn
        for n in range(30):
            drawn += 1
            yield n

    most = 0
    for taken, _ in enumerate(decode_ahead(source(), lambda n: n, threads=threads, max_pending=max_pending), start=1):
        time.sleep(0.003)
        most = max(most, drawn - taken)
    assert drawn == 30
    assert most <= max_pending


def test_work_goes_on_while_the_consumer_is_busy() -> None:
    done = threading.Semaphore(0)
    results = decode_ahead(iter(range(4)), lambda n: done.release(), threads=1, max_pending=3)
    next(results)
    # the first, and the three that may be pending after it
    assert all(done.acquire(timeout=5) for _ in range(4))
    results.close()  # type: ignore[attr-defined]


def test_exceptions_of_an_item_are_its_result_and_cost_no_other() -> None:
    def odd_fails(n: int) -> int:
        if n % 2:
            raise ValueError(f"item {n}")
        return n

    found = list(decode_ahead(iter(range(6)), odd_fails, threads=2, max_pending=4))
    assert [n for n, _ in found] == list(range(6))
    assert [r for n, r in found if n % 2 == 0] == [0, 2, 4]
    assert [str(r) for n, r in found if n % 2] == ["item 1", "item 3", "item 5"]


def test_an_exception_of_the_source_comes_after_the_results_before_it() -> None:
    def source() -> Iterator[int]:
        yield 1
        yield 2
        raise OSError("the listing broke")

    results = decode_ahead(source(), lambda n: -n, threads=2, max_pending=8)
    assert [next(results), next(results)] == [(1, -1), (2, -2)]
    with pytest.raises(OSError, match="the listing broke"):
        next(results)


def test_a_source_that_blocks_holds_back_no_result_that_is_ready() -> None:
    go_on = threading.Event()

    def source() -> Iterator[int]:
        yield 1
        yield 2
        assert go_on.wait(5)
        yield 3

    results = decode_ahead(source(), lambda n: n, threads=1, max_pending=8)
    assert [next(results), next(results)] == [(1, 1), (2, 2)]
    assert not go_on.is_set()
    go_on.set()
    assert list(results) == [(3, 3)]


def test_stopping_early_ends_the_threads_and_drops_what_has_not_begun() -> None:
    begun: list[int] = []

    def prepare(n: int) -> int:
        begun.append(n)
        time.sleep(0.01)
        return n

    results = decode_ahead(iter(range(1000)), prepare, threads=2, max_pending=50)
    assert next(results) == (0, 0)
    results.close()  # type: ignore[attr-defined]
    assert own_threads() == []
    assert len(begun) < 20


def test_stopping_while_the_source_blocks_returns_and_lets_the_source_end() -> None:
    go_on = threading.Event()

    def source() -> Iterator[int]:
        yield 1
        go_on.wait(20)
        yield 2

    prepared: list[int] = []
    results = decode_ahead(source(), prepared.append, threads=1, max_pending=8)
    next(results)
    start = time.monotonic()
    results.close()  # type: ignore[attr-defined]
    assert time.monotonic() - start < 5
    go_on.set()
    for thread in own_threads():
        thread.join(5)
    assert prepared == [1]


def test_an_exception_in_the_consumer_ends_the_threads() -> None:
    def consume() -> None:
        for n, _ in decode_ahead(iter(range(100)), lambda n: n, threads=2, max_pending=10):
            if n == 3:
                raise KeyError(n)

    with pytest.raises(KeyError):
        consume()


def test_nothing_begins_before_the_first_result_is_asked_for() -> None:
    asked = []
    decode_ahead(iter([1]), asked.append, threads=1, max_pending=1)
    assert asked == []
    assert own_threads() == []


def test_a_result_that_the_consumer_dropped_is_freed_while_it_waits_for_the_next() -> None:
    class Pixels:
        pass

    go_on = threading.Event()

    def source() -> Iterator[int]:
        yield 1
        go_on.wait(5)
        yield 2

    results = decode_ahead(source(), lambda n: Pixels(), threads=1, max_pending=2)
    _, pixels = next(results)
    alive = weakref.ref(pixels)
    del pixels
    deadline = time.monotonic() + 5
    while alive() is not None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert alive() is None
    go_on.set()
    assert len(list(results)) == 1


def test_a_second_source_can_follow_a_failed_one() -> None:
    def broken() -> Iterator[int]:
        raise RuntimeError("first attempt")
        yield

    with pytest.raises(RuntimeError, match="first attempt"):
        list(decode_ahead(broken(), lambda n: n, threads=1, max_pending=2))
    assert list(decode_ahead(iter([5]), lambda n: n, threads=1, max_pending=2)) == [(5, 5)]
