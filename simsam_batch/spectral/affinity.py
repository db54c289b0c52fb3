"""Affinities between the patches of an image, for a whole batch of images at once.

Every function takes a mask of the patches that count (``valid``). A patch outside it (a ViT outlier token, the
padding of a smaller grid) has exactly zero affinity to everything, so that it has no say in means, maxima or degrees.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Shift = Literal["mean", "max/3", "zero"]

# Below this a row is taken for the zero vector: its direction would be rounding noise.
_SMALLEST_NORM = 1e-12
# Entries of unit rows carry rounding errors of this order; a graph without a larger entry shows no contrast at all.
_NO_CONTRAST = 1e-5
# Square blocks small enough for the cache, large enough that Python's loop over them costs nothing.
_MIRROR_BLOCK = 256


def normalize_rows(features: Tensor) -> Tensor:
    """Scale every patch's feature to unit length.

    Args:
        features: ``(B, N, C)`` float32, any device.

    Returns:
        ``(B, N, C)``, rows of L2 norm 1. A zero row becomes the constant vector ``1/sqrt(C)``, so that an image
        without any texture gives one direction for all patches. A row that is not finite gives a row of NaN.
    """
    norms = torch.linalg.vector_norm(features, dim=-1, keepdim=True)
    # A number of Python, not a tensor: on a GPU that would be a copy to wait for.
    return torch.where(norms <= _SMALLEST_NORM, features.shape[-1] ** -0.5, features / norms)


def feature_affinity(features: Tensor, valid: Tensor, *, shift: Shift) -> Tensor:
    """Cosine between patches, less one number per image: ``W_A = F F^T - s``.

    ``mean`` is the mean of ``F F^T`` over valid pairs (SimSAM, arXiv 2406.07986), computed as ``|sum_i f_i|^2 / n^2``.
    ``max/3`` is ``max(F F^T) / 3`` (SimSAM's published code); by Cauchy-Schwarz the largest entry is the largest
    squared norm. ``zero`` is the plain cosine (Deep Spectral Methods, arXiv 2205.07839).

    Args:
        features: ``(B, N, C)`` float32, rows of unit length.
        valid: ``(B, N)`` bool, patches that take part.
        shift: which ``s``.

    Returns:
        ``(B, N, N)`` float32, not clipped; rows and columns of invalid patches are zero.

    Raises:
        ValueError: for an unknown ``shift``.
    """
    rows = features.masked_fill(~valid[:, :, None], 0.0)
    if shift == "mean":
        return _shifted_gram(rows, valid, _mean_of_gram(rows, valid))
    if shift == "max/3":
        return _shifted_gram(rows, valid, rows.square().sum(-1).amax(-1) / 3.0)
    if shift == "zero":
        return rows @ rows.mT
    raise ValueError(f"shift={shift!r} is not known; use 'mean', 'max/3' or 'zero'")


def head_affinity(outputs: Tensor, valid: Tensor, *, normalize: bool, center: bool) -> Tensor:
    """Similarity of a head's outputs: ``W_SA = P P^T``.

    Published code uses ``normalize=False, center=False``. With trained heads raw outputs reach norms that swamp
    ``W_A``, so the paper's mode normalises; centring (this project) keeps the mean of the combined affinity.

    Args:
        outputs: ``(B, N, C)`` float32, see `simsam_batch.spectral.head.HeadOutput`.
        valid: ``(B, N)`` bool.
        normalize: scale rows to unit length first.
        center: subtract the mean over valid pairs.

    Returns:
        ``(B, N, N)`` float32; rows and columns of invalid patches are zero.
    """
    rows = normalize_rows(outputs) if normalize else outputs
    rows = rows.masked_fill(~valid[:, :, None], 0.0)
    return _shifted_gram(rows, valid, _mean_of_gram(rows, valid)) if center else rows @ rows.mT


def combine(w_a: Tensor, w_sa: Tensor, kappa: float) -> Tensor:
    """Add the head's affinity to the features' (SimSAM): ``W_feat = W_A + kappa W_SA``.

    Args:
        w_a: ``(B, N, N)`` float32; overwritten with the result.
        w_sa: ``(B, N, N)`` float32.
        kappa: weight of the head; 0.1 in published code.

    Returns:
        ``w_a``.
    """
    return w_a.add_(w_sa, alpha=kappa)


def graph(w: Tensor, valid: Tensor, *, floor: float, color: Tensor | None = None, color_weight: float = 0.0) -> Tensor:
    """Turn an affinity into the non-negative weights of a graph.

    In this order: entries below zero become zero; division by the image's largest entry; ``+ color_weight * color``
    (Deep Spectral Methods); entries between valid patches are raised to ``floor`` (this project: clipping
    leaves islands, and with islands the second eigenvector marks an island instead of the object).

    An image with no entry above rounding noise (one colour everywhere) gets no weight from ``w``: what is left is
    the colour term and the floor.

    Args:
        w: ``(B, N, N)`` float32, symmetric up to rounding; overwritten with the result.
        valid: ``(B, N)`` bool.
        floor: least weight between two valid patches; 0 for none.
        color: ``(B, N, N)`` non-negative and symmetric, see `simsam_batch.spectral.color`.
        color_weight: lambda.

    Returns:
        ``w``: symmetric to the bit, non-negative, rows and columns of invalid patches exactly zero.
    """
    _clear_invalid(w, valid)
    w.clamp_(min=0.0)
    largest = w.amax((1, 2), keepdim=True)
    w.mul_(torch.where(largest > _NO_CONTRAST, 1.0 / largest.clamp_min(_NO_CONTRAST), 0.0))
    if color is not None and color_weight:
        w.add_(color, alpha=color_weight)
    if floor > 0.0:
        w.clamp_(min=floor)
    _clear_invalid(w, valid)
    return _mirror(w)


def binary_affinity(features: Tensor, valid: Tensor, *, tau: float = 0.2, floor: float = 1e-5) -> Tensor:
    """TokenCut's graph (arXiv 2202.11539): 1 where the cosine exceeds ``tau``, ``floor`` elsewhere.

    Args:
        features: ``(B, N, C)`` float32, rows of unit length.
        valid: ``(B, N)`` bool.
        tau: threshold on the cosine.
        floor: weight of all other pairs.

    Returns:
        ``(B, N, N)`` float32, symmetric to the bit; rows and columns of invalid patches are exactly zero.
    """
    w = feature_affinity(features, valid, shift="zero")
    similar = w > tau
    w.fill_(floor).masked_fill_(similar, 1.0)
    return _mirror(_clear_invalid(w, valid))


def _mean_of_gram(rows: Tensor, valid: Tensor) -> Tensor:
    """Mean of ``rows rows^T`` over valid pairs, ``(B,)``; invalid rows are zero. No pass over N^2 entries."""
    pairs = valid.sum(1).clamp_min(1).to(rows.dtype).square()
    return rows.sum(1).square().sum(-1) / pairs


def _shifted_gram(rows: Tensor, valid: Tensor, shift: Tensor) -> Tensor:
    """``rows rows^T - shift`` between valid patches and zero elsewhere, written in one product."""
    inside = valid.to(rows.dtype)
    w = (-shift[:, None] * inside)[:, :, None] * inside[:, None, :]
    return w.baddbmm_(rows, rows.mT)


def _clear_invalid(w: Tensor, valid: Tensor) -> Tensor:
    invalid = ~valid
    return w.masked_fill_(invalid[:, :, None], 0.0).masked_fill_(invalid[:, None, :], 0.0)


def _mirror(w: Tensor) -> Tensor:
    """Copy the upper triangle onto the lower one, in place: a product may round ``(i, j)`` and ``(j, i)`` apart."""
    for start in range(0, w.shape[1], _MIRROR_BLOCK):
        stop = start + _MIRROR_BLOCK
        diagonal = w[:, start:stop, start:stop]
        diagonal.copy_((diagonal + diagonal.mT) / 2.0)
        w[:, stop:, start:stop].copy_(w[:, start:stop, stop:].mT)
    return w
