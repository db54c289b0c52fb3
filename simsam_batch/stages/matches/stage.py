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
from simsam_batch.correspondence.matching import Matches, best_buddies, match, match_all
from simsam_batch.runs.plan import Plan
from simsam_batch.runs.schema import Attachment
from simsam_batch.settings import Numbers
from simsam_batch.stages.base import CommandStage
from simsam_batch.stages.features.stage import FeaturesStage
from simsam_batch.stages.matches.described import Described, DescribedImages
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

    ``resolved`` holds ``channels_of`` the stored features, and under ``published`` the name of the thresholds that
    figures of the set were published with, or None.
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
        self._images = DescribedImages(plan.out, names, resize, self.device, context=options.context == "log-bins")
        self._kinds = kinds_of(stage.resolved["published"])

    def load(self, item: Item) -> Loaded:
        """Read the features of both images."""
        return self._images.of(item.record["source_record"]), self._images.of(item.record["target_record"])

    def take(self, item: Item, loaded: Loaded, results: Results) -> None:
        """Match a pair."""
        source, target = loaded
        with self.timer.step("match"), torch.inference_mode():
            given = self._given(item.record, loaded)
            inside, seen = source.grid.holds(given.points), source.grid.covers(given.points)
            found = match(
                source.descriptors,
                target.descriptors,
                source.grid.cells_of(np.where(seen[:, None], given.points, 0.0)),
                radius=self._options.window,
                temperature=self._options.temperature,
                keep=self._options.maps != "none",
            )
        with self.timer.step("score"):
            faults = [
                "outside" if not is_inside else "unseen" if not is_seen else "flat" if is_flat else None
                for is_inside, is_seen, is_flat in zip(inside, seen, found.spread < _FLAT, strict=True)
            ]
            places = target.grid.points_of(found.cells)
            places[[fault is not None for fault in faults]] = np.nan
            compared = Compared(item.record, given, places, inside, (source.size, target.size), self._kinds)
            results.put(item.row, self._row(loaded, found, faults, compared))

    def _given(self, record: dict[str, Any], loaded: Loaded) -> Given:
        """The points of a pair; of one without any those that choose each other."""
        if record["source_points"] is not None:
            return Given.of(record)
        source, target = loaded
        cells = best_buddies(source.descriptors, target.descriptors, self._options.free_points)
        return Given.at(source.grid.points_of(cells.astype(np.float64)))

    def _dense(self, loaded: Loaded) -> dict[str, Attachment]:
        """Where every patch of the source is found in the target, in its pixels, and how sure that is."""
        source, target = loaded
        with self.timer.step("dense"), torch.inference_mode():
            found = match_all(
                source.descriptors,
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

    def _row(self, loaded: Loaded, found: Matches, faults: Sequence[str | None], compared: Compared) -> Row:
        source, target = loaded
        identical, mutual = source.sha256 == target.sha256, found.returned <= self._options.mutual_within
        columns = {
            "status": "ok",
            "source_size": source.size,
            "target_size": target.size,
            "source_sha256": source.sha256,
            "target_sha256": target.sha256,
            "identical": identical,
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
            attachments |= self._dense(loaded)
        state = self.stage.fold.zero() | {"identical": int(identical)} | compared.counts_of(faults)
        return Row(columns, attachments, state | compared.state(self._options.seed, mutual, found.margin))


def _how_sure(found: Matches, mutual: NDArray[np.bool_], i: int) -> dict[str, Any]:
    numbers = {"similarity": found.similarity[i], "margin": found.margin[i], "returned": found.returned[i]}
    return {name: float(value) for name, value in numbers.items()} | {"mutual": bool(mutual[i])}


STAGES = {MatchesStage.name: MatchesStage}
