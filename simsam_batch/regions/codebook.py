"""Clusters of the region features of a whole dataset: fitted on a sample, then applied to every region.

A `Codebook` is fitted by `fit` on rows of a `simsam_batch.regions.sampling.RowSample`, if wanted in the principal
components of `simsam_batch.regions.moments.Moments`; `assign` numbers any region's cluster.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from simsam_batch.regions.moments import BLOCK, Projection, unit_blocks

Method = Literal["kmeans", "minibatch"]
Start = Literal["drawn", "farthest"]

RESTARTS = 10
_RESTART_ROWS = 32_768
_RESTART_ITERATIONS = 20
_MOST_ITERATIONS = 300
_TOLERANCE = 1e-4
"""Iterations end once the centres' squared movements add up to less than this share of the mean variance."""

# Unit rows in steps of 2^-26 and directions of norm at most 2 in steps of 2^-25: by Cauchy-Schwarz no partial sum of
# their products exceeds 2^52 steps, and fp64 adds integers up to 2^53 without rounding, in whatever order.
ROW_STEPS = 2.0**26
CENTER_STEPS = 2.0**25


@dataclass(frozen=True, slots=True)
class Codebook:
    """Cluster centres of unit rows, largest cluster first.

    Attributes:
        centers: (k, d) float32, with d = C, or the number of components of ``projection``; descending by ``sizes``,
            then ascending by coordinates, so that a cluster's number does not depend on how it was found.
        projection: None, or the principal components that the clusters live in.
        channels: C, length of a region's feature.
        sizes: (k,) int64, rows of the sample in each cluster. 0 only where more clusters were asked for than could be
            told apart.
        inertia: sum over the sample of squared distances to the nearest centre.
        iterations: of the last pass of the fit, over the whole sample.
        converged: whether that ended before its limit of iterations.
        method: see `fit`.
        seed: of the fit.
        device: type of device that iterated, ``cpu`` or ``cuda``.
    """

    centers: NDArray[np.float32]
    projection: Projection | None
    channels: int
    sizes: NDArray[np.int64]
    inertia: float
    iterations: int
    converged: bool
    method: Method
    seed: int
    device: str

    @property
    def digest(self) -> str:
        """SHA-256 of everything in here, as 64 hexadecimal digits."""
        return _digest(self._facts(), self._arrays())

    def to_bytes(self) -> bytes:
        """Write as the bytes of an ``.npz`` file, the same for equal codebooks; nothing in it is pickled."""
        stream = io.BytesIO()
        members = self._arrays() | {"facts": np.array(json.dumps({**self._facts(), "digest": self.digest}))}
        np.savez(stream, allow_pickle=False, **members)
        return stream.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> Codebook:
        """Read what `to_bytes` wrote.

        Raises:
            ValueError: if that is no codebook, or its digest does not fit its content.
        """
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as members:
                arrays = {name: members[name] for name in members.files if name != "facts"}
                facts = json.loads(members["facts"].item())
            digest = facts.pop("digest")
            projected = [arrays[name] for name in ("mean", "components", "variance") if name in arrays]
            book = cls(
                centers=arrays["centers"],
                sizes=arrays["sizes"],
                projection=Projection(*projected) if projected else None,
                **facts,
            )
            intact = digest == _digest(facts, arrays) == book.digest
        except (ValueError, OSError, EOFError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
            raise ValueError(f"these {len(content)} bytes are no codebook: {error}") from error
        if not intact:
            raise ValueError("the codebook's digest does not fit its content: it was damaged; fit the clusters again")
        return book

    def _facts(self) -> dict[str, object]:
        names = ("channels", "inertia", "iterations", "converged", "method", "seed", "device")
        return {name: getattr(self, name) for name in names}

    def _arrays(self) -> dict[str, NDArray[np.generic]]:
        arrays: dict[str, NDArray[np.generic]] = {"centers": self.centers, "sizes": self.sizes}
        if self.projection is not None:
            arrays |= {name: getattr(self.projection, name) for name in ("mean", "components", "variance")}
        return arrays


def fit(
    sample: NDArray[np.float32],
    clusters: int,
    seed: int,
    *,
    method: Method = "kmeans",
    projection: Projection | None = None,
    restarts: int = RESTARTS,
    start: Start = "drawn",
    device: torch.device | None = None,
) -> Codebook:
    """Find clusters of unit rows with a small sum of squared distances to their centres.

    ``kmeans`` is Lloyd's algorithm from k-means++ (Arthur and Vassilvitskii, SODA 2007). Its ``restarts`` run for 20
    iterations on at most 32,768 of the rows, drawn by the seed; the best of them goes on there until it settles, and
    then over all rows (this project). ``minibatch`` is what Deep Spectral Methods and SimSAM publish: scikit-learn's
    ``MiniBatchKMeans`` with batches of 4096.

    On one machine, device and number of threads, equal arguments give equal bits.

    Args:
        sample: (N, C) float32, N >= clusters; scaled to unit rows, like those given to `assign`.
        clusters: k.
        seed: of every draw, 0 to 2^32 - 1.
        method: see above.
        projection: cluster in these components instead of all C channels.
        restarts: of the start, from which the best is taken (``n_init`` of ``minibatch``).
        start: of ``kmeans``: ``drawn`` by k-means++, or ``farthest``: from one drawn row on always the row that is
            farthest from all so far, which is what TorchPQ calls k-means++.
        device: for ``kmeans``; None for a CUDA device if there is one.

    Raises:
        ValueError: without any row, for a row that is not finite, for fewer rows or fewer distinct rows than clusters,
            for k < 1, or an unknown method or seed.
    """
    if method not in ("kmeans", "minibatch"):
        raise ValueError(f"method={method!r} is not known; use 'kmeans' or 'minibatch'")
    if sample.ndim != 2 or len(sample) == 0:
        raise ValueError("there is no region to cluster")
    if clusters < 1 or restarts < 1:
        raise ValueError(f"clusters={clusters} and restarts={restarts} must be at least 1")
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed {seed} is not between 0 and 2^32 - 1")
    if len(sample) < clusters:
        raise ValueError(f"{len(sample)} regions do not make {clusters} clusters; ask for at most {len(sample)}")
    rows, mean = _training_rows(sample, projection)
    distinct = _count_distinct(rows.numpy(), clusters)
    if distinct < clusters:
        raise ValueError(
            f"{len(sample)} regions with {distinct} different features do not make {clusters} clusters; "
            f"ask for at most {distinct}"
        )
    if method == "minibatch":
        device = torch.device("cpu")
        found = _minibatch(rows, clusters, seed, restarts)
    else:
        device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        found = _kmeans(rows, clusters, seed, restarts, start, device)
    book = Codebook(
        centers=(found.centers.cpu().double() + torch.from_numpy(mean)).float().numpy(),
        projection=projection,
        channels=sample.shape[1],
        sizes=np.zeros(clusters, dtype=np.int64),
        inertia=found.inertia,
        iterations=found.iterations,
        converged=found.converged,
        method=method,
        seed=seed,
        device=device.type,
    )
    return _in_order(book, sample, rows, mean)


def assign(features: NDArray[np.float32], codebook: Codebook) -> NDArray[np.int32]:
    """Number the nearest centre of every region's unit row.

    With y = P (x - m) the nearest centre c maximises ``y.c - |c|^2/2 = x.(P^T c) - m.(P^T c) - |c|^2/2``, so that rows
    need no projection. Rows and directions are rounded to multiples of 2^-26 and 2^-25, for which fp64 products are
    exact: a row's label depends neither on its batch nor on threads.

    Args:
        features: (N, C) float32; N may be 0. Memory beyond them and the labels does not grow with N.
        codebook: from `fit`.

    Returns:
        (N,) int32 in 1..k, where 0 is left to the background; the lower number of two equally near.

    Raises:
        ValueError: for features of another length than the codebook's, or a row that is not finite.
    """
    if features.ndim != 2 or features.shape[1] != codebook.channels:
        raise ValueError(f"features have shape {features.shape}; the codebook is of {codebook.channels} channels")
    centers = codebook.centers.astype(np.float64)
    offsets = np.square(centers).sum(axis=1) / 2
    if codebook.projection is not None:
        centers = centers @ codebook.projection.components
        offsets += centers @ codebook.projection.mean
    directions = np.rint(centers * CENTER_STEPS).T
    labels = np.empty(len(features), dtype=np.int32)
    for rows, unit in unit_blocks(features):
        nearness = np.rint(unit * ROW_STEPS) @ directions / (ROW_STEPS * CENTER_STEPS) - offsets
        labels[rows] = nearness.argmax(axis=1) + 1
    return labels


@dataclass(frozen=True, slots=True)
class _Found:
    """Centres (k, d) of centred rows, and how the iterations ended."""

    centers: Tensor
    inertia: float
    iterations: int
    converged: bool


def _training_rows(sample: NDArray[np.float32], projection: Projection | None) -> tuple[Tensor, NDArray[np.float64]]:
    """Unit rows, projected, less their mean as float32 (N, d), and that mean: differences lose digits far from 0."""
    width = sample.shape[1] if projection is None else len(projection.components)
    # Memory of torch's own is aligned alike in every run, and with it the order in which products are summed.
    rows = torch.empty(len(sample), width)
    total = np.zeros(width)
    for block, unit in unit_blocks(sample):
        placed = unit if projection is None else projection(unit)
        total += placed.sum(axis=0)
        rows[block] = torch.from_numpy(placed)
    mean: NDArray[np.float64] = total / len(sample)
    for start in range(0, len(rows), BLOCK):
        block = slice(start, start + BLOCK)
        rows[block] = rows[block].double() - torch.from_numpy(mean)
    return rows, mean


def _count_distinct(rows: NDArray[np.float32], enough: int) -> int:
    """Count different rows, up to ``enough``."""
    known = rows[:0]
    for start in range(0, len(rows), BLOCK):
        known = np.unique(np.concatenate([known, rows[start : start + BLOCK]]), axis=0)[:enough]
        if len(known) == enough:
            break
    return len(known)


def _minibatch(rows: Tensor, clusters: int, seed: int, restarts: int) -> _Found:
    from sklearn.cluster import MiniBatchKMeans
    from threadpoolctl import threadpool_limits

    model = MiniBatchKMeans(clusters, batch_size=4096, max_iter=5000, n_init=restarts, random_state=seed)
    # With more threads the order of a sum that decides when to stop would vary.
    with threadpool_limits(1):
        model.fit(rows.numpy())
    centers = torch.from_numpy(model.cluster_centers_)
    return _Found(centers, float(model.inertia_), int(model.n_iter_), bool(model.n_iter_ < model.max_iter))


def _kmeans(rows: Tensor, clusters: int, seed: int, restarts: int, start: Start, device: torch.device) -> _Found:
    from sklearn.cluster import kmeans_plusplus

    drawn = rows
    if len(rows) > _RESTART_ROWS:
        chosen = np.random.default_rng(seed).choice(len(rows), max(_RESTART_ROWS, clusters), replace=False)
        drawn = rows[torch.from_numpy(np.sort(chosen))]
    tolerance = _TOLERANCE * float(drawn.var(dim=0, correction=0).mean())
    on_device = drawn.to(device)

    def restart(state: int) -> _Found:
        if start == "farthest":
            return _lloyd(on_device, _farthest_first(on_device, clusters, state), tolerance, _RESTART_ITERATIONS)
        centers, _ = kmeans_plusplus(drawn.numpy(), clusters, random_state=state)
        return _lloyd(on_device, torch.from_numpy(centers).to(device), tolerance, _RESTART_ITERATIONS)

    states = np.random.SeedSequence(seed).generate_state(restarts).tolist()
    best = min((restart(state) for state in states), key=lambda found: found.inertia)
    best = _lloyd(on_device, best.centers, tolerance)
    return best if drawn is rows else _lloyd(rows.to(device), best.centers, tolerance)


def _farthest_first(rows: Tensor, clusters: int, seed: int) -> Tensor:
    """One row by chance, then always the one with the greatest distance to the nearest so far; the first of several."""
    chosen = [int(np.random.default_rng(seed).integers(len(rows)))]
    distances = torch.full((len(rows),), torch.inf, device=rows.device)
    while len(chosen) < clusters:
        distances = torch.minimum(distances, (rows - rows[chosen[-1]]).square().sum(dim=1))
        chosen.append(int(distances.argmax()))
    return rows[chosen].clone()


def _lloyd(rows: Tensor, centers: Tensor, tolerance: float, most: int = _MOST_ITERATIONS) -> _Found:
    """Lloyd's iterations from given centres; sums by products with one-hot rows, whose order is fixed on any device."""
    clusters = len(centers)
    # Scores of a block stay in a CPU's cache; a GPU is kept busy by larger ones.
    block = min(max((2**26 if rows.is_cuda else 2**18) // clusters, 256), 65_536)
    numbers = torch.arange(clusters, device=rows.device)[:, None]
    squares = torch.linalg.vector_norm(rows, dim=1).square_()
    distances = torch.empty_like(squares)
    labels = torch.empty(len(rows), dtype=torch.int64, device=rows.device)
    inertia, iteration, converged = np.inf, 0, False
    while not converged and iteration < most:
        iteration += 1
        before = labels.clone()
        half = centers.square().sum(dim=1, keepdim=True) / 2
        sums = torch.zeros(centers.shape, dtype=torch.float64, device=rows.device)
        for start in range(0, len(rows), block):
            part = rows[start : start + block]
            nearness, label = torch.addmm(-half, centers, part.T).max(dim=0)
            labels[start : start + block] = label
            distances[start : start + block] = squares[start : start + block] - 2 * nearness
            sums += ((label == numbers).float() @ part).double()
        inertia = distances.double().sum().item()
        counts = torch.bincount(labels, minlength=clusters)
        moved = (sums / counts.clamp(min=1)[:, None]).float()
        empty = torch.nonzero(counts == 0).squeeze(1)
        if len(empty):
            # A centre that lost all its rows starts again at one that is served worst.
            moved[empty] = rows[torch.argsort(distances, descending=True, stable=True)[: len(empty)]]
        shift = (moved - centers).double().square().sum().item()
        centers = moved
        settled = iteration > 1 and torch.equal(labels, before)
        converged = settled or (len(empty) == 0 and shift <= tolerance)
    return _Found(centers, inertia, iteration, converged)


def _in_order(book: Codebook, sample: NDArray[np.float32], rows: Tensor, mean: NDArray[np.float64]) -> Codebook:
    """Count the sample's rows by cluster, sum their squared distances, and put the largest cluster first."""
    labels = torch.from_numpy(assign(sample, book) - 1).long()
    sizes = np.bincount(labels.numpy(), minlength=len(book.centers)).astype(np.int64)
    centers = torch.from_numpy(book.centers.astype(np.float64) - mean)
    inertia = 0.0
    for start in range(0, len(rows), BLOCK):
        block = slice(start, start + BLOCK)
        inertia += (rows[block].double() - centers[labels[block]]).square().sum().item()
    order = np.lexsort((*book.centers.T[::-1], -sizes))
    return replace(book, centers=book.centers[order], sizes=sizes[order], inertia=inertia)


def _digest(facts: dict[str, object], arrays: dict[str, NDArray[np.generic]]) -> str:
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(json.dumps([name, array.dtype.str, list(array.shape)]).encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
