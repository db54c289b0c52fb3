"""Approximate nearest neighbours by faiss, and how many of the exact ones they find.

An inverted file (Jégou et al. 2011; Johnson et al., arXiv 1702.08734) divides the bank into cells around centres and
looks only into the few cells nearest to a query. Unlike `simsam_batch.probes.neighbours` it holds the whole bank in
memory, and its answers depend on how the cells were drawn.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray


class ApproximateNeighbours:
    """Nearest neighbours by cosine in a few cells of the bank.

    Args:
        sample: (N, D) float32, rows that the cells are drawn from; about 40 a cell at least.
        cells: number of cells, at most N.
        probes: cells that are looked into for each query.
        seed: of the draw.

    Raises:
        ImportError: if faiss is not installed.
        ValueError: for numbers that do not fit.
    """

    def __init__(self, sample: NDArray[np.float32], *, cells: int = 1024, probes: int = 16, seed: int = 0) -> None:
        try:
            # By name, since its own types do not know what its indexes have.
            faiss: Any = import_module("faiss")
        except ImportError as error:
            raise ImportError(
                "approximate neighbours need faiss, which is not installed: "
                "pip install 'simsam-batch[approximate]', or search exactly"
            ) from error
        if sample.ndim != 2 or not 1 <= probes <= cells <= len(sample):
            raise ValueError(
                f"cells={cells} and probes={probes} do not fit a sample of shape {sample.shape}: "
                "at least 1 cell is probed, of as many as there are, each drawn from a row at least"
            )
        width = sample.shape[1]
        self._index: Any = faiss.index_factory(width, f"IVF{cells},Flat", faiss.METRIC_INNER_PRODUCT)
        self._index.nprobe = probes
        self._index.cp.seed = seed
        # faiss warns of small samples on standard output, where nobody looks for it.
        self._index.cp.min_points_per_centroid = 1
        self._index.train(_unit(sample))
        self._labels: list[NDArray[np.float32]] = []

    def add(self, features: NDArray[np.float32], labels: NDArray[np.float32]) -> None:
        """Add rows (M, D) of the bank and their soft labels (M, C); rows are numbered in the order they come.

        Raises:
            ValueError: if shapes do not fit.
        """
        if features.ndim != 2 or features.shape[1] != self._index.d or len(features) != len(labels):
            raise ValueError(f"features {features.shape} and labels {labels.shape} do not fit {self._index.d} channels")
        self._index.add(_unit(features))
        self._labels.append(labels)

    def search(
        self, queries: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]:
        """Find about the k nearest rows of each query.

        Args:
            queries: (Q, D) float32.
            k: neighbours wanted.

        Returns:
            Similarities (Q, k) float32, descending; indices (Q, k) int64; labels (Q, k, C) float32. Where the cells
            hold fewer rows than k: -inf, -1 and zeros, to which `simsam_batch.probes.neighbours.vote` with a
            temperature gives no weight.

        Raises:
            ValueError: if the bank has fewer rows than k.
        """
        if not 1 <= k <= self._index.ntotal:
            raise ValueError(f"k={k} neighbours in a bank of {self._index.ntotal} rows")
        similarities, indices = self._index.search(_unit(queries), k)
        if len(self._labels) > 1:
            self._labels = [np.concatenate(self._labels)]
        missing = indices < 0
        labels = self._labels[0][np.maximum(indices, 0)]
        similarities[missing], labels[missing] = -np.inf, 0
        return similarities, indices, labels


def recall(found: NDArray[np.int64], exact: NDArray[np.int64]) -> float:
    """The share of the exact neighbours that were found: recall at k.

    Args:
        found: (Q, k) indices of approximate neighbours, -1 for none.
        exact: (Q, k) indices of the exact ones of the same queries.

    Raises:
        ValueError: for shapes that differ, or without any query.
    """
    if found.shape != exact.shape or found.ndim != 2 or found.size == 0:
        raise ValueError(f"indices {found.shape} and {exact.shape} are not k neighbours each of the same queries")
    return float(np.mean([np.isin(right, ours).mean() for ours, right in zip(found, exact, strict=True)]))


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    rows = np.ascontiguousarray(rows, dtype=np.float32)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: NDArray[np.float32] = np.divide(rows, length, out=np.zeros_like(rows), where=length > 0)
    return unit
