"""The smallest eigenpairs of normalised Laplacians, for a whole batch at once where that is faster."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from simsam_batch.spectral import block_lanczos
from simsam_batch.spectral.laplacian import SMALLEST_DEGREE, normalized_affinity
from simsam_batch.spectral.paths import array_library, batched_eigh, paths_on
from simsam_batch.spectral.solvers import (
    Pairs,
    normalized_graph,
    solve_by_arpack,
    solve_by_lobpcg,
    solve_densely,
)
from simsam_batch.spectral.transfer import upload

Solver = Literal["auto", "block-lanczos", "arpack", "lobpcg", "eigh"]

CPU_DENSE_BELOW = 128
"""On a CPU ``auto`` solves graphs of fewer patches densely. Measured: one thread, K = 15."""

CUDA_DENSE_UP_TO = 512
"""On CUDA ``auto`` solves up to this many patches densely, and larger graphs by block Lanczos. An estimate."""

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
        iterations: (B,) int32, how often A was applied, to a block by ``block-lanczos``, to a vector by ``arpack``;
            iterations of ``lobpcg``; 0 for a direct solver.
        converged: (B,) bool, residual within the tolerance. False as well for a graph without valid patches, and
            for affinities that are not finite.
        solver: for each image what produced its pairs: ``block-lanczos``, ``arpack``, ``lobpcg``, ``eigh``,
            ``eigh (after arpack)`` for a fall-back, ``none (no patches)`` or ``none (not finite)``.
    """

    values: Tensor
    vectors: Tensor
    residual: Tensor
    iterations: Tensor
    converged: Tensor
    solver: list[str]


@dataclass(frozen=True, slots=True)
class _Solved:
    """What `EigenResult` says of one image: values (m,), vectors (m, N)."""

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

    The constant vector (mu = 0) is known and taken out of A beforehand. ``block-lanczos``, and on CUDA ``eigh``, solve
    the whole batch at once. The other solvers take image by image; what a library's iterative solver returns goes
    through a Rayleigh-Ritz step, and a few Lanczos steps look for a missed copy of a multiple eigenvalue, which they
    find if it stands apart from those not asked for. An image whose solver fails, misses a pair or the tolerance is
    solved again, densely and in fp64.

    Where eigenvalues coincide (equal affinities everywhere, three or more separate parts) eigenvectors are not unique:
    some orthonormal set is returned, the same on every call, and the spectral gap mu_2 - mu_1 is near zero.

    The problem is that of Deep Spectral Methods (Melas-Kyriazi et al., CVPR 2022).

    Args:
        w: (B, N, N) float32, symmetric, not negative, on any device.
        valid: (B, N) bool, patches that belong to the graph; rows and columns of others are not read.
        k: number of pairs, the constant one included; at least 1. More than the graph has patches is allowed, see
            `EigenResult`.
        solver: ``block-lanczos`` (`simsam_batch.spectral.block_lanczos`, by NumPy, or on CUDA by what
            `simsam_batch.spectral.paths` trusts), ``arpack`` (SciPy, CPU only), ``lobpcg`` (SciPy's or CuPy's, by
            device), ``eigh`` (dense: LAPACK in fp64 on the CPU, batched in fp32 on CUDA), or ``auto``, by device and
            size. A graph too small for an iterative solver is solved densely.
        tolerance: accepted residual.
        max_iterations: of ``lobpcg``, block products of ``block-lanczos``, restarts of ``arpack``.

    Raises:
        ValueError: shapes that do not fit, k below 1, a negative affinity, ``arpack`` on CUDA.
    """
    _check(w, valid, k, solver)
    batch, patches, _ = w.shape
    if not w.numel():
        return _empty_result(batch, k, patches, w.device)
    method = _batched_method(solver, patches, min(k, patches) - 1, cuda=w.is_cuda)
    if method is None and not w.is_cuda:
        # NumPy takes half of torch's time; whether all is finite is seen when the graph is prepared.
        sizes, least, clean = valid.sum(dim=1).tolist(), float(w.numpy().min()), False
    else:
        # One wait for the device answers all these questions. NaN, if there is any, is the least and the largest.
        *counts, least, largest = torch.cat(
            [valid.sum(dim=1).double(), torch.stack(torch.aminmax(w)).double()]
        ).tolist()
        sizes, clean = [int(count) for count in counts], math.isfinite(least + largest)
    if least < 0:
        raise ValueError("affinities must not be negative: clip them at zero")
    if method is None:
        result = _empty_result(batch, k, patches, w.device)
        unsolved = [image for image in range(batch) if sizes[image]]
    else:
        result, unsolved = _solve_batch(w, valid, sizes, k, method, tolerance, max_iterations, clean=clean)
    for image in unsolved:
        graph = np.ascontiguousarray(w[image].cpu().numpy()), valid[image].cpu().numpy()
        chosen: Solver = solver if method is None else "eigh"
        solved = _solve(*graph, k, chosen, tolerance, max_iterations, cuda=w.device.index if w.is_cuda else None)
        if solved is None:
            result.solver[image] = NOT_FINITE
            continue
        found = len(solved.values)
        result.values[image, :found] = solved.values
        result.vectors[image, :found] = solved.vectors
        result.residual[image] = solved.residual
        result.iterations[image] = solved.iterations
        result.converged[image] = solved.residual <= tolerance
        result.solver[image] = solved.solver if method is None else f"eigh (after {method})"
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
    if solver not in get_args(Solver):
        raise ValueError(f"solver is {solver!r}: it must be one of {', '.join(get_args(Solver))}")
    if solver == "arpack" and w.is_cuda:
        raise ValueError("solver arpack runs on the CPU only: on CUDA use auto, block-lanczos, lobpcg or eigh")


def _empty_result(batch: int, k: int, patches: int, device: torch.device) -> EigenResult:
    return EigenResult(
        values=torch.full((batch, k), torch.nan, device=device),
        vectors=torch.zeros((batch, k, patches), device=device),
        residual=torch.full((batch,), torch.nan, device=device),
        iterations=torch.zeros(batch, dtype=torch.int32, device=device),
        converged=torch.zeros(batch, dtype=torch.bool, device=device),
        solver=["none (no patches)"] * batch,
    )


def _batched_method(
    solver: Solver, patches: int, others: int, *, cuda: bool
) -> Literal["block-lanczos", "eigh"] | None:
    """Name the method for the whole batch, of which up to ``others`` pairs besides the constant one are wanted.

    None: image by image.
    """
    dense: Literal["eigh"] | None = "eigh" if cuda else None
    # A search space that would fill much of the whole space is no saving.
    roomy = others > 0 and (block_lanczos.STEPS + 1) * (others + block_lanczos.GUARDS) < patches
    if solver == "block-lanczos":
        return "block-lanczos" if roomy else dense
    if solver == "eigh":
        return dense
    if solver == "auto" and cuda:
        return "block-lanczos" if roomy and patches > CUDA_DENSE_UP_TO else "eigh"
    return None


def _solve_batch(
    w: Tensor,
    valid: Tensor,
    sizes: list[int],
    k: int,
    method: Literal["block-lanczos", "eigh"],
    tolerance: float,
    max_iterations: int,
    *,
    clean: bool,
) -> tuple[EigenResult, list[int]]:
    """Solve all graphs of a batch together, and name the images that need another solver.

    ``clean`` promises that all affinities are finite, also outside the graphs.
    """
    batch, patches, _ = w.shape
    inside = valid.to(w.dtype)
    finite = torch.ones_like(valid[:, 0])
    if not clean:
        w = w.masked_fill(~(valid.unsqueeze(1) & valid.unsqueeze(2)), 0)
        finite = torch.isfinite(w.sum(dim=(1, 2)))
        w = w.masked_fill(~finite[:, None, None], 0)
    sums = torch.bmm(w, inside.unsqueeze(2)).squeeze(2) * inside
    # The constant vector as in `solvers.Graph`, for every image.
    root = torch.where(sums < SMALLEST_DEGREE, 0, sums).sqrt()
    edges = root.any(dim=1, keepdim=True)
    root = torch.where(edges, root, inside)
    length = root.norm(dim=1, keepdim=True).clamp(min=SMALLEST_DEGREE)
    constant, nu_constant = root / length, edges.to(root)
    degree = torch.where(sums < SMALLEST_DEGREE, 1, sums)
    # An infinite degree makes a patch's row and column zero.
    a = normalized_affinity(w, degree.masked_fill(~valid, torch.inf))
    of_constant = (torch.bmm(constant.unsqueeze(1), a).squeeze(1) - nu_constant * constant).norm(dim=1)

    pairs = max(min(k, max(sizes)), 1)
    count = upload(torch.tensor([min(k, size) for size in sizes]), w.device)
    if pairs == 1:
        nu, u = a.new_zeros((batch, 0)), a.new_zeros((batch, 0, patches))
        residual, iterations = torch.zeros_like(of_constant), torch.zeros_like(count)
    elif method == "eigh":
        nu, u, residual = _dense_batch(a, constant, valid, count - 1, pairs - 1)
        iterations = torch.zeros_like(count)
    else:
        others = np.array([max(min(k, size) - 1, 0) for size in sizes])
        nu, u, residual, iterations = _block_lanczos(a, constant, valid, others, tolerance, max_iterations)
    residual = torch.maximum(residual, of_constant)

    result = _empty_result(batch, k, patches, w.device)
    there = (torch.arange(pairs, device=w.device) < count[:, None]) & finite[:, None]
    # Rounding can leave nu a little above 1, which the theory forbids.
    mu = torch.cat([1 - nu_constant, (1 - nu).clamp(min=0)], dim=1)
    vectors = torch.cat([((root > 0) / length).unsqueeze(1), u * degree.rsqrt().unsqueeze(1)], dim=1)
    result.values[:, :pairs] = mu.masked_fill(~there, torch.nan)
    # A dense solver leaves rounding errors outside the graph.
    result.vectors[:, :pairs] = vectors.masked_fill(~(there.unsqueeze(2) & valid.unsqueeze(1)), 0)
    solved = there.any(dim=1)
    result.residual.copy_(residual.masked_fill(~solved, torch.nan))
    result.iterations.copy_(iterations.masked_fill(~solved, 0))
    result.converged.copy_(solved & (residual <= tolerance))
    unsolved = []
    for image, (good, done) in enumerate(torch.stack([finite, result.converged], dim=1).tolist()):
        if sizes[image]:
            result.solver[image] = method if good else NOT_FINITE
            if good and not done:
                unsolved.append(image)
    return result, unsolved


def _dense_batch(
    a: Tensor, constant: Tensor, valid: Tensor, others: Tensor, most: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Solve all graphs by one call of ``torch.linalg.eigh`` in fp32: nu (B, most), u (B, most, N), residual (B,).

    Patches that are not valid, and the constant vector, are moved below all eigenvalues that can occur, -1 to 1.
    """
    shifted = torch.baddbmm(a, constant.unsqueeze(2), constant.unsqueeze(1), alpha=-3)
    shifted.diagonal(dim1=1, dim2=2).sub_(5 * (~valid).to(a))
    try:
        nu, u = batched_eigh(shifted, paths_on(a.device).dense)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # torch does not list it as public
        # One graph on which the library does not converge fails the call for all; each is then solved by itself.
        batch, patches, _ = a.shape
        return a.new_zeros((batch, most)), a.new_zeros((batch, most, patches)), a.new_full((batch,), torch.inf)
    nu, u = nu.flip(1)[:, :most], u.flip(2)[:, :, :most].mT.contiguous()
    residuals = (torch.bmm(u, a) - nu.unsqueeze(2) * u).norm(dim=2)
    wanted = torch.arange(most, device=a.device) < others[:, None]
    # Beyond the pairs wanted stand those moved away, which have no residual to speak of.
    return nu, u, residuals.masked_fill(~wanted, 0).amax(dim=1)


def _block_lanczos(
    a: Tensor, constant: Tensor, valid: Tensor, others: NDArray[np.int64], tolerance: float, products: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hand the batch to `block_lanczos` without copying it: nu (B, k), u (B, k, N), residual (B,), iterations (B,)."""
    from torch.utils.dlpack import from_dlpack

    with array_library(paths_on(a.device).block, a) as (xp, to_array):
        found = block_lanczos.largest_eigenpairs(
            to_array(a),
            to_array(constant),
            to_array(valid.to(torch.uint8)),
            others,
            xp=xp,
            tolerance=tolerance,
            max_products=products,
        )
        nu, u = (from_dlpack(each).to(a.device) for each in (found.nu, found.u))
    residual, iterations = (upload(torch.from_numpy(each), a.device) for each in (found.residual, found.products))
    return nu, u, residual, iterations


def _solve(
    w: NDArray[np.float32],
    inside: NDArray[np.bool_],
    k: int,
    solver: Solver,
    tolerance: float,
    max_iterations: int,
    *,
    cuda: int | None,
) -> _Solved | None:
    """Solve the graph of one image; None if its affinities are not finite."""
    graph = normalized_graph(w, inside)
    if graph is None:
        return None
    size = int(inside.sum())
    others = min(k, size) - 1
    name = _choose(solver, size=size, others=others)
    pairs: Pairs | None = None
    if name == "arpack":
        pairs = solve_by_arpack(graph, others, tolerance, max_iterations)
    elif name == "lobpcg":
        pairs = solve_by_lobpcg(graph, others, tolerance, max_iterations, cuda=cuda)
    else:
        pairs = solve_densely(graph, others)
    if pairs is None or not pairs.residual <= tolerance:
        pairs = solve_densely(graph, others)
        name = f"eigh (after {name})"
    # Rounding can leave nu a little above 1, which the theory forbids.
    mu = np.concatenate([[1 - graph.nu], np.maximum(1 - pairs.nu, 0)], dtype=np.float32)
    vectors = np.concatenate([graph.first[None], pairs.u.T * graph.scale])
    residual = max(pairs.residual, graph.residual)
    return _Solved(torch.from_numpy(mu), torch.from_numpy(vectors), residual, pairs.iterations, name)


def _choose(solver: Solver, *, size: int, others: int) -> str:
    """Name the solver for a graph of ``size`` patches of which ``others`` pairs are wanted besides the constant one."""
    if solver == "auto":
        solver = "arpack" if size >= CPU_DENSE_BELOW else "eigh"
    # ARPACK needs a basis larger than what it returns; LOBPCG's block may take a fifth of the space.
    room = {"arpack": size - 2, "lobpcg": (size - 1) // 5}.get(solver, 0)
    return solver if 0 < others <= room else "eigh"
