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
# Distances between all points of an image take up to 128 MiB; between short points they are as quickly found anew.
_MOST_IN_TABLE = 2**12
_WIDE = 64
# Up to so many sums in a restart, a product with the matrix of who belongs where is quicker than additions row by row.
_FEW_SUMS = 2**11


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
        rows = max(restarts * max(most, width), count if width >= _WIDE else 1)
        group = max(1, budget // (rows * count))
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
    inertia = _exact_sum(_scores(whole.mT, centers, present).amin(dim=2) + squares)
    inertia, best = inertia.min(dim=1)
    image = torch.arange(len(best), device=device)
    nearest = _scores(whole.mT, centers[image, best, None], present[image, best, None]).min(dim=2).indices
    labels, sums = nearest[:, 0], _per_cluster(nearest, whole, most)[:, 0]
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
    columns = points.mT.contiguous()
    table = None
    if width >= _WIDE and count < most * restarts * tries and count <= _MOST_IN_TABLE:
        # Candidates are points: where most of them are tried sooner or later, all distances are found at once.
        table = _scores(columns, points[:, None, :, :-1]).add_(squares).flatten(0, 2)
        image = torch.arange(0, batch * count, count, device=points.device)[:, None, None]
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
        if table is None:
            distances = _scores(columns, candidates).add_(squares)
        else:
            distances = table.index_select(0, (places + image).flatten()).view(*places.shape, count)
        if step:
            torch.minimum(distances, closest[:, :, None], out=distances)
            cost = _exact_sum(distances).masked_fill(unused, math.inf)
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

    Restarts at rest stay at rest, however long their neighbours move; they are left out once they are half of all. Soon
    most centres rest: the scores of those that do not move are kept.
    """
    squares, columns = _squares(points)[:, None], points.mT
    few = present.shape[2] * points.shape[2] <= _FEW_SUMS
    rounds = torch.zeros(present.shape[:2], dtype=torch.int64, device=points.device)
    active = torch.arange(present.shape[1], device=points.device).expand_as(rounds)
    # Memory fresh from the system in every iteration would take as long as the product that fills it.
    room = points.new_empty(present.numel() * points.shape[1])
    scores = None
    for _ in range(iterations):
        there = present.gather(1, active[:, :, None].expand(-1, -1, present.shape[2]))
        place = active[:, :, None, None].expand(-1, -1, *centers.shape[2:])
        before = centers.gather(1, place)
        if scores is None:
            scores = _scores(columns, before, there, room)
        if few:
            lowest, sums = _lowest_and_sums(scores, points)
            scores = None
        else:
            # Of centres at equal distance `min` names the first.
            lowest, nearest = scores.min(dim=2)
            sums = _per_cluster(nearest, points, present.shape[2])
        sizes = sums[..., -1:]
        after = torch.where(sizes > 0, (sums[..., :-1] / sizes).round_(), before)
        empty = (sizes[..., 0] == 0) & there
        if empty.any():
            _refill(after, empty, points, lowest + squares)
        moved = (after != before).any(dim=3)
        moving = moved.any(dim=2)
        rounds.scatter_add_(1, active, moving.to(rounds))
        centers = centers.scatter(1, place, after)
        going, most = int(moving.sum(dim=1).max()), int(moved.sum(dim=(1, 2)).max())
        if not most:
            break
        if going < active.shape[1] and (scores is None or 2 * going <= active.shape[1]):
            active = active.gather(1, (~moving).to(torch.uint8).argsort(dim=1, stable=True)[:, :going])
            scores = None
        elif scores is not None and 2 * most <= moved[0].numel():
            _score_again(scores, columns, after, there, moved, most)
        else:
            scores = None
    return centers, rounds


def _lowest_and_sums(scores: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Each point's lowest score ``(B, R, N)``, and what `_per_cluster` sums; the scores are lost."""
    lowest = scores.amin(dim=2, keepdim=True)
    # In place and in float64: the quickest way to the matrix of who belongs where.
    members = scores.eq_(lowest)
    sums = members.flatten(1, 2) @ points
    if (sums.view(*members.shape[:3], -1)[..., -1].sum(dim=2) > points[:, None, :, -1].sum(dim=2)).any():
        # A point at equal distance from two centres belongs to the first.
        sums = (members * (members.cumsum(dim=2) == 1)).flatten(1, 2) @ points
    return lowest[:, :, 0], sums.view(*members.shape[:3], -1)


def _score_again(scores: Tensor, columns: Tensor, centers: Tensor, present: Tensor, moved: Tensor, most: int) -> None:
    """Bring scores up to date where centres ``moved``, ``most`` in an image: in others, some are computed in vain."""
    rows = (~moved).flatten(1).to(torch.uint8).argsort(dim=1, stable=True)[:, :most]
    image = torch.arange(len(rows), device=rows.device)[:, None]
    found = _scores(columns, centers.flatten(1, 2)[image, rows, None], present.flatten(1)[image, rows, None])
    scores.view(len(rows), -1, scores.shape[3])[image, rows] = found[:, :, 0]


def _per_cluster(nearest: Tensor, points: Tensor, clusters: int) -> Tensor:
    """Sum the points of every cluster, ``(B, R, K, D + 1)``; ``nearest`` ``(B, R, N)`` says whose they are."""
    batch, restarts, _ = nearest.shape
    rows = points.flatten(0, 1)
    first = torch.arange(0, batch * clusters, clusters, device=points.device)[:, None, None]
    owners = (nearest + first).transpose(0, 1).flatten(1)
    sums = points.new_zeros(restarts, batch * clusters, points.shape[2])
    # Restarts share the points: taken one by one, none of them needs a copy.
    for own, owner in zip(sums, owners, strict=True):
        own.index_add_(0, owner, rows)
    return sums.view(restarts, batch, clusters, -1).transpose(0, 1)


def _refill(centers: Tensor, empty: Tensor, points: Tensor, distances: Tensor) -> None:
    """Move the first empty cluster of each restart to the point farthest from its centre; another has its turn next."""
    image, restart = empty.any(dim=2).nonzero(as_tuple=True)
    first = empty[image, restart].to(torch.uint8).argmax(dim=1)
    centers[image, restart, first] = points[image, distances[image, restart].argmax(dim=1), :-1]


def _squares(points: Tensor) -> Tensor:
    return points[:, :, :-1].square().sum(dim=2)


def _scores(columns: Tensor, centers: Tensor, present: Tensor | None = None, room: Tensor | None = None) -> Tensor:
    """Squared distances less the points' own squares, |c|^2 - 2 c x: ``(B, R, K, N)``; 0 for points not valid.

    ``columns`` ``(B, D + 1, N)`` are the points; ``room`` is memory for the result, or more.
    """
    norms = centers.square().sum(dim=3, keepdim=True)
    if present is not None:
        # Farther than any centre can be, and finite, since 0 times infinity is no number.
        norms = norms.masked_fill(~present[..., None], 2.0**52)
    weights = torch.cat([-2 * centers, norms], dim=3).flatten(1, 2)
    shape = (*weights.shape[:2], columns.shape[2])
    out = None if room is None else room[: math.prod(shape)].view(shape)
    return torch.bmm(weights, columns, out=out).view(*centers.shape[:3], columns.shape[2])


def _exact_sum(distances: Tensor) -> Tensor:
    """Sum squared distances along the last axis as whole numbers, and round once: their order is of no account."""
    whole = distances.to(torch.int64)
    # Each is at most 2^50 and a little, so that int64 holds a few less than 2^13 of them.
    if distances.shape[-1] <= 2**12:
        return whole.sum(dim=-1).to(distances)
    high = whole >> 32
    return high.sum(dim=-1).to(distances) * 2.0**32 + (whole - (high << 32)).sum(dim=-1).to(distances)


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
