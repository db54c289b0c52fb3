"""Ward's clustering of weighted points, such as the centres of many small clusters and their sizes.

Two clusters of weights n_i, n_j and centres c_i, c_j merge at the cost ``n_i n_j / (n_i + n_j) |c_i - c_j|^2``, by
which the sum of squared distances to the centres grows (Ward 1963). Small clusters with their sizes as weights
therefore merge as their members would, once those are in the small clusters.

Ward's cost is reducible: a merged cluster is no nearer to a third than the nearer of its parts was. So every two
clusters that are each other's nearest may merge at once, whatever happens elsewhere, and the tree is that of merging
the closest pair each time. The nearest-neighbour chain (Murtagh 1983) finds such pairs one by one; here all that are
known merge together, and the clusters that lost their nearest neighbour look for a new one in blocks, by matrix
products. No matrix of distances is held.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from simsam_batch.probes.threads import Each, side_by_side

# Entries of float64 in a block of costs, 8 MiB, and in what is computed exactly at a time.
_BLOCK = 2**20
_EXACT = 2**18
# Clusters without a neighbour that look for one in a round: so many at least, and so many for each merge before.
_AT_LEAST = 128
_PER_MERGE = 2
# Slots of merged clusters are given up once they are more than this share.
_DEAD = 0.2


@torch.no_grad()
def weighted_ward(centers: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Merge weighted points two by two until one cluster is left.

    With equal weights of 1 this is ``scipy.cluster.hierarchy.linkage(centers, "ward")``. Costs are computed from
    centres in fp64; of equal ones the lower index counts, a cluster having its lowest member's. The result does not
    depend on the number of threads. Memory is that of a few copies of ``centers`` and of fixed blocks.

    Args:
        centers: (m, D), m at least 1.
        weights: (m,), above 0.

    Returns:
        (m - 1, 4) float64, as SciPy has it: the two clusters that merge, the lower number first, where m + t is the
        one made in row t; the height ``sqrt(2 cost)``, ascending; the number of points, not their weight.

    Raises:
        ValueError: for shapes that do not fit, a centre or weight that is not finite, or a weight that is not above 0.
    """
    if centers.ndim != 2 or 0 in centers.shape:
        raise ValueError(f"centers have shape {centers.shape}; a matrix of one row per point is needed")
    if weights.shape != (len(centers),):
        raise ValueError(f"weights have shape {weights.shape}, not {(len(centers),)}")
    for what, values in (("centers", centers), ("weights", weights)):
        finite = np.isfinite(values).reshape(len(centers), -1).all(axis=1)
        if not finite.all():
            raise ValueError(f"{what}: number {int(finite.argmin())} is not finite")
    if weights.min() <= 0:
        raise ValueError(f"weight {int(weights.argmin())} is {weights.min():g}, not above 0")
    with side_by_side(torch.device("cpu")) as each:
        clusters = _Clusters(centers, weights, each)
        looking = len(centers)
        while clusters.left > 1:
            merged = clusters.merge_nearest(looking)
            # Without any merge more have to look, until all have.
            looking = max(_AT_LEAST, _PER_MERGE * merged) if merged else 4 * looking
    return _in_order(*clusters.merges())


class _Clusters:
    """Clusters in slots; of two that merge, the lower slot holds both from then on.

    A cluster knows its nearest neighbour and the cost of merging with it, or only a bound that the cost is not below.
    """

    def __init__(self, centers: NDArray[np.float64], weights: NDArray[np.float64], each: Each) -> None:
        self._each = each
        # Coincident points merge first, at no cost; one by one, as below, that would take a round for each.
        _, first, place = np.unique(centers, axis=0, return_index=True, return_inverse=True)
        holder = first[place.reshape(-1)]
        again = np.flatnonzero(holder != np.arange(len(centers)))
        nothing = torch.zeros(len(again), dtype=torch.float64)
        self._merges = [(torch.from_numpy(holder[again]), torch.from_numpy(again), nothing)]
        self._lowest = torch.from_numpy(np.sort(first))
        points = torch.from_numpy(centers.astype(np.float64))[self._lowest]
        # Products of points far from 0 lose the digits of their differences.
        self._points = points - points.mean(dim=0)
        self._weights = torch.from_numpy(np.bincount(holder, weights, len(centers)))[self._lowest]
        self._alive = torch.ones(len(points), dtype=torch.bool)
        self._known = torch.zeros(len(points), dtype=torch.bool)
        self._nearest = torch.zeros(len(points), dtype=torch.int64)
        self._cost = torch.zeros(len(points), dtype=torch.float64)
        self._height = torch.zeros(len(points), dtype=torch.float64)
        self.left = len(points)
        # A squared distance is a sum of D + 2 products which add up, without signs, to four of the longest squares.
        squares = self._points.square().sum(dim=1)
        self._error = float((3 * points.shape[1] + 16) * 2.0**-53 * 4 * squares.max())
        # A cluster that is no more is infinitely far from all.
        self._right = torch.cat([self._points, torch.ones_like(squares)[:, None], squares[:, None]], dim=1)

    def merge_nearest(self, most: int) -> int:
        """Let up to ``most`` clusters look for their nearest, then merge pairs that are each other's: how many."""
        unknown = (self._alive & ~self._known).nonzero()[:, 0]
        if len(unknown):
            # Those that may have the nearest neighbours come first.
            self._look(unknown[self._cost[unknown].argsort(stable=True)[:most]])
        slots = torch.arange(len(self._points))
        mutual = self._known & (self._nearest[self._nearest] == slots) & self._known[self._nearest]
        lower = (mutual & (slots < self._nearest)).nonzero()[:, 0]
        if len(lower) == 0:
            if len(unknown) > most:
                return 0
            # Equal costs may run in a circle: the closest pair can merge all the same.
            first = torch.where(self._alive, self._cost, torch.inf).argmin()
            lower = torch.minimum(first, self._nearest[first])[None]
            upper = torch.maximum(first, self._nearest[first])[None]
            cost = self._cost[first].clone()[None]
        else:
            upper, cost = self._nearest[lower], self._cost[lower]
        self._merge(lower, upper, cost)
        return len(lower)

    def _merge(self, lower: Tensor, upper: Tensor, cost: Tensor) -> None:
        # Rounding must not put a cluster below its parts.
        height = torch.maximum(cost, torch.maximum(self._height[lower], self._height[upper]))
        self._merges.append((self._lowest[lower], self._lowest[upper], height))
        self.left -= len(lower)
        self._height[lower] = height
        ours, theirs = self._weights[lower, None], self._weights[upper, None]
        points = (ours * self._points[lower] + theirs * self._points[upper]) / (ours + theirs)
        self._points[lower] = points
        self._weights[lower] += self._weights[upper]
        self._right[lower, :-2] = points
        self._right[lower, -1] = points.square().sum(dim=1)
        self._right[upper, -1] = torch.inf
        self._alive[upper] = False
        changed = ~self._alive
        changed[lower] = True
        self._known &= ~(changed | changed[self._nearest])
        # By reducibility the neighbours of the merged are no nearer than the two were to each other.
        self._cost[lower] = cost
        if self.left < (1 - _DEAD) * len(self._alive):
            self._give_up_slots()

    def _give_up_slots(self) -> None:
        alive = self._alive
        self._nearest = (alive.cumsum(dim=0) - 1)[self._nearest][alive]
        for name in ("_points", "_weights", "_lowest", "_known", "_cost", "_height", "_right", "_alive"):
            setattr(self, name, getattr(self, name)[alive])

    def _look(self, rows: Tensor) -> None:
        """Find the nearest neighbours of the clusters in ``rows``."""
        inverse = 1 / self._weights

        def look(some: Tensor) -> None:
            own = self._points[some]
            left = torch.cat([-2 * own, self._right[some, -1:], torch.ones(len(some), 1, dtype=own.dtype)], dim=1)
            rough = left @ self._right.T
            rough /= inverse[some, None] + inverse
            rough[torch.arange(len(some)), some] = torch.inf
            # n_i n_j / (n_i + n_j) is at most n_i.
            bar = rough.amin(dim=1) + 2 * self._error * self._weights[some]
            place, other = (rough <= bar[:, None]).nonzero(as_tuple=True)
            cost = self._exact_cost(some[place], other)
            least = torch.full((len(some),), torch.inf, dtype=own.dtype).scatter_reduce(0, place, cost, "amin")
            best = cost == least[place]
            nearest = torch.full((len(some),), len(self._points))
            self._nearest[some] = nearest.scatter_reduce(0, place[best], other[best], "amin")
            self._cost[some] = least

        self._each(look, torch.split(rows, max(1, _BLOCK // len(self._points))))
        self._known[rows] = True

    def _exact_cost(self, one: Tensor, other: Tensor) -> Tensor:
        found = []
        step = max(1, _EXACT // self._points.shape[1])
        for i, j in zip(torch.split(one, step), torch.split(other, step), strict=True):
            squared = (self._points[i] - self._points[j]).square().sum(dim=1)
            found.append(squared * (self._weights[i] * self._weights[j] / (self._weights[i] + self._weights[j])))
        return torch.cat(found)

    def merges(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """The lowest points of both clusters, and the cost, of every merge in the order they were made."""
        lower, upper, cost = (torch.cat(column).numpy() for column in zip(*self._merges, strict=True))
        return lower, upper, cost


def _in_order(lower: NDArray[np.int64], upper: NDArray[np.int64], cost: NDArray[np.float64]) -> NDArray[np.float64]:
    """Number the merges by ascending cost; of equal ones, what was made first comes first, and so do parts."""
    count = len(cost) + 1
    order = np.argsort(cost, kind="stable")
    linkage = np.empty((count - 1, 4))
    linkage[:, 2] = np.sqrt(2 * cost[order])
    number, size = np.arange(count), np.ones(count, dtype=np.int64)
    for row, (i, j) in enumerate(zip(lower[order].tolist(), upper[order].tolist(), strict=True)):
        linkage[row, :2] = sorted((number[i], number[j]))
        # A cluster goes by its lowest point, in which merges that come later find it.
        number[i] = count + row
        size[i] += size[j]
        linkage[row, 3] = size[i]
    return linkage


def cut(linkage: NDArray[np.float64], n_clusters: int) -> NDArray[np.int64]:
    """Undo the last merges of a tree, so that n clusters are left.

    Args:
        linkage: (m - 1, 4), as from `weighted_ward` or SciPy.
        n_clusters: 1 to m.

    Returns:
        (m,) int64, the clusters of the points, numbered from 0 in the order of their first points.

    Raises:
        ValueError: for a number of clusters that the tree does not have.
    """
    points = len(linkage) + 1
    if not 1 <= n_clusters <= points:
        raise ValueError(f"n_clusters={n_clusters}: a tree of {points} points has 1 to {points} clusters")
    made = points - n_clusters
    top = np.arange(points + made)
    for row in range(made - 1, -1, -1):
        top[linkage[row, :2].astype(np.int64)] = top[points + row]
    _, first, label = np.unique(top[:points], return_index=True, return_inverse=True)
    rank = np.empty(n_clusters, dtype=np.int64)
    rank[np.argsort(first)] = np.arange(n_clusters)
    labels: NDArray[np.int64] = rank[label]
    return labels
