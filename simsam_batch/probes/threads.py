"""Pieces of work side by side, each with one thread."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch

Each = Callable[[Callable[[Any], None], Iterable[Any]], None]


@contextmanager
def side_by_side(device: torch.device) -> Iterator[Each]:
    """Gives ``each(action, items)``, which acts on as many items at a time as torch has threads on a CPU.

    Meanwhile torch takes one thread for each operation: where operations are short, threads that meet after every one
    mostly wait for each other, the more so if others use the cores. Items must not depend on each other. On a GPU, or
    with one thread, they are taken in turn.
    """
    threads = torch.get_num_threads()
    if device.type != "cpu" or threads == 1:
        yield _in_turn
        return
    torch.set_num_threads(1)
    try:
        # The setting holds for the thread that makes it.
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:

            def each(action: Callable[[Any], None], items: Iterable[Any]) -> None:
                inference = torch.is_inference_mode_enabled()

                # So does torch's inference mode.
                def act(item: Any) -> None:
                    with torch.inference_mode(inference):
                        action(item)

                for _ in pool.map(act, items):
                    pass

            yield each
    finally:
        torch.set_num_threads(threads)


def _in_turn(action: Callable[[Any], None], items: Iterable[Any]) -> None:
    for item in items:
        action(item)
