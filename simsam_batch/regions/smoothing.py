"""Descriptors of patches, smoothed along the graph of their image."""

from __future__ import annotations

from torch import Tensor

from simsam_batch.spectral.affinity import normalize_rows
from simsam_batch.spectral.laplacian import degrees, fill_left_out


def smoothed(rows: Tensor, graph: Tensor, valid: Tensor, grid: tuple[int, int]) -> Tensor:
    """Add to every patch the mean of its neighbours in the graph, each by its affinity (this project).

    ``y = x + D^-1 W x``, scaled to unit length. A patch outside the graph first gets the mean descriptor of those
    beside it, growing outward: outlier tokens describe nothing that is to be seen where they are.

    Args:
        rows: (B, N, C) float32, unit descriptors.
        graph: (B, N, N) float32, the affinity W; rows and columns of patches outside the graph are zero.
        valid: (B, N) bool, patches of the graph.
        grid: (Hp, Wp).

    Returns:
        (B, N, C) float32, unit rows; as they were for an image none of whose patches is in the graph.
    """
    somewhere = valid.any(dim=1)[:, None, None]
    filled = normalize_rows(fill_left_out(rows.mT, valid, grid).mT.contiguous()).where(somewhere, rows)
    return normalize_rows(filled + (graph @ filled) / degrees(graph)[:, :, None])
