"""Reading ahead: order, bound, early stops and faults."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from simsam_batch.storage import read_ahead


def test_results_come_in_the_items_order_whatever_takes_longest() -> None:
    def slow_first(n: int) -> int:
        time.sleep(0.02 if n % 3 == 0 else 0)
        return n * n

    assert list(read_ahead(range(20), slow_first, threads=4, most=6, name="t")) == [n * n for n in range(20)]


def test_so_many_are_read_at_the_same_time() -> None:
    # each waits for all three: with fewer than three at once the barrier would break
    barrier = threading.Barrier(3, timeout=5)
    assert sorted(read_ahead(range(3), lambda _: barrier.wait(), threads=3, most=3, name="t")) == [0, 1, 2]


@pytest.mark.parametrize(("threads", "most"), [(1, 1), (2, 3), (4, 2)])
def test_no_more_than_the_bound_is_drawn_ahead_of_the_consumer(threads: int, most: int) -> None:
    drawn = 0

    def source() -> Iterator[int]:
        nonlocal drawn
        for n in range(10):
            drawn += 1
            yield n

    seen = [drawn - n for n in read_ahead(source(), lambda n: n, threads=threads, most=most, name="t")]
    # item n is in hand, and with it `most` are drawn, until the source ends
    assert seen == [min(most, 10 - n) for n in range(10)]


def test_what_has_not_begun_is_dropped_when_the_consumer_stops() -> None:
    begun: list[int] = []
    second_begun, go_on = threading.Event(), threading.Event()

    def read(n: int) -> int:
        begun.append(n)
        if n:
            second_begun.set()
            assert go_on.wait(5)
        return n

    results = read_ahead(range(100), read, threads=1, most=4, name="t")
    assert next(results) == 0
    assert second_begun.wait(5)
    threading.Timer(0.3, go_on.set).start()
    results.close()
    # 0 was handed out, 1 was being read, 2 and 3 waited for the one thread
    assert begun == [0, 1]


def test_a_fault_comes_after_what_was_read_before_it() -> None:
    def read(n: int) -> int:
        if n == 2:
            raise ValueError("the third")
        return n

    results = read_ahead(range(5), read, threads=3, most=5, name="t")
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ValueError, match="the third"):
        next(results)
