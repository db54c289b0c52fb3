"""The worker of the ``segment`` stage: shards of image records in, rows, eigenvectors and sums out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from simsam_batch import images
from simsam_batch.regions import boxes, masks
from simsam_batch.regions.refine import CRF, shrink
from simsam_batch.regions.run_lengths import run_lengths
from simsam_batch.scores import overlap
from simsam_batch.stages.segment.rows import SegmentStage
from simsam_batch.stages.segment.segmentation import Segmented, segment_batch
from simsam_batch.stages.segments import segments_of
from simsam_batch.workers.images import ImageWorker, Item, Loaded, Results, finite_or_none, image_seed
from simsam_batch.workers.refinement import Refiner, refining_processes


@dataclass(frozen=True, slots=True)
class _Truth:
    """The object of one image, on the part of it that is scored.

    Attributes:
        patches: its sums over the patches.
        rows, columns: that part.
        pixels: if masks are refined, (H, W) bool of that part as a row of bits, since many images wait at once.
    """

    patches: overlap.TruthCounts
    rows: slice
    columns: slice
    pixels: NDArray[np.uint8] | None

    def overlap_with(self, mask: NDArray[np.bool_], index: masks.UpsampleIndex) -> overlap.OverlapCounts:
        """Compare with a mask of cells, pixel by pixel; ``index`` tells the cell of each pixel of the whole image."""
        assert self.pixels is not None  # noqa: S101  kept wherever masks are refined
        predicted = mask[np.ix_(index[0][self.rows], index[1][self.columns])]
        truth = np.unpackbits(self.pixels, count=predicted.size).view(np.bool_).reshape(predicted.shape)
        return overlap.mask_overlap(predicted, truth)


class SegmentWorker(ImageWorker[Segmented]):
    """Segments batches of images, and scores the masks of those that have a truth."""

    def __init__(self, stage: SegmentStage, beat: Callable[[], None]) -> None:
        super().__init__(stage, beat)
        self._options, self._scores = stage.options, stage.fold.scores
        self._object_truth, self._center_crop = stage.object_truth, stage.center_crop
        self._refiner = (
            Refiner(refining_processes(stage.options.refine_processes, self.device.type))
            if stage.options.refine != "none"
            else None
        )
        self.may_wait = self._refiner.may_wait if self._refiner else 0

    def picture(self, rgb: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
        """What refinement looks at."""
        return None if self._refiner is None else shrink(rgb, self._options.refine_max_side)

    def compute(self, pictures: torch.Tensor, grid: tuple[int, int], seeds: Sequence[int]) -> Segmented:
        """Segment a batch, with as many heads as the settings ask for."""
        found = segment_batch(pictures, grid, seeds, self.backbone, self._options, self.timer)
        others = []
        for repeat in range(1, self._options.repeats):
            of_repeat = [image_seed(seed, str(repeat)) for seed in seeds]
            others.append(segment_batch(pictures, grid, of_repeat, self.backbone, self._options, self.timer).masks)
        return replace(found, other_masks=others)

    def load_truth(
        self, record: dict[str, Any], image: images.Prepared, index: masks.UpsampleIndex
    ) -> tuple[_Truth | None, str | None]:
        """The truth mask summed over the patches, and its pixels if masks are refined."""
        if record["truth_uri"] is None or not self._object_truth:
            return None, None
        try:
            truth = images.load_truth(record["truth_uri"], self.limits, image.full_size)
        except images.TruthError as error:
            return None, str(error)
        rows, columns = images.central_square(image.full_size) if self._center_crop else (slice(None), slice(None))
        truth = truth[rows, columns]
        patches = overlap.count_truth(truth, (index[0][rows], index[1][columns]), image.grid)
        return _Truth(patches, rows, columns, None if self._refiner is None else np.packbits(truth)), None

    def encode(self, item: Item, loaded: Loaded, found: Segmented, i: int, results: Results) -> None:
        """Fill one image's row, arrays and share of the statistics from image ``i`` of a batch, now or when refined."""
        image = loaded.image
        fill = partial(self._fill, item, loaded, found, i, results)
        mask = found.masks[i].numpy().reshape(image.grid)
        if self._refiner is None or loaded.picture is None:
            fill(mask, loaded.index, overlap.overlap_counts(mask, loaded.truth.patches) if loaded.truth else None)
            return
        size = loaded.picture.shape[0], loaded.picture.shape[1]
        index = masks.upsample_index(image.grid, self.backbone.patch, image.working_size, size)
        parameters = CRF[self._options.refine]
        refined = self._refiner.submit(loaded.picture, mask, index=index, parameters=parameters)
        results.pending.append(partial(self._fill_refined, fill, loaded, refined))

    def _fill_refined(
        self, fill: Callable[..., None], loaded: Loaded, refined: Callable[[], NDArray[np.bool_]]
    ) -> None:
        with self.timer.step("refine"):
            mask = refined()
        with self.timer.step("encode"):
            size = mask.shape[0], mask.shape[1]
            index = masks.upsample_index(size, 1, size, loaded.image.full_size)
            fill(mask, index, loaded.truth.overlap_with(mask, index) if loaded.truth else None)

    def _fill(
        self,
        item: Item,
        loaded: Loaded,
        found: Segmented,
        i: int,
        results: Results,
        mask: NDArray[np.bool_],
        index: masks.UpsampleIndex,
        counts: overlap.OverlapCounts | None,
    ) -> None:
        """Fill in an image whose final mask is ``mask``, on cells that ``index`` finds for each pixel of the image."""
        pixels = masks.patch_pixels((mask.shape[0], mask.shape[1]), index)
        kept = int(np.isfinite(values := found.values[i].numpy()).sum())
        degenerate = bool(found.degenerate[i])
        row: dict[str, Any] = {
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
            "confidence": float(found.confidence[i]),
            "degenerate": degenerate,
            "refined": self._refiner is not None,
            "truth_error": loaded.truth_error,
        }
        if self._options.regions >= 0:
            # A map without a background begins at 0; in the rows labels begin at 1.
            labels = found.regions[i].numpy().reshape(loaded.image.grid) + (not self._options.background)
            row["regions"] = segments_of(labels, loaded.index)
        state = self._stage.fold.zero()
        state |= {"degenerate": int(degenerate), "truth_errors": int(loaded.truth_error is not None)}
        if counts is not None:
            soft = found.soft[i].numpy().reshape(loaded.image.grid)
            state["scores"] = self._scores.of_image(counts, overlap.threshold_histograms(soft, loaded.truth.patches))
            for repeat, others in enumerate(found.other_masks):
                other = overlap.overlap_counts(others[i].numpy().reshape(loaded.image.grid), loaded.truth.patches)
                state["others"][repeat] = self._scores.of_image(other)
            row |= {"iou": overlap.iou(counts), "accuracy": overlap.accuracy(counts)}
        results.rows[item.row], results.states[item.row] = row, state
        if self._options.eigenvectors != "none":
            dtype = np.float16 if self._options.eigenvectors == "fp16" else np.float32
            results.arrays[item.row] = {"eigenvectors": found.vectors[i, :kept].numpy().astype(dtype)}
