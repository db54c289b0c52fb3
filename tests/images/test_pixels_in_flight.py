"""However many threads decode, they hold no more pixels than the budget; a larger image comes when it is alone."""

from __future__ import annotations

import io
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
import pytest
from PIL import Image

from simsam_batch.errors import ImageError
from simsam_batch.images import ImageLimits, decode, decode_ahead
from simsam_batch.images.bounded import PixelBudget


def png(height: int, width: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.zeros((height, width), np.uint8)).save(file, "PNG")
    return file.getvalue()


class Watched(PixelBudget):
    """A budget that remembers the most pixels and the largest company that it ever had."""

    def __init__(self, most: int) -> None:
        super().__init__(most)
        self.inside: list[int] = []
        self.seen: list[tuple[int, ...]] = []
        self.lock = threading.Lock()

    def held(self, pixels: int):  # type: ignore[no-untyped-def]
        stack = ExitStack()
        stack.enter_context(super().held(pixels))

        def leave() -> None:
            with self.lock:
                self.inside.remove(pixels)

        with self.lock:
            self.inside.append(pixels)
            self.seen.append(tuple(self.inside))
        stack.callback(leave)
        return stack


def test_many_threads_keep_to_the_budget_and_all_get_through() -> None:
    budget = Watched(10)
    sizes = [1, 4, 25, 3, 10, 7, 11, 2] * 20

    def use(pixels: int) -> int:
        with budget.held(pixels):
            time.sleep(0.0005)
        return pixels

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(use, sizes, timeout=60)) == sizes
    assert all(sum(inside) <= 10 or len(inside) == 1 for inside in budget.seen)
    assert any(len(inside) > 1 for inside in budget.seen)


def test_a_large_image_is_not_passed_by_small_ones_for_ever() -> None:
    budget = PixelBudget(10)
    order: list[str] = []
    first = ExitStack()
    first.enter_context(budget.held(6))

    def use(name: str, pixels: int) -> None:
        with budget.held(pixels):
            order.append(name)

    large = threading.Thread(target=use, args=("large", 30))
    large.start()
    time.sleep(0.05)
    # there would be room for it
    small = threading.Thread(target=use, args=("small", 1))
    small.start()
    time.sleep(0.05)
    assert order == []
    first.close()
    large.join(10)
    small.join(10)
    assert order == ["large", "small"]


def test_decoding_counts_its_pixels_and_gives_them_back(monkeypatch: pytest.MonkeyPatch) -> None:
    budget = Watched(3 * 100 * 100)
    monkeypatch.setattr(sys.modules[decode.__module__], "IN_FLIGHT", budget)
    files = [png(100, 100), png(300, 200), png(50, 40), png(100, 100)] * 10
    found = list(decode_ahead(iter(files), lambda data: decode(data, ImageLimits()).size[1], threads=8, max_pending=16))
    assert [width for _, width in found] == [100, 200, 40, 100] * 10
    assert all(sum(inside) <= 30_000 or len(inside) == 1 for inside in budget.seen)
    with pytest.raises(ImageError):
        decode(png(100, 100)[:-30], ImageLimits())
    assert budget.inside == []


def test_pixels_stay_counted_for_as_long_as_the_caller_says(monkeypatch: pytest.MonkeyPatch) -> None:
    budget = Watched(100)
    monkeypatch.setattr(sys.modules[decode.__module__], "IN_FLIGHT", budget)
    with ExitStack() as hold:
        decode(png(20, 30), ImageLimits(), hold=hold)
        assert budget.inside == [600]
    assert budget.inside == []
