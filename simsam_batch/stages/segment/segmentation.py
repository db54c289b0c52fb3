"""From a batch of equally large images to object masks on the patch grid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from simsam_batch.regions import candidates, masks
from simsam_batch.stages.decomposition import Decomposed, decompose_batch, regions_of, solve
from simsam_batch.stages.segment.settings import SegmentSettings
from simsam_batch.workers.timer import Timer

if TYPE_CHECKING:
    from simsam_batch.features.contract import Backbone


@dataclass(frozen=True, slots=True)
class Segmented:
    """What a batch of B images with N patches came to; tensors on the CPU.

    Attributes:
        masks: (B, cells * Hp, cells * Wp) bool, the object, see `cells_of`.
        wide: likewise, what refinement begins with; the same where the cut is fixed.
        soft: (B, cells * Hp, cells * Wp) float32 in [0, 1], high on the object's side.
        values, vectors: (B, K) and (B, K, N) float32, eigenpairs of the normalised Laplacian, ascending; NaN and
            zero where the graph has fewer than K patches.
        outside: (B, N) bool, patches that were left out of the graph, as outlier tokens or small islands.
        outliers, islands, components: (B,) counts of them, and of components before that.
        gap: (B,) float32, mu_2 - mu_1, NaN where there is no mu_2.
        confidence, residual: (B,) float32.
        collapse, loss_first, loss_last: (B,) float32, of the head; NaN without one.
        degenerate: (B,) bool, graphs that single out no second vector.
        iterations, converged, solver: of each image's eigenproblem.
        object_masks, object_wide: like ``masks`` and ``wide`` with objects (B, O, ...); None unless asked for.
        object_scores: (B, O) float32, falling; 0 where there are no more.
        cuts: how the objects may have been cut; none where that is fixed.
        cut, runner_up: (B,) int64, which of them took each object, and which would have taken the best other one.
        cut_score, runner_up_score: (B,) float32; -inf where there is none.
        other_masks: like ``masks``, each from heads with other seeds.
        regions: (B, N) int32, the region of each patch, 0 the background; no column (B, 0) unless asked for.
    """

    masks: Tensor
    wide: Tensor
    soft: Tensor
    values: Tensor
    vectors: Tensor
    outside: Tensor
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
    cut: Tensor
    cut_score: Tensor
    runner_up: Tensor
    runner_up_score: Tensor
    solver: list[str]
    cuts: list[candidates.Cut]
    object_masks: Tensor | None = None
    object_wide: Tensor | None = None
    object_scores: Tensor | None = None
    other_masks: list[Tensor] = field(default_factory=list)

    def cut_columns(self, i: int) -> dict[str, Any]:
        """The columns that say how the object of image ``i`` was cut out; none where that is fixed."""
        if not self.cuts:
            return {}
        places = {"cut": (self.cut, self.cut_score), "runner_up": (self.runner_up, self.runner_up_score)}
        return {
            name: None if score[i] == -torch.inf else asdict(self.cuts[int(index[i])]) | {"score": float(score[i])}
            for name, (index, score) in places.items()
        }


def segment_batch(
    images: Tensor,
    grid: tuple[int, int],
    seeds: Sequence[int],
    backbone: Backbone,
    settings: SegmentSettings,
    timer: Timer,
) -> Segmented:
    """Segment a batch of images of one size; each image's result is its own, whatever its batch mates are.

    Between the forward pass and the results the host waits for a GPU at most 9 times, whatever B is: for the patches
    that count, which decide what is drawn for the head; for whether components are complete; for the sizes of the
    graphs; for the solver (once a restart of block Lanczos); for whether it converged; for the rings of left-out
    patches; twice for the connected parts of the cuts (once more for every four rounds that winding ones take beyond
    eight); and for all results together. Further rounds of ``objects`` with a fixed cut solve anew. What is computed on
    the host adds to that: colour affinities, the views of head ``upstream-notebook``, component ``peak``, and images
    that are solved one by one.

    Args:
        images: (B, height, width, 3) uint8 RGB on the device to compute on, cropped to whole patches.
        grid: patches down and across; N is their product.
        seeds: one seed an image, for the head.
        backbone: what describes the patches.
        settings: result settings.
        timer: where the time of each step is added.
    """
    again = settings.cut == "fixed" and settings.objects > 1
    found = decompose_batch(images, grid, seeds, backbone, settings, timer, keep_graph=again)
    pairs, vectors = found.pairs, found.vectors
    with torch.inference_mode():
        with timer.step("masks"):
            degenerate = found.degenerate()
            chosen, cuts = (_chosen if settings.cut == "chosen" else _fixed)(found, degenerate, grid, settings)
            regions = degenerate.new_empty((len(images), 0), dtype=torch.int32)
            if settings.regions >= 0:
                regions = regions_of(found, degenerate, grid, seeds, settings, settings.regions)
            on_device = {
                "regions": regions,
                **chosen,
                "values": pairs.values[:, : settings.k],
                "vectors": vectors[:, : settings.k],
                "outside": ~found.valid,
                "gap": pairs.values[:, 2] - pairs.values[:, 1],
                "outliers": found.outliers,
                "islands": found.islands,
                "components": found.components,
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
        return Segmented(**results, solver=pairs.solver, cuts=cuts)


def cells_of(settings: SegmentSettings) -> int:
    """Cells along the side of a patch that masks are made of."""
    return candidates.CELLS if settings.cut == "chosen" else 1


_LEAST_GRAPH = 4
_SAME_AGAIN = 0.5
_LEAST_SHARE = 0.01

_Found = tuple[dict[str, Tensor], list[candidates.Cut]]


def _chosen(found: Decomposed, degenerate: Tensor, grid: tuple[int, int], settings: SegmentSettings) -> _Found:
    """Objects by the best of many cuts."""
    offered = candidates.candidates(found.vectors, found.pairs.values, found.rows, found.valid, grid)
    offered = offered.without(degenerate)
    # two at least, for the runner-up
    places, scores = candidates.pick(offered, max(2, settings.objects))
    drawn = [
        candidates.objects_of(offered, place, found.vectors, found.rows, found.valid, grid)
        for place in places.unbind(1)[: max(1, settings.objects)]
    ]
    best = drawn[0]
    result = {
        "masks": best.mask,
        "soft": best.soft,
        "wide": best.wide,
        "confidence": best.confidence,
        "cut": places[:, 0],
        "cut_score": scores[:, 0],
        "runner_up": places[:, 1],
        "runner_up_score": scores[:, 1],
    }
    if settings.objects:
        # the confidence, less where a further object explains less than the first one, and never above a better one's
        share = torch.stack([each.share for each in drawn], dim=1)
        sure = torch.stack([each.confidence for each in drawn], dim=1)
        score = sure * (share / share[:, :1].clamp(min=torch.finfo(share.dtype).tiny)).clamp(max=1)
        score = score.cummin(dim=1).values
        result["object_masks"] = torch.stack([each.mask for each in drawn], dim=1)
        result["object_wide"] = torch.stack([each.wide for each in drawn], dim=1)
        result["object_scores"] = score
    return result, offered.cuts


def _fixed(found: Decomposed, degenerate: Tensor, grid: tuple[int, int], settings: SegmentSettings) -> _Found:
    """Objects by one cut of the second eigenvector, as published; further ones of what the ones before leave."""
    mask = _cut(found.vectors, found.pairs.values, grid, settings) & ~found.one_colour[:, None]
    on_grid = mask.reshape(-1, *grid)
    sure = masks.confidence(found.pairs.values, found.vectors, mask)
    none = torch.zeros_like(degenerate, dtype=torch.int64)
    nothing = torch.full_like(sure, -torch.inf)
    result = {
        "masks": on_grid,
        "wide": on_grid,
        "soft": masks.soft_map(found.vectors, mask).reshape(-1, *grid),
        "confidence": sure,
        "cut": none,
        "cut_score": nothing,
        "runner_up": none,
        "runner_up_score": nothing,
    }
    if settings.objects:
        several = [(mask, sure), *_cut_again(found, mask, grid, settings)]
        objects = torch.stack([each for each, _ in several], dim=1).reshape(len(mask), -1, *grid)
        result |= {"object_masks": objects, "object_wide": objects}
        result["object_scores"] = torch.stack([score for _, score in several], dim=1)
    return result, []


def _cut(vectors: Tensor, values: Tensor, grid: tuple[int, int], settings: SegmentSettings) -> Tensor:
    """One side (B, N) bool of the second eigenvector."""
    mask = masks.fiedler_mask(vectors, values, threshold=settings.threshold)
    mask = masks.choose_side(mask, vectors, grid, side=settings.side)
    return masks.component_of_peak(mask, vectors, grid) if settings.component == "peak" else mask


def _cut_again(
    found: Decomposed, first: Tensor, grid: tuple[int, int], settings: SegmentSettings
) -> Iterator[tuple[Tensor, Tensor]]:
    """Masks (B, N) and confidences (B,) of the graphs without what was cut out before (MaskCut, Wang et al. 2023).

    Of MaskCut are the rounds, and that what overlaps the one before by more than half (IoU), or has one patch in a
    hundred or fewer, is dropped. There the patches stay in the graph, barely joined; here they leave it.
    """
    last, taken = first, first.clone()
    for _ in range(1, settings.objects):
        assert found.graph is not None  # noqa: S101  kept for this
        left = found.valid & ~taken
        enough = left.sum(dim=1) >= _LEAST_GRAPH
        left = torch.where(enough[:, None], left, found.valid)
        graph = found.graph * left[:, :, None] * left[:, None, :]
        pairs, vectors = solve(graph, left, grid, settings)
        mask = _cut(vectors, pairs.values, grid, settings) & ~taken & enough[:, None] & ~found.one_colour[:, None]
        same = candidates.overlaps(mask[:, None], last).squeeze(1) > _SAME_AGAIN
        small = mask.sum(dim=1) <= _LEAST_SHARE * mask.shape[1]
        mask &= ~(same | small)[:, None]
        yield mask, masks.confidence(pairs.values, vectors, mask)
        taken |= mask
        last = mask
