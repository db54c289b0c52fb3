"""Eigenpairs of graphs whose affinity is affine in the cosine, ``W = scale F F^T + offset``, without any N x N matrix.

Such a W has rank C + 1 at most, for C channels, however many patches there are: with S the signs of the two numbers and
B = [sqrt|scale| F, sqrt|offset| 1] it is B S B^T. So A = D^-1/2 W D^-1/2 = X S X^T with X = D^-1/2 B, and everything
follows from the Gram matrix X^T X, of C + 1 rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from simsam_batch.spectral.eigen import NOT_FINITE, EigenResult

LOW_RANK = "low-rank"
NO_PATCHES = "none (no patches)"

NEGATIVE = "none (negative affinity)"
_OUTCOMES = (LOW_RANK, NO_PATCHES, NOT_FINITE, NEGATIVE)

# Eigenvalues of the Gram matrix below this share of the largest (or of 1, which A's cannot exceed) are taken for zero.
# They come with an error of about 1e-16, so that vectors above the share are orthonormal to fp32.
_RANK_CUTOFF = 1e-9
# Affinities are known to this share of the numbers of the map: features are fp32, and so is the least cosine.
_ROUNDING = 1e-6
_NO_CONTRAST = 1e-5


def minmax_map(features: Tensor, valid: Tensor, *, block: int = 256) -> tuple[Tensor, Tensor]:
    """Find the affine map that spreads an image's cosines over 0 to 1: ``W = (c - min) / (max - min)``.

    Equal to ``1 - (d - d_min) / (d_max - d_min)`` of the cosine distances d = 1 - c over all pairs, a patch with itself
    included: the affinity of hierarchy-agnostic segmentation (Rossetti and Pirri, NeurIPS 2024; its published code,
    which then sets the diagonal to zero). The largest cosine is the largest squared norm (Cauchy-Schwarz); the smallest
    is looked for in the upper triangle of ``F F^T``, ``block`` rows at a time, in fp32. Never waits for the device.

    Args:
        features: (B, N, C) float32, rows of unit length.
        valid: (B, N) bool; other rows are not read.
        block: rows of ``F F^T`` held at once, for each image.

    Returns:
        scale, offset: (B,) float64. An image whose cosines are all equal to 1e-5, or without valid patches, gets the
        constant affinity 1 (scale 0, offset 1). NaN for an image whose features are not finite.
    """
    _check(features, valid)
    batch, patches, _ = features.shape
    # Invalid patches stand in as copies of the first valid one: they add no cosine that is not there anyway.
    rows = features
    if patches:
        first = valid.to(torch.uint8).argmax(dim=1)
        rows = torch.where(
            valid.unsqueeze(2), features, features[torch.arange(batch, device=first.device), first, None]
        )
    least = features.new_full((batch,), torch.inf)
    for start in range(0, patches, block):
        cosines = torch.bmm(rows[:, start : start + block], rows[:, start:].mT)
        least = torch.minimum(least, cosines.amin(dim=(1, 2)))
    largest = rows.square().sum(dim=2).amax(dim=1) if patches else least
    some = valid.any(dim=1)
    low = torch.where(some, least, 1).double()
    spread = torch.where(some, largest, 1).double() - low
    flat = spread <= _NO_CONTRAST
    scale = torch.where(flat, 0, 1 / spread)
    return scale, torch.where(flat, 1, -low * scale)


def smallest_eigenpairs_of_low_rank(
    features: Tensor, valid: Tensor, scale: Tensor, offset: Tensor, k: int, *, tolerance: float = 1e-4
) -> EigenResult:
    """Solve (D - W) v = mu D v with ``W = scale F F^T + offset`` for the K smallest mu: exactly, in fp64.

    W keeps its diagonal: without it the rank would be N. Against a diagonal of zero the values move by about 1/d, for
    mean degree d. The constant vector (mu = 0) is known and taken out beforehand. X^T X gives an orthonormal basis Q of
    the range of A, and where both numbers of the map are positive the pairs themselves; where one is negative a second
    problem of the same size, Q^T A Q, follows. Memory and time per image grow as N C and N C^2 + C^3. The host waits
    for the device twice, and once in every call of ``torch.linalg.eigh`` (one or two), whatever the batch.

    All vectors outside the range of W share mu = 1. None of them is preferred, and none is returned: an image with
    fewer than K pairs below mu = 1 (repeated features, equal features everywhere) has the rest missing as
    `EigenResult` says, NaN and zero. Pairs beyond mu = 1 are returned only where W has full rank.

    Affinities must not be negative. That cannot be looked up without all N^2 of them, but where they make a degree
    negative or an eigenvalue smaller than zero, the image gets no pairs and ``solver`` says ``none (negative
    affinity)``. A patch without any edge keeps degree 1, as in `simsam_batch.spectral.eigen`.

    The factorisation is that of this project; the problem that of Deep Spectral Methods (Melas-Kyriazi et al., CVPR
    2022).

    Args:
        features: (B, N, C) float32, on any device.
        valid: (B, N) bool, patches that belong to the graph; rows of others are not read.
        scale: (B,) float32 or float64, for instance from `minmax_map`.
        offset: (B,) as ``scale``.
        k: number of pairs, the constant one included; from 1 to C + 1.
        tolerance: accepted residual.

    Returns:
        Residuals are those of A applied as an operator to fp64 vectors; iterations are 0; ``solver`` is ``low-rank``.

    Raises:
        ValueError: shapes that do not fit, k below 1 or above C + 1.
    """
    _check(features, valid)
    batch, patches, channels = features.shape
    if scale.shape != (batch,) or offset.shape != (batch,):
        raise ValueError(f"scale {tuple(scale.shape)} and offset {tuple(offset.shape)} are not one number per image")
    if not 1 <= k <= channels + 1:
        raise ValueError(
            f"k is {k}: an affinity of {channels} channels has from 1 to {channels + 1} eigenpairs apart from mu = 1"
        )
    rows = features.masked_fill(~valid.unsqueeze(2), 0).double()
    scale, offset, size = scale.double(), offset.double(), valid.sum(dim=1)
    finite = torch.isfinite(rows.sum(dim=(1, 2)) + scale + offset)
    rows = rows.masked_fill(~finite[:, None, None], 0)
    scale, offset = scale.masked_fill(~finite, 0), offset.masked_fill(~finite, 0)

    w = _Affinity(rows, valid.double(), scale, offset)
    degree, edged, negative = w.degrees()
    shrink = degree.rsqrt() * edged
    some_edge = edged.any(dim=1, keepdim=True)
    root = torch.where(some_edge, degree.sqrt() * edged, w.inside)
    length = root.norm(dim=1, keepdim=True).clamp(min=torch.finfo(root.dtype).tiny)
    constant, nu_constant = root / length, some_edge.double()

    others = min(k, patches) - 1
    nu, u, rank = _other_pairs(w, shrink, constant, max(others, 0))
    # The constant vector adds 1 to the rank; without any edge nothing does.
    full = rank + some_edge.squeeze(1) >= size
    there = torch.arange(nu.shape[1], device=nu.device) < rank.unsqueeze(1)
    there &= (nu > _RANK_CUTOFF) | full.unsqueeze(1)
    # |D^-1/2 E D^-1/2| is at most sum(1 / d) for entries of E up to 1: so far can rounding lift nu above 1.
    lift = (w.rounding() * shrink.square().sum(dim=1)).unsqueeze(1)
    negative |= (there & (nu > 1 + lift)).any(dim=1)

    nu = torch.cat([nu_constant, nu], dim=1)
    u = torch.cat([constant.unsqueeze(2), u], dim=2)
    there = torch.cat([torch.ones_like(some_edge), there], dim=1)
    applied = shrink.unsqueeze(2) * w.apply(shrink.unsqueeze(2) * u)
    residual = (applied - nu.unsqueeze(1) * u).norm(dim=1).masked_fill(~there, 0).amax(dim=1)
    v = u * degree.rsqrt().unsqueeze(2)
    v[:, :, 0] = (root > 0) / length

    outcome = torch.where(size == 0, 1, torch.where(~finite, 2, torch.where(negative, 3, 0)))
    solved = outcome == 0
    there &= solved.unsqueeze(1)
    values = torch.full((batch, k), torch.nan, device=features.device)
    vectors = torch.zeros((batch, k, patches), device=features.device)
    # Rounding can leave nu a little above 1, which the theory forbids.
    values[:, : nu.shape[1]] = (1 - nu).clamp(min=0).masked_fill(~there, torch.nan).float()
    vectors[:, : nu.shape[1]] = v.mT.masked_fill(~there.unsqueeze(2), 0).float()
    return EigenResult(
        values=values,
        vectors=vectors,
        residual=residual.masked_fill(~solved, torch.nan).float(),
        iterations=torch.zeros(batch, dtype=torch.int32, device=features.device),
        converged=solved & (residual <= tolerance),
        solver=[_OUTCOMES[number] for number in outcome.tolist()],
    )


@dataclass(frozen=True, slots=True)
class _Affinity:
    """W between the valid patches of a batch: rows (B, N, C) and inside (B, N), zero where not valid; all fp64."""

    rows: Tensor
    inside: Tensor
    scale: Tensor
    offset: Tensor

    def apply(self, x: Tensor) -> Tensor:
        """Return W x for (B, N, M)."""
        from_rows = self.scale[:, None, None] * torch.bmm(self.rows.mT, x)
        from_one = self.offset[:, None, None] * torch.bmm(self.inside.unsqueeze(1), x)
        return torch.baddbmm(self.inside.unsqueeze(2) * from_one, self.rows, from_rows)

    def rounding(self) -> Tensor:
        """Return (B,) how far below zero an affinity may come by rounding alone."""
        return _ROUNDING * (self.scale.abs() + self.offset.abs())

    def degrees(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return degrees (B, N), 1 where a patch has no edge; who has one (B, N); where any is negative (B,)."""
        sums = self.apply(self.inside.unsqueeze(2))[:, :, 0]
        rounding = self.rounding().unsqueeze(1)
        negative = (sums < -rounding).any(dim=1)
        edged = (sums > rounding) & ~negative.unsqueeze(1)
        return torch.where(edged, sums, 1), edged, negative

    def factor(self, shrink: Tensor) -> tuple[Tensor, Tensor]:
        """Return X (B, N, C + 1) and the signs (B, C + 1) with ``X diag(signs) X^T = diag(shrink) W diag(shrink)``."""
        channels = self.rows.shape[2]
        signs = torch.cat([self.scale.sign().unsqueeze(1).expand(-1, channels), self.offset.sign().unsqueeze(1)], dim=1)
        weights = shrink.unsqueeze(2) * torch.stack([self.scale, self.offset], dim=1).abs().sqrt().unsqueeze(1)
        return torch.cat([weights[:, :, :1] * self.rows, weights[:, :, 1:]], dim=2), signs


def _other_pairs(w: _Affinity, shrink: Tensor, constant: Tensor, most: int) -> tuple[Tensor, Tensor, Tensor]:
    """Find the largest eigenvalues of A with the constant vector taken out: nu (B, most), u (B, N, most), rank (B,)."""
    x, signs = w.factor(shrink)
    # A maps the constant vector to itself, so taking it out of X takes it out of A and changes nothing else.
    x -= constant.unsqueeze(2) * torch.bmm(constant.unsqueeze(1), x)
    squares, v = torch.linalg.eigh(torch.bmm(x.mT, x))
    largest = squares[:, -1:].clamp(min=1)
    kept = squares > _RANK_CUTOFF * largest
    lengths = squares.clamp(min=0).sqrt() * kept
    # X v / length are orthonormal; directions that were dropped become zero.
    basis = v * torch.where(kept, 1 / lengths, 0).unsqueeze(1)
    nu = squares
    signed = (signs < 0).any(dim=1).nonzero().squeeze(1)
    if len(signed):
        scaled = v[signed] * lengths[signed].unsqueeze(1)
        small = torch.bmm(scaled.mT, signs[signed].unsqueeze(2) * scaled)
        # Dropped directions go below everything that can occur.
        small.diagonal(dim1=1, dim2=2).sub_(2 * largest[signed] * ~kept[signed])
        nu_signed, turn = torch.linalg.eigh(small)
        nu = nu.index_copy(0, signed, nu_signed)
        basis = basis.index_copy(0, signed, torch.bmm(basis[signed], turn))
    first = nu.shape[1] - most
    return nu[:, first:].flip(1), torch.bmm(x, basis[:, :, first:].flip(2)), kept.sum(dim=1)


def _check(features: Tensor, valid: Tensor) -> None:
    if features.ndim != 3 or valid.shape != features.shape[:2]:
        raise ValueError(
            f"features {tuple(features.shape)} and valid {tuple(valid.shape)} are not (B, N, C) and (B, N)"
        )
