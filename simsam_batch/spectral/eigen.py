"""The smallest eigenpairs of normalised Laplacians: library solvers, whose answers are checked."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from simsam_batch.spectral.laplacian import SMALLEST_DEGREE, degrees, normalized_affinity

Solver = Literal["auto", "arpack", "lobpcg", "eigh"]

CPU_DENSE_BELOW = 128
"""On a CPU ``auto`` solves graphs of fewer patches densely. Measured: one thread, K = 15."""

CUDA_DENSE_UP_TO = 1536
"""On CUDA ``auto`` solves up to this many patches densely, the whole batch at once, and larger ones by LOBPCG."""

PROBES = 8
"""Random directions searched for pairs that an iterative solver has missed."""

NOT_FINITE = "none (not finite)"
"""`EigenResult.solver` of an image whose affinities are not finite."""


@dataclass(frozen=True, slots=True)
class EigenResult:
    """K eigenpairs (D - W) v = mu D v of every image of a batch.

    A graph of fewer than K patches has fewer pairs: the missing values are NaN, their vectors zero.

    Attributes:
        values: (B, K) float32, mu in [0, 2], ascending.
        vectors: (B, K, N) float32, D-orthonormal (v^T D v = 1), zero at patches that are not valid. The first is
            constant and positive on all patches that have an edge.
        residual: (B,) float32, the largest ``||A u - nu u||`` over the pairs, with A = D^-1/2 W D^-1/2, nu = 1 - mu and
            unit vectors u = D^1/2 v; NaN where nothing could be solved.
        iterations: (B,) int32; 0 for a direct solver, -1 where the library does not tell.
        converged: (B,) bool, residual within the tolerance. False as well for a graph without valid patches, and
            for affinities that are not finite.
        solver: for each image what produced its pairs: ``arpack``, ``lobpcg``, ``eigh``, ``eigh (after arpack)`` for a
            fall-back, ``none (no patches)`` or ``none (not finite)``.
    """

    values: Tensor
    vectors: Tensor
    residual: Tensor
    iterations: Tensor
    converged: Tensor
    solver: list[str]


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Eigenpairs of one normalised affinity without the constant one: nu (k,) descending, unit vectors u (n, k)."""

    nu: Tensor
    u: Tensor
    residual: float
    iterations: int


@dataclass(frozen=True, slots=True)
class _ConstantPair:
    """The pair known beforehand: unit vector u (n,), the same as v = D^-1/2 u (n,), and its nu."""

    u: Tensor
    v: Tensor
    nu: float


@dataclass(frozen=True, slots=True)
class _Solved:
    """What `EigenResult` says of one image: values (m,), vectors (m, n) over its n valid patches."""

    values: Tensor
    vectors: Tensor
    residual: float
    iterations: int
    solver: str


def smallest_eigenpairs(
    w: Tensor,
    valid: Tensor,
    k: int,
    *,
    solver: Solver = "auto",
    tolerance: float = 1e-4,
    max_iterations: int = 200,
) -> EigenResult:
    """Solve (D - W) v = mu D v for the K smallest mu, as the K largest eigenpairs of A = D^-1/2 W D^-1/2.

    The constant vector (mu = 0) is known and taken out of A beforehand. What an iterative solver returns goes
    through a Rayleigh-Ritz step together with a few random directions, so that a missed copy of a multiple eigenvalue
    shows as a residual, provided that this eigenvalue stands apart from those not asked for. An image whose solver
    fails or misses the tolerance is solved again, densely and in fp64.

    Where eigenvalues coincide (equal affinities everywhere, three or more separate parts) eigenvectors are not unique:
    some orthonormal set is returned, the same on every call, and the spectral gap mu_2 - mu_1 is near zero.

    The problem is that of Deep Spectral Methods (Melas-Kyriazi et al., CVPR 2022).

    Args:
        w: (B, N, N) float32, symmetric, not negative, on any device.
        valid: (B, N) bool, patches that belong to the graph; rows and columns of others are not read.
        k: number of pairs, the constant one included; at least 1. More than the graph has patches is allowed, see
            `EigenResult`.
        solver: ``arpack`` (SciPy, CPU only), ``lobpcg`` (SciPy or CuPy, by device), ``eigh`` (dense: LAPACK in fp64 on
            the CPU, batched in fp32 on CUDA), or ``auto``. A graph too small for an iterative solver is solved densely.
        tolerance: accepted residual.
        max_iterations: of ``lobpcg``, and restarts of ``arpack``.

    Raises:
        ValueError: shapes that do not fit, k below 1, a negative affinity, ``arpack`` on CUDA.
    """
    _check(w, valid, k, solver)
    batch, patches, _ = w.shape
    result = EigenResult(
        values=torch.full((batch, k), torch.nan, device=w.device),
        vectors=torch.zeros((batch, k, patches), device=w.device),
        residual=torch.full((batch,), torch.nan, device=w.device),
        iterations=torch.zeros(batch, dtype=torch.int32, device=w.device),
        converged=torch.zeros(batch, dtype=torch.bool, device=w.device),
        solver=["none (no patches)"] * batch,
    )
    dense_on_cuda = w.is_cuda and (solver == "eigh" or (solver == "auto" and patches <= CUDA_DENSE_UP_TO))
    batched = _dense_batch(w, valid, k) if dense_on_cuda else None
    for image, size in enumerate(valid.sum(dim=1).tolist()):
        if size == 0:
            continue
        graph = w[image]
        if size < patches:
            inside = valid[image].nonzero().squeeze(1)
            graph = graph.index_select(0, inside).index_select(1, inside)
        ready = batched[image] if batched is not None else None
        solved = _solve(graph, k, solver, tolerance, max_iterations, ready)
        if solved is None:
            result.solver[image] = NOT_FINITE
            continue
        found = len(solved.values)
        result.values[image, :found] = solved.values
        result.vectors[image, :found, valid[image]] = solved.vectors
        result.residual[image] = solved.residual
        result.iterations[image] = solved.iterations
        result.converged[image] = solved.residual <= tolerance
        result.solver[image] = solved.solver
    return result


def apply_sign_rule(vectors: Tensor) -> Tensor:
    """Negate each vector more than half, but not all, of whose entries are positive: the smaller side gets the plus.

    The rule of the published Deep Spectral Methods code. A constant positive vector is left alone.

    Args:
        vectors: (B, K, N) on the whole grid, after `simsam_batch.spectral.laplacian.fill_left_out`.

    Returns:
        (B, K, N) new tensor.
    """
    patches = vectors.shape[-1]
    positive = (vectors > 0).sum(dim=-1, keepdim=True)
    flip = (2 * positive > patches) & (positive < patches)
    return torch.where(flip, -vectors, vectors)


def _check(w: Tensor, valid: Tensor, k: int, solver: Solver) -> None:
    if w.ndim != 3 or w.shape[1] != w.shape[2] or valid.shape != w.shape[:2]:
        raise ValueError(f"affinities {tuple(w.shape)} and valid {tuple(valid.shape)} are not (B, N, N) and (B, N)")
    if k < 1:
        raise ValueError(f"k is {k}: at least one eigenpair must be asked for")
    if solver not in ("auto", "arpack", "lobpcg", "eigh"):
        raise ValueError(f"solver is {solver!r}: it must be auto, arpack, lobpcg or eigh")
    if solver == "arpack" and w.is_cuda:
        raise ValueError("solver arpack runs on the CPU only: on CUDA use auto, lobpcg or eigh")
    if w.numel() and float(w.amin()) < 0:
        raise ValueError("affinities must not be negative: clip them at zero")


def _solve(
    graph: Tensor, k: int, solver: Solver, tolerance: float, max_iterations: int, ready: _Pairs | None
) -> _Solved | None:
    """Solve one graph (n, n) without patches to leave out; ``ready`` holds pairs that a batched solver found."""
    degree = degrees(graph)
    if not bool(torch.isfinite(degree).all()):
        return None
    constant = _constant_pair(graph)
    a = normalized_affinity(graph, degree)
    constant_residual = float((a @ constant.u - constant.nu * constant.u).norm())
    # From here on A has the constant vector at the lower end of its spectrum, -1. The other pairs are the same.
    a.addr_(constant.u, constant.u, alpha=-(constant.nu + 1))
    others = min(k, len(graph)) - 1
    name = "eigh" if ready is not None else _choose(solver, size=len(graph), others=others, cuda=graph.is_cuda)
    pairs = ready
    if name == "arpack":
        pairs = _arpack(a, constant, others, tolerance, max_iterations)
    elif name == "lobpcg":
        pairs = _lobpcg(a, constant, others, tolerance, max_iterations)
    elif pairs is None:
        pairs = _eigh(a, constant, others)
    if pairs is None or not pairs.residual <= tolerance:
        pairs = _eigh(a, constant, others)
        name = f"eigh (after {name})"
    # Rounding can leave nu a little above 1, which the theory forbids.
    mu = torch.cat([pairs.nu.new_tensor([1 - constant.nu]), (1 - pairs.nu).clamp(min=0)])
    vectors = torch.cat([constant.v.unsqueeze(0), (pairs.u * degree.rsqrt().unsqueeze(1)).T])
    residual = max(pairs.residual, constant_residual)
    return _Solved(values=mu, vectors=vectors, residual=residual, iterations=pairs.iterations, solver=name)


def _constant_pair(graph: Tensor) -> _ConstantPair:
    """D^1/2 1 is an eigenvector of A with nu = 1; patches without edges take no part in it.

    In a graph without any edge A is zero, and every vector belongs to nu = 0.
    """
    sums = graph.sum(dim=1)
    root = torch.where(sums < SMALLEST_DEGREE, torch.zeros_like(sums), sums).sqrt()
    edges = bool(root.any())
    if not edges:
        root = torch.ones_like(root)
    length = root.norm()
    return _ConstantPair(u=root / length, v=(root > 0) / length, nu=float(edges))


def _choose(solver: Solver, *, size: int, others: int, cuda: bool) -> str:
    """Name the solver for a graph of ``size`` patches of which ``others`` pairs are wanted besides the constant one."""
    if solver == "auto":
        solver = "lobpcg" if cuda else "arpack" if size >= CPU_DENSE_BELOW else "eigh"
    # ARPACK needs a basis larger than what it returns; LOBPCG's block may take a fifth of the space.
    room = {"arpack": size - 2, "lobpcg": (size - 1) // 5, "eigh": 0}[solver]
    return solver if 0 < others <= room else "eigh"


def _eigh(a: Tensor, constant: _ConstantPair, others: int) -> _Pairs:
    """Solve densely in fp64 by LAPACK on the CPU, for the wanted pairs only."""
    from scipy.linalg import eigh

    size = len(a)
    if others == 0:
        return _Pairs(nu=a.new_zeros(0), u=a.new_zeros((size, 0)), residual=0.0, iterations=0)
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
    return _Pairs(*descending, residual=residual, iterations=0)


def _arpack(a: Tensor, constant: _ConstantPair, others: int, tolerance: float, max_iterations: int) -> _Pairs | None:
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
    return _rayleigh_ritz(a, constant, torch.from_numpy(u).to(a), iterations=-1)


def _lobpcg(a: Tensor, constant: _ConstantPair, others: int, tolerance: float, max_iterations: int) -> _Pairs | None:
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
    return _rayleigh_ritz(a, constant, u, iterations=iterations)


def _random_block(a: Tensor, constant: _ConstantPair, columns: int, *, seed: int = 0) -> Tensor:
    """Return the same normal numbers (n, columns) on every call and device, orthogonal to the constant vector."""
    block = torch.randn((len(a), columns), generator=torch.Generator().manual_seed(seed)).to(a)
    return block - torch.outer(constant.u, constant.u @ block)


def _rayleigh_ritz(a: Tensor, constant: _ConstantPair, u: Tensor, *, iterations: int) -> _Pairs | None:
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
    return _Pairs(nu=nu, u=u, residual=residual, iterations=iterations)


def _dense_batch(w: Tensor, valid: Tensor, k: int) -> list[_Pairs | None]:
    """Solve all graphs of a batch by one call of ``torch.linalg.eigh`` in the precision of ``w``.

    Patches that are not valid, and the constant vector, are moved below all eigenvalues that can occur, -1 to 1.
    None for a graph that cannot be solved this way.
    """
    keep = valid.unsqueeze(1) & valid.unsqueeze(2)
    w = w.masked_fill(~keep, 0)
    finite = torch.isfinite(w.sum(dim=(1, 2)))
    w = w.masked_fill(~finite[:, None, None], 0)
    sums = w.sum(dim=-1)
    root = torch.where(sums < SMALLEST_DEGREE, torch.zeros_like(sums), sums).sqrt()
    root = torch.where(root.any(dim=1, keepdim=True), root, valid.to(root))
    constant = root / root.norm(dim=1, keepdim=True).clamp(min=SMALLEST_DEGREE)
    a = normalized_affinity(w, degrees(w))
    shifted = torch.baddbmm(a, constant.unsqueeze(2), constant.unsqueeze(1), alpha=-3)
    shifted.diagonal(dim1=1, dim2=2).sub_(5 * (~valid).to(a))
    try:
        nu, u = torch.linalg.eigh(shifted)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # torch does not list it as public
        # One graph on which the library does not converge fails the call for all; each is then solved by itself.
        return [None] * len(w)
    most = min(k, w.shape[1]) - 1
    nu, u = nu.flip(1)[:, :most], u.flip(2)[:, :, :most]
    residuals = (a @ u - u * nu.unsqueeze(1)).norm(dim=1)
    pairs: list[_Pairs | None] = []
    for image, size in enumerate(valid.sum(dim=1).tolist()):
        if size == 0 or not bool(finite[image]):
            pairs.append(None)
            continue
        others = min(k, size) - 1
        residual = float(residuals[image, :others].amax()) if others else 0.0
        pairs.append(_Pairs(nu[image, :others], u[image, valid[image], :others], residual, iterations=0))
    return pairs
