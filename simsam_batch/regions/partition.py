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
    seeds: Sequence[int],
    grid: tuple[int, int],
    *,
    segments: int | None,
    vectors_used: int | None = None,
    restarts: int = 10,
    iterations: int = 300,
) -> Tensor:
    """Divide each image into regions by k-means on the rows of [v_1 .. v_m].

    A degenerate graph, whose eigenvectors mean nothing, gives the single region 0.

    Args:
        values: ``(B, K)`` ascending eigenvalues, NaN where the graph has fewer.
        vectors: ``(B, K, N)`` eigenvectors on the whole grid, zero where the graph has fewer.
        seeds: one per image.
        grid: ``(Hp, Wp)``.
        segments: regions wanted in every image, the background among them; None: `eigengap_count` of each image.
        vectors_used: m, the vectors after the constant one that are used; None, or more than there are: all.
        restarts: of k-means.
        iterations: most of Lloyd's iterations.

    Returns:
        ``(B, N)`` int32, 0..n-1, 0 the background. n is less than asked for where fewer patches differ.

    Raises:
        ValueError: if shapes and counts do not fit together, or vectors are not finite.
    """
    if vectors_used is not None and vectors_used < 1:
        raise ValueError(f"vectors_used={vectors_used} must be at least 1, or None for all")
    meaningless = degenerate(values, vectors)
    wanted = eigengap_count(values) if segments is None else torch.full_like(meaningless, segments, dtype=torch.int64)
    # One cluster asks nothing of its points: whatever a degenerate graph has for vectors is left unread.
    points = vectors[:, 1:].mT if vectors.shape[1] > 1 else torch.zeros_like(vectors).mT
    points = points[:, :, :vectors_used].masked_fill(meaningless[:, None, None], 0.0)
    wanted = torch.where(meaningless, wanted.clamp(max=1), wanted)
    return partition_points(points, wanted, seeds, grid, restarts=restarts, iterations=iterations)


def partition_points(
    points: Tensor,
    wanted: Tensor,
    seeds: Sequence[int],
    grid: tuple[int, int],
    *,
    valid: Tensor | None = None,
    restarts: int = 10,
    iterations: int = 300,
) -> Tensor:
    """Divide each image into regions by k-means on any points: with features for points, the baseline without a graph.

    Args:
        points: ``(B, N, D)``, row-major on the grid.
        wanted: ``(B,)`` regions wanted, the background among them.
        seeds: one per image.
        grid: ``(Hp, Wp)``.
        valid: ``(B, N)`` bool, the patches that take part; None: all.
        restarts: of k-means.
        iterations: most of Lloyd's iterations.

    Returns:
        ``(B, N)`` int32, 0 the background by `background_first`, -1 where not valid.

    Raises:
        ValueError: if shapes and counts do not fit together, or a valid point is not finite.
    """
    if points.shape[1] != grid[0] * grid[1]:
        raise ValueError(f"points have the shape {tuple(points.shape)}; a grid of {grid} has {grid[0] * grid[1]} rows")
    if valid is None:
        valid = torch.ones(points.shape[:2], dtype=torch.bool, device=points.device)
    found = kmeans(points, valid, wanted, seeds, restarts=restarts, iterations=iterations)
    return background_first(found.labels, grid).to(torch.int32)


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


def split_components(labels: Tensor, grid: tuple[int, int]) -> Tensor:
    """Make every connected part of a region a region of its own; the background stays one.

    Patches are connected along their sides. Parts are numbered from 1 in the order of their first patches.

    Args:
        labels: ``(B, N)`` whole numbers, row-major; 0 is the background, it and negative ones stay as they are.
        grid: ``(Hp, Wp)``.

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
    _, first, part = np.unique(numbered, return_index=True, return_inverse=True)
    # The patches that open a part of the foreground, counted along each image: a part's number is that of its first.
    opens = np.zeros(planes.size, dtype=np.int64)
    opens[first] = planes.ravel()[first] > 0
    number = opens.reshape(len(planes), -1).cumsum(axis=1).ravel()[first][part].reshape(labels.shape)
    split = torch.from_numpy(number).to(labels.device, torch.int32)
    return torch.where(labels > 0, split, labels.to(torch.int32))
