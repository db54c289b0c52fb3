"""Which regions of a whole collection have a label: from two small columns of all rows, sorted once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from simsam_batch.errors import RunError
from simsam_batch.runs.reading import StageRows

Order = Literal["random", "largest", "smallest"]
ORDERS: tuple[Order, ...] = ("random", "largest", "smallest")

_ROWS_AT_ONCE = 65_536


@dataclass(frozen=True)
class LabelIndex:
    """The regions of all rows, those of a label side by side; within it in the order of the plan.

    Attributes:
        labels: (L,) int64, those that occur, ascending.
        starts: (L + 1,) int64, where each label's regions begin.
        rows: (R,) int32, the row of each region.
        regions: (R,) int32, its place in the list of its row: a segment of a label map, or a node of a tree.
        sizes: (R,) float32, its share of the image's pixels, or of its patches.
        images: how many images have a label map or a labelled tree, be it without regions.
        nested: whether regions lie in each other, as nodes do.
    """

    labels: NDArray[np.int64]
    starts: NDArray[np.int64]
    rows: NDArray[np.int32]
    regions: NDArray[np.int32]
    sizes: NDArray[np.float32]
    images: int
    nested: bool = False

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """(L,) regions of each label."""
        return np.diff(self.starts)

    @cached_property
    def shares(self) -> NDArray[np.float64]:
        """(L,) the mean share of an image; of nodes, which lie in each other, the share of what all together cover."""
        if not len(self.labels):
            return np.empty(0)
        sums: NDArray[np.float64] = np.add.reduceat(self.sizes, self.starts[:-1], dtype=np.float64)
        return sums / max(sums.sum() if self.nested else self.images, 1e-12)

    @cached_property
    def images_of(self) -> NDArray[np.int64]:
        """(L,) images in which each label occurs."""
        if not len(self.labels):
            return np.empty(0, np.int64)
        fresh = np.ones(len(self.rows), np.int64)
        fresh[1:] = self.rows[1:] != self.rows[:-1]
        fresh[self.starts[:-1]] = 1
        found: NDArray[np.int64] = np.add.reduceat(fresh, self.starts[:-1])
        return found

    def of(self, label: int, order: Order) -> NDArray[np.int64]:
        """(n,) the places of a label's regions in an order; none if it does not occur.

        Random is the same at every time, so that pages follow each other; of equal size those of earlier rows come
        first.
        """
        at = int(np.searchsorted(self.labels, label))
        if at == len(self.labels) or self.labels[at] != label:
            return np.empty(0, np.int64)
        places = np.arange(self.starts[at], self.starts[at + 1])
        if order == "random":
            return places[np.random.default_rng(label).permutation(len(places))]
        sizes = self.sizes[places]
        return places[np.argsort(-sizes if order == "largest" else sizes, kind="stable")]


def index_of(
    rows: NDArray[np.int32],
    regions: NDArray[np.int32],
    labels: NDArray[np.int32],
    sizes: NDArray[np.float32],
    images: int,
    *,
    nested: bool = False,
) -> LabelIndex:
    """Sort regions by their labels; arrays of (R,), in the order of the plan, else as `LabelIndex` has them."""
    # numbers of 16 bits are sorted by radix, five times as fast
    small = len(labels) and int(labels.min()) >= 0 and int(labels.max()) < 1 << 15
    order = np.argsort(labels.astype(np.int16) if small else labels, kind="stable")
    in_order = labels[order]
    starts = np.flatnonzero(np.diff(in_order, prepend=in_order[:1] - 1))
    held = in_order[starts].astype(np.int64)
    bounds = np.append(starts, len(labels)).astype(np.int64)
    return LabelIndex(held, bounds, rows[order], regions[order], sizes[order], images, nested)


def segments_index(rows: StageRows) -> LabelIndex:
    """That of label maps: rows with ``segments``.

    Raises:
        RunError: the run is damaged.
        StorageError: the storage did not answer.
    """
    path = "segments.list.element"
    parts, images = [], 0
    for first, table in rows.leaves([f"{path}.label", f"{path}.area_fraction"], _ROWS_AT_ONCE):
        of_row, place, found = _flat(table["segments"])
        labels, sizes = found.field("label"), found.field("area_fraction")
        parts.append((of_row + first, place, _numbers(labels, np.int32), _numbers(sizes, np.float32)))
        images += table.num_rows - table["segments"].null_count
    return index_of(*_joined(parts), images)


def nodes_index(trees: StageRows, labels: StageRows) -> LabelIndex:
    """That of the nodes of trees, by the labels that another stage gave them; those of label 0 have none.

    Args:
        trees: rows with ``nodes``.
        labels: rows with ``labels``, one for each node; either may be incomplete.

    Raises:
        RunError: the labels are not those of these trees, or the run is damaged.
        StorageError: the storage did not answer.
    """
    parts, images = [], 0
    labelled = _labels_of_rows(labels)
    for first, table in trees.leaves(["nodes.list.element.patches", "grid_h", "grid_w"], _ROWS_AT_ONCE):
        of_row, place, found = _flat(table["nodes"])
        cells = _numbers(table["grid_h"], np.float32) * _numbers(table["grid_w"], np.float32)
        sizes = _numbers(found.field("patches"), np.float32) / cells[of_row]
        counts = np.bincount(of_row, minlength=table.num_rows)
        given, there = labelled.take(first, counts, trees)
        keep = there[of_row]
        of_row, place, sizes = of_row[keep], place[keep], sizes[keep]
        named = given != 0
        parts.append((of_row[named] + first, place[named], given[named], sizes[named]))
        images += int(np.count_nonzero(there))
    return index_of(*_joined(parts), images, nested=True)


@dataclass(frozen=True, slots=True)
class _Labels:
    """The labels of all rows that have some.

    Attributes:
        numbers: (r,) int64 of the rows, ascending.
        starts: (r + 1,) int64, where each one's labels begin.
        values: int32.
    """

    numbers: NDArray[np.int64]
    starts: NDArray[np.int64]
    values: NDArray[np.int32]

    def take(
        self, first: int, counts: NDArray[np.int64], trees: StageRows
    ) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
        """The labels of the nodes of some rows that follow each other, and which of the rows have them."""
        low, high = np.searchsorted(self.numbers, [first, first + len(counts)])
        there = np.zeros(len(counts), np.bool_)
        there[self.numbers[low:high] - first] = True
        own = np.diff(self.starts[low : high + 1])
        wrong = np.flatnonzero(own != counts[there])
        if len(wrong):
            row = int(self.numbers[low + wrong[0]])
            raise RunError(
                f"{trees.out.url}: the labels beside row {row} of {trees.stage} are {int(own[wrong[0]])}, its nodes "
                f"{int(counts[there][wrong[0]])}. To mend it: label the nodes again"
            )
        return self.values[self.starts[low] : self.starts[high]], there


def _labels_of_rows(rows: StageRows) -> _Labels:
    numbers, counts, values = [], [], []
    for first, table in rows.batches(["labels"], _ROWS_AT_ONCE):
        column = table["labels"].combine_chunks()
        held = np.asarray(pc.is_valid(column))
        numbers.append(first + np.flatnonzero(held))
        counts.append(_numbers(pc.list_value_length(column).drop_null(), np.int64))
        values.append(_numbers(column.flatten(), np.int32))
    starts = np.cumsum(np.concatenate([[0], *counts])).astype(np.int64)
    return _Labels(_all(numbers, np.int64), starts, _all(values, np.int32))


def _flat(column: pa.ChunkedArray) -> tuple[NDArray[np.int32], NDArray[np.int32], pa.StructArray]:
    """Of a column of lists the row of each element, its place in the list, and the elements."""
    lists = column.combine_chunks()
    if isinstance(lists, pa.ChunkedArray):
        lists = pa.concat_arrays(lists.chunks) if lists.num_chunks else pa.array([], lists.type)
    counts = _numbers(pc.fill_null(pc.list_value_length(lists), 0), np.int32)
    of_row = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    begins = np.cumsum(counts, dtype=np.int32) - counts
    place = np.arange(len(of_row), dtype=np.int32) - begins[of_row]
    return of_row, place, lists.flatten()


def _numbers(column: Any, dtype: Any) -> NDArray[Any]:
    """An Arrow column as NumPy has it, nothing as 0."""
    return np.asarray(pc.fill_null(column, 0).to_numpy(zero_copy_only=False)).astype(dtype, copy=False)


_Parts = list[tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]]


def _joined(parts: _Parts) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32], NDArray[np.float32]]:
    rows, regions, labels = (_all([part[which] for part in parts], np.int32) for which in range(3))
    return rows, regions, labels, _all([part[3] for part in parts], np.float32)


def _all(arrays: list[NDArray[Any]], dtype: Any) -> NDArray[Any]:
    return np.concatenate([np.empty(0, dtype), *arrays]).astype(dtype, copy=False)
