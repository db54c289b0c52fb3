"""The worker of the ``segment`` stage: shards of image records in, rows, eigenvectors and sums out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from simsam_batch import images
from simsam_batch.regions import boxes, masks
from simsam_batch.regions.run_lengths import run_lengths
from simsam_batch.scores import overlap
from simsam_batch.stages.image_worker import ImageWorker, Item, Loaded, Results, finite_or_none
from simsam_batch.stages.segment import SegmentStage
from simsam_batch.stages.segmentation import Segmented, segment_batch


class SegmentWorker(ImageWorker[Segmented]):
    """Segments batches of images, and scores the masks of those that have a truth."""

    def __init__(self, stage: SegmentStage, beat: Callable[[], None]) -> None:
        super().__init__(stage, beat)
        self._options, self._scores = stage.options, stage.fold.scores
        self._object_truth, self._center_crop = stage.object_truth, stage.center_crop

    def compute(self, pictures: torch.Tensor, grid: tuple[int, int], seeds: Sequence[int]) -> Segmented:
        """Segment a batch."""
        return segment_batch(pictures, grid, seeds, self.backbone, self._options, self.timer)

    def load_truth(
        self, record: dict[str, Any], image: images.Prepared, index: masks.UpsampleIndex
    ) -> tuple[overlap.TruthCounts | None, str | None]:
        """The truth mask summed over the patches."""
        if record["truth_uri"] is None or not self._object_truth:
            return None, None
        try:
            truth = images.load_truth(record["truth_uri"], self.limits, image.full_size)
        except images.TruthError as error:
            return None, str(error)
        if self._center_crop:
            rows, columns = images.central_square(image.full_size)
            truth, index = truth[rows, columns], (index[0][rows], index[1][columns])
        return overlap.count_truth(truth, index, image.grid), None

    def encode(self, item: Item, loaded: Loaded, found: Segmented, i: int, results: Results) -> None:
        """Fill one image's row, arrays and share of the statistics from image ``i`` of a batch."""
        image, index, (height, width) = loaded.image, loaded.index, loaded.image.grid
        mask = found.masks[i].numpy().reshape(height, width)
        pixels = masks.patch_pixels(image.grid, index)
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
            "truth_error": loaded.truth_error,
        }
        results.state["degenerate"] += degenerate
        results.state["truth_errors"] += loaded.truth_error is not None
        if loaded.truth is not None:
            counts = overlap.overlap_counts(mask, loaded.truth)
            soft = found.soft[i].numpy().reshape(height, width)
            state = self._scores.of_image(counts, overlap.threshold_histograms(soft, loaded.truth))
            results.state["scores"] = self._scores.merge(results.state["scores"], state)
            row |= {"iou": overlap.iou(counts), "accuracy": overlap.accuracy(counts)}
        results.rows[item.row] = row
        if self._options.eigenvectors != "none":
            dtype = np.float16 if self._options.eigenvectors == "fp16" else np.float32
            results.arrays[item.row] = {"eigenvectors": found.vectors[i, :kept].numpy().astype(dtype)}
