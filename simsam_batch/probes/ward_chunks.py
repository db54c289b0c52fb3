"""The published clustering of more patches than one tree was thought to hold: a tree for each chunk, and their vote.

After the code of "Clustering Segmentation based on iBOT" (2022), for comparison with one tree over weighted
micro-clusters, `simsam_batch.probes.ward`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from simsam_batch.probes.ward import cut, weighted_ward

_ROWS = 8192
"""Rows that are assigned at a time."""


def ward_of_chunks(
    features: NDArray[np.float32], chunks: int, clusters: int
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
    """Cut Ward's tree of every chunk of the rows, one after the other.

    Args:
        features: (N, D), in the order that chunks are cut in.
        chunks: at most so many, of ``ceil(N / chunks)`` rows each and the last with what is left, as ``torch.chunk``
            has it.
        clusters: K, of each chunk.

    Yields:
        Means of the clusters (K, D) float32, and the cluster of each row of the chunk, from 0.

    Raises:
        ValueError: a chunk has fewer rows than clusters.
    """
    size = -(-len(features) // chunks)
    for start in range(0, len(features), max(size, 1)):
        rows = features[start : start + size].astype(np.float64)
        if len(rows) < clusters:
            raise ValueError(f"ward: a chunk of {len(rows)} patches does not make {clusters} clusters")
        members = cut(weighted_ward(rows, np.ones(len(rows))), clusters)
        # cluster by cluster: a matrix of who belongs where would be as large as the rows
        means = [rows[members == cluster].mean(axis=0) for cluster in range(clusters)]
        yield np.array(means, np.float32), members


def chunk_votes(
    features: NDArray[np.floating], centroids: NDArray[np.float32], classes: Sequence[NDArray[np.int64]], many: int
) -> list[NDArray[np.float32]]:
    """How many chunks give each class to each patch: in each, the class of the nearest centroid by cosine.

    Args:
        features: (n, D).
        centroids: (chunks, K, D).
        classes: for each naming of the clusters (chunks, K).
        many: C.

    Returns:
        For each naming (n, C) whole numbers. The first of equally near centroids counts.
    """
    directions = _unit(centroids.astype(np.float64))
    found = [np.zeros((len(features), many), np.float32) for _ in classes]
    for start in range(0, len(features), _ROWS):
        rows = _unit(features[start : start + _ROWS].astype(np.float64))
        places = np.arange(start, start + len(rows))
        for chunk, direction in enumerate(directions):
            nearest = (rows @ direction.T).argmax(axis=1)
            for votes, names in zip(found, classes, strict=True):
                votes[places, names[chunk, nearest]] += 1
    return found


def _unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    length = np.linalg.norm(rows, axis=-1, keepdims=True)
    unit: NDArray[np.float64] = np.divide(rows, length, out=np.zeros_like(rows), where=length > 0)
    return unit
