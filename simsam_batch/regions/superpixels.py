"""The patches of an image as a few hundred groups of like patches, and the graph between those groups.

First half of hierarchy-agnostic segmentation (Rossetti and Pirri, NeurIPS 2024): spectral clustering of the patch graph
into m superpixels at once (rows of the first m eigenvectors scaled to unit length, k-means: Ng, Jordan and Weiss 2001),
and the contraction of the patch graph onto them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from simsam_batch.regions.kmeans import KMeans, kmeans
from simsam_batch.spectral.affinity import normalize_rows
from simsam_batch.spectral.distance import Adjacency, distance_affinity
from simsam_batch.spectral.eigen import EigenResult, Solver, smallest_eigenpairs
from simsam_batch.spectral.laplacian import fill_left_out
from simsam_batch.spectral.low_rank import minmax_map, smallest_eigenpairs_of_low_rank


@dataclass(frozen=True, slots=True, kw_only=True)
class OverClustering:
    """How patches become superpixels; the defaults are those of the published configurations."""

    superpixels: int = 200
    """m, the superpixels of an image; 300 for Cityscapes."""

    adjacency: Adjacency = "minmax"
    """Weights of the patch graph, see `simsam_batch.spectral.distance`."""

    sigma: float = 1.0
    """Of the adjacency ``exp``."""

    min_weight: float = 0.0
    """Weights of the patch graph below it become zero."""

    form: Literal["auto", "low-rank", "dense"] = "auto"
    """``low-rank`` solves the min-max graph from its factors, patches joined to themselves, and contracts it exactly;
    vectors outside its range, which tell nothing, are left out, so that there are at most C + 1. ``dense`` forms
    (N, N) weights with a diagonal of zero, as published code does. ``auto`` is the first wherever it can be."""

    solver: Solver = "auto"
    """Of the form ``dense``."""

    tolerance: float = 1e-4
    """Accepted residual of an eigenpair."""

    restarts: int = 10
    """Of k-means. One takes a fifth of the time, and the inertia is within a hundredth."""

    iterations: int = 600
    """Most of Lloyd's iterations."""

    def __post_init__(self) -> None:
        if self.superpixels < 1:
            raise ValueError(f"superpixels={self.superpixels} must be at least 1")
        if self.form == "low-rank" and not self.is_affine:
            raise ValueError("the form 'low-rank' needs adjacency='minmax' and min_weight=0: use 'dense' or 'auto'")

    @property
    def is_affine(self) -> bool:
        """Whether the weights are an affine function of the cosine, so that they have a low rank."""
        return self.adjacency == "minmax" and self.min_weight <= 0


@dataclass(frozen=True, slots=True)
class Superpixels:
    """Superpixels of B images of N patches.

    Attributes:
        labels: (B, N) int32, superpixel of every patch, numbered by their first patches; -1 for a patch of none.
        graphs: one (s, s) float64 for each image, s its superpixels: symmetric, not negative, diagonal zero.
    """

    labels: NDArray[np.int32]
    graphs: list[NDArray[np.float64]]


@torch.no_grad()
def over_cluster(
    features: Tensor,
    valid: Tensor,
    seeds: Sequence[int],
    settings: OverClustering | None = None,
    *,
    grid: tuple[int, int] | None = None,
) -> tuple[Superpixels, EigenResult]:
    """Group the patches of every image into superpixels, and contract its graph onto them.

    An edge between superpixels is the sum of the weights of all pairs of patches between them; what lies within one is
    left out. An image has fewer superpixels than asked for where fewer patches differ: one that shows no contrast, or
    whose features are not finite (`EigenResult.solver` says so), has a single one. On the CPU an image's result is
    the same to the bit in any batch; on CUDA eigenpairs are solved together.

    Args:
        features: (B, N, C) float32, rows of unit length, on any device.
        valid: (B, N) bool, patches that belong to the graph.
        seeds: one per image, for k-means.
        settings: None: the defaults.
        grid: (Hp, Wp). With it, patches that are not valid get a superpixel as well, by eigenvectors filled in from
            their neighbours; they add nothing to the graph. Without it they belong to none.

    Returns:
        The superpixels, and the eigenpairs they come from.

    Raises:
        ValueError: shapes that do not fit together.
    """
    settings = OverClustering() if settings is None else settings
    if features.ndim != 3 or valid.shape != features.shape[:2] or len(seeds) != len(features):
        raise ValueError(
            f"features {tuple(features.shape)}, valid {tuple(valid.shape)} and {len(seeds)} seeds do not fit together: "
            f"(B, N, C), (B, N) and B are needed"
        )
    if grid is not None and grid[0] * grid[1] != features.shape[1]:
        raise ValueError(f"a grid of {grid[0]} x {grid[1]} does not hold {features.shape[1]} patches")
    if not features.numel():
        raise ValueError(f"features {tuple(features.shape)} hold nothing")
    # One by one on the CPU: what a product of several matrices rounds may depend on how many there are.
    size = 1 if features.device.type == "cpu" else len(features)
    parts = [slice(start, start + size) for start in range(0, len(features), size)]
    solved = [_eigenpairs(features[part], valid[part], settings) for part in parts]
    pairs = _joined([found for found, _ in solved])
    flat = torch.cat([nothing for _, nothing in solved])

    # Where there is nothing to tell patches by, whatever vectors came out, all of them are one point.
    vectors = pairs.vectors.masked_fill(flat[:, None, None], 0)
    clusters = torch.full((len(features),), settings.superpixels)
    rows = normalize_rows(vectors.mT)
    found = kmeans(rows, valid, clusters, seeds, restarts=settings.restarts, iterations=settings.iterations)
    labels = found.labels if grid is None else labels_everywhere(found, vectors, valid, grid)
    labels = _numbered_by_first_patch(labels)
    graphs = [_contracted(*each, settings) for each in zip(features, valid, labels, strict=True)]
    return Superpixels(labels.to("cpu", torch.int32).numpy(), graphs), pairs


def labels_everywhere(found: KMeans, vectors: Tensor, valid: Tensor, grid: tuple[int, int]) -> Tensor:
    """Give patches that k-means left out the cluster that is nearest to what their neighbours lead to.

    Args:
        found: clusters of unit rows of the valid patches.
        vectors: (B, K, N), columns of which those rows are, of any length; filled in by `fill_left_out`.
        valid: (B, N) bool.
        grid: (Hp, Wp).

    Returns:
        (B, N) labels; -1 in images without any valid patch.
    """
    filled = normalize_rows(fill_left_out(vectors, valid, grid).mT)
    some = (found.counts > 0)[:, None]
    return torch.where(valid | ~some, found.labels, _nearest(filled, found.centers))


def _eigenpairs(features: Tensor, valid: Tensor, settings: OverClustering) -> tuple[EigenResult, Tensor]:
    """Solve the graphs, and tell which of them (B,) have nothing but equal weights, or none that can be used."""
    scale, offset = minmax_map(features, valid)
    flat = ~(scale > 0)
    if settings.is_affine and settings.form != "dense":
        wanted = min(settings.superpixels, features.shape[2] + 1)
        return smallest_eigenpairs_of_low_rank(
            features, valid, scale, offset, wanted, tolerance=settings.tolerance
        ), flat
    w = _weights(features, valid, settings)
    found = smallest_eigenpairs(
        w.nan_to_num(nan=0.0),
        valid & torch.isfinite(scale)[:, None],
        settings.superpixels,
        solver=settings.solver,
        tolerance=settings.tolerance,
    )
    return found, flat


def _weights(features: Tensor, valid: Tensor, settings: OverClustering) -> Tensor:
    return distance_affinity(
        features, valid, adjacency=settings.adjacency, sigma=settings.sigma, threshold=settings.min_weight
    )


def _joined(parts: list[EigenResult]) -> EigenResult:
    tensors = {
        field.name: torch.cat([getattr(part, field.name) for part in parts])
        for field in fields(EigenResult)
        if field.name != "solver"
    }
    return EigenResult(**tensors, solver=[name for part in parts for name in part.solver])


def _numbered_by_first_patch(labels: Tensor) -> Tensor:
    """Renumber the clusters of each image (B, N) in the order of their first patches; -1 stays."""
    renumbered = labels.clone()
    for image, row in enumerate(labels.cpu().numpy()):
        names, first = np.unique(row[row >= 0], return_index=True)
        place = np.full(int(row.max()) + 2, -1)
        place[names[np.argsort(first)]] = np.arange(len(names))
        renumbered[image] = torch.from_numpy(place[row]).to(labels.device)
    return renumbered


def _contracted(features: Tensor, valid: Tensor, labels: Tensor, settings: OverClustering) -> NDArray[np.float64]:
    """Sum the weights between superpixels, for one image: G^T W G with a diagonal of zero, in fp64."""
    count = int(labels.max()) + 1
    members = ((labels[:, None] == torch.arange(count, device=labels.device)) & valid[:, None]).double()
    if settings.is_affine:
        # Either form of the solver leaves the same sums: they differ in what lies within a superpixel.
        scale, offset = minmax_map(features[None], valid[None])
        sums, sizes = members.T @ features.masked_fill(~valid[:, None], 0).double(), members.sum(dim=0)
        graph = scale * (sums @ sums.T) + offset * torch.outer(sizes, sizes)
    else:
        w = _weights(features[None], valid[None], settings)[0]
        graph = (members.T.float() @ w).double() @ members
    graph = ((graph + graph.T) / 2).clamp(min=0).fill_diagonal_(0)
    return graph.cpu().numpy()


def _nearest(rows: Tensor, centers: Tensor) -> Tensor:
    """Number of the nearest centre (B, N); centres that are NaN do not exist."""
    squares = centers.square().sum(dim=2).nan_to_num(nan=torch.inf)
    return (squares[:, None, :] - 2 * torch.bmm(rows, centers.nan_to_num(nan=0.0).mT)).argmin(dim=2)
