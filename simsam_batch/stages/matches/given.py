"""What is known of a pair before it is matched."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from simsam_batch.scores.pck import mirrored


@dataclass(frozen=True, slots=True)
class Given:
    """The points of a pair, in pixels; NaN where one is hidden or not known.

    Attributes:
        names: of the N points of the source; None where it has none.
        points: (N, 2) in the source.
        truth: (N, 2) in the target.
        others: places in the target of all points that have a name, those that the source does not show among them.
    """

    names: list[str | None]
    points: NDArray[np.float64]
    truth: NDArray[np.float64]
    others: dict[str, NDArray[np.float64]]

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Self:
        """Those of a record of the plan of pairs."""
        points = _array(record["source_points"] or [])
        names = record["point_names"] or [None] * len(points)
        truth = _array(record["target_points"] or [None] * len(points))
        there = {name: place for name, place in zip(names, truth, strict=True) if name and np.isfinite(place[0])}
        shown = np.isfinite(points[:, 0])
        kept = [name for name, is_shown in zip(names, shown.tolist(), strict=True) if is_shown]
        return cls(kept, points[shown], truth[shown], there)

    def on_the_other_side(self) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """(N, 2) where the source shows the other side's points; points that have no side are where they are.

        Also (N,) whether each is known: not of a point whose other side the source does not show, nor where a name
        comes more than once, so that it is not known which two go together.
        """
        often = Counter(self.names)
        there = {name: place for name, place in zip(self.names, self.points, strict=True) if often[name] == 1}
        others = [name and mirrored(name) for name in self.names]
        places = [
            (there.get(other) if often[name] == 1 else None) if other else own
            for name, other, own in zip(self.names, others, self.points, strict=True)
        ]
        known = np.array([place is not None for place in places], np.bool_)
        return np.array([self.points[0] * np.nan if p is None else p for p in places]).reshape(-1, 2), known

    @classmethod
    def at(cls, points: NDArray[np.float64]) -> Self:
        """Points (N, 2) that somebody chose, of which no more is known."""
        return cls([None] * len(points), points, np.full_like(points, np.nan), {})


def _array(points: list[list[float] | None]) -> NDArray[np.float64]:
    return np.array([(np.nan, np.nan) if each is None else each for each in points], np.float64).reshape(-1, 2)
