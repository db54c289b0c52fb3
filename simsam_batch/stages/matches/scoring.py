"""A pair's matches compared with its true points: columns of its row, and its share of the fold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simsam_batch.catalog import PAIR_UNIT
from simsam_batch.scores.pck import ALPHAS, THRESHOLDS, PairTruth, counts_of, hits, mirrored
from simsam_batch.stages.matches.given import Given
from simsam_batch.stages.matches.rows import HEADLINE, MARGIN_STEPS

_AT = ALPHAS.index(HEADLINE)


@dataclass(frozen=True)
class Compared:
    """The matches of a pair beside its truth.

    Attributes:
        record: of the plan of pairs.
        given: its points.
        places: (N, 2) where they were found in the target, in pixels; NaN where they were not.
        counts: (N,) whether each is to be found: those outside the source are a fault of the input.
        sizes: (width, height) of the source and of the target.
        kinds: thresholds, of `simsam_batch.scores.pck.THRESHOLDS`; the last has a length for every pair.
    """

    record: Mapping[str, Any]
    given: Given
    places: NDArray[np.float64]
    counts: NDArray[np.bool_]
    sizes: tuple[tuple[int, int], tuple[int, int]]
    kinds: Sequence[str]

    @cached_property
    def scored(self) -> NDArray[np.bool_]:
        """(N,) whether each is compared with its truth."""
        found: NDArray[np.bool_] = self.counts & np.isfinite(self.given.truth[:, 0])
        return found

    @cached_property
    def pair(self) -> PairTruth:
        """The truth of those that are."""
        source, target = self.sizes
        boxes = self.record["target_box"], self.record["source_box"]
        return PairTruth(self.given.truth[self.scored], target, source, *boxes)

    @cached_property
    def threshold(self) -> str:
        """The first that the pair has what is needed for."""
        return next(kind for kind in self.kinds if THRESHOLDS[kind](self.pair) is not None)

    @cached_property
    def length(self) -> float:
        """Of that, in pixels of the target."""
        held = THRESHOLDS[self.threshold](self.pair)
        assert held is not None  # noqa: S101  so it was chosen
        return held[0]

    @cached_property
    def distance(self) -> NDArray[np.float64]:
        """(N,) pixels from where each should be; NaN where either is not there."""
        found: NDArray[np.float64] = np.linalg.norm(self.places - self.given.truth, axis=1)
        return found

    @cached_property
    def right(self) -> NDArray[np.bool_]:
        """(N,) whether each is near enough."""
        found: NDArray[np.bool_] = self.distance <= HEADLINE * self.length
        return found

    def point(self, i: int) -> dict[str, Any]:
        """The keys of `simsam_batch.stages.matches.rows.POINT` that say where a point is, was found and should be."""
        return {
            "name": self.given.names[i],
            **_place("source_", self.given.points[i]),
            **_place("", self.places[i]),
            **_place("true_", self.given.truth[i]),
            "distance": _or_none(self.distance[i]),
            "right": bool(self.right[i]) if self.scored[i] else None,
        }

    def columns(self) -> dict[str, Any]:
        """The columns of a row that are about truth."""
        return {
            "threshold": self.threshold,
            "length": self.length,
            "points_scored": int(self.scored.sum()),
            "points_right": int(self.right[self.scored].sum()),
        }

    def counts_of(self, faults: Sequence[str | None]) -> dict[str, Any]:
        """The keys of the fold's state that count a pair, its points and what is wrong with them."""
        return {
            "pairs": 1,
            "pairs_scored": int(self.scored.any()),
            "points": len(faults),
            "points_scored": int(self.scored.sum()),
            "points_without_truth": int(np.isnan(self.given.truth[:, 0]).sum()),
            "faults": {name: faults.count(name) for name in {*faults} if name is not None},
        }

    def state(self, seed: int | None, mutual: NDArray[np.bool_] | None, margins: NDArray[np.float32]) -> dict[str, Any]:
        """The keys of the fold's state that are about truth.

        Args:
            seed: of what is drawn by chance; None where the images are not known, and every guess is wrong.
            mutual: (N,) whether each match is mutual; None where nobody looked.
            margins: (N,) of the matches.
        """
        if not self.scored.any():
            return {}
        scored, found = self.scored, np.isfinite(self.distance)
        of_mutual = np.zeros_like(scored) if mutual is None else scored & found & mutual
        state: dict[str, Any] = self._hits(seed) | {"mirrored": {}, "mutual": {}, "margins": {}}
        # what is right depends on the threshold, and which one the set is judged by shows in the end
        for kind in state["scores"]:
            near = self._near(kind)
            state["mirrored"][kind] = self._other_sides(kind)
            state["mutual"][kind] = {"points": int(of_mutual.sum()), "right": int(near[of_mutual].sum())}
            state["margins"][kind] = _by_margin(margins[scored & found], near[scored & found])
        return state

    def _near(self, kind: str, places: NDArray[np.float64] | None = None) -> NDArray[np.bool_]:
        """(N,) whether each was found near enough by a threshold that the pair has; or other places."""
        held = THRESHOLDS[kind](self.pair)
        assert held is not None  # noqa: S101  so it was scored
        length, scale = held
        away = (self.places - (self.given.truth if places is None else places)) * scale
        found: NDArray[np.bool_] = np.linalg.norm(away, axis=1) <= HEADLINE * length
        return found

    def _hits(self, seed: int | None) -> dict[str, Any]:
        """Hits of the matches, and of what needs no features."""
        category, many = self.record["category"] or "", int(self.scored.sum())
        scores: dict[str, Any] = {}
        baselines: dict[str, Any] = {}
        guesses = self._guesses(seed)
        for kind in self.kinds:
            near = hits(self.places[self.scored], self.pair, kind)
            if near is None:
                continue
            scores[kind] = {category: [counts_of(each, many) for each in near.tolist()]}
            for name, guessed in guesses.items():
                by_chance = hits(guessed, self.pair, kind)
                assert by_chance is not None  # noqa: S101  the threshold is the pair's
                baselines.setdefault(name, {})[kind] = counts_of(int(by_chance[_AT]), many)
        return {"scores": scores, "baselines": baselines}

    def _guesses(self, seed: int | None) -> dict[str, NDArray[np.float64]]:
        """(M, 2) places in the target of the scored points by name of `BASELINES`; of boxes where both have one."""
        name = sha256(f"{seed}\0{self.record[PAIR_UNIT]}".encode()).digest()
        draw = np.random.default_rng(int.from_bytes(name[:8], "little"))
        source, target = (np.array(size, np.float64) for size in self.sizes)
        points = self.given.points[self.scored]
        corners = np.array(self.pair.target_box or [0.0, 0.0, *target], np.float64)
        low, extent = corners[:2], corners[2:] - corners[:2]
        found = {
            "chance": low + draw.random(points.shape) * extent,
            "same-place": (points + 0.5) / source * target - 0.5,
        }
        if self.pair.target_box is not None and self.pair.source_box is not None:
            box = np.array(self.pair.source_box, np.float64)
            found["relative-place"] = low + (points - box[:2]) / (box[2:] - box[:2]) * extent
        return found if seed is not None else {name: np.full_like(place, np.nan) for name, place in found.items()}

    def _other_sides(self, kind: str) -> dict[str, int]:
        """Of points whose other side is in the target too: how many, how many right, how many found there instead."""
        names, others = self.given.names, self.given.others
        own = [
            (i, others[other])
            for i in np.flatnonzero(self.scored).tolist()
            if (name := names[i]) and (other := mirrored(name)) is not None and other in others
        ]
        if not own:
            return {}
        numbers = [i for i, _ in own]
        elsewhere = np.full_like(self.places, np.nan)
        elsewhere[numbers] = [place for _, place in own]
        nearer = np.linalg.norm(self.places - elsewhere, axis=1) < self.distance
        swapped = self._near(kind, elsewhere) & nearer
        return {"points": len(own), "right": int(self._near(kind)[numbers].sum()), "swapped": int(swapped.sum())}


def state_of_failed(record: Mapping[str, Any], kinds: Sequence[str]) -> dict[str, Any]:
    """The keys of the fold's state of a pair of which an image cannot be read: all of its points with truth are wrong.

    So are what needs no features, with which the others are compared, and points that may lie outside the source.

    Args:
        record: of the plan of pairs, or a row with its columns.
        kinds: thresholds, as of `Compared`.
    """
    given = Given.of(record)
    nothing, all_count = np.full_like(given.points, np.nan), np.ones(len(given.points), np.bool_)
    # of what was not found no threshold's length matters
    compared = Compared(record, given, nothing, all_count, ((1, 1), (1, 1)), kinds)
    faults = ["failed" if scored else None for scored in compared.scored.tolist()]
    state = compared.state(None, None, np.zeros(len(nothing), np.float32))
    return {"pairs_failed": 1} | compared.counts_of(faults) | state


def _by_margin(margins: NDArray[np.float32], right: NDArray[np.bool_]) -> dict[str, dict[str, int]]:
    """By the hundredth of their margins how many points there are, and how many of them are right."""
    found: dict[str, dict[str, int]] = {}
    for margin, is_right in zip(margins.tolist(), right.tolist(), strict=True):
        counts = found.setdefault(str(int(margin * MARGIN_STEPS)), {"points": 0, "right": 0})
        counts["points"] += 1
        counts["right"] += is_right
    return found


def _place(prefix: str, point: NDArray[np.float64]) -> dict[str, float | None]:
    return {f"{prefix}x": _or_none(point[0]), f"{prefix}y": _or_none(point[1])}


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
