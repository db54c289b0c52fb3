"""The ``patch-labels`` stage: how many pixels of each true class every patch of the features has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simsam_batch import images
from simsam_batch.regions import masks
from simsam_batch.runs.schema import Needs, Shard
from simsam_batch.settings import TrueClasses
from simsam_batch.stages.base import CommandStage
from simsam_batch.stages.features.stage import FeaturesStage
from simsam_batch.stages.patch_labels.rows import PATCH_LABELS_FIELDS, PatchLabelsFold
from simsam_batch.stages.patch_labels.settings import LabelledSettings
from simsam_batch.workers.records import FAILURE, EarlierStage, Item, RecordWorker, Results, Row
from simsam_batch.workers.truth import TruthReader

LABELS, VOID = "labels", "void"
"""The arrays beside a row."""

GRID = ("width", "height", "grid_h", "grid_w", "patch")
"""Columns of the features that say where their patches lie."""

_UNCOUNTED = -1


@dataclass(frozen=True)
class PatchLabelsStage(CommandStage[LabelledSettings]):
    """``resolved`` holds under ``truth`` what `simsam_batch.stages.true_classes.truth_of` says."""

    name = "patch-labels"
    components = (TrueClasses,)
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
        self._resize = images.parse_resize(stage.options.resize)
        self._truth = LabelReader(stage.resolved["truth"], self.limits)

    def items(self, shards: Iterator[Shard]) -> Iterator[Item]:
        """The images, each with its row of the stage ``features``."""
        return self._features.items(shards, lambda there: there.rows([*FAILURE, *GRID]).to_pylist())

    def load(self, item: Item) -> Found:
        """Count the truth of an image that did not fail before."""
        row = item.beside
        if row["status"] != "ok":
            return None, None
        truth, fault = self._truth.read(item.record["truth_uri"], (row["height"], row["width"]))
        return (None if truth is None else count_by_patch(truth, patch_index(row, self._resize), row["grid_w"])), fault

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
        void = labels[:, 1] == _UNCOUNTED
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
    """Reads truth as class ids (H, W) int32, -1 where pixels do not count.

    Args:
        truth: what the stage's record says, as for `simsam_batch.workers.truth.TruthReader`.
        limits: on the files.
    """

    def __init__(self, truth: dict[str, Any], limits: images.ImageLimits) -> None:
        self._reader, self._ignore = TruthReader(truth, limits), truth.get("ignore_label")

    def read(self, uri: str | None, size: tuple[int, int]) -> tuple[NDArray[np.int32] | None, str | None]:
        """The ids of an image of a size (height, width), or None and, if that is a fault, the reason."""
        found, fault = self._reader.read(uri, size)
        if found is None:
            return None, fault
        ids = np.full(size, _UNCOUNTED, np.int32)
        part = self._reader.part(size)
        ids[part] = found
        if self._ignore is not None:
            ids[part][found == self._ignore] = _UNCOUNTED
        return ids, None


def patch_index(row: dict[str, Any], resize: images.Resize) -> masks.UpsampleIndex:
    """The patch under every pixel of an image, by its row of the features."""
    full, grid = (row["height"], row["width"]), (row["grid_h"], row["grid_w"])
    return masks.upsample_index(grid, row["patch"], images.working_size(full, resize), full)


def count_by_patch(ids: NDArray[np.int32], index: masks.UpsampleIndex, across: int) -> NDArray[np.int32]:
    """(M, 3) int32: patch, id and number of pixels, of all that have some; ascending.

    Args:
        ids: (H, W), -1 for pixels that do not count, which are counted under -1.
        index: the patch row of every pixel row, and the patch column of every pixel column.
        across: patches beside each other.
    """
    present = np.flatnonzero(np.bincount(ids.ravel() - _UNCOUNTED)) + _UNCOUNTED
    place = np.zeros(int(present[-1]) - _UNCOUNTED + 1, np.int64)
    place[present - _UNCOUNTED] = np.arange(len(present))
    patches = index[0][:, None] * across + index[1]
    counts = np.bincount((patches * len(present) + place[ids - _UNCOUNTED]).ravel())
    there = np.flatnonzero(counts)
    return np.stack([there // len(present), present[there % len(present)], counts[there]], axis=1).astype(np.int32)


STAGES = {PatchLabelsStage.name: PatchLabelsStage}
