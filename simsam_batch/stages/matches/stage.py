"""The ``matches`` stage: points of one image in another, by stored features; its records are pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from simsam_batch import images
from simsam_batch.catalog import PAIR_UNIT
from simsam_batch.correspondence.matching import Matches, best_buddies, likeness, match, match_all
from simsam_batch.runs.plan import Plan
from simsam_batch.runs.schema import Attachment
from simsam_batch.settings import Numbers
from simsam_batch.stages.base import CommandStage
from simsam_batch.stages.features.stage import FeaturesStage
from simsam_batch.stages.matches.described import Described, DescribedImages
from simsam_batch.stages.matches.fused import fused_features
from simsam_batch.stages.matches.given import Given
from simsam_batch.stages.matches.pairs import kinds_of
from simsam_batch.stages.matches.rows import MATCHES_FIELDS, MatchesFold
from simsam_batch.stages.matches.scoring import Compared, state_of_failed
from simsam_batch.stages.matches.settings import Context, MatchesSettings, Matching
from simsam_batch.workers.models import compute_device
from simsam_batch.workers.records import Item, RecordWorker, Results, Row

_FLAT = 1e-6
"""In cosines: patches that differ by less are alike but for rounding."""


@dataclass(frozen=True)
class MatchesStage(CommandStage[MatchesSettings]):
    """Matches pairs.

    ``resolved`` holds ``channels_of`` the stored features; under ``published`` the name of the thresholds that figures
    of the set were published with, or None; and under ``fused``, if there are any, what identifies the features of
    other runs.
    """

    name = "matches"
    components = (Numbers, Context, Matching)
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

    def state_of_failed(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """Its points are wrong."""
        return self.fold.zero() | state_of_failed(row, kinds_of(self.resolved["published"]))


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
        fused = fused_features(options.fuse, stage.resolved.get("fused", []))
        context = options.context == "log-bins"
        self._images = DescribedImages(plan.out, names, resize, self.device, context=context, fused=fused)
        self._kinds = kinds_of(stage.resolved["published"])

    def ahead(self) -> tuple[int, int]:
        """Few: a pair's descriptors may be as large as hundreds of photographs."""
        threads, _ = super().ahead()
        return threads, threads

    def load(self, item: Item) -> Loaded:
        """Read the features of both images."""
        return self._images.of(item.record["source_record"]), self._images.of(item.record["target_record"])

    def take(self, item: Item, loaded: Loaded, results: Results) -> None:
        """Match a pair."""
        source, target = loaded
        with self.timer.step("match"), torch.inference_mode():
            seen_as = self._seen_as(loaded)
            given = self._given(item.record, loaded, seen_as)
            inside, seen = source.grid.holds(given.points), source.grid.covers(given.points)
            found = self._found(loaded, given, seen, seen_as)
        with self.timer.step("score"):
            faults = [
                "outside" if not is_inside else "unseen" if not is_seen else "flat" if is_flat else None
                for is_inside, is_seen, is_flat in zip(inside, seen, found.spread < _FLAT, strict=True)
            ]
            places = target.grid.points_of(found.cells)
            places[[fault is not None for fault in faults]] = np.nan
            compared = Compared(item.record, given, places, inside, (source.size, target.size), self._kinds)
            results.put(item.row, self._row(loaded, found, faults, compared, seen_as))

    def _seen_as(self, loaded: Loaded) -> torch.Tensor:
        """The descriptors of the source: those of its mirror image, if these are known and like the target more."""
        source, target = loaded
        if source.mirrored is None:
            return source.descriptors
        both = (source.descriptors, source.mirrored)
        return max(both, key=lambda descriptors: likeness(descriptors, target.descriptors))

    def _found(self, loaded: Loaded, given: Given, seen: NDArray[np.bool_], seen_as: torch.Tensor) -> Matches:
        """The matches of points; of those that were not seen some or other.

        What is on the left of a mirrored thing looks like what is on its right: so of a point whose name has a side
        the other side's point is looked for, and where the source does not show that, the point as it is.
        """
        source, target = loaded

        def matched(descriptors: torch.Tensor, points: NDArray[np.float64]) -> Matches:
            return match(
                descriptors,
                target.descriptors,
                source.grid.cells_of(np.where(seen[:, None], points, 0.0)),
                radius=self._options.window,
                temperature=self._options.temperature,
                keep=self._options.maps != "none",
            )

        if seen_as is source.descriptors:
            return matched(seen_as, given.points)
        other_sides, known = given.on_the_other_side()
        known &= source.grid.covers(other_sides)
        found = matched(seen_as, np.where(known[:, None], other_sides, given.points))
        return found if known.all() else found.with_those_of(matched(source.descriptors, given.points), ~known)

    def _given(self, record: dict[str, Any], loaded: Loaded, seen_as: torch.Tensor) -> Given:
        """The points of a pair; of one without any those that choose each other."""
        if record["source_points"] is not None:
            return Given.of(record)
        source, target = loaded
        cells = best_buddies(seen_as, target.descriptors, self._options.free_points)
        return Given.at(source.grid.points_of(cells.astype(np.float64)))

    def _dense(self, loaded: Loaded, seen_as: torch.Tensor) -> dict[str, Attachment]:
        """Where every patch of the source is found in the target, in its pixels, and how sure that is."""
        source, target = loaded
        with self.timer.step("dense"), torch.inference_mode():
            found = match_all(
                seen_as,
                target.descriptors,
                radius=self._options.window,
                temperature=self._options.temperature,
            )
        shape = source.grid.shape
        places = target.grid.points_of(found.cells).astype(np.float32)
        return {
            "dense_places": places.reshape(*shape, 2),
            "dense_similarity": found.similarity.astype(np.float16).reshape(shape),
            "dense_mutual": (found.returned <= self._options.mutual_within).reshape(shape),
        }

    def _row(
        self,
        loaded: Loaded,
        found: Matches,
        faults: Sequence[str | None],
        compared: Compared,
        seen_as: torch.Tensor,
    ) -> Row:
        source, target = loaded
        identical, mutual = source.sha256 == target.sha256, found.returned <= self._options.mutual_within
        is_turned = seen_as is source.mirrored
        columns = {
            "status": "ok",
            "source_size": source.size,
            "target_size": target.size,
            "source_sha256": source.sha256,
            "target_sha256": target.sha256,
            "identical": identical,
            "mirrored": is_turned,
            "points": [
                compared.point(i) | {"fault": fault} | (_how_sure(found, mutual, i) if fault is None else {})
                for i, fault in enumerate(faults)
            ],
            **compared.columns(),
        }
        attachments: dict[str, Attachment] = {}
        if found.maps is not None:
            attachments["similarity"] = found.maps.astype(np.float16)
        if self._options.dense:
            attachments |= self._dense(loaded, seen_as)
        alike = {"identical": int(identical), "turned": int(is_turned)}
        state = self.stage.fold.zero() | alike | compared.counts_of(faults)
        return Row(columns, attachments, state | compared.state(self._options.seed, mutual, found.margin))


def _how_sure(found: Matches, mutual: NDArray[np.bool_], i: int) -> dict[str, Any]:
    numbers = {"similarity": found.similarity[i], "margin": found.margin[i], "returned": found.returned[i]}
    return {name: float(value) for name, value in numbers.items()} | {"mutual": bool(mutual[i])}


STAGES = {MatchesStage.name: MatchesStage}
