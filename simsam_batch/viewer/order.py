"""In which order rows come: by whole numbers that say what comes first, so that every order is found alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from simsam_batch.results.shuffling import shuffled
from simsam_batch.viewer.columns import Columns

RANDOM = "random"
"""The order that has nothing to do with anything, and is always the same."""

Keys = NDArray[np.uint32] | NDArray[np.uint64]

_SORTED_WHOLE = 4096


def keys_of(columns: Columns, places: NDArray[np.int32], sort: str, *, desc: bool) -> Keys | None:
    """What rows are ordered by, smaller first: equal keys come by their places, rows without a value last.

    Args:
        columns: of the stage.
        places: of the rows, ascending.
        sort: a column; `RANDOM`; empty: the order of the plan.
        desc: greater values first.

    Returns:
        A key for each of the places; None if their own order is asked for.

    Raises:
        RefusedError: there is no such column.
    """
    if not sort:
        return np.arange(len(places), dtype=np.uint32)[::-1] if desc else None
    if sort == RANDOM:
        keys = shuffled(columns.numbers[places])
        return ~keys if desc else keys
    if sort in ("id", columns.unit):
        return _of_ids(columns.ids.take(places), desc=desc)
    values = columns.column(sort)[places]
    if columns.kinds[sort] == "words":
        words = columns.words(sort)
        # from 1, so that turned round none of them is the greatest key, which is that of no word
        ranks = np.zeros(len(words) + 1, np.uint32)
        ranks[sorted(range(len(words)), key=words.__getitem__)] = np.arange(1, len(words) + 1)
        return _turned(ranks[values], values < 0, desc=desc)
    bits: Any = np.uint32 if values.dtype == np.float32 else np.uint64
    top = bits(1) << bits(8 * values.itemsize - 1)
    # zero has two signs, and is added so that it has one
    whole = (values + values.dtype.type(0)).view(bits)
    return _turned(np.where(whole & top, ~whole, whole | top), np.isnan(values), desc=desc)


def _of_ids(ids: pa.ChunkedArray, *, desc: bool) -> Keys:
    order = pc.array_sort_indices(ids, order="descending" if desc else "ascending").to_numpy()
    keys = np.empty(len(order), np.uint32)
    keys[order] = np.arange(len(order), dtype=np.uint32)
    return keys


def _turned(keys: Keys, without: NDArray[np.bool_], *, desc: bool) -> Keys:
    keys = ~keys if desc else keys
    keys[without] = np.iinfo(keys.dtype).max
    return keys


def some_of(keys: Keys, offset: int, limit: int) -> NDArray[np.intp]:
    """Which keys come from one place of the order on, without ordering all.

    Args:
        keys: of `keys_of`.
        offset: the first place of the order.
        limit: at most so many.
    """
    end = min(offset + limit, len(keys))
    if offset >= end:
        return np.zeros(0, np.intp)
    if len(keys) <= _SORTED_WHOLE or end > len(keys) // 2:
        return np.argsort(keys, kind="stable")[offset:end]
    last = np.partition(keys, end - 1)[end - 1]
    below, equal = np.flatnonzero(keys < last), np.flatnonzero(keys == last)
    # those below come first, in the order of their places where they are equal
    below = below[np.argsort(keys[below], kind="stable")]
    return np.concatenate([below, equal[: end - len(below)]])[offset:end]


def around(keys: Keys, at: int) -> tuple[int, int | None, int | None]:
    """Where one key stands in the order, and which come before and after it.

    Args:
        keys: of `keys_of`.
        at: of the key.
    """
    own = keys[at]
    equal = np.flatnonzero(keys == own)
    inside = int(np.searchsorted(equal, at))
    place = int(np.count_nonzero(keys < own)) + inside
    before = equal[inside - 1] if inside else _last(keys, np.flatnonzero(keys < own), greatest=True)
    after = equal[inside + 1] if inside + 1 < len(equal) else _last(keys, np.flatnonzero(keys > own), greatest=False)
    return place, None if before is None else int(before), None if after is None else int(after)


def _last(keys: Keys, among: NDArray[np.intp], *, greatest: bool) -> Any:
    """The one of the greatest key with the greatest place, or of the smallest with the smallest."""
    if not len(among):
        return None
    found = keys[among]
    return among[found == found.max()][-1] if greatest else among[found == found.min()][0]
