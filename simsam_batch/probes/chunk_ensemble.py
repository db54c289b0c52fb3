"""The published clustering of more patches than one tree can hold: a tree for each chunk, and a vote of the chunks.

After Clustering Segmentation based on iBOT (its README and code of 2022), for comparison with one tree over weighted
micro-clusters, `simsam_batch.probes.ward`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simsam_batch.probes.ward import cut, weighted_ward

_ROWS = 8192
"""Rows that are predicted at a time."""


@dataclass(frozen=True, slots=True)
class ChunkEnsemble:
    """The clusters of every chunk, and a class for each.

    Attributes:
        centroids: one (K, D) float64 for each chunk, means of the clusters.
        classes: one (K,) int64 for each chunk.
    """

    centroids: list[NDArray[np.float64]]
    classes: list[NDArray[np.int64]]

    @classmethod
    def fit(cls, features: NDArray[Any], histograms: NDArray[Any], chunks: int, clusters: int) -> ChunkEnsemble:
        """Cut Ward's tree of every chunk into clusters, and name them by the pixels of their patches.

        A cluster's class is the most frequent one among the pixels of its labelled patches, the lowest of several, or
        background, 0, without any. The trees are `weighted_ward`'s with weights of 1, which are SciPy's and so
        scikit-learn's, in memory that grows with the rows and not with their square.

        Args:
            features: (N, D) floating point, in the order that chunks are cut in.
            histograms: (N, C), pixels of each class in each patch; rows of zeros are patches without a label.
            chunks: at most so many, of ``ceil(N / chunks)`` rows, the last with what is left, as ``torch.chunk`` has
                it.
            clusters: K, for each chunk.

        Raises:
            ValueError: if shapes do not fit, or a chunk has fewer rows than clusters.
        """
        if features.ndim != 2 or histograms.ndim != 2 or len(features) != len(histograms):
            raise ValueError(f"features {features.shape} and histograms {histograms.shape} are not one row per patch")
        if not 1 <= chunks <= len(features):
            raise ValueError(f"chunks={chunks} of {len(features)} patches")
        size = -(-len(features) // chunks)
        centroids, classes = [], []
        for start in range(0, len(features), size):
            rows = features[start : start + size].astype(np.float64)
            labels = cut(weighted_ward(rows, np.ones(len(rows))), clusters)
            # Cluster by cluster: a matrix of who belongs where would be as large as the rows.
            members = [labels == cluster for cluster in range(clusters)]
            centroids.append(np.array([rows[own].mean(axis=0) for own in members]))
            counts = histograms[start : start + size]
            pixels = np.array([counts[own].sum(axis=0, dtype=np.float64) for own in members])
            classes.append(pixels.argmax(axis=1).astype(np.int64))
        return cls(centroids, classes)

    def predict(self, features: NDArray[Any]) -> NDArray[np.int64]:
        """Give every patch the class that most chunks give it, the lowest of several.

        In each chunk that is the class of the nearest centroid by cosine, the first of several equally near; vectors
        of zeros have cosine 0 to everything.

        Args:
            features: (M, D) floating point.

        Returns:
            (M,) int64.
        """
        most = 1 + max(int(classes.max()) for classes in self.classes)
        directions = [_unit(centroids) for centroids in self.centroids]
        predicted = np.empty(len(features), dtype=np.int64)
        for start in range(0, len(features), _ROWS):
            rows = _unit(features[start : start + _ROWS].astype(np.float64))
            votes = np.zeros((len(rows), most), dtype=np.int64)
            for direction, classes in zip(directions, self.classes, strict=True):
                votes[np.arange(len(rows)), classes[(rows @ direction.T).argmax(axis=1)]] += 1
            predicted[start : start + _ROWS] = votes.argmax(axis=1)
        return predicted


def _unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: NDArray[np.float64] = np.divide(rows, length, out=np.zeros_like(rows), where=length > 0)
    return unit
