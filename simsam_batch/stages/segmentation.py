"""From a batch of equally large images to eigenvectors and object masks on the patch grid."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from simsam_batch.config import SegmentSettings
from simsam_batch.regions import masks
from simsam_batch.spectral import affinity, color, eigen, head, laplacian

if TYPE_CHECKING:
    from collections.abc import Iterator

    from simsam_batch.features.contract import Backbone


@dataclass(slots=True)
class Timer:
    """Adds up the wall time of named steps; waits for a GPU at the end of each, so that its work counts where it is.

    That is a handful of waits for each batch of images.
    """

    device: torch.device
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Count what runs inside as time of ``name``."""
        started = time.perf_counter()
        try:
            yield
        finally:
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started


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
    solver: list[str]


def segment_batch(
    images: Tensor,
    grid: tuple[int, int],
    seeds: Sequence[int],
    backbone: Backbone,
    settings: SegmentSettings,
    timer: Timer,
) -> Segmented:
    """Segment a batch of images of one size; each image's result is its own, whatever its batch mates are.

    Args:
        images: (B, height, width, 3) uint8 RGB on the device to compute on, cropped to whole patches.
        grid: patches down and across; N is their product.
        seeds: one seed an image, for the head.
        backbone: what describes the patches.
        settings: result settings.
        timer: where the time of each step is added.
    """
    # A network's positions give even a one-colour image a structure, so that is judged by the pixels.
    one_colour = (images.amin((1, 2)) == images.amax((1, 2))).all(1)
    with timer.step("forward"), torch.inference_mode():
        features = backbone(_normalize(images, backbone.mean, backbone.std))
        valid = torch.ones_like(features.norms, dtype=torch.bool)
        if settings.outlier_ratio:
            from simsam_batch.features.outliers import spike_mask

            valid = ~spike_mask(features.norms, settings.outlier_ratio)
        rows = affinity.normalize_rows(features.descriptors)
    outliers = (~valid).sum(1)

    with torch.inference_mode():
        graph, of_head = _graph(images, rows, valid, grid, seeds, settings, timer)
        with timer.step("affinity"):
            labels, components = laplacian.components(graph, valid, above=2 * settings.floor)
            islands = laplacian.small_islands(labels, components, share=settings.island_share)
            valid = valid & ~islands
            graph.mul_(valid[:, :, None]).mul_(valid[:, None, :])
        with timer.step("eigen"):
            # Mask and confidence need the spectral gap, so three pairs at least, however few are kept.
            pairs = eigen.smallest_eigenpairs(
                graph, valid, max(settings.k, 3), solver=settings.solver, tolerance=settings.tolerance
            )
        with timer.step("masks"):
            vectors = eigen.apply_sign_rule(laplacian.fill_left_out(pairs.vectors, valid, grid))
            mask = masks.fiedler_mask(vectors, pairs.values, threshold=settings.threshold)
            mask = masks.choose_side(mask, vectors, grid, side=settings.side)
            if settings.component == "peak":
                mask = masks.component_of_peak(mask, vectors, grid)
            mask &= ~one_colour[:, None]
            degenerate = one_colour | masks.degenerate(pairs.values, vectors)
            return Segmented(
                masks=mask.cpu(),
                soft=masks.soft_map(vectors, mask).cpu(),
                values=pairs.values[:, : settings.k].cpu(),
                vectors=vectors[:, : settings.k].cpu(),
                gap=(pairs.values[:, 2] - pairs.values[:, 1]).cpu(),
                outliers=outliers.cpu(),
                islands=islands.sum(1).cpu(),
                components=components.cpu(),
                confidence=masks.confidence(pairs.values, vectors, mask).cpu(),
                collapse=of_head[0].cpu(),
                loss_first=of_head[1].cpu(),
                loss_last=of_head[2].cpu(),
                residual=pairs.residual.cpu(),
                degenerate=degenerate.cpu(),
                iterations=pairs.iterations.cpu(),
                converged=pairs.converged.cpu(),
                solver=pairs.solver,
            )


def _normalize(images: Tensor, mean: tuple[float, float, float], std: tuple[float, float, float]) -> Tensor:
    pixels = images.permute(0, 3, 1, 2).to(torch.float32).div_(255.0)
    return pixels.sub_(pixels.new_tensor(mean)[:, None, None]).div_(pixels.new_tensor(std)[:, None, None])


def _graph(
    images: Tensor,
    rows: Tensor,
    valid: Tensor,
    grid: tuple[int, int],
    seeds: Sequence[int],
    settings: SegmentSettings,
    timer: Timer,
) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
    """The affinity matrices (B, N, N), and the heads' collapse, first and last loss, each (B,)."""
    none = rows.new_full((len(rows),), torch.nan)
    of_head = (none, none, none)
    if settings.affinity == "binary":
        with timer.step("affinity"):
            return affinity.binary_affinity(rows, valid, tau=settings.tau, floor=settings.floor), of_head
    with timer.step("affinity"):
        weights = affinity.feature_affinity(rows, valid, shift=settings.shift)
    if settings.head != "none":
        with timer.step("head"):
            trained = _head(rows, valid, grid, seeds, settings)
        with timer.step("affinity"):
            of_head = (trained.collapse, trained.loss_first, trained.loss_last)
            w_sa = affinity.head_affinity(
                trained.outputs, valid, normalize=settings.head == "trained", center=settings.center_head
            )
            weights = affinity.combine(weights, w_sa, settings.kappa)
    with timer.step("affinity"):
        tint = _color_affinity(images, grid, settings).to(rows.device) if settings.color_weight else None
        return (
            affinity.graph(weights, valid, floor=settings.floor, color=tint, color_weight=settings.color_weight),
            of_head,
        )


def _color_affinity(images: Tensor, grid: tuple[int, int], settings: SegmentSettings) -> Tensor:
    """Colour affinities (B, N, N) float32 of the images at one pixel a patch."""
    of_color = color.knn_affinity if settings.color == "knn" else color.random_walk_affinity
    pixels = images.permute(0, 3, 1, 2).to(torch.float32).div_(255.0)
    small = torch.nn.functional.interpolate(pixels, size=grid, mode="bilinear", antialias=True).clamp_(0.0, 1.0)
    pictures = small.permute(0, 2, 3, 1).cpu().numpy()
    return torch.stack([torch.as_tensor(of_color(picture).toarray(), dtype=torch.float32) for picture in pictures])


def _head(
    rows: Tensor, valid: Tensor, grid: tuple[int, int], seeds: Sequence[int], settings: SegmentSettings
) -> head.HeadOutput:
    if settings.head == "upstream-cli":
        return head.upstream_head(rows, grid, seeds, train=False)
    step = settings.patches_per_step
    if settings.head == "upstream-notebook":
        return head.upstream_head(
            rows,
            grid,
            seeds,
            train=True,
            patches_per_step=step,
            learning_rate=settings.learning_rate,
            epochs=settings.epochs,
            precision=settings.head_precision,
        )
    return head.train_head(
        rows,
        grid,
        valid,
        seeds,
        patches_per_step=step,
        learning_rate=settings.learning_rate,
        epochs=settings.epochs,
        precision=settings.head_precision,
    )
