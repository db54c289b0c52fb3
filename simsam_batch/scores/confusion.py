"""Which ids were predicted where which classes are true: exact pixel counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

_PIXELS_AT_ONCE = 1 << 15
"""NumPy counts 8-byte integers; those of so many pixels stay in a core's cache."""


def confusion(
    prediction: NDArray[np.integer[Any]] | NDArray[np.bool_],
    truth: NDArray[np.integer[Any]] | NDArray[np.bool_],
    predicted: int,
    true: int,
    ignore: int | None = None,
) -> tuple[NDArray[np.int64], int]:
    """Count the pixels of every pair of predicted id and true class, in one pass.

    Args:
        prediction: (H, W) ids 0 to ``predicted`` - 1 (clusters or classes).
        truth: (H, W) classes 0 to ``true`` - 1, or ``ignore``.
        predicted: how many ids can be predicted.
        true: how many classes there are.
        ignore: true value of pixels that are not counted; it may lie inside or outside of the classes' range.

    Returns:
        (predicted, true) int64: entry (i, j) counts pixels predicted as i that are j. And how many pixels were ignored.

    Raises:
        ValueError: the shapes differ, the maps do not hold integers, or an id is out of range; it is named.
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"the prediction is {prediction.shape}, the truth {truth.shape}")
    # A view of the same memory unless a map is cut out of a larger one.
    ids, classes = _as_integers(prediction, "prediction"), _as_integers(truth, "truth")
    _require_range(ids, predicted, "prediction")
    # Truth beyond the classes is counted in a column of its own; it must be the pixels that are ignored.
    columns = true + 1
    # Read without their sign, negative values lie beyond the classes too.
    unsigned = classes.view(classes.dtype.str.replace("i", "u"))
    beyond_all = min(true, np.iinfo(unsigned.dtype).max)
    joint = np.min_scalar_type(predicted * columns)
    counts = np.zeros(predicted * columns, dtype=np.int64)
    for start in range(0, ids.size, _PIXELS_AT_ONCE):
        part = slice(start, start + _PIXELS_AT_ONCE)
        pairs = np.multiply(ids[part], columns, dtype=joint, casting="unsafe")
        pairs += np.minimum(unsigned[part], beyond_all).astype(joint, copy=False)
        counts += np.bincount(pairs, minlength=counts.size)
    table = counts.reshape(predicted, columns)
    beyond = int(table[:, true].sum())
    if beyond and (ignore is None or beyond != np.count_nonzero(classes == ignore)):
        _require_range(classes if ignore is None else classes[classes != ignore], true, "truth")
    table = np.ascontiguousarray(table[:, :true])
    if ignore is not None and 0 <= ignore < true:
        beyond = int(table[:, ignore].sum())
        table[:, ignore] = 0
    return table, beyond


def _as_integers(values: NDArray[Any], what: str) -> NDArray[np.integer[Any]]:
    if values.dtype.kind not in "biu":
        raise ValueError(f"the {what} holds {values.dtype} values; ids are integers")
    return (values.view(np.uint8) if values.dtype.kind == "b" else values).reshape(-1)


def _require_range(values: NDArray[np.integer[Any]], count: int, what: str) -> None:
    if not values.size:
        return
    low = int(values.min()) if values.dtype.kind == "i" else 0
    high = int(values.max())
    if low < 0 or high >= count:
        raise ValueError(f"the {what} has the id {low if low < 0 else high}; ids run from 0 to {count - 1}")


def as_counts(table: NDArray[np.int64]) -> dict[str, int]:
    """The pixels of a table (C, C) that has many zeros, by (predicted x C + true) as text, since JSON's keys are."""
    flat = table.ravel()
    there = np.flatnonzero(flat)
    return dict(zip(map(str, there.tolist()), flat[there].tolist(), strict=True))


def as_table(counts: Mapping[str, int], classes: int) -> NDArray[np.int64]:
    """(C, C) pixels, predicted by true: the inverse of `as_counts`."""
    table = np.zeros((classes, classes), np.int64)
    table.ravel()[list(map(int, counts))] = list(counts.values())
    return table
