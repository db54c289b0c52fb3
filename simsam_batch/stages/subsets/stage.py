"""The ``subsets`` stage: nested draws of the train images for every budget of labels; a stage of one shard."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from simsam_batch.errors import ImageError, RunError
from simsam_batch.runs.committed import CommittedShard
from simsam_batch.runs.ledger import Ledger
from simsam_batch.runs.plan import load_plan, make_plan_of
from simsam_batch.runs.reading import StageRows
from simsam_batch.runs.schema import Needs
from simsam_batch.settings import Numbers
from simsam_batch.stages.base import CommandStage
from simsam_batch.stages.patch_labels.stage import PatchLabelsStage
from simsam_batch.stages.subsets.rows import SUBSETS_FIELDS, TRAIN, VAL, SubsetsFold
from simsam_batch.stages.subsets.selection import Records, images_of_share, order_of, rare_first, roles_of
from simsam_batch.stages.subsets.settings import Budgets, Selection, SubsetsSettings
from simsam_batch.storage import Folder
from simsam_batch.workers.records import Item, RecordWorker, Results, Row, failed

_RECORDS = "records"


@dataclass(frozen=True, slots=True)
class Budget:
    """A share of the train images.

    Attributes:
        fraction: the share.
        draw: which draw of it; 0 for the whole, of which there is one.
    """

    fraction: float
    draw: int

    @property
    def name(self) -> str:
        """Of its record."""
        return f"{self.fraction:g} draw {self.draw}"


def budgets_of(settings: Budgets) -> list[Budget]:
    """The budgets that the settings ask for, small ones first."""
    return [
        Budget(fraction, draw)
        for fraction in settings.fractions
        for draw in range(1 if fraction == 1 or settings.subset == "head" else settings.seeds)
    ]


@dataclass(frozen=True)
class SubsetsStage(CommandStage[SubsetsSettings]):
    """Draws subsets; ``resolved`` holds under ``classes`` how many classes there are."""

    name = "subsets"
    components = (Numbers, Selection, Budgets)
    fields = SUBSETS_FIELDS
    reads = (PatchLabelsStage.name,)
    unit = "subset"
    needs = Needs(gpu=False, workers=1)

    @classmethod
    def of(cls, options: SubsetsSettings, out: Folder, classes: int) -> Self:
        """The stage of a run, with a plan of the budgets that the settings ask for."""
        budgets = budgets_of(options)
        columns = {
            cls.unit: [TRAIN, VAL, *(budget.name for budget in budgets)],
            "of_fraction": [None, None, *(budget.fraction for budget in budgets)],
            "of_draw": [None, None, *(budget.draw for budget in budgets)],
        }
        plan = make_plan_of(out, pa.table(columns), unit=cls.unit, shard_size=len(budgets) + 2)
        return cls(options, {"classes": classes}, plan)

    @cached_property
    def fold(self) -> SubsetsFold:
        """Keeps what each holds."""
        return SubsetsFold()

    def make_worker(self, beat: Callable[[], None]) -> SubsetsWorker:
        """Be ready to draw."""
        return SubsetsWorker(self, beat)


class SubsetsWorker(RecordWorker[None]):
    """Reads once which images there are and which classes they hold, and draws each subset."""

    def __init__(self, stage: SubsetsStage, beat: Callable[[], None]) -> None:
        super().__init__(stage, beat)
        assert stage.plan is not None  # noqa: S101  it is where the labels are
        self._out, self._options, self._classes = stage.plan.out, stage.options, int(stage.resolved["classes"])
        self._known: _Labelled | None = None

    def load(self, item: Item) -> None:
        """Nothing of a subset is loaded by itself."""
        del item

    def take(self, item: Item, loaded: None, results: Results) -> None:
        """Draw one subset."""
        del loaded
        if self._known is None:
            self._known = _labelled(self._out, self._options, self._classes)
        known, name, fraction = self._known, item.record[self.stage.unit], item.record["of_fraction"]
        if fraction is None:
            rows = known.train if name == TRAIN else known.val
        else:
            order = known.train if self._options.subset == "head" else known.drawn(item.record["of_draw"])
            rows = np.sort(order[: images_of_share(fraction, len(known.train))])
        if not len(rows):
            side = VAL if name == VAL else TRAIN
            fault = f"{side}: no image of it has features and truth"
            results.put(item.row, failed(ImageError("no_image", fault, "draw")))
            return
        pixels = known.pixels_of(rows)
        absent = np.flatnonzero((known.pixels_of(known.train) > 0) & (pixels == 0))
        columns = {
            "status": "ok",
            "fraction": fraction,
            "draw": item.record["of_draw"],
            "images": len(rows),
            "class_pixels": pixels,
            "absent": absent,
        }
        state = {"images_of_subset": {name: len(rows)}, "classes_absent": {name: len(absent)}}
        results.put(item.row, Row(columns, {_RECORDS: rows}, state))


class _Labelled:
    """The images of a run that have labels, and what each holds.

    Attributes:
        train, val: places in the plan, ascending.
    """

    def __init__(
        self, train: Records, val: Records, ids: list[str], pixels: NDArray[np.int64], options: SubsetsSettings
    ) -> None:
        self.train, self.val, self._ids, self._pixels, self._options = train, val, ids, pixels, options

    def pixels_of(self, rows: Records) -> NDArray[np.int64]:
        """(C,) pixels of each class in some images."""
        total: NDArray[np.int64] = self._pixels[rows].sum(axis=0)
        return total

    def drawn(self, draw: int) -> Records:
        """The train images in the order of a draw: a budget takes the first ones."""
        seed = (self._options.seed + draw) % 2**64
        order = order_of([self._ids[row] for row in self.train.tolist()], seed)
        if self._options.subset == "stratified":
            order = rare_first(order, self._pixels[self.train] > 0)
        return self.train[order]


def _labelled(out: Folder, options: SubsetsSettings, classes: int) -> _Labelled:
    plan = load_plan(out)
    if plan is None:
        raise RunError(f"{out.url}: the run's plan has gone. To mend it: restore run.json")
    roles = roles_of(plan, options)
    pixels = np.zeros((plan.records, classes), np.int64)
    there = np.zeros(plan.records, np.bool_)
    ids: list[str] = []
    for number, row in StageRows(out, PatchLabelsStage.name).each(["image_id", "classes", "class_pixels"]):
        ids.append(row["image_id"])
        if row["classes"]:
            there[number] = True
            pixels[number, row["classes"]] = row["class_pixels"]
    return _Labelled(roles.train[there[roles.train]], roles.val[there[roles.val]], ids, pixels, options)


class Subsets:
    """The subsets of a run, as they are committed.

    Attributes:
        train, val: places in the plan of the images with labels that are fitted on, and of those that are scored.
        of: by budget those of the images fitted on.
        train_pixels: (C,) pixels of each class in all train images.

    Raises:
        RunError: they are missing or damaged.
    """

    def __init__(self, out: Folder) -> None:
        self.of: dict[Budget, Records] = {}
        ledger = Ledger(out, SubsetsStage.name)
        for manifest in ledger.manifests():
            shard = CommittedShard(out, manifest)
            rows = shard.rows([SubsetsStage.unit, "fraction", "draw", "class_pixels"]).to_pylist()
            for row, held in zip(rows, shard.attachments(), strict=True):
                records = np.asarray(held[_RECORDS], np.int64)
                if row["fraction"] is not None:
                    self.of[Budget(row["fraction"], row["draw"])] = records
                elif row[SubsetsStage.unit] == TRAIN:
                    self.train, self.train_pixels = records, np.array(row["class_pixels"], np.int64)
                else:
                    self.val = records


def holds(records: Records, record: int) -> bool:
    """Whether a place in the plan is among some that ascend."""
    place = int(np.searchsorted(records, record))
    return place < len(records) and int(records[place]) == record


STAGES = {SubsetsStage.name: SubsetsStage}
