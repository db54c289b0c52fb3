"""From a batch of equally large images to object masks on the patch grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from simsam_batch.regions import masks
from simsam_batch.stages.decomposition import decompose_batch, regions_of
from simsam_batch.stages.segment.settings import SegmentSettings
from simsam_batch.workers.timer import Timer

if TYPE_CHECKING:
    from simsam_batch.features.contract import Backbone


@dataclass(frozen=True, slots=True)
class Segmented:
    """What a batch of B images with N patches came to; tensors on the CPU.

    Attributes:
        masks: (B, N) bool, the object's patches.
        soft: (B, N) float32 in [0, 1], high on the object's side.
        values, vectors: (B, K) and (B, K, N) float32, eigenpairs of the normalised Laplacian, ascending; NaN and
            zero where the graph has fewer than K patches.
        outliers, islands, components: (B,) counts of patches left out, and of components before that.
        gap: (B,) float32, mu_2 - mu_1, NaN where there is no mu_2.
        confidence, residual: (B,) float32.
        collapse, loss_first, loss_last: (B,) float32, of the head; NaN without one.
        degenerate: (B,) bool, graphs that single out no second vector.
        iterations, converged, solver: of each image's eigenproblem.
        other_masks: (B, N) bool each, from heads with other seeds.
        regions: (B, N) int32, the region of each patch, 0 the background; no column (B, 0) unless asked for.
    """

    masks: Tensor
    soft: Tensor
    values: Tensor
    vectors: Tensor
    outliers: Tensor
    islands: Tensor
    components: Tensor
    confidence: Tensor
    gap: Tensor
    collapse: Tensor
    loss_first: Tensor
    loss_last: Tensor
    residual: Tensor
    degenerate: Tensor
    iterations: Tensor
    converged: Tensor
    regions: Tensor
    solver: list[str]
    other_masks: list[Tensor] = field(default_factory=list)


def segment_batch(
    images: Tensor,
    grid: tuple[int, int],
    seeds: Sequence[int],
    backbone: Backbone,
    settings: SegmentSettings,
    timer: Timer,
) -> Segmented:
    """Segment a batch of images of one size; each image's result is its own, whatever its batch mates are.

    Between the forward pass and the results the host waits for a GPU at most 7 times, whatever B is: for the patches
    that count, which decide what is drawn for the head; for whether components are complete; for the sizes of the
    graphs; for the solver (once a restart of block Lanczos); for whether it converged; for the rings of left-out
    patches; and for all results together. What is computed on the host adds to that: colour affinities, the views of
    head ``upstream-notebook``, component ``peak``, and images that are solved one by one.

    Args:
        images: (B, height, width, 3) uint8 RGB on the device to compute on, cropped to whole patches.
        grid: patches down and across; N is their product.
        seeds: one seed an image, for the head.
        backbone: what describes the patches.
        settings: result settings.
        timer: where the time of each step is added.
    """
    found = decompose_batch(images, grid, seeds, backbone, settings, timer)
    pairs, vectors = found.pairs, found.vectors
    with torch.inference_mode():
        with timer.step("masks"):
            mask = masks.fiedler_mask(vectors, pairs.values, threshold=settings.threshold)
            mask = masks.choose_side(mask, vectors, grid, side=settings.side)
            if settings.component == "peak":
                mask = masks.component_of_peak(mask, vectors, grid)
            mask &= ~found.one_colour[:, None]
            degenerate = found.degenerate()
            regions = mask.new_empty((len(mask), 0), dtype=torch.int32)
            if settings.regions >= 0:
                regions = regions_of(found, degenerate, grid, seeds, settings, settings.regions)
            on_device = {
                "regions": regions,
                "masks": mask,
                "soft": masks.soft_map(vectors, mask),
                "values": pairs.values[:, : settings.k],
                "vectors": vectors[:, : settings.k],
                "gap": pairs.values[:, 2] - pairs.values[:, 1],
                "outliers": found.outliers,
                "islands": found.islands,
                "components": found.components,
                "confidence": masks.confidence(pairs.values, vectors, mask),
                "collapse": found.collapse,
                "loss_first": found.loss_first,
                "loss_last": found.loss_last,
                "residual": pairs.residual,
                "degenerate": degenerate,
                "iterations": pairs.iterations,
                "converged": pairs.converged,
            }
            # Copies that do not block go to pinned memory by themselves; one wait is enough for all of them.
            results: dict[str, Any] = {name: tensor.to("cpu", non_blocking=True) for name, tensor in on_device.items()}
            if images.is_cuda:
                torch.cuda.current_stream(images.device).synchronize()
        timer.settle()
        return Segmented(**results, solver=pairs.solver)
