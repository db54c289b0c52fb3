"""k-means of patches, all rows of a stream instead of a sample, and what its clusters hold.

A `simsam_batch.regions.codebook.Codebook` that was fitted on a sample is improved by Lloyd's iterations over every row.
Unit rows are whole multiples of 2^-26 here and centres of 2^-25, squared distances then of 2^-52, and all sums are of
integers: neither the order of the rows, nor blocks, nor the number of processes whose sums are merged changes a bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from simsam_batch.regions.codebook import CENTER_STEPS, ROW_STEPS, Codebook, assign
from simsam_batch.regions.moments import unit_blocks

# Squared distances, at most 4, in steps of 2^-40 are at most 2^42 each, and a block of 4096 of them is far below 2^63.
_DISTANCE_BITS = 12
_DISTANCE_STEPS = 2.0**40
# So many clusters without rows find one at a time; of more, the others wait for the next iteration.
_MOST_FAR = 64


@dataclass(frozen=True, slots=True)
class ClusterSums:
    """What one iteration needs of a part of the rows; parts add up by `merge` in any order to the same bits.

    Attributes:
        counts: (k,) int64, rows nearest to each centre.
        totals: (k, D) int64, sums of those unit rows in steps of 2^-26.
        inertia: sum of squared distances to the nearest centre in steps of 2^-40.
        far: (m, D) int64, the rows farthest from their centres, at most 64 and each different; the farthest first.
        far_distances: (m,) int64, their squared distances.
    """

    counts: NDArray[np.int64]
    totals: NDArray[np.int64]
    inertia: int
    far: NDArray[np.int64]
    far_distances: NDArray[np.int64]

    @classmethod
    def of(cls, features: NDArray[np.float32], codebook: Codebook) -> ClusterSums:
        """Sums over (n, D) float32 features; n may be 0, and features are not changed.

        Raises:
            ValueError: for features of another length than the codebook's, a row that is not finite, or a codebook in
                principal components.
        """
        if codebook.projection is not None:
            raise ValueError("a codebook in principal components cannot be polished; fit one without")
        clusters, channels = codebook.centers.shape
        centers = np.rint(codebook.centers * CENTER_STEPS)
        norms = np.square(centers).sum(axis=1).astype(np.int64)
        numbers = assign(features, codebook) - 1
        found = cls.none(clusters, channels)
        for rows, unit in unit_blocks(features):
            steps, labels = np.rint(unit * ROW_STEPS), numbers[rows]
            # |x|^2, x c and |c|^2 are whole numbers of steps of 2^-52, 2^-51 and 2^-50, of which no sum is rounded.
            own = np.square(steps).sum(axis=1).astype(np.int64)
            shared = np.einsum("nd,nd->n", steps, centers[labels]).astype(np.int64)
            distances = np.maximum(own - 4 * shared + 4 * norms[labels], 0) >> _DISTANCE_BITS
            belongs = csr_array((np.ones(len(labels)), (labels, np.arange(len(labels)))), (clusters, len(labels)))
            found = found.merge(
                cls(
                    np.bincount(labels, minlength=clusters).astype(np.int64),
                    (belongs @ steps).astype(np.int64),
                    int(distances.sum()),
                    *_farthest(steps.astype(np.int64), distances),
                )
            )
        return found

    @classmethod
    def none(cls, clusters: int, channels: int) -> ClusterSums:
        """Sums over no rows."""
        empty = np.zeros((0, channels), dtype=np.int64)
        counts = np.zeros(clusters, dtype=np.int64)
        return cls(counts, np.zeros((clusters, channels), dtype=np.int64), 0, empty, np.zeros(0, dtype=np.int64))

    def merge(self, other: ClusterSums) -> ClusterSums:
        """Sums over both parts, which must be of the same centres."""
        far = np.concatenate([self.far, other.far])
        distances = np.concatenate([self.far_distances, other.far_distances])
        return ClusterSums(
            self.counts + other.counts,
            self.totals + other.totals,
            self.inertia + other.inertia,
            *_farthest(far, distances),
        )

    def centers(self, before: NDArray[np.float32]) -> NDArray[np.float32]:
        """Means of the clusters, (k, D) float32 multiples of 2^-25; an empty one moves to the next farthest row.

        Where there are not so many different rows, it stays as it was in ``before``.
        """
        means = self.totals / (ROW_STEPS * np.maximum(self.counts, 1)[:, None])
        empty = np.flatnonzero(self.counts == 0)
        # A row at no distance is served as well as it can be.
        worst = self.far[self.far_distances > 0][: len(empty)] / ROW_STEPS
        means[empty] = before[empty]
        means[empty[: len(worst)]] = worst
        return _snapped(means)


def polish(
    blocks: Callable[[], Iterable[NDArray[np.float32]]],
    codebook: Codebook,
    iterations: int = 100,
    tolerance: float = 1e-4,
    *,
    beat: Callable[[], None] = lambda: None,
) -> Codebook:
    """Improve clusters by Lloyd's iterations over all rows.

    Args:
        blocks: gives all rows, (n, D) float32 blocks, at every call; their order is of no account, and they are not
            changed. Rows are scaled to unit length, as `simsam_batch.regions.codebook.assign` does.
        codebook: to start from, without projection.
        iterations: most of them; each takes one pass, and one more measures the end.
        tolerance: stop once an iteration lowers the inertia by less than this share of it.
        beat: called after every block.

    Returns:
        A codebook with the sizes and the inertia of all rows, its largest cluster first. The inertia is never above
        that of the given one, but for centres rounded to multiples of 2^-25.

    Raises:
        ValueError: without any row, or as `ClusterSums.of`.
    """

    def measured(centers: NDArray[np.float32]) -> ClusterSums:
        book = replace(codebook, centers=centers)
        found = ClusterSums.none(*centers.shape)
        for block in blocks():
            found = found.merge(ClusterSums.of(block, book))
            beat()
        if not found.counts.any():
            raise ValueError("there is no row to cluster")
        return found

    best = _snapped(codebook.centers.astype(np.float64))
    sums = measured(best)
    taken, converged = 0, False
    while not converged and taken < iterations:
        taken += 1
        moved = sums.centers(best)
        if np.array_equal(moved, best):
            converged = True
            break
        after = measured(moved)
        filled = bool((sums.counts == 0).any())
        converged = not filled and sums.inertia - after.inertia <= tolerance * sums.inertia
        if after.inertia > sums.inertia:
            # Rounded means can be worse than what they replace by their rounding.
            break
        best, sums = moved, after
    order = np.lexsort((*best.T[::-1], -sums.counts))
    return replace(
        codebook,
        centers=best[order],
        sizes=sums.counts[order],
        inertia=sums.inertia / _DISTANCE_STEPS,
        iterations=taken,
        converged=converged,
        device="cpu",
    )


def assign_counts(
    features: NDArray[np.float32], label_counts: NDArray[np.integer], codebook: Codebook
) -> NDArray[np.int64]:
    """Pixels of each class in each cluster; what `simsam_batch.probes.naming` names clusters by.

    Args:
        features: (n, D) float32, n may be 0.
        label_counts: (n, C) pixels of each class in each patch.
        codebook: of k clusters.

    Returns:
        (k, C) int64. Those of several parts of the rows add up.

    Raises:
        ValueError: as `simsam_batch.regions.codebook.assign`, or if the two do not have equally many rows.
    """
    if label_counts.ndim != 2 or len(label_counts) != len(features):
        raise ValueError(f"label counts of shape {label_counts.shape} do not fit {len(features)} patches")
    labels = assign(features, codebook) - 1
    clusters = len(codebook.centers)
    belongs = csr_array(
        (np.ones(len(labels), dtype=np.int64), (labels, np.arange(len(labels)))), (clusters, len(labels))
    )
    return np.asarray(belongs @ label_counts.astype(np.int64))


def _snapped(centers: NDArray[np.float64]) -> NDArray[np.float32]:
    """Round to multiples of 2^-25 that float32 holds: then `assign` finds the truly nearest."""
    snapped: NDArray[np.float32] = np.rint(centers.astype(np.float32) * np.float32(CENTER_STEPS))
    return snapped / np.float32(CENTER_STEPS)


def _farthest(rows: NDArray[np.int64], distances: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The different rows of the greatest distances, in an order that depends on rows and distances alone."""
    # Equal distances are ordered by a hash of the row: products and sums of 64 bits wrap around, whatever their order.
    factors = np.random.Generator(np.random.PCG64(0)).integers(1, 2**63, rows.shape[1], dtype=np.uint64) | np.uint64(1)
    keys = rows.view(np.uint64) @ factors
    order = np.lexsort((keys, -distances))
    keys, sorted_distances = keys[order], distances[order]
    new = np.ones(len(order), dtype=np.bool_)
    new[1:] = (keys[1:] != keys[:-1]) | (sorted_distances[1:] != sorted_distances[:-1])
    kept = order[new][:_MOST_FAR]
    return rows[kept], distances[kept]
