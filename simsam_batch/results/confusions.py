"""The confusion of label maps with their truth: added up over shards, and as a table for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simsam_batch.scores.confusion import as_table
from simsam_batch.scores.probing import class_counts, mean_iou

MOST_CLASSES = 30
"""Columns of the confusion, the largest classes first."""

_SHADES = 9


@dataclass(frozen=True, slots=True)
class Confusion:
    """Which share of each class's pixels has which label.

    Attributes:
        classes: names of the columns.
        lines: label, the class it stands for, and of each column the share in percent and its shade, 0 to 9.
        left_out: classes beyond `MOST_CLASSES`.
        about: what made the labels, where the chapter has several such.
    """

    classes: list[str]
    lines: list[tuple[int, str, list[tuple[str, int]]]]
    left_out: int
    about: str = ""


def confusion_of(
    columns: Mapping[int, NDArray[np.int64]], names: Sequence[str], stands_for: Sequence[str | None], about: str = ""
) -> Confusion | None:
    """A table for people out of pixel counts, predicted ids by true class; None where nothing was counted."""
    held = sorted((c for c in columns if columns[c].sum()), key=lambda c: (-int(columns[c].sum()), c))
    if not held:
        return None
    shown = sorted(held[:MOST_CLASSES])
    table = np.stack([columns[c] / columns[c].sum() for c in shown], axis=1)
    lines = []
    for label in np.flatnonzero(np.stack([columns[c] for c in held]).any(axis=0)).tolist():
        cells = [(_percent(share), round(_SHADES * share)) for share in table[label].tolist()]
        stands = stands_for[label] if label < len(stands_for) else None
        lines.append((label, class_name(stands or ""), cells))
    return Confusion([class_name(names[c]) for c in shown], lines, len(held) - len(shown), about)


def class_name(name: str) -> str:
    """A class by its name; one that nobody has named has its number for it."""
    return f"class {name}" if name.isdecimal() else name


def add_confusion(sums: dict[int, NDArray[np.int64]], statistics: Mapping[str, Any]) -> None:
    """Add what one shard of label maps counted.

    Args:
        sums: predicted id by true class in pixels, columns by class id; grows.
        statistics: of the shard's manifest; those of other stages add nothing.
    """
    for state in statistics.get("repeats", [])[:1]:
        for name, column in state["confusion"].items():
            there = sums.get(int(name))
            counts = np.array(column, dtype=np.int64)
            sums[int(name)] = counts if there is None else there + counts


def summed_confusion(manifests: Iterable[Mapping[str, Any]]) -> dict[int, NDArray[np.int64]]:
    """That of all shards of a stage, read one after the other; see `add_confusion`."""
    sums: dict[int, NDArray[np.int64]] = {}
    for manifest in manifests:
        add_confusion(sums, manifest["statistics"])
    return sums


def best_table(
    confusions: Mapping[str, Mapping[str, int]], classes: int, references: Iterable[str]
) -> tuple[str, NDArray[np.int64]] | None:
    """Of several cells of a probe the one with the highest mIoU, and its (C, C) pixels, predicted by true.

    Args:
        confusions: by cell, as ``results/<stage>.json`` holds them.
        classes: C.
        references: names that are no cells.
    """
    tables = {cell: as_table(counts, classes) for cell, counts in confusions.items() if cell not in references}
    if not tables:
        return None
    best = max(tables, key=lambda cell: mean_iou(class_counts(tables[cell])))
    return best, tables[best]


def _percent(share: float) -> str:
    return f"{100 * share:.0f}" if share >= 0.005 else ""
