"""The largest eigenpairs of one normalised affinity by library solvers, whose answers are checked."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from simsam_batch.spectral.laplacian import SMALLEST_DEGREE

PROBES = 8
"""Random directions searched for pairs that an iterative solver has missed."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """Eigenpairs of one normalised affinity without the constant one: nu (k,) descending, unit vectors u (n, k)."""

    nu: Tensor
    u: Tensor
    residual: float
    iterations: int


@dataclass(frozen=True, slots=True)
class ConstantPair:
    """The pair known beforehand: unit vector u (n,), the same as v = D^-1/2 u (n,), and its nu."""

    u: Tensor
    v: Tensor
    nu: float


def constant_pair(graph: Tensor) -> ConstantPair:
    """D^1/2 1 is an eigenvector of A with nu = 1; patches without edges take no part in it.

    In a graph without any edge A is zero, and every vector belongs to nu = 0.
    """
    sums = graph.sum(dim=1)
    root = torch.where(sums < SMALLEST_DEGREE, torch.zeros_like(sums), sums).sqrt()
    edges = bool(root.any())
    if not edges:
        root = torch.ones_like(root)
    length = root.norm()
    return ConstantPair(u=root / length, v=(root > 0) / length, nu=float(edges))


def solve_densely(a: Tensor, constant: ConstantPair, others: int) -> Pairs:
    """Solve densely in fp64 by LAPACK on the CPU, for the wanted pairs only."""
    from scipy.linalg import eigh

    size = len(a)
    if others == 0:
        return Pairs(nu=a.new_zeros(0), u=a.new_zeros((size, 0)), residual=0.0, iterations=0)
    full = a.cpu().double().numpy()
    u0 = constant.u.cpu().double().numpy()
    # Eigenvalues of A are at least -1. At -2 the constant vector comes last, and is left out.
    full -= np.outer(u0, u0)
    nu, u = eigh(full, subset_by_index=[size - others, size - 1])
    if len(nu) != others:
        # LAPACK's search by index returns too few pairs of some spectra with many equal values (the identity, N = 31).
        nu, u = (part[..., -others:] for part in eigh(full, driver="evd"))
    residual = float(np.linalg.norm(full @ u - u * nu, axis=0).max())
    descending = torch.from_numpy(nu[::-1].copy()).to(a), torch.from_numpy(u[:, ::-1].copy()).to(a)
    return Pairs(*descending, residual=residual, iterations=0)


def solve_by_arpack(
    a: Tensor, constant: ConstantPair, others: int, tolerance: float, max_iterations: int
) -> Pairs | None:
    """Solve by SciPy's implicitly restarted Lanczos method in fp32; None where it gives up."""
    from scipy.sparse.linalg import ArpackError, eigsh

    start = _random_block(a, constant, 1)[:, 0]
    try:
        _, u = eigsh(
            a.numpy(),
            k=others,
            which="LA",
            v0=start.numpy(),
            tol=tolerance,
            maxiter=max_iterations,
        )
    except (ArpackError, ValueError):
        # Equal affinities leave nothing to start from, and where the Krylov space ends early SciPy 1.17 trips over
        # arrays of unequal length. Either way the dense solver takes the image, and the result says so.
        return None
    return rayleigh_ritz(a, constant, torch.from_numpy(u).to(a), iterations=-1)


def solve_by_lobpcg(
    a: Tensor, constant: ConstantPair, others: int, tolerance: float, max_iterations: int
) -> Pairs | None:
    """Solve by LOBPCG of SciPy or, on CUDA, CuPy; None where it gives up."""
    block = _random_block(a, constant, others)
    # A margin: the recurrences' residuals drift from the true ones in fp32.
    options: dict[str, Any] = {
        "tol": tolerance / 2,
        "maxiter": max_iterations,
        "largest": True,
        "retResidualNormsHistory": True,
    }
    try:
        if a.is_cuda:
            import cupy
            from cupyx.scipy.sparse.linalg import lobpcg as cupy_lobpcg
            from torch.utils.dlpack import from_dlpack

            # DLPack makes each library's stream wait for the other's; nothing is copied.
            with cupy.cuda.Device(a.device.index):
                operator, start = cupy.from_dlpack(a), cupy.from_dlpack(block)
                _, found, history = cupy_lobpcg(operator, start, **options)
                u, iterations = from_dlpack(found), len(history) - 1
        else:
            from scipy.sparse.linalg import lobpcg

            with warnings.catch_warnings():
                # It warns of a missed tolerance and of near-singular blocks. The residual measured below decides.
                warnings.simplefilter("ignore")
                _, found, history = lobpcg(a.numpy(), block.numpy(), **options)
            u, iterations = torch.from_numpy(found).to(a), len(history) - 2
    except (ValueError, TypeError, AttributeError, np.linalg.LinAlgError):
        # Both libraries end like this, CuPy with an operation on None, when a Cholesky factorisation breaks down on
        # a block that has lost its rank. The dense solver takes the image, and the result says so.
        return None
    return rayleigh_ritz(a, constant, u, iterations=iterations)


def _random_block(a: Tensor, constant: ConstantPair, columns: int, *, seed: int = 0) -> Tensor:
    """Return the same normal numbers (n, columns) on every call and device, orthogonal to the constant vector."""
    block = torch.randn((len(a), columns), generator=torch.Generator().manual_seed(seed)).to(a)
    return block - torch.outer(constant.u, constant.u @ block)


def rayleigh_ritz(a: Tensor, constant: ConstantPair, u: Tensor, *, iterations: int) -> Pairs | None:
    """Take the best pairs out of the span of ``u`` (n, k) and of a few random vectors multiplied by A.

    A small residual of each pair does not prove that they are the largest: a Lanczos method may return one copy of an
    eigenvalue that occurs several times. Three products with A bring a missed copy to the fore in the random vectors,
    if it stands apart from the rest of the spectrum, as separate parts of a graph do. It then displaces one of the
    pairs, as good as found or with a residual that fails the tolerance.
    """
    if not bool(torch.isfinite(u).all()):
        return None
    wanted = u.shape[1]
    # As rows: the product with a symmetric matrix is the same, and faster.
    probes = _random_block(a, constant, min(PROBES, len(a) - 1 - wanted), seed=1).T.contiguous()
    for _ in range(3):
        probes = probes @ a
    # Householder's QR keeps its columns orthogonal also where they depend on each other; the first is the constant.
    basis = torch.linalg.qr(torch.cat([constant.u.unsqueeze(1), u, probes.T], dim=1)).Q[:, 1:]
    image = a @ basis
    gram = (basis.T @ image).double()
    nu, mix = torch.linalg.eigh((gram + gram.T) / 2)
    nu, mix = nu[-wanted:].flip(0).to(a), mix[:, -wanted:].flip(1).to(a)
    u = basis @ mix
    residual = float((image @ mix - u * nu).norm(dim=0).max())
    return Pairs(nu=nu, u=u, residual=residual, iterations=iterations)
