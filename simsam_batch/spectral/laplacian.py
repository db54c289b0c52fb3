"""The graph of one image's patches: degrees, normalised affinity, connected parts, and filling of what was left out."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, max_pool2d

SMALLEST_DEGREE = 1e-12

_LOOK_AFTER = 4
"""Squarings after which `components_by_squaring` sees whether the last one found anything. Measured: three are enough
for the graphs of real images, two for most."""


def degrees(w: Tensor) -> Tensor:
    """Return the row sums d of an affinity, with 1 in place of sums below 1e-12 so that they can be divided by.

    Args:
        w: (B, N, N) affinities.

    Returns:
        (B, N), same dtype and device.
    """
    sums = w.sum(dim=-1)
    return torch.where(sums < SMALLEST_DEGREE, torch.ones_like(sums), sums)


def normalized_affinity(w: Tensor, degrees: Tensor) -> Tensor:
    """Return A = D^-1/2 W D^-1/2, whose eigenpairs (nu, u) give those of (D - W) v = mu D v as (1 - nu, D^-1/2 u).

    Args:
        w: (B, N, N) symmetric affinities.
        degrees: (B, N), positive, from `degrees`.

    Returns:
        (B, N, N), symmetric to the last bit.
    """
    scale = degrees.rsqrt()
    # The product of the two factors comes first: it is the same for (i, j) and (j, i), so A stays symmetric.
    # In place, because at these sizes a fresh block of memory costs more than the arithmetic.
    return (scale.unsqueeze(-1) * scale.unsqueeze(-2)).mul_(w)


def components(w: Tensor, valid: Tensor, *, above: float) -> tuple[Tensor, Tensor]:
    """Label the connected components of each image's graph of edges heavier than ``above``.

    On the CPU this is one breadth-first search per image over the dense adjacency; on such dense graphs that is about
    50 times faster than ``scipy.sparse.csgraph``, which first builds a list of all edges. On CUDA the graphs stay where
    they are, see `components_by_squaring`.

    Args:
        w: (B, N, N) symmetric affinities.
        valid: (B, N) bool, patches that belong to the graph.
        above: edges must exceed this weight; give the floor of the affinity, so that floor edges do not count.

    Returns:
        labels: (B, N) int32 on the device of ``w``, numbered from 0 by the lowest patch they hold; -1 where not valid.
        count: (B,) int32 number of components; 0 for an image without valid patches.
    """
    if w.is_cuda:
        return components_by_squaring(w, valid, above=above)
    edges = (w > above).cpu().numpy()
    inside = valid.cpu().numpy()
    labels = np.full(inside.shape, -1, dtype=np.int32)
    count = np.zeros(len(inside), dtype=np.int32)
    for image in range(len(inside)):
        unseen = inside[image].copy()
        while unseen.any():
            frontier = np.array([int(unseen.argmax())])
            unseen[frontier] = False
            while frontier.size:
                labels[image, frontier] = count[image]
                frontier = np.flatnonzero(edges[image][frontier].any(axis=0) & unseen)
                unseen[frontier] = False
            count[image] += 1
    return torch.from_numpy(labels).to(w.device), torch.from_numpy(count).to(w.device)


def components_by_squaring(w: Tensor, valid: Tensor, *, above: float) -> tuple[Tensor, Tensor]:
    """Label connected components as `components` does, by products of matrices alone.

    Squaring the relation "is reached by at most m edges" gives that of 2 m edges, so that ``log2 N`` products hold all
    paths there can be. The host waits for the device once, to leave out the later ones if nothing is left to find.

    Args:
        w: (B, N, N) symmetric affinities.
        valid: (B, N) bool.
        above: edges must exceed this weight.

    Returns:
        labels (B, N) int32 and count (B,) int32, see `components`.
    """
    reach = ((w > above) & valid[:, :, None] & valid[:, None, :]).to(torch.float16)
    reach.diagonal(dim1=1, dim2=2).copy_(valid)
    for squarings in range(1, (valid.shape[1] - 1).bit_length() + 1):
        # A sum of ones and zeros never rounds below its largest term: half precision loses no path.
        wider = (reach @ reach).clamp_(max=1)
        if squarings == _LOOK_AFTER and not bool((wider > reach).any()):
            break
        reach = wider
    # The first of equal entries, that is the lowest patch of the component.
    lowest = reach.argmax(dim=2)
    first = valid & (lowest == torch.arange(valid.shape[1], device=w.device))
    labels = (first.cumsum(dim=1) - 1).gather(1, lowest).masked_fill(~valid, -1)
    return labels.to(torch.int32), first.sum(dim=1, dtype=torch.int32)


def small_islands(labels: Tensor, *, share: float) -> Tensor:
    """Mark the patches of small components, which would otherwise take the second eigenvector for themselves.

    A component is small if it holds at most ``share`` of the image's valid patches. The largest component (the
    first of several equal ones) never is, so a graph does not vanish. Rule of this project.

    Args:
        labels: (B, N) int32 from `components`, -1 where not valid.
        share: from 0 (marks nothing) to 1 (leaves only the largest component).

    Returns:
        (B, N) bool, True for patches to be taken out of the graph.
    """
    if not labels.numel():
        return torch.zeros_like(labels, dtype=torch.bool)
    inside = labels >= 0
    index = labels.clamp(min=0).long()
    # There are no more components than patches: on a GPU nothing has to wait for their number.
    sizes = torch.zeros_like(index).scatter_add_(1, index, inside.long())
    small = sizes <= share * inside.sum(dim=1, keepdim=True)
    small.scatter_(1, sizes.argmax(dim=1, keepdim=True), False)
    return small.gather(1, index) & inside


def fill_left_out(vectors: Tensor, valid: Tensor, grid: tuple[int, int]) -> Tensor:
    """Give patches outside the graph the mean of those of their 8 neighbours that have a value, growing outward.

    All images and vectors advance together, ring by ring, until every patch has a value. Rule of this project.

    Args:
        vectors: (B, K, N) with N = Hp * Wp, row-major; entries that are not valid are not read.
        valid: (B, N) bool.
        grid: (Hp, Wp).

    Returns:
        (B, K, N) new tensor, equal to ``vectors`` where valid; zeros for an image without any valid patch.
    """
    batch, count, patches = vectors.shape
    height, width = grid
    if height * width != patches:
        raise ValueError(f"a grid of {height} x {width} does not hold {patches} patches")
    known = valid.reshape(batch, 1, height, width)
    values = vectors.reshape(batch, count, height, width).masked_fill(~known, 0)
    for _ in range(_rings(known.cpu())):
        # A pooling, not a convolution: on a GPU convolutions may round their inputs to TF32.
        neighbours = avg_pool2d(known.to(values.dtype), 3, stride=1, padding=1, divisor_override=1)
        sums = avg_pool2d(values, 3, stride=1, padding=1, divisor_override=1)
        values = torch.where(known, values, sums / neighbours.clamp(min=1))
        known = known | (neighbours > 0)
    return values.reshape(batch, count, patches)


def _rings(known: Tensor) -> int:
    """Count how often the known patches (B, 1, Hp, Wp) must grow by one to cover all images that have any."""
    grown = known[known.flatten(1).any(dim=1)].to(torch.float32)
    rings = 0
    while not bool(grown.all()):
        grown = max_pool2d(grown, 3, stride=1, padding=1)
        rings += 1
    return rings
