"""The labels that all images share: how many images have each, and some of their regions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from simsam_batch.drawing.text import Color
from simsam_batch.report.page.album import Picture

MOST_CLUSTERS = 40
"""Labels with a gallery of their own."""


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


def clusters_of(count: int, fitted_on: str | None) -> str:
    """What is to be said of a number of labels."""
    first = f"The first {MOST_CLUSTERS} of" if count > MOST_CLUSTERS else "All"
    matched = "" if fitted_on is None else f" They are matched to classes on {fitted_on}."
    return f"{first} {count:,} labels that occur, the largest cluster first. A region leads to its image.{matched}"
