"""The ``transfer`` stage: every patch takes the labels of the exemplars' most similar ones; and its command's steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from simsam_batch import images
from simsam_batch.catalog import center_crops, truth_kind
from simsam_batch.correspondence.voting import votes
from simsam_batch.errors import ImageError, RunError, SettingsError
from simsam_batch.regions import pixel_index
from simsam_batch.regions.upsampling import classes_between_patches
from simsam_batch.runs.committed import CommittedShard
from simsam_batch.runs.plan import Plan, row_numbers
from simsam_batch.runs.schema import FAILURE, Shard
from simsam_batch.scores.bootstrap import bin_of
from simsam_batch.scores.confusion import as_counts, confusion
from simsam_batch.settings import Numbers, TrueClasses
from simsam_batch.stages.base import CommandStage
from simsam_batch.stages.features.stage import STEPS as FEATURES_STEPS
from simsam_batch.stages.features.stage import FeaturesStage
from simsam_batch.stages.matches.described import DescribedImages, completed, descriptors_of, facing
from simsam_batch.stages.matches.settings import Context
from simsam_batch.stages.patch_labels.canvas import UNCOUNTED, canvas_of
from simsam_batch.stages.patch_labels.stage import GRID, count_by_patch
from simsam_batch.stages.segments import segments_of
from simsam_batch.stages.steps import Job, Stages
from simsam_batch.stages.transfer.rows import TRANSFER_FIELDS, TransferFold
from simsam_batch.stages.transfer.settings import Transfer, TransferSettings
from simsam_batch.stages.true_classes import names_of, truth_of
from simsam_batch.workers.models import compute_device
from simsam_batch.workers.records import EarlierStage, Item, RecordWorker, Results, Row
from simsam_batch.workers.truth import TruthReader


@dataclass(frozen=True)
class TransferStage(CommandStage[TransferSettings]):
    """Carries labels over.

    ``resolved`` holds ``channels_of`` the stored features; ``truth``, as that of the stage ``patch-labels``, or of the
    kind ``object``; ``classes``, how many there are; and under ``exemplars`` their places in the plan.
    """

    name = "transfer"
    components = (Numbers, TrueClasses, Context, Transfer)
    fields = TRANSFER_FIELDS
    keeps_columns = True
    reads = (FeaturesStage.name,)

    @cached_property
    def fold(self) -> TransferFold:
        """Merges confusions."""
        truth = self.resolved["truth"]
        names = list(truth["classes"] or names_of(None)[: self.resolved["classes"]])
        return TransferFold(names, masks=truth["kind"] == "object")

    def make_worker(self, beat: Callable[[], None]) -> TransferWorker:
        """Read the exemplars and be ready for shards."""
        return TransferWorker(self, beat)


@dataclass(frozen=True, slots=True)
class Loaded:
    """An image that labels are carried over to.

    Attributes:
        descriptors: (Hp, Wp, D) of unit length.
        truth: (H, W) class ids, -1 where pixels do not count; None if it is not scored.
        truth_error: why there is none.
    """

    descriptors: torch.Tensor
    truth: NDArray[np.int32] | None
    truth_error: str | None


class TransferWorker(RecordWorker[Loaded | None]):
    """Labels one image after the other by the patches of the exemplars."""

    def __init__(self, stage: TransferStage, beat: Callable[[], None]) -> None:
        super().__init__(stage, beat, torch.device(compute_device(stage.options.device)))
        plan: Plan | None = stage.plan
        assert plan is not None  # noqa: S101  it is where the features are
        self._options, self._classes = stage.options, int(stage.resolved["classes"])
        self._masks = stage.resolved["truth"]["kind"] == "object"
        self._resize = images.parse_resize(stage.options.resize)
        self._names = list(stage.resolved["channels_of"])
        self._context = stage.options.context == "log-bins"
        self._features = EarlierStage(plan.out, FeaturesStage.name)
        self._truth = TruthReader(stage.resolved["truth"], self.limits)
        self._ignore = stage.resolved["truth"].get("ignore_label")
        self._exemplars = _ids_of(plan, stage.resolved["exemplars"])
        self._bank, self._shares = self._bank_of(plan, stage.resolved["exemplars"])

    def _bank_of(self, plan: Plan, exemplars: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """(M, D) patches of the exemplars that have truth, and (M, C) the share of each class in them.

        Raises:
            RunError: an exemplar has no features, or no truth that can be used.
        """
        described = DescribedImages(plan.out, self._names, self._resize, self.device, context=self._context)
        patches, shares = [], []
        for record in exemplars:
            shard, place = plan.place_of(record)
            about = plan.shard(shard).records.slice(place, 1).to_pylist()[0]
            try:
                found = described.of(record)
            except ImageError as error:
                raise RunError(f"exemplars: {error}. To mend it: name another image, in another OUT") from error
            grid = found.grid
            row = {"width": grid.size[1], "height": grid.size[0], "patch": grid.patch}
            row |= {"grid_h": grid.shape[0], "grid_w": grid.shape[1]}
            truth, fault = self._ids(about["truth_uri"], row)
            if truth is None:
                raise RunError(
                    f"exemplars: the truth of {about['image_id']} cannot be used: {fault}. To mend it: restore it, or "
                    "name another image, in another OUT"
                )
            counts = count_by_patch(truth, canvas_of(row, self._resize, "native").index, grid.shape[1])
            counts = counts[counts[:, 1] >= 0]
            histogram = np.zeros((grid.shape[0] * grid.shape[1], self._classes), np.float32)
            histogram[counts[:, 0], counts[:, 1]] = counts[:, 2]
            there = histogram.sum(axis=1) > 0
            if not there.any():
                raise RunError(
                    f"exemplars: no patch of {about['image_id']} has a class that counts. To mend it: name another "
                    "image, in another OUT"
                )
            histogram = histogram[there] / histogram[there].sum(axis=1, keepdims=True)
            # a mirrored exemplar is one more
            for descriptors in (found.descriptors, found.mirrored):
                if descriptors is not None:
                    patches.append(descriptors.flatten(0, 1)[torch.from_numpy(there).to(self.device)])
                    shares.append(torch.from_numpy(histogram).to(self.device))
        return torch.cat(patches), torch.cat(shares)

    def items(self, shards: Iterator[Shard]) -> Iterator[Item]:
        """The images, each with its row of the stage ``features`` and what gives its arrays."""

        def beside(there: CommittedShard) -> list[Any]:
            held = there.attachments()
            return [(row, held, place) for place, row in enumerate(there.rows([*FAILURE, *GRID]).to_pylist())]

        return self._features.items(shards, beside)

    def load(self, item: Item) -> Loaded | None:
        """Read the features of an image, and its truth if it is to be scored."""
        row, attachments, place = item.beside
        if row["status"] != "ok":
            return None
        held = attachments[place]
        truth, fault = None, None
        if item.record["image_id"] not in self._exemplars:
            truth, fault = self._ids(item.record["truth_uri"], row)
        return Loaded(
            descriptors_of(held, facing(self._names, mirrored=False), self.device, context=self._context), truth, fault
        )

    def _ids(self, uri: str | None, row: dict[str, Any]) -> tuple[NDArray[np.int32] | None, str | None]:
        """(H, W) class ids of an image, -1 where pixels do not count, or why there are none."""
        size = row["height"], row["width"]
        found, fault = self._truth.read(uri, size)
        if found is None:
            return None, fault
        ids = np.full(size, UNCOUNTED, np.int32)
        part = self._truth.part(size)
        ids[part] = found
        if not self._masks and self._ignore is not None:
            ids[part][found == self._ignore] = UNCOUNTED
        return canvas_of(row, self._resize, "native").only_computed(ids, UNCOUNTED), None

    def take(self, item: Item, loaded: Loaded | None, results: Results) -> None:
        """Carry labels over to an image."""
        row = item.beside[0]
        if loaded is None:
            results.put(item.row, Row({name: row[name] for name in FAILURE}))
            return
        with self.timer.step("vote"), torch.inference_mode():
            shares, nearest = votes(
                loaded.descriptors.flatten(0, 1),
                self._bank,
                self._shares,
                neighbours=self._options.neighbours,
                temperature=self._options.temperature,
            )
            similarity = float(nearest.double().mean())
        with self.timer.step("score"):
            canvas = canvas_of(row, self._resize, "native")
            planes = shares.T.reshape(-1, *canvas.grid).cpu().contiguous()
            classes = canvas.only_computed(classes_between_patches(planes, canvas.between).numpy(), 0)
            state, overlap = self._scored(classes, loaded)
        with self.timer.step("encode"):
            size = row["height"], row["width"]
            segments = segments_of(classes.astype(np.int32), pixel_index.upsample_index(size, 1, size, size))
            columns = {
                "status": "ok",
                "width": row["width"],
                "height": row["height"],
                "exemplar": item.record["image_id"] in self._exemplars,
                "similarity": similarity,
                "iou": overlap,
                "truth_error": loaded.truth_error,
                "labels": [each["label"] for each in segments],
                "segments": segments,
            }
        results.put(item.row, Row(columns, state=state))

    def _scored(self, classes: NDArray[np.int64], loaded: Loaded) -> tuple[dict[str, Any], float | None]:
        state = self.stage.fold.zero() | {"truth_errors": int(loaded.truth_error is not None)}
        if loaded.truth is None:
            return state, None
        table, _ = confusion(classes, loaded.truth, self._classes, self._classes, UNCOUNTED)
        state |= {"images_scored": 1, "confusion": as_counts(table)}
        if not self._masks:
            return state, None
        both, either = int(table[1, 1]), int(table[1].sum() + table[:, 1].sum() - table[1, 1])
        overlap = both / either if either else 0.0
        return state | {"iou": overlap, "bins": bin_of(overlap)}, overlap


def _ids_of(plan: Plan, records: Sequence[int]) -> set[str]:
    places = (plan.place_of(record) for record in records)
    return {plan.shard(shard).records["image_id"][place].as_py() for shard, place in places}


def _check(settings: TransferSettings) -> None:
    if not settings.exemplars:
        raise SettingsError(
            "exemplars: none is given. To mend it: name images with --truth whose labels are carried over, such as "
            "--exemplars horse001.jpg"
        )


def _stages(job: Job) -> Stages:
    settings: TransferSettings = job.settings
    truth = _truth(settings, job.plan)
    records = row_numbers(job.plan, settings.exemplars)
    for name, record in zip(settings.exemplars, records, strict=True):
        shard, place = job.plan.place_of(record)
        if job.plan.shard(shard).records["truth_uri"][place].as_py() is None:
            raise SettingsError(f"exemplars: {name} has no truth. To mend it: give --truth with a file for it")
    yield FeaturesStage(settings, job.resolved, job.plan)
    channels = job.resolved["models"]["taps"]["channels_of"]
    resolved = {"channels_of": channels, "truth": truth, "classes": truth["count"], "exemplars": records}
    transferred = yield TransferStage(settings, resolved, job.plan)
    if errors := transferred["metrics"]["truth_errors"]:
        job.note(f"the truth of {errors} images cannot be used: they are not scored")


def _truth(settings: TransferSettings, plan: Plan) -> dict[str, Any]:
    """How truth is read: as masks, or as class ids."""
    kind = truth_kind(plan.source)
    wanted = "object" if settings.truth_is == "masks" else "semantic"
    if kind not in (None, wanted):
        other = "masks" if kind == "object" else "classes"
        mend = f"To mend it: give --truth-is {other}" if kind in ("object", "semantic") else "To mend it: give another"
        raise SettingsError(f"truth: that of this dataset is {kind}, and {settings.truth_is} are asked for. {mend}")
    if wanted == "object":
        center = center_crops(plan.source)
        return {"kind": "object", "classes": ["background", "object"], "count": 2, "center_crop": center}
    found = truth_of(settings, plan.source)
    assert found is not None  # noqa: S101  so its kind says
    if found["classes"] is None:
        given = "To mend it: name them, by --class-names FILE with a line for each"
        raise SettingsError(f"class_names: how many classes there are is not known. {given}")
    return found


STAGES = {TransferStage.name: TransferStage}
STEPS = replace(
    FEATURES_STEPS,
    stages=_stages,
    result=TransferStage.name,
    check=_check,
    complete=completed,
)
