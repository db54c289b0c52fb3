"""Affinities that fall with the cosine distance d = 1 - c between patches, for a whole batch of images at once.

They are the graphs of hierarchy-agnostic segmentation (Rossetti and Pirri, NeurIPS 2024): no clipping, no positions, no
colours, and no edge from a patch to itself.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from simsam_batch.spectral.affinity import feature_affinity
from simsam_batch.spectral.low_rank import minmax_map

Adjacency = Literal["minmax", "exp"]


def distance_affinity(
    features: Tensor,
    valid: Tensor,
    *,
    adjacency: Adjacency = "minmax",
    sigma: float = 1.0,
    threshold: float = 0.0,
) -> Tensor:
    """Turn cosine distances into weights: ``1 - (d - d_min) / (d_max - d_min)`` or ``exp(-d / (2 sigma^2))``.

    The extremes are those of all pairs, a patch with itself included; the distance in the exponential is not squared
    (published code). `simsam_batch.spectral.low_rank` solves the first kind without forming it.

    Args:
        features: (B, N, C) float32, rows of unit length.
        valid: (B, N) bool, patches that take part.
        adjacency: ``minmax`` or ``exp``.
        sigma: of ``exp``, positive.
        threshold: weights below it become zero.

    Returns:
        (B, N, N) float32 from 0 to 1, symmetric to the bit; the diagonal, and rows and columns of patches that are not
        valid, exactly zero. All ones elsewhere under ``minmax`` if the cosines of an image are all equal.

    Raises:
        ValueError: for an unknown adjacency, or a sigma that is not positive.
    """
    w = feature_affinity(features, valid, shift="zero")
    if adjacency == "minmax":
        scale, offset = (part.to(w.dtype)[:, None, None] for part in minmax_map(features, valid))
        w.mul_(scale).add_(offset).clamp_(0, 1)
    elif adjacency == "exp":
        if sigma <= 0:
            raise ValueError(f"sigma={sigma} must be positive")
        w.sub_(1).clamp_(max=0).div_(2 * sigma**2).exp_()
    else:
        raise ValueError(f"adjacency={adjacency!r} is not known; use 'minmax' or 'exp'")
    # A product may round (i, j) and (j, i) apart.
    w = (w + w.mT).div_(2)
    if threshold > 0:
        w.masked_fill_(w < threshold, 0)
    w.masked_fill_(~(valid[:, :, None] & valid[:, None, :]), 0)
    torch.diagonal(w, dim1=1, dim2=2).zero_()
    return w
