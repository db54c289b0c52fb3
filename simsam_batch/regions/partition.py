"""Several regions per image: k-means on eigenvectors, the background by its share of the border, components.

After Deep Spectral Methods (Melas-Kyriazi et al. 2022, section 3.3): the patches of an image are points whose
coordinates are its eigenvectors after the constant one. Region 0 is the background.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from simsam_batch.regions.kmeans import kmeans
from simsam_batch.regions.masks import degenerate


def partition(
    values: Tensor,
    vectors: Tensor,
    grid: tuple[int, int],
    seeds: Sequence[int],
    *,
    regions: int | None,
    vectors_used: int | None = None,
    features: Tensor | None = None,
    valid: Tensor | None = None,
    background: bool = True,
    split: bool = False,
    restarts: int = 10,
    iterations: int = 300,
) -> Tensor:
    """Divide each image into regions by k-means on the rows of [v_1 .. v_m], or on its features.

    A degenerate graph, whose eigenvectors mean nothing, gives the single region 0.

    Args:
        values: ``(B, K)`` ascending eigenvalues, NaN where the graph has fewer.
        vectors: ``(B, K, N)`` eigenvectors on the whole grid, row-major, zero where the graph has fewer.
        grid: ``(Hp, Wp)``.
        seeds: one per image.
        regions: how many in every image, the background among them; None: `eigengap_count` of each image.
        vectors_used: m, the vectors after the constant one that are used; None, or more than there are: all.
        features: ``(B, N, C)``, the points instead of the eigenvectors: the baseline without a graph. What the graph
            is like is then of no account, but for the number of regions where that is None.
        valid: ``(B, N)`` bool, the patches that take part; None: all.
        background: whether 0 is the background, found by `background_first`; else it is a region like all others.
        split: make each connected part a region, by `split_components`; there may be more than asked for then.
        restarts: of k-means.
        iterations: most of Lloyd's iterations.

    Returns:
        ``(B, N)`` int32, 0..n-1, and -1 where not valid. n is less than asked for where fewer patches differ.

    Raises:
        ValueError: if shapes and counts do not fit together, or a point is not finite.
    """
    patches = grid[0] * grid[1]
    if vectors.shape[2] != patches or (features is not None and features.shape[1] != patches):
        given = tuple((vectors if features is None else features).shape)
        raise ValueError(f"points of the shape {given} do not fit a grid of {grid}, which has {patches} patches")
    if vectors_used is not None and vectors_used < 1:
        raise ValueError(f"vectors_used={vectors_used} must be at least 1, or None for all")
    wanted = eigengap_count(values) if regions is None else torch.full_like(values[:, 0], regions, dtype=torch.int64)
    points = features
    if points is None:
        meaningless = degenerate(values, vectors)
        points = vectors[:, 1:].mT if vectors.shape[1] > 1 else vectors.mT
        # Whatever a degenerate graph has for vectors: points that are all the same make one region.
        points = points[:, :, :vectors_used].masked_fill(meaningless[:, None, None], 0.0)
    if valid is None:
        valid = torch.ones(points.shape[:2], dtype=torch.bool, device=points.device)
    labels = kmeans(points, valid, wanted, seeds, restarts=restarts, iterations=iterations).labels.to(torch.int32)
    if background:
        labels = background_first(labels, grid)
    return split_components(labels, grid, first=int(background)) if split else labels


def eigengap_count(values: Tensor) -> Tensor:
    """Count the regions that a spectrum suggests: those before its largest gap, the first gap left out.

    With g_i = mu_{i+1} - mu_i, ``n = 1 + argmax_{i >= 1} g_i``, the first of equal ones; 2 <= n <= K - 1 (adaptive
    number of segments of Deep Spectral Methods).

    Args:
        values: ``(B, K)`` ascending eigenvalues, NaN after an image's own.

    Returns:
        ``(B,)`` int64; as many as there are values where these are fewer than three, but at least 1.
    """
    there = torch.isfinite(values).sum(dim=1)
    if values.shape[1] < 3:
        return there.clamp(min=1)
    gaps = values.diff(dim=1)[:, 1:].nan_to_num(nan=-torch.inf)
    return torch.where(there < 3, there.clamp(min=1), gaps.argmax(dim=1) + 2)


def background_first(labels: Tensor, grid: tuple[int, int]) -> Tensor:
    """Swap ids so that 0 is the region with the greatest share of the border (Deep Spectral Methods).

    The border is the first and the last row plus the first and the last column: corners count twice, a grid of one
    row counts its row twice. Of equal shares the lowest id wins.

    Args:
        labels: ``(B, N)`` whole numbers, row-major; negative ones stay and count for nothing.
        grid: ``(Hp, Wp)``.

    Returns:
        Labels of the same shape and dtype.
    """
    plane = labels.reshape(len(labels), *grid)
    border = torch.cat([plane[:, [0, -1]].flatten(1), plane[:, :, [0, -1]].flatten(1)], dim=1).to(torch.int64)
    share = torch.zeros(len(labels), max(1, int(labels.max()) + 1), dtype=torch.int64, device=labels.device)
    share.scatter_add_(1, border.clamp(min=0), (border >= 0).to(torch.int64))
    background = share.argmax(dim=1, keepdim=True).to(labels.dtype)
    swapped = torch.where(labels == 0, background, labels)
    return torch.where(labels == background, torch.zeros_like(labels), swapped)


def split_components(labels: Tensor, grid: tuple[int, int], *, first: int = 1) -> Tensor:
    """Make every connected part of a region a region of its own.

    Patches are connected along their sides. Parts are numbered from ``first`` on, in the order of their first patches.

    Args:
        labels: ``(B, N)`` whole numbers, row-major.
        grid: ``(Hp, Wp)``.
        first: lowest id that is split, lower ones stay as they are: 1 keeps the background one region, 0 does not.

    Returns:
        ``(B, N)`` int32, as many ids as there are parts.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    planes = labels.cpu().numpy().reshape(-1, *grid)
    places = np.arange(planes.size).reshape(planes.shape)
    beside, below = planes[:, :, 1:] == planes[:, :, :-1], planes[:, 1:] == planes[:, :-1]
    tail = np.concatenate([places[:, :, :-1][beside], places[:, :-1][below]])
    head = np.concatenate([places[:, :, 1:][beside], places[:, 1:][below]])
    graph = coo_array((np.ones(len(tail), dtype=np.int8), (tail, head)), shape=(planes.size,) * 2)
    _, numbered = connected_components(graph, directed=False)
    _, opening, part = np.unique(numbered, return_index=True, return_inverse=True)
    # The patches that open a part, counted along each image: a part's number is that of its first patch.
    opens = np.zeros(planes.size, dtype=np.int64)
    opens[opening] = planes.ravel()[opening] >= first
    number = opens.reshape(len(planes), -1).cumsum(axis=1).ravel()[opening][part].reshape(labels.shape)
    split = torch.from_numpy(number + (first - 1)).to(labels.device, torch.int32)
    return torch.where(labels >= first, split, labels.to(torch.int32))
