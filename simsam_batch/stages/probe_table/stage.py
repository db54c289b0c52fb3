"""The ``probe-table`` stage: from the pixels of every image to scores of every cell; a stage of one shard."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from simsam_batch.errors import ImageError
from simsam_batch.runs.plan import make_plan_of
from simsam_batch.runs.reading import StageRows
from simsam_batch.runs.schema import ARRAY_FIELDS, Needs
from simsam_batch.scores.bootstrap import REPLICATES
from simsam_batch.scores.poisson_bootstrap import BootstrapCounts, interval_of
from simsam_batch.scores.probing import ious, mean_iou, per_image_miou, pixel_accuracy
from simsam_batch.stages.base import CommandStage
from simsam_batch.stages.probe_fits.cells import Cell, cells_of
from simsam_batch.stages.probe_fits.patches import feature_sets
from simsam_batch.stages.probe_maps.rows import COUNTS, REFERENCES
from simsam_batch.stages.probe_maps.settings import ProbeMapsSettings
from simsam_batch.stages.probe_maps.stage import ProbeMapsStage
from simsam_batch.stages.probe_table.rows import PROBE_TABLE_FIELDS, ProbeTableFold
from simsam_batch.stages.subsets.rows import VAL
from simsam_batch.storage import Folder, read_ahead
from simsam_batch.workers.records import Item, RecordWorker, Results, Row, failed

_HELD_BYTES = 256_000_000
_AT_ONCE = 64
_THREADS = 4


@dataclass(frozen=True)
class ProbeTableStage(CommandStage[ProbeMapsSettings]):
    """Scores cells; ``resolved`` holds ``class_names`` and, as the stage ``probe-maps``, ``channels_of``."""

    name = "probe-table"
    components = ()
    fields = PROBE_TABLE_FIELDS
    reads = (ProbeMapsStage.name,)
    unit = "cell"
    needs = Needs(gpu=False, workers=1)

    @classmethod
    def of(cls, options: ProbeMapsSettings, out: Folder, resolved: dict[str, Any]) -> Self:
        """The stage of a run, with a plan of all cells and references."""
        names = [*(cell.name for cell in cls(options, resolved).cells), *REFERENCES]
        plan = make_plan_of(out, pa.table({cls.unit: names}), unit=cls.unit, shard_size=len(names))
        return cls(options, resolved, plan)

    @cached_property
    def cells(self) -> list[Cell]:
        """Of the table."""
        sets = feature_sets(self.resolved["channels_of"], self.options.combine)
        return cells_of(self.options, [each.name for each in sets], len(self.resolved["class_names"]))

    @cached_property
    def fold(self) -> ProbeTableFold:
        """Lays out the table."""
        return ProbeTableFold(list(self.resolved["class_names"]))

    def make_worker(self, beat: Callable[[], None]) -> ProbeTableWorker:
        """Be ready to score."""
        return ProbeTableWorker(self, beat)


class ProbeTableWorker(RecordWorker[None]):
    """Reads the pixels of all scored images once for as many cells as memory holds replicates of."""

    def __init__(self, stage: ProbeTableStage, beat: Callable[[], None]) -> None:
        super().__init__(stage, beat)
        assert stage.plan is not None  # noqa: S101  it is where the scored images are
        self._rows = StageRows(stage.plan.out, ProbeMapsStage.name)
        self._cells, self._fold = stage.cells, stage.fold
        self._numbers = {name: i for i, name in enumerate([*(cell.name for cell in stage.cells), *REFERENCES])}
        self._classes = len(stage.resolved["class_names"])
        self._scores: _Scores | None = None

    def load(self, item: Item) -> None:
        """Nothing of a cell is loaded by itself."""
        del item

    def take(self, item: Item, loaded: None, results: Results) -> None:
        """Score one cell."""
        del loaded
        if self._scores is None:
            with self.timer.step("score"):
                self._scores = self._scored()
        scores, name = self._scores, item.record[self.stage.unit]
        number = self._numbers[name]
        counts = scores.totals[number]
        if not counts.any():
            fault = f"{name}: it could not be fitted; the stage probe-fits says why"
            results.put(item.row, failed(ImageError("not_fitted", fault, "score")))
            return
        cell = self._cells[number] if number < len(self._cells) else None
        columns = {
            "probe": "reference" if cell is None else cell.probe,
            "features": None if cell is None else cell.features,
            "clusters": None if cell is None else cell.clusters or None,
            "fraction": None if cell is None else cell.budget.fraction,
            "seed": None if cell is None else cell.seed,
            "images": scores.images,
            "miou": mean_iou(counts),
            "miou_low": scores.intervals[number][0],
            "miou_high": scores.intervals[number][1],
            "pixel_accuracy": pixel_accuracy(counts),
            "miou_per_image": float(scores.per_image[number]),
        }
        state = self._fold.zero() | {"cells": {name: columns}, "images": scores.images}
        if number == 0:
            state |= {"lines": scores.lines, "differences": scores.differences}
        by_class = [None if math.isnan(value) else value for value in ious(counts).tolist()]
        results.put(item.row, Row({"status": "ok", **columns, "iou_by_class": by_class}, state=state))

    def _scored(self) -> _Scores:
        found = _Scores(len(self._numbers), self._classes)
        size = 8 * REPLICATES * 3 * self._classes
        for together in _parts(self._cells, max(1, _HELD_BYTES // size)):
            drawn = BootstrapCounts(len(together), self._classes)
            for numbers, counts in self._counts():
                part = counts[:, together]
                found.add(part, together)
                drawn.add(part, numbers)
                self._beat()
            found.take(together, drawn, self._cells)
        return found

    def _counts(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Places in the plan and (n, K, 3, C) counts of some scored images at a time, in order."""
        columns = ["image_id", "side", *(field.name for field in ARRAY_FIELDS)]
        scored = ((number, row) for number, row in self._rows.each(columns) if row["side"] == VAL)
        read = read_ahead(
            scored,
            lambda each: (each[0], np.asarray(self._rows.arrays(each[1])[COUNTS], np.int64)),
            threads=_THREADS,
            most=2 * _THREADS,
            name="simsam-counts",
        )
        numbers: list[int] = []
        counts: list[NDArray[np.int64]] = []
        for number, each in read:
            numbers.append(number)
            counts.append(each)
            if len(numbers) == _AT_ONCE:
                yield np.array(numbers), np.stack(counts)
                numbers, counts = [], []
        if numbers:
            yield np.array(numbers), np.stack(counts)


class _Scores:
    """What all cells came to.

    Attributes:
        images: scored.
        totals: (K, 3, C) pixels.
        intervals: (K, 2) ends of the 95 % intervals.
        lines: intervals of means over seeds.
        differences: between feature sets, with their intervals.
    """

    def __init__(self, cells: int, classes: int) -> None:
        self.images = 0
        self.totals = np.zeros((cells, 3, classes), np.int64)
        self._own_sums, self._own_images = np.zeros(cells), np.zeros(cells)
        self.intervals = np.full((cells, 2), np.nan)
        self.lines: list[dict[str, Any]] = []
        self.differences: list[dict[str, Any]] = []

    @property
    def per_image(self) -> NDArray[np.float64]:
        """(K,) mean over images of each one's mean IoU over the classes that it holds."""
        means: NDArray[np.float64] = self._own_sums / np.maximum(self._own_images, 1)
        return means

    def add(self, counts: NDArray[np.int64], together: Sequence[int]) -> None:
        """Add up what some cells have of each of some images, (n, cells, 3, C)."""
        own = per_image_miou(counts)
        self._own_sums[together] += np.nansum(own, axis=0)
        self._own_images[together] += (~np.isnan(own)).sum(axis=0)

    def take(self, together: Sequence[int], drawn: BootstrapCounts, cells: Sequence[Cell]) -> None:
        """Intervals of some cells, of their means over seeds, and of what lies between feature sets."""
        self.images, self.totals[together] = drawn.images, drawn.totals
        replicates = {number: drawn.replicates_of(place) for place, number in enumerate(together)}
        means: dict[tuple[Any, ...], list[int]] = {}
        for number, values in replicates.items():
            self.intervals[number] = interval_of(values) or np.nan
            if number < len(cells) and self.totals[number].any():
                cell = cells[number]
                means.setdefault((cell.probe, cell.features, cell.clusters, cell.budget.fraction), []).append(number)
        averaged = {of: np.mean([replicates[number] for number in numbers], axis=0) for of, numbers in means.items()}
        points = {of: np.mean([mean_iou(self.totals[n]) for n in numbers]) for of, numbers in means.items()}
        first: dict[tuple[Any, ...], tuple[Any, ...]] = {}
        for of, values in averaged.items():
            probe, features, clusters, fraction = of
            line = {"probe": probe, "clusters": clusters or None, "fraction": fraction, "features": features}
            self.lines.append({**line, "interval": interval_of(values)})
            other = first.setdefault((probe, clusters, fraction), of)
            if other != of:
                between = {"less": other[1], "difference": float(points[of] - points[other])}
                self.differences.append({**line, **between, "interval": interval_of(values - averaged[other])})


def _parts(cells: Sequence[Cell], most: int) -> list[list[int]]:
    """The numbers of cells in parts of at most so many, if those that belong together are fewer; references last.

    Cells that are compared with each other, or averaged, go together.
    """
    groups: dict[tuple[Any, ...], list[int]] = {}
    for number, cell in enumerate(cells):
        groups.setdefault((cell.probe, cell.clusters, cell.budget.fraction), []).append(number)
    references = list(range(len(cells), len(cells) + len(REFERENCES)))
    parts: list[list[int]] = []
    for group in [*groups.values(), references]:
        if parts and len(parts[-1]) + len(group) <= most:
            parts[-1] += group
        else:
            parts.append(list(group))
    return parts


STAGES = {ProbeTableStage.name: ProbeTableStage}
