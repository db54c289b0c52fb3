"""The labels that all images share: how many images have each, some of their regions, and the confusion with truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from simsam_batch.drawing.text import Color
from simsam_batch.report.page.album import Picture

MOST_CLUSTERS = 40
"""Labels with a gallery of their own."""

MOST_CLASSES = 30
"""Columns of the confusion, the largest classes first."""

_SHADES = 9


@dataclass(frozen=True, slots=True)
class Cluster:
    """One label.

    Attributes:
        label: its number.
        color: of its regions on label maps; None where pictures have none for it.
        stands_for: the class that it is matched to; None without truth, empty if it is matched to none.
        about: how many images and regions have it.
        pictures: of regions of it.
    """

    label: int
    color: Color | None
    stands_for: str | None
    about: str
    pictures: Sequence[Picture]


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


def clusters_of(count: int, fitted_on: str | None) -> str:
    """What is to be said of a number of labels."""
    first = f"The first {MOST_CLUSTERS} of" if count > MOST_CLUSTERS else "All"
    matched = "" if fitted_on is None else f" They are matched to classes on {fitted_on}."
    return f"{first} {count:,} labels that occur, the largest cluster first. A region leads to its image.{matched}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f}" if share >= 0.005 else ""
