"""k-means of the patches of many images at once, every image as if it were alone.

Each image's points are rounded to a fixed-point grid of 2^-24 of (a bound on) its longest row, and so are the
centres. Products, sums of products and sums of points are then whole numbers below 2^53, which float64 holds exactly
in any order of summation: labels are the same bits in any batch, with any number of threads, on any device, and ties
are true ties. Seeds come by greedy k-means++ (Arthur and Vassilvitskii 2007; several candidates a step, of which the
best stays), then Lloyd's iterations; all restarts of all images share the matrix products.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

_BITS = 24
# On the CPU the scores of a group of images should stay in the cache; elsewhere in memory.
_SCORES_ON_CPU = 2**19
_SCORES_ON_DEVICE = 2**27


@dataclass(frozen=True, slots=True)
class KMeans:
    """The best of each image's restarts.

    Attributes:
        labels: ``(B, N)`` int64, 0..counts-1, each of them used; -1 where not valid.
        centers: ``(B, K, D)`` float32, the means of the clusters, K the largest number asked for; NaN from ``counts``
            on.
        counts: ``(B,)`` int64, clusters found: fewer than asked for where there are fewer distinct points.
        inertia: ``(B,)`` float64, summed squared distances to the nearest centre.
        iterations: ``(B,)`` int64, of the restart that was kept; as many as allowed means that it may still move.
    """

    labels: Tensor
    centers: Tensor
    counts: Tensor
    inertia: Tensor
    iterations: Tensor


@torch.no_grad()
def kmeans(
    points: Tensor,
    valid: Tensor,
    clusters: Tensor,
    seeds: Sequence[int],
    *,
    restarts: int = 10,
    iterations: int = 300,
    group: int | None = None,
) -> KMeans:
    """Cluster the points of every image; of several restarts keep the one with the least inertia, or the first.

    A cluster that loses all its points goes on from the point farthest from its centre. A point at equal distance from
    two centres belongs to the one with the lower number.

    Args:
        points: ``(B, N, D)`` floating point, any device; what is not valid may hold anything.
        valid: ``(B, N)`` bool, same device.
        clusters: ``(B,)`` whole numbers of at least 1, any device: the clusters wanted in each image.
        seeds: one per image; its random numbers depend on it, on the image's own number of clusters and on
            ``restarts``, and come from the CPU.
        restarts: at least 1.
        iterations: most of Lloyd's iterations, at least 1. They end when no centre moves.
        group: images taken at once; by default as many as the cache (CPU) or a gigabyte (elsewhere) takes. The result
            does not depend on it.

    Returns:
        Labels, centres and inertia on the device of the points. Points nearer to each other than about a millionth of
        the longest row count as one.

    Raises:
        ValueError: if shapes, seeds or counts do not fit together, or a valid point is not finite.
    """
    wanted = clusters.to("cpu", torch.int64)
    _check(points, valid, wanted, seeds, restarts, iterations)
    batch, count, width = points.shape
    most = int(wanted.max())
    if group is None:
        budget = _SCORES_ON_CPU if points.device.type == "cpu" else _SCORES_ON_DEVICE
        group = max(1, budget // (restarts * max(most, width, 1) * count))
    done = [
        _cluster(points[part], valid[part], wanted[part], seeds[part], most, restarts, iterations)
        for part in _parts(batch, group)
    ]
    return KMeans(*(torch.cat(column) for column in zip(*done, strict=True)))


def _cluster(
    points: Tensor, valid: Tensor, wanted: Tensor, seeds: Sequence[int], most: int, restarts: int, iterations: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The fields of `KMeans` for one group of images."""
    whole, step = _to_fixed_point(points, valid)
    # Sums over the points of squared distances, each up to 2^(2 BITS + 2), shall stay below 2^53.
    unit = 2.0 ** max(0, 2 * _BITS + 3 + math.ceil(math.log2(points.shape[1])) - 53)
    trials = 2 + wanted.to(torch.float64).log().to(torch.int64)
    draws = torch.zeros(len(seeds), most, restarts, int(trials.max()), dtype=torch.float64)
    for own, seed, k, tries in zip(draws, seeds, wanted.tolist(), trials.tolist(), strict=True):
        generator = Generator("cpu").manual_seed(seed)
        own[:k, :, :tries] = torch.rand(k, restarts, tries, dtype=torch.float64, generator=generator)
    device = points.device
    centers, present = _plus_plus(whole, wanted.to(device), draws.to(device), trials.to(device), unit)
    centers, rounds = _lloyd(whole, centers, present, iterations)

    squares = _squares(whole)[:, None]
    inertia = _exact_sum(_scores(whole, centers, present).amin(dim=2) + squares, unit)
    inertia, best = inertia.min(dim=1)
    image = torch.arange(len(best), device=device)
    labels = _scores(whole, centers[image, best, None], present[image, best, None]).min(dim=2).indices[:, 0]
    members = (labels[:, None] == torch.arange(most, device=device)[:, None]).to(whole)
    sums = members @ whole
    used = sums[:, :, -1] > 0
    # Iterations that ended early may have left a cluster empty: close the gaps in the numbering.
    order = (~used).to(torch.uint8).argsort(dim=1, stable=True)
    means = (sums[:, :, :-1] / sums[:, :, -1:] * step).to(torch.float32)
    means = means.gather(1, order[:, :, None].expand_as(means))
    labels = (used.cumsum(dim=1) - 1).gather(1, labels).masked_fill(~valid, -1)
    return labels, means, used.sum(dim=1), inertia * step[:, 0, 0] ** 2, rounds[image, best]


def _to_fixed_point(points: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Round to whole numbers with rows no longer than 2^24: ``(B, N, D + 1)`` float64, and their unit ``(B, 1, 1)``.

    The last column is 1, so that a product with members also counts them; what is not valid is a row of zeros and
    takes part in nothing. The unit is a power of two found without a sum, which an order of summation could change.
    """
    there = valid[:, :, None]
    points = points.to(torch.float64).masked_fill(~there, 0.0)
    reach = points.abs().amax(dim=(1, 2), keepdim=True)
    # reach = mantissa * 2^exponent, the mantissa in [1/2, 1): the quotient is the power of two above reach, exactly.
    mantissa = torch.frexp(reach).mantissa
    power = torch.where(reach > 0, reach / mantissa, torch.ones_like(reach))
    step = power * 2.0 ** (math.ceil(math.log2(points.shape[2]) / 2) - _BITS)
    return torch.cat([(points / step).round(), there.to(points)], dim=2), step


def _plus_plus(points: Tensor, wanted: Tensor, draws: Tensor, trials: Tensor, unit: float) -> tuple[Tensor, Tensor]:
    """Greedy k-means++: centres ``(B, R, K, D)`` and which of them there are, ``(B, R, K)`` bool.

    ``draws`` are ``(B, K, R, T)`` numbers in [0, 1), of which an image uses its first ``trials`` at every step.
    """
    batch, most, restarts, tries = draws.shape
    count, width = points.shape[1], points.shape[2] - 1
    squares = _squares(points)[:, None, None]
    unused = torch.arange(tries, device=points.device) >= trials[:, None, None]
    centers = points.new_zeros(batch, restarts, most, width)
    present = torch.zeros(batch, restarts, most, dtype=torch.bool, device=points.device)
    # The first centre is drawn among all valid points alike, without candidates beside it.
    closest = points[:, None, :, -1].expand(-1, restarts, -1) * unit
    for step in range(most):
        tried = draws[:, step] if step else draws[:, 0, :, :1]
        cumulative = torch.floor(closest / unit).cumsum(dim=2)
        total = cumulative[:, :, -1:]
        places = torch.searchsorted(cumulative, torch.minimum(torch.floor(tried * total), total - 1), right=True)
        # Where no other point is left, total is 0 and any place will do: it is not used.
        there = (total > 0) & (step < wanted)[:, None, None]
        candidates = points.gather(1, places.flatten(1)[:, :, None].expand(-1, -1, width))
        candidates = candidates.view(*places.shape, width)
        distances = _scores(points, candidates) + squares
        if step:
            distances = torch.minimum(distances, closest[:, :, None])
            cost = _exact_sum(distances, unit).masked_fill(unused, math.inf)
            best = cost.argmin(dim=2)[:, :, None, None]
        else:
            best = torch.zeros_like(places)[..., None]
        nearest = distances.gather(2, best.expand(-1, -1, -1, count))[:, :, 0]
        closest = torch.where(there, nearest, closest)
        chosen = candidates.gather(2, best.expand(-1, -1, -1, width))[:, :, 0]
        centers[:, :, step] = torch.where(there, chosen, 0.0)
        present[:, :, step] = there[:, :, 0]
    return centers, present


def _lloyd(points: Tensor, centers: Tensor, present: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """Iterate until no centre of any restart moves: centres ``(B, R, K, D)`` and iterations ``(B, R)``.

    Restarts at rest stay at rest, however long their neighbours move; as many as possible are left out.
    """
    squares = _squares(points)[:, None]
    valid = points[:, :, -1].sum(dim=1)[:, None]
    rounds = torch.zeros(present.shape[:2], dtype=torch.int64, device=points.device)
    active = torch.arange(present.shape[1], device=points.device).expand_as(rounds)
    for _ in range(iterations):
        there = present.gather(1, active[:, :, None].expand(-1, -1, present.shape[2]))
        place = active[:, :, None, None].expand(-1, -1, *centers.shape[2:])
        before = centers.gather(1, place)
        scores = _scores(points, before, there)
        nearest = scores.amin(dim=2, keepdim=True)
        # In place and in float64: the quickest way to the matrix of who belongs where.
        members = scores.eq_(nearest)
        sums = _per_cluster(members, points)
        if (sums[..., -1].sum(dim=2) > valid).any():
            # A point at equal distance from two centres belongs to the first.
            sums = _per_cluster(members * (members.cumsum(dim=2) == 1), points)
        sizes = sums[..., -1:]
        after = torch.where(sizes > 0, (sums[..., :-1] / sizes).round_(), before)
        empty = (sizes[..., 0] == 0) & there
        if empty.any():
            _refill(after, empty, points, nearest[:, :, 0] + squares)
        moving = (after != before).flatten(2).any(dim=2)
        rounds.scatter_add_(1, active, moving.to(rounds))
        centers = centers.scatter(1, place, after)
        most = int(moving.sum(dim=1).max())
        if not most:
            break
        if most < active.shape[1]:
            active = active.gather(1, (~moving).to(torch.uint8).argsort(dim=1, stable=True)[:, :most])
    return centers, rounds


def _per_cluster(members: Tensor, points: Tensor) -> Tensor:
    return (members.flatten(1, 2) @ points).view(*members.shape[:3], points.shape[2])


def _refill(centers: Tensor, empty: Tensor, points: Tensor, distances: Tensor) -> None:
    """Move the first empty cluster of each restart to the point farthest from its centre; another has its turn next."""
    image, restart = empty.any(dim=2).nonzero(as_tuple=True)
    first = empty[image, restart].to(torch.uint8).argmax(dim=1)
    centers[image, restart, first] = points[image, distances[image, restart].argmax(dim=1), :-1]


def _squares(points: Tensor) -> Tensor:
    return points[:, :, :-1].square().sum(dim=2)


def _scores(points: Tensor, centers: Tensor, present: Tensor | None = None) -> Tensor:
    """Squared distances less the points' own squares, |c|^2 - 2 c x: ``(B, R, K, N)``; 0 for points not valid."""
    norms = centers.square().sum(dim=3, keepdim=True)
    if present is not None:
        # Farther than any centre can be, and finite, since 0 times infinity is no number.
        norms = norms.masked_fill(~present[..., None], 2.0**52)
    weights = torch.cat([-2 * centers, norms], dim=3)
    return (weights.flatten(1, 2) @ points.mT).view(*centers.shape[:3], points.shape[1])


def _exact_sum(distances: Tensor, unit: float) -> Tensor:
    """Sum the last axis, high and low digits apart: no partial sum is rounded, so that their order is of no account."""
    high = torch.floor(distances / unit)
    return high.sum(dim=-1) * unit + (distances - high * unit).sum(dim=-1)


def _parts(batch: int, group: int) -> Iterator[slice]:
    return (slice(start, start + group) for start in range(0, batch, group))


def _check(points: Tensor, valid: Tensor, wanted: Tensor, seeds: Sequence[int], restarts: int, iterations: int) -> None:
    if points.dim() != 3 or 0 in points.shape:
        raise ValueError(f"points have the shape {tuple(points.shape)}; (B, N, D) with none of them 0 is needed")
    if valid.shape != points.shape[:2] or wanted.shape != points.shape[:1] or len(seeds) != len(points):
        raise ValueError(
            f"points {tuple(points.shape)}, valid {tuple(valid.shape)}, clusters {tuple(wanted.shape)} and "
            f"{len(seeds)} seeds do not fit together: (B, N, D), (B, N), (B,) and B are needed"
        )
    if int(wanted.min()) < 1 or restarts < 1 or iterations < 1:
        raise ValueError(
            f"clusters of {int(wanted.min())}, restarts={restarts} and iterations={iterations}: all must be at least 1"
        )
    unfit = (valid & ~torch.isfinite(points).all(dim=2)).any(dim=1)
    if unfit.any():
        images = unfit.nonzero()[:, 0].tolist()
        raise ValueError(f"images {images} of the batch have points that are not finite; mark those as not valid")
