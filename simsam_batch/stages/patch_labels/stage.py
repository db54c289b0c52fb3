"""The ``patch-labels`` stage: how many pixels of each true class every patch of the features has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simsam_batch import images
from simsam_batch.regions import pixel_index
from simsam_batch.runs.schema import FAILURE, Needs, Shard
from simsam_batch.settings import TrueClasses
from simsam_batch.stages.base import CommandStage
from simsam_batch.stages.features.stage import FeaturesStage
from simsam_batch.stages.patch_labels.canvas import UNCOUNTED, Canvas, canvas_of, truth_on
from simsam_batch.stages.patch_labels.rows import PATCH_LABELS_FIELDS, PatchLabelsFold
from simsam_batch.stages.patch_labels.settings import LabelledSettings, ScoredPixels
from simsam_batch.workers.records import EarlierStage, Item, RecordWorker, Results, Row
from simsam_batch.workers.truth import TruthReader

LABELS, VOID = "labels", "void"
"""The arrays beside a row."""

GRID = ("width", "height", "grid_h", "grid_w", "patch")
"""Columns of the features that say where their patches lie."""


@dataclass(frozen=True)
class PatchLabelsStage(CommandStage[LabelledSettings]):
    """``resolved`` holds under ``truth`` what `simsam_batch.stages.true_classes.truth_of` says."""

    name = "patch-labels"
    components = (TrueClasses, ScoredPixels)
    fields = PATCH_LABELS_FIELDS
    reads = (FeaturesStage.name,)
    needs = Needs(gpu=False)

    @cached_property
    def fold(self) -> PatchLabelsFold:
        """Counts pixels."""
        return PatchLabelsFold()

    def make_worker(self, beat: Callable[[], None]) -> PatchLabelsWorker:
        """Be ready for shards."""
        return PatchLabelsWorker(self, beat)


Found = tuple[NDArray[np.int32] | None, str | None]
"""Labels of patches, and why there are none."""


class PatchLabelsWorker(RecordWorker[Found]):
    """Reads truth, and counts it by patch."""

    def __init__(self, stage: PatchLabelsStage, beat: Callable[[], None]) -> None:
        super().__init__(stage, beat)
        assert stage.plan is not None  # noqa: S101  it is where the features are
        self._features = EarlierStage(stage.plan.out, FeaturesStage.name)
        self._truth = LabelReader(stage.resolved["truth"], self.limits, stage.options)

    def items(self, shards: Iterator[Shard]) -> Iterator[Item]:
        """The images, each with its row of the stage ``features``."""
        return self._features.items(shards, lambda there: there.rows([*FAILURE, *GRID]).to_pylist())

    def load(self, item: Item) -> Found:
        """Count the truth of an image that did not fail before."""
        row = item.beside
        if row["status"] != "ok":
            return None, None
        truth, canvas, fault = self._truth.read(item.record["truth_uri"], row)
        return (None if truth is None else count_by_patch(truth, canvas.index, row["grid_w"])), fault

    def take(self, item: Item, loaded: Found, results: Results) -> None:
        """The row of an image."""
        labels, fault = loaded
        if item.beside["status"] != "ok":
            results.put(item.row, Row({name: item.beside[name] for name in FAILURE}))
        elif labels is None:
            state = self.stage.fold.zero() | {"truth_errors": int(fault is not None)}
            results.put(item.row, Row({"status": "ok", "truth_error": fault}, state=state))
        else:
            results.put(item.row, self._row(labels, item.beside["grid_h"] * item.beside["grid_w"]))

    def _row(self, labels: NDArray[np.int32], patches: int) -> Row:
        void = labels[:, 1] == UNCOUNTED
        classes, places = np.unique(labels[~void, 1], return_inverse=True)
        pixels = np.zeros(len(classes), np.int64)
        np.add.at(pixels, places, labels[~void, 2])
        unscored = int(labels[void, 2].sum())
        columns = {"status": "ok", "classes": classes, "class_pixels": pixels, "void_pixels": unscored}
        counted = dict(zip(map(str, classes.tolist()), pixels.tolist(), strict=True))
        state = {"images_with_truth": 1, "truth_errors": 0, "void_pixels": unscored, "pixels_by_class": counted}
        unscored_by_patch = np.zeros(patches, np.int32)
        unscored_by_patch[labels[void, 0]] = labels[void, 2]
        return Row(columns, {LABELS: labels[~void], VOID: unscored_by_patch}, state)


class LabelReader:
    """Reads truth as class ids, -1 where pixels do not count.

    Args:
        truth: what the stage's record says, as for `simsam_batch.workers.truth.TruthReader`.
        limits: on the files.
        settings: which pixels count, and the resize.
    """

    def __init__(self, truth: dict[str, Any], limits: images.ImageLimits, settings: LabelledSettings) -> None:
        self._reader, self._ignore = TruthReader(truth, limits), truth.get("ignore_label")
        self._resize, self._size = images.parse_resize(settings.resize), settings.truth_size
        self._void = 0 if settings.void == "background" else UNCOUNTED

    def read(self, uri: str | None, row: dict[str, Any]) -> tuple[NDArray[np.int32] | None, Canvas, str | None]:
        """The ids of an image by its row of the features, or None and, if that is a fault, the reason.

        They lie on the canvas, which is given in either case.
        """
        size = row["height"], row["width"]
        canvas = canvas_of(row, self._resize, self._size)
        found, fault = self._reader.read(uri, size)
        if found is None:
            return None, canvas, fault
        ids = np.full(size, UNCOUNTED, np.int32)
        part = self._reader.part(size)
        ids[part] = found
        if self._ignore is not None:
            ids[part][found == self._ignore] = self._void
        return truth_on(ids, canvas, self._resize, self._size), canvas, None


def count_by_patch(ids: NDArray[np.int32], index: pixel_index.UpsampleIndex, across: int) -> NDArray[np.int32]:
    """(M, 3) int32: patch, id and number of pixels, of all that have some; ascending.

    Args:
        ids: (H, W), -1 for pixels that do not count, which are counted under -1.
        index: the patch row of every pixel row, and the patch column of every pixel column.
        across: patches beside each other.
    """
    present = np.flatnonzero(np.bincount(ids.ravel() - UNCOUNTED)) + UNCOUNTED
    place = np.zeros(int(present[-1]) - UNCOUNTED + 1, np.int64)
    place[present - UNCOUNTED] = np.arange(len(present))
    patches = index[0][:, None] * across + index[1]
    counts = np.bincount((patches * len(present) + place[ids - UNCOUNTED]).ravel())
    there = np.flatnonzero(counts)
    return np.stack([there // len(present), present[there % len(present)], counts[there]], axis=1).astype(np.int32)


STAGES = {PatchLabelsStage.name: PatchLabelsStage}
