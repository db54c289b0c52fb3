"""The ``matches`` stage: points of one image in another, by stored features; its records are pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from simsam_batch import images
from simsam_batch.catalog import PAIR_UNIT
from simsam_batch.correspondence.matching import Matches, match
from simsam_batch.runs.plan import Plan
from simsam_batch.runs.schema import Attachment
from simsam_batch.scores.pck import ALPHAS, MEANT, THRESHOLDS, PairTruth, counts_of, hits, mirrored
from simsam_batch.settings import Numbers
from simsam_batch.stages.base import CommandStage
from simsam_batch.stages.features.stage import FeaturesStage
from simsam_batch.stages.matches.described import Described, DescribedImages
from simsam_batch.stages.matches.rows import HEADLINE, MARGIN_STEPS, MATCHES_FIELDS, MatchesFold
from simsam_batch.stages.matches.settings import MatchesSettings, Matching
from simsam_batch.workers.models import compute_device
from simsam_batch.workers.records import Item, RecordWorker, Results, Row

_AT = ALPHAS.index(HEADLINE)
_FLAT = 1e-6
"""In cosines: patches that differ by less are alike but for rounding."""


@dataclass(frozen=True)
class MatchesStage(CommandStage[MatchesSettings]):
    """Matches pairs.

    ``resolved`` holds ``channels_of`` the stored features, and under ``published`` the name of the thresholds that
    figures of the set were published with, or None.
    """

    name = "matches"
    components = (Numbers, Matching)
    fields = MATCHES_FIELDS
    reads = (FeaturesStage.name,)
    unit = PAIR_UNIT
    keeps_columns = True

    @cached_property
    def fold(self) -> MatchesFold:
        """Counts hits."""
        return MatchesFold(self.resolved["published"])

    def make_worker(self, beat: Callable[[], None]) -> MatchesWorker:
        """Be ready for pairs."""
        return MatchesWorker(self, beat)


Loaded = tuple[Described, Described]


class MatchesWorker(RecordWorker[Loaded]):
    """Matches one pair after the other."""

    def __init__(self, stage: MatchesStage, beat: Callable[[], None]) -> None:
        super().__init__(stage, beat, torch.device(compute_device(stage.options.device)))
        plan: Plan | None = stage.plan
        assert plan is not None  # noqa: S101  it is where the features are
        options = stage.options
        self._options = options
        names = list(stage.resolved["channels_of"])
        resize = images.parse_resize(options.resize)
        self._images = DescribedImages(plan.out, names, resize, self.device, context=options.context == "log-bins")
        published = stage.resolved["published"]
        self._kinds = [*MEANT, *([published] if published else [])]
        self._zero = stage.fold.zero

    def load(self, item: Item) -> Loaded:
        """Read the features of both images."""
        return self._images.of(item.record["source_record"]), self._images.of(item.record["target_record"])

    def take(self, item: Item, loaded: Loaded, results: Results) -> None:
        """Match a pair."""
        source, target = loaded
        record = item.record
        points = np.array(record["source_points"] or [], np.float64).reshape(-1, 2)
        with self.timer.step("match"), torch.inference_mode():
            inside, seen = source.grid.holds(points), source.grid.covers(points)
            cells = source.grid.cells_of(np.where(seen[:, None], points, 0.0))
            found = match(
                source.descriptors,
                target.descriptors,
                cells,
                radius=self._options.window,
                temperature=self._options.temperature,
                keep=self._options.maps != "none",
            )
        with self.timer.step("score"):
            places = target.grid.points_of(found.cells)
            flat = found.spread < _FLAT
            faults = [
                "outside" if not i else "unseen" if not s else "flat" if f else None
                for i, s, f in zip(inside.tolist(), seen.tolist(), flat.tolist(), strict=True)
            ]
            places[[fault is not None for fault in faults]] = np.nan
            row = self._row(record, loaded, points, places, found, faults)
        results.put(item.row, row)

    def _row(
        self,
        record: Mapping[str, Any],
        loaded: Loaded,
        points: NDArray[np.float64],
        places: NDArray[np.float64],
        found: Matches,
        faults: list[str | None],
    ) -> Row:
        source, target = loaded
        truth = _truth_of(record, source, target)
        names = record["point_names"] or [None] * len(points)
        given = record["target_points"] or [None] * len(points)
        scored = np.array([each is not None for each in given], np.bool_)
        scored &= np.array([fault != "outside" for fault in faults], np.bool_)
        pair = PairTruth(truth.points[scored], truth.target_size, truth.source_size, truth.target_box, truth.source_box)
        lengths = {kind: held for kind in self._kinds if (held := THRESHOLDS[kind](pair)) is not None}
        headline = next(iter(lengths))
        length = lengths[headline][0]
        distance = np.linalg.norm(places - truth.points, axis=1)
        right = distance <= HEADLINE * length
        mutual = found.returned <= self._options.mutual_within
        columns = {
            "status": "ok",
            "source_size": source.size,
            "target_size": target.size,
            "identical": source.sha256 == target.sha256,
            "points": [
                {
                    "name": names[i],
                    "source_x": points[i, 0],
                    "source_y": points[i, 1],
                    "x": _or_none(places[i, 0]),
                    "y": _or_none(places[i, 1]),
                    "similarity": found.similarity[i] if faults[i] is None else None,
                    "margin": found.margin[i] if faults[i] is None else None,
                    "returned": found.returned[i] if faults[i] is None else None,
                    "mutual": bool(mutual[i]) if faults[i] is None else None,
                    "true_x": _or_none(truth.points[i, 0]),
                    "true_y": _or_none(truth.points[i, 1]),
                    "distance": _or_none(distance[i]),
                    "right": bool(right[i]) if scored[i] else None,
                    "fault": faults[i],
                }
                for i in range(len(points))
            ],
            "threshold": headline,
            "length": length,
            "points_scored": int(scored.sum()),
            "points_right": int(right[scored].sum()),
        }
        attachments: dict[str, Attachment] = {}
        if found.maps is not None:
            attachments["similarity"] = found.maps.astype(np.float16)
        state = self._zero() | {
            "pairs": 1,
            "pairs_scored": int(scored.any()),
            "points": len(points),
            "points_scored": int(scored.sum()),
            "points_without_truth": len(points) - sum(each is not None for each in given),
            "identical": int(source.sha256 == target.sha256),
            "faults": {name: faults.count(name) for name in {*faults} if name is not None},
        }
        if scored.any():
            state |= self._scores(record, pair, points[scored], places[scored])
            named = [names[i] for i in np.flatnonzero(scored).tolist()]
            state["mirrored"] = _other_sides(named, pair, places[scored], right[scored])
            of_mutual = scored & mutual & np.isfinite(distance)
            state["mutual"] = {"points": int(of_mutual.sum()), "right": int(right[of_mutual].sum())}
            state["margins"] = _by_margin(found.margin[scored], right[scored], np.isfinite(distance[scored]))
        return Row(columns, attachments, state)

    def _scores(
        self,
        record: Mapping[str, Any],
        pair: PairTruth,
        points: NDArray[np.float64],
        places: NDArray[np.float64],
    ) -> dict[str, Any]:
        """The shares of a pair in the fold: hits of the matches, and of what needs no features."""
        category, many = record["category"] or "", len(points)
        scores: dict[str, Any] = {}
        baselines: dict[str, Any] = {}
        guesses = _guesses(record, pair, points, self._options.seed)
        for kind in self._kinds:
            near = hits(places, pair, kind)
            if near is None:
                continue
            scores[kind] = {category: [counts_of(each, many) for each in near.tolist()]}
            for name, guessed in guesses.items():
                by_chance = hits(guessed, pair, kind)
                assert by_chance is not None  # noqa: S101  the threshold is the pair's
                baselines.setdefault(name, {})[kind] = counts_of(int(by_chance[_AT]), many)
        return {"scores": scores, "baselines": baselines}


def _truth_of(record: Mapping[str, Any], source: Described, target: Described) -> PairTruth:
    given = record["target_points"] or [None] * len(record["source_points"] or [])
    points = np.array([(np.nan, np.nan) if each is None else each for each in given], np.float64).reshape(-1, 2)
    return PairTruth(points, target.size, source.size, record["target_box"], record["source_box"])


def _guesses(
    record: Mapping[str, Any], pair: PairTruth, points: NDArray[np.float64], seed: int
) -> dict[str, NDArray[np.float64]]:
    """(N, 2) places in the target by name of `BASELINES`; those of boxes where both have one."""
    name = sha256(f"{seed}\0{record[PAIR_UNIT]}".encode()).digest()
    draw = np.random.default_rng(int.from_bytes(name[:8], "little"))
    sizes = [np.array(size, np.float64) for size in (pair.source_size, pair.target_size)]
    whole = [0.0, 0.0, *pair.target_size]
    corners = np.array(pair.target_box or whole, np.float64)
    low, high = corners[:2], corners[2:]
    found = {
        "chance": low + draw.random(points.shape) * (high - low),
        "same-place": points / sizes[0] * sizes[1],
    }
    if pair.target_box is not None and pair.source_box is not None:
        box = np.array(pair.source_box, np.float64)
        found["relative-place"] = low + (points - box[:2]) / (box[2:] - box[:2]) * (high - low)
    return found


def _other_sides(
    names: list[str | None], pair: PairTruth, places: NDArray[np.float64], right: NDArray[np.bool_]
) -> dict[str, int]:
    """Of points whose name has another side that is there too: how many, how many right, how many nearer to it."""
    where = {name: i for i, name in enumerate(names) if name}
    both = [(i, where[other]) for name, i in where.items() if (other := mirrored(name)) is not None and other in where]
    if not both:
        return {}
    own, others = (np.array(each) for each in zip(*both, strict=True))
    near, far = (np.linalg.norm(places[own] - pair.points[each], axis=1) for each in (own, others))
    return {"points": len(own), "right": int(right[own].sum()), "swapped": int((far < near).sum())}


def _by_margin(
    margins: NDArray[np.float32], right: NDArray[np.bool_], there: NDArray[np.bool_]
) -> dict[str, dict[str, int]]:
    """By the hundredth of their margins how many points there are, and how many of them are right."""
    found: dict[str, dict[str, int]] = {}
    for margin, is_right in zip(margins[there].tolist(), right[there].tolist(), strict=True):
        counts = found.setdefault(str(int(margin * MARGIN_STEPS)), {"points": 0, "right": 0})
        counts["points"] += 1
        counts["right"] += is_right
    return found


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


STAGES = {MatchesStage.name: MatchesStage}
