"""Which images a gallery shows: chosen by their numbers, the same ones every time."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from simsam_batch.plain_text import counted
from simsam_batch.results.shuffling import shuffled


def sample(numbers: NDArray[np.int64], count: int) -> list[int]:
    """At most ``count`` of the numbers, at random but always the same, ascending."""
    return sorted(numbers[np.argsort(shuffled(numbers), kind="stable")[:count]].tolist())


def at_random(
    numbers: NDArray[np.int64], count: int, noun: str = "image", *, without: Collection[int] = ()
) -> dict[str, tuple[str, list[int]]]:
    """The gallery of a sample: its title, what is to be said of it, and the numbers.

    Args:
        numbers: (N,) of the images to choose from.
        count: at most so many.
        noun: what one of them is called.
        without: numbers that are shown elsewhere.
    """
    about = f"A random sample of {counted(len(numbers), noun)}, the same one every time."
    return {"At random": (about, sample(numbers[~np.isin(numbers, list(without))], count))}


def lowest(numbers: NDArray[np.int64], values: NDArray[np.float32], count: int) -> list[int]:
    """The numbers with the smallest values, ascending by value and then by number; NaN is none."""
    held = np.flatnonzero(~np.isnan(values))
    order = np.lexsort((numbers[held], values[held]))[:count]
    return [int(number) for number in numbers[held[order]]]


def highest(numbers: NDArray[np.int64], values: NDArray[np.float32], count: int) -> list[int]:
    """The numbers with the greatest values, descending."""
    return lowest(numbers, -values, count)


def middle(numbers: NDArray[np.int64], values: NDArray[np.float32], count: int) -> list[int]:
    """The numbers with the values around the median, ascending by value."""
    held = np.flatnonzero(~np.isnan(values))
    order = held[np.lexsort((numbers[held], values[held]))]
    start = max(0, (len(order) - count) // 2)
    return [int(number) for number in numbers[order[start : start + count]]]


def by_label(tables: Iterable[tuple[NDArray[np.int64], pa.Table]], count: int) -> dict[int, tuple[int, list[int]]]:
    """For every label of a set how many images have it, and the numbers of a random sample of them.

    Samples of labels share images wherever they can. Memory holds one batch and the samples.

    Args:
        tables: numbers of rows, and a table whose column ``labels`` lists those of each.
        count: images in each sample at most.
    """
    images: dict[int, int] = {}
    kept: dict[int, list[tuple[int, int]]] = {}
    for number, table in tables:
        column = table["labels"].combine_chunks()
        lists = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
        owner = number[np.array(pa.compute.list_parent_indices(lists), dtype=np.int64)]
        labels = np.array(pa.compute.list_flatten(lists), dtype=np.int64)
        pairs = np.unique(np.stack([labels, owner], axis=1), axis=0)
        for label in np.unique(pairs[:, 0]).tolist():
            those = pairs[pairs[:, 0] == label, 1]
            images[label] = images.get(label, 0) + len(those)
            ranks = shuffled(those)
            best = np.argsort(ranks, kind="stable")[:count]
            both = [*kept.get(label, ()), *zip(ranks[best].tolist(), those[best].tolist(), strict=True)]
            kept[label] = sorted(both)[:count]
    return {label: (images[label], [number for _, number in kept[label]]) for label in sorted(images)}
