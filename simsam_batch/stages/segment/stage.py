"""The ``segment`` stage: for every image an object mask, its box, eigenvectors and, where truth exists, scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from simsam_batch import images
from simsam_batch.catalog import center_crops, truth_kind
from simsam_batch.regions import boxes, pixel_index
from simsam_batch.regions.refine import REFINEMENTS
from simsam_batch.regions.run_lengths import run_lengths
from simsam_batch.runs.plan import Plan
from simsam_batch.scores import overlap
from simsam_batch.scores.bits import Bits, packed, packed_cells
from simsam_batch.scores.boundary import boundary_iou
from simsam_batch.settings import (
    Affinity,
    Eigenproblem,
    Features,
    Head,
    Images,
    Limits,
    Network,
    Numbers,
    Refinement,
    Regions,
)
from simsam_batch.settings.refinement import refines_whole
from simsam_batch.stages.base import CommandStage
from simsam_batch.stages.decomposition import check_solver, require_finite
from simsam_batch.stages.segment.rows import OBJECTS, OF_CHOSEN, SEGMENT_FIELDS, SegmentFold
from simsam_batch.stages.segment.segmentation import Segmented, cells_of, segment_batch
from simsam_batch.stages.segment.settings import Mask, Objects, SegmentSettings
from simsam_batch.stages.segments import objects_of, segments_of
from simsam_batch.stages.sizes import mean_patches
from simsam_batch.stages.steps import Job, Stages, Steps
from simsam_batch.workers.images import ImageWorker, Loaded, finite_or_none
from simsam_batch.workers.records import Item, Later, Row
from simsam_batch.workers.refinement import check_refinement, make_refiner
from simsam_batch.workers.seeds import image_seed
from simsam_batch.workers.truth import TruthReader

_WORTH_SAYING = 1e9

_Refined = tuple[NDArray[np.bool_], bool]
"""A mask (H, W), and whether it is a refined one."""


@dataclass(frozen=True)
class SegmentStage(CommandStage[SegmentSettings]):
    """``resolved`` holds under ``truth`` what `truth_of` says."""

    name = "segment"
    components = (
        *(Images, Limits, Numbers, Network, Features, Head, Affinity, Eigenproblem, Refinement, Regions),
        *(Mask, Objects),
    )
    fields = SEGMENT_FIELDS
    keeps_columns = True

    def own_fields(self) -> Sequence[pa.Field]:
        """Without what only chosen cuts have, where they are fixed, and objects that are not asked for."""
        absent = [] if self.options.cut == "chosen" else [*OF_CHOSEN]
        absent += [] if self.options.objects else [OBJECTS]
        return [field for field in self.fields if field not in absent]

    @cached_property
    def fold(self) -> SegmentFold:
        """Merges scores and counts."""
        return SegmentFold(self.options.repeats)

    def array_bytes(self, plan: Plan) -> float | None:
        """About how many bytes the stored eigenvectors take; None for none, or if no image of a sample can be read.

        Judged by the sizes of up to eight images spread over the plan.
        """
        if self.options.eigenvectors == "none":
            return None
        patches = mean_patches(plan, self.options, self.resolved["models"]["backbone"]["patch"])
        itemsize = 2 if self.options.eigenvectors == "fp16" else 4
        # and a byte says whether a patch was left out
        return None if patches is None else plan.records * (self.options.k * itemsize + 1) * patches

    def make_worker(self, beat: Callable[[], None]) -> SegmentWorker:
        """Load the backbone and be ready for shards."""
        return SegmentWorker(self, beat)


def truth_of(source: Mapping[str, Any]) -> dict[str, Any]:
    """How the truth of a plan's source is read: ``kind`` is ``object``, or None where it is not one of masks."""
    scored = truth_kind(source) in (None, "object")
    return {"kind": "object" if scored else None, "center_crop": center_crops(source)}


@dataclass(frozen=True, slots=True)
class _Truth:
    """The object of one image, on the part of it that is scored.

    Attributes:
        cells: its sums over the cells that masks are made of.
        rows, columns: that part.
        pixels: the object of that part.
    """

    cells: overlap.TruthCounts
    rows: slice
    columns: slice
    pixels: Bits

    @property
    def nbytes(self) -> int:
        """Bytes in memory, which many images take at once."""
        return self.pixels.nbytes + self.cells.on_object.nbytes + self.cells.pixels.nbytes

    def beside(self, mask: NDArray[np.bool_], index: pixel_index.UpsampleIndex) -> tuple[Bits, Bits]:
        """A mask of cells and the truth, pixel by pixel; ``index`` tells the cell of each pixel of the whole image."""
        return packed_cells(mask, (index[0][self.rows], index[1][self.columns])), self.pixels


def _same_object(refined: NDArray[np.bool_], drawn: NDArray[np.bool_]) -> bool:
    """Whether a refined mask (H, W) is still of the object: neither gone, nor everything, nor less than half alike.

    Half alike is an IoU of 1/2, as between the cuts of different objects.
    """
    if not drawn.any() or bool(drawn.all()):
        return True
    both, either = np.count_nonzero(refined & drawn), np.count_nonzero(refined | drawn)
    return bool(2 * both >= either) and not refined.all()


class SegmentWorker(ImageWorker[Segmented]):
    """Segments batches of images, and scores the masks of those that have a truth."""

    def __init__(self, stage: SegmentStage, beat: Callable[[], None]) -> None:
        super().__init__(stage, beat)
        check_solver(stage.options, self.device.type)
        self._options, self._fold, self._cells = stage.options, stage.fold, cells_of(stage.options)
        self._truth = TruthReader(stage.resolved["truth"], self.limits)
        self._refiner = make_refiner(stage.options, self.device.type)
        self.kept_side = None if self._refiner is None else self._options.refine_max_side
        self.keeps_whole = refines_whole(self._options.refine)
        self.may_wait = self._refiner.may_wait if self._refiner else 0

    def compute(self, pictures: torch.Tensor, grid: tuple[int, int], seeds: Sequence[int]) -> Segmented:
        """Segment a batch, with as many heads as the settings ask for."""
        found = segment_batch(pictures, grid, seeds, self.backbone, self._options, self.timer)
        others = []
        for repeat in range(1, self._options.repeats):
            of_repeat = [image_seed(seed, str(repeat)) for seed in seeds]
            others.append(segment_batch(pictures, grid, of_repeat, self.backbone, self._options, self.timer).masks)
        return replace(found, other_masks=others)

    def load_truth(
        self, record: dict[str, Any], image: images.Prepared, index: pixel_index.UpsampleIndex
    ) -> tuple[_Truth | None, str | None]:
        """The truth mask summed over the cells, and its pixels."""
        del index
        truth, fault = self._truth.read(record["truth_uri"], image.full_size)
        if truth is None:
            return None, fault
        rows, columns = self._truth.part(image.full_size)
        index = self._index(image, image.full_size)
        grid = image.grid[0] * self._cells, image.grid[1] * self._cells
        cells = overlap.count_truth(truth, (index[0][rows], index[1][columns]), grid)
        return _Truth(cells, rows, columns, packed(truth)), None

    def _index(self, image: images.Prepared, size: tuple[int, int]) -> pixel_index.UpsampleIndex:
        """The cell of each pixel of the image at some size."""
        return pixel_index.upsample_index(image.grid, self.backbone.patch, image.working_size, size, cells=self._cells)

    def encode(self, item: Item, loaded: Loaded, found: Segmented, i: int) -> Row | Later:
        """The row of an image, now or when its masks are refined."""
        del item
        require_finite(found.solver[i])
        image = loaded.image
        if self._refiner is None or loaded.picture is None:
            index = self._index(image, image.full_size)
            objects = None if found.object_masks is None else [mask.numpy() for mask in found.object_masks[i]]
            return self._row(loaded, found, i, found.masks[i].numpy(), objects, index)
        index = self._index(image, (loaded.picture.shape[0], loaded.picture.shape[1]))
        refined = partial(self._refined, loaded.picture, index)
        several = None
        if found.object_masks is not None and found.object_wide is not None:
            pairs = zip(found.object_masks[i], found.object_wide[i], strict=True)
            several = [refined(mask.numpy(), wide.numpy()) for mask, wide in pairs]
        return partial(
            self._refined_row, loaded, found, i, refined(found.masks[i].numpy(), found.wide[i].numpy()), several
        )

    def _refined(
        self,
        picture: NDArray[np.uint8],
        index: pixel_index.UpsampleIndex,
        mask: NDArray[np.bool_],
        wide: NDArray[np.bool_],
    ) -> Callable[[], _Refined]:
        """Begin to refine a mask; what a guided filter makes another object stays as it was, see `_same_object`."""
        assert self._refiner is not None  # noqa: S101  there, or nothing is refined
        method = self._options.refine
        waiting = self._refiner.submit(picture, wide, index=index, parameters=REFINEMENTS[method])

        def settled() -> _Refined:
            refined: NDArray[np.bool_] = waiting()
            drawn = mask[np.ix_(*index)]
            if method == "guided" and not _same_object(refined, drawn):
                return drawn, False
            return refined, True

        return settled

    def _refined_row(
        self,
        loaded: Loaded,
        found: Segmented,
        i: int,
        refined: Callable[[], _Refined],
        several: list[Callable[[], _Refined]] | None,
    ) -> Row:
        with self.timer.on_host("refine"):
            mask, succeeded = refined()
            objects = None if several is None else [each()[0] for each in several]
        with self.timer.on_host("encode"):
            size = mask.shape[0], mask.shape[1]
            index = pixel_index.upsample_index(size, 1, size, loaded.image.full_size)
            return self._row(loaded, found, i, mask, objects, index, refined=succeeded)

    def _row(
        self,
        loaded: Loaded,
        found: Segmented,
        i: int,
        mask: NDArray[np.bool_],
        objects: list[NDArray[np.bool_]] | None,
        index: pixel_index.UpsampleIndex,
        *,
        refined: bool = False,
    ) -> Row:
        """Of an image whose final masks are these, on cells that ``index`` finds for each pixel of the image."""
        pixels = pixel_index.patch_pixels((mask.shape[0], mask.shape[1]), index)
        kept = int(np.isfinite(values := found.values[i].numpy()).sum())
        degenerate = bool(found.degenerate[i])
        columns: dict[str, Any] = {
            **self.image_columns(loaded),
            "outlier_tokens": int(found.outliers[i]),
            "island_patches": int(found.islands[i]),
            "components": int(found.components[i]),
            "mask_rle": run_lengths(mask, index),
            "bbox_xyxy": boxes.tight_box(mask, index),
            "area_fraction": int(pixels[mask].sum()) / int(pixels.sum()),
            "eigenvalues": values[:kept].tolist(),
            "spectral_gap": finite_or_none(found.gap[i]),
            "solver": found.solver[i],
            "solver_iterations": int(found.iterations[i]),
            "converged": bool(found.converged[i]),
            "residual_max": finite_or_none(found.residual[i]),
            "head_collapse": finite_or_none(found.collapse[i]),
            "head_loss_first": finite_or_none(found.loss_first[i]),
            "head_loss_last": finite_or_none(found.loss_last[i]),
            **found.cut_columns(i),
            "confidence": float(found.confidence[i]),
            "degenerate": degenerate,
            "refined": refined,
            "truth_error": loaded.truth_error,
        }
        if objects is not None and found.object_scores is not None:
            columns["objects"] = objects_of(objects, found.object_scores[i].tolist(), index, self._options.least_score)
        if self._options.regions >= 0:
            # A map without a background begins at 0; in the rows labels begin at 1.
            labels = found.regions[i].numpy().reshape(loaded.image.grid) + (not self._options.background)
            columns["regions"] = segments_of(labels, loaded.index)
        state = self._fold.zero()
        state |= {"degenerate": int(degenerate), "truth_errors": int(loaded.truth_error is not None)}
        if loaded.truth is not None:
            pair = loaded.truth.beside(mask, index)
            counts, at_border = overlap.mask_overlap(*pair), boundary_iou(*pair)
            soft = found.soft[i].numpy()
            histograms = overlap.threshold_histograms(soft, loaded.truth.cells)
            state["scores"] = self._fold.scores.of_image(counts, histograms, at_border)
            for repeat, others in enumerate(found.other_masks):
                other = overlap.overlap_counts(others[i].numpy(), loaded.truth.cells)
                state["others"][repeat] = self._fold.scores.of_image(other)
            columns |= {"iou": overlap.iou(counts), "accuracy": overlap.accuracy(counts), "boundary_iou": at_border}
        if self._options.eigenvectors == "none":
            return Row(columns, state=state)
        dtype = np.float16 if self._options.eigenvectors == "fp16" else np.float32
        vectors = found.vectors[i, :kept].numpy().astype(dtype)
        return Row(columns, {"eigenvectors": vectors, "outside": found.outside[i].numpy()}, state)


def _stages(job: Job) -> Stages:
    truth = truth_of(job.plan.source)
    if truth["kind"] is None:
        job.note("masks are not scored: the truth of this dataset is not one of object masks")
    yield SegmentStage(job.settings, job.resolved | {"truth": truth}, job.plan)


def _say_size(job: Job, stage: CommandStage[Any]) -> None:
    """Say how much the eigenvectors will take, if it is much."""
    from rich.filesize import decimal

    size = stage.array_bytes(job.plan) if isinstance(stage, SegmentStage) else None
    if size is not None and size > _WORTH_SAYING:
        job.note(f"the eigenvectors will take about {decimal(round(size))}; --eigenvectors none leaves them out")


def _check(settings: SegmentSettings) -> None:
    images.require_whole_images(settings.resize)
    check_refinement(settings)


STAGES = {SegmentStage.name: SegmentStage}
STEPS = Steps(_stages, SegmentStage.name, check=_check, before_first=_say_size)
