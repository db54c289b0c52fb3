"""From a batch of equally large images to the eigenpairs of their patch graphs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from simsam_batch.errors import SettingsError
from simsam_batch.regions import masks
from simsam_batch.regions.partition import partition
from simsam_batch.regions.smoothing import smoothed
from simsam_batch.settings import SpectralSettings
from simsam_batch.spectral import affinity, color, eigen, head, laplacian
from simsam_batch.workers.images import not_computable
from simsam_batch.workers.pixels import normalized
from simsam_batch.workers.timer import Timer

if TYPE_CHECKING:
    from simsam_batch.features.contract import Backbone


@dataclass(frozen=True, slots=True)
class Decomposed:
    """The graphs of a batch of B images with N patches, solved; tensors on the device that computed them.

    Attributes:
        rows: (B, N, C) float32, unit descriptors of the patches.
        graph: (B, N, N) float32, affinities, 0 for patches left out; None unless it was to be kept.
        points: (B, N, C) float32, by what patches are grouped where it is not by eigenvectors: ``rows``, or these
            smoothed along the graph.
        valid: (B, N) bool, patches that belong to the graph.
        pairs: eigenpairs of the normalised Laplacian, at least three where the graph has so many.
        vectors: (B, K, N) float32, their vectors on the whole grid: left-out patches filled in, after the sign rule.
        one_colour: (B,) bool, images whose pixels are all equal.
        outliers, islands, components: (B,) counts of patches left out, and of components before that.
        collapse, loss_first, loss_last: (B,) float32, of the head; NaN without one.
    """

    rows: Tensor
    graph: Tensor | None
    points: Tensor
    valid: Tensor
    pairs: eigen.EigenResult
    vectors: Tensor
    one_colour: Tensor
    outliers: Tensor
    islands: Tensor
    components: Tensor
    collapse: Tensor
    loss_first: Tensor
    loss_last: Tensor

    def degenerate(self) -> Tensor:
        """(B,) bool, images that single out no second vector."""
        return self.one_colour | masks.degenerate(self.pairs.values, self.vectors)


def decompose_batch(
    images: Tensor,
    grid: tuple[int, int],
    seeds: Sequence[int],
    backbone: Backbone,
    settings: SpectralSettings,
    timer: Timer,
    *,
    keep_graph: bool = False,
) -> Decomposed:
    """Describe a batch of images of one size and solve their graphs; each image's result is its own.

    Args:
        images: (B, height, width, 3) uint8 RGB on the device to compute on, cropped to whole patches.
        grid: patches down and across; N is their product.
        seeds: one seed an image, for the head.
        backbone: what describes the patches.
        settings: result settings.
        timer: where the time of each step is added.
        keep_graph: whether the graphs are returned as well.
    """
    # A network's positions give even a one-colour image a structure, so that is judged by the pixels.
    one_colour = (images.amin((1, 2)) == images.amax((1, 2))).all(1)
    with timer.step("forward"), torch.inference_mode():
        features = backbone(normalized(images, backbone.mean, backbone.std))
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
            islands = laplacian.small_islands(labels, share=settings.island_share)
            valid = valid & ~islands
            graph.mul_(valid[:, :, None]).mul_(valid[:, None, :])
        with timer.step("eigen"):
            pairs, vectors = solve(graph, valid, grid, settings)
        points = smoothed(rows, graph, valid, grid) if settings.region_source == "smoothed" else rows
        kept = graph if keep_graph else None
        counts = (outliers, islands.sum(1), components)
        return Decomposed(rows, kept, points, valid, pairs, vectors, one_colour, *counts, *of_head)


def solve(
    graph: Tensor, valid: Tensor, grid: tuple[int, int], settings: SpectralSettings
) -> tuple[eigen.EigenResult, Tensor]:
    """The eigenpairs of graphs (B, N, N), and their vectors (B, K, N) on the whole grid, after the sign rule."""
    # The spectral gap needs three pairs, however few are kept.
    count = max(settings.k, 3)
    pairs = eigen.smallest_eigenpairs(graph, valid, count, solver=settings.solver, tolerance=settings.tolerance)
    return pairs, eigen.apply_sign_rule(laplacian.fill_left_out(pairs.vectors, valid, grid))


def require_finite(solver: str) -> None:
    """Refuse an image whose features came to nothing.

    Args:
        solver: what solved its eigenproblem.

    Raises:
        ImageError: nothing did, since its features are not finite.
    """
    if solver == eigen.NOT_FINITE:
        raise not_computable("the backbone's features are not finite")


def check_solver(settings: SpectralSettings, device: str) -> None:
    """Refuse a solver that a device has not.

    Raises:
        SettingsError: naming both.
    """
    if settings.solver == "arpack" and device == "cuda":
        raise SettingsError("solver: 'arpack' runs on a CPU only; choose another --solver, or --device cpu")


def regions_of(
    found: Decomposed,
    degenerate: Tensor,
    grid: tuple[int, int],
    seeds: Sequence[int],
    settings: SpectralSettings,
    regions: int,
) -> Tensor:
    """Cut the images of a batch into regions: (B, N) int32, 0 the background unless the settings know none.

    An image whose second eigenvector means nothing is one region, and so is one of a single colour.

    Args:
        found: the images.
        degenerate: (B,) bool.
        grid: (Hp, Wp).
        seeds: one an image.
        settings: how.
        regions: so many, background included; 0: as many as the eigengap says.
    """
    by_features = settings.region_source != "eigenvectors"
    # An image whose features are not finite fails by itself, and must not fail the batch.
    finite = torch.isfinite(found.rows).all(dim=2).all(dim=1)
    labels = partition(
        found.pairs.values[:, : settings.k],
        found.vectors[:, : settings.k],
        grid,
        seeds,
        regions=regions or None,
        vectors_used=settings.region_vectors or None,
        features=found.points.masked_fill(~finite[:, None, None], 0) if by_features else None,
        background=settings.background,
        split=settings.split_regions,
    )
    return labels.masked_fill((found.one_colour if by_features else degenerate)[:, None], 0)


def _graph(
    images: Tensor,
    rows: Tensor,
    valid: Tensor,
    grid: tuple[int, int],
    seeds: Sequence[int],
    settings: SpectralSettings,
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


def _color_affinity(images: Tensor, grid: tuple[int, int], settings: SpectralSettings) -> Tensor:
    """Colour affinities (B, N, N) float32 of the images at one pixel a patch."""
    of_color = color.knn_affinity if settings.color == "knn" else color.random_walk_affinity
    pixels = images.permute(0, 3, 1, 2).to(torch.float32).div_(255.0)
    small = torch.nn.functional.interpolate(pixels, size=grid, mode="bilinear", antialias=True).clamp_(0.0, 1.0)
    pictures = small.permute(0, 2, 3, 1).cpu().numpy()
    return torch.stack([torch.as_tensor(of_color(picture).toarray(), dtype=torch.float32) for picture in pictures])


def _head(
    rows: Tensor, valid: Tensor, grid: tuple[int, int], seeds: Sequence[int], settings: SpectralSettings
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
