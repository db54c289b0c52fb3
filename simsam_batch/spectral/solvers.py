"""The largest eigenpairs of one image's normalised affinity by library solvers, whose answers are checked."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, eigh
from scipy.linalg.blas import ssymv

from simsam_batch.spectral.laplacian import SMALLEST_DEGREE

Array = NDArray[Any]

PROBE_STEPS = 4
"""Lanczos steps taken to look for pairs that an iterative solver has missed."""

_LEAST_MARGIN = 1e-5
"""In fp32 an eigenvalue found beyond another by less than this is not known to lie there."""


@dataclass(frozen=True, slots=True)
class Pairs:
    """Eigenpairs without the constant one: nu (k,) descending, unit vectors u (N, k), zero outside the graph."""

    nu: Array
    u: Array
    residual: float
    iterations: int


@dataclass(frozen=True, slots=True)
class Graph:
    """The normalised affinity A = D^-1/2 W D^-1/2 of one image as an operator: A itself is not formed.

    D^1/2 1 is an eigenvector of A with nu = 1; patches without edges take no part in it. In a graph without any edge A
    is zero, and every vector belongs to nu = 0. In what follows this constant vector is moved to -1, the lower end of
    the spectrum, so that the other pairs are the largest ones.

    Attributes:
        w: (N, N) float32, symmetric.
        inside: (N,) bool, patches that belong to the graph. Rows and columns of A of the others are zero.
        scale: (N,) float32, D^-1/2 inside, else 0; 1 where a degree is below 1e-12.
        constant: (N,) float32, the constant pair's unit vector u.
        lift: (N,) float32, (1 + nu) u.
        first: (N,) float32, the same as v = D^-1/2 u.
        nu: of the constant pair, 1 or 0.
        residual: of the constant pair.
    """

    w: Array
    inside: Array
    scale: Array
    constant: Array
    lift: Array
    first: Array
    nu: float
    residual: float

    def __matmul__(self, x: Array) -> Array:
        """A x of a vector (N,) or of columns (N, m), float32; the constant vector gives its negative."""
        if x.ndim == 1:
            # It reads one half of W, which on large graphs takes half the time of a general product.
            y: Array = ssymv(1.0, self.w.T, x * self.scale)
            y *= self.scale
            y -= (self.constant @ x) * self.lift
            return y
        # As rows: the product with a symmetric matrix is the same, and reads it in the order it lies in memory.
        rows: Array = (x.T * self.scale) @ self.w * self.scale
        rows -= np.outer(x.T @ self.constant, self.lift)
        return rows.T

    def matrix(self, dtype: type[np.floating[Any]]) -> Array:
        """A over the patches inside, (n, n), with the constant vector at -1."""
        scale, constant = self.scale[self.inside].astype(dtype), self.constant[self.inside].astype(dtype)
        a: Array = self.w[np.ix_(self.inside, self.inside)] * (scale[:, None] * scale)
        a -= (1 + self.nu) * np.outer(constant, constant)
        return a

    def widened(self, u: Array) -> Array:
        """Vectors over the patches inside (n, k) as vectors over all, (N, k)."""
        full = np.zeros((len(self.inside), u.shape[1]), dtype=np.float32)
        full[self.inside] = u
        return full


def normalized_graph(w: Array, inside: Array) -> Graph | None:
    """Prepare a graph of at least one patch; None if an affinity between patches inside is not finite.

    Args:
        w: (N, N) float32, symmetric, not negative. What stands in rows and columns outside does not count.
        inside: (N,) bool.
    """
    outside = ~inside
    if outside.any() and w[:, outside].any():
        w = np.where(inside & inside[:, None], w, np.float32(0))
    # All terms are positive, where a product by BLAS would round in one direction. NumPy's sum takes twice as long.
    sums: Array = torch.from_numpy(w).sum(dim=1).numpy()
    if not np.isfinite(sums).all():
        return None
    sums[sums < SMALLEST_DEGREE] = 0
    root = np.sqrt(sums)
    edges = bool(root.any())
    weights = inside.astype(np.float32)
    scale = np.where(sums > 0, 1 / np.where(sums > 0, root, 1), weights)
    if not edges:
        root = weights
    length = np.linalg.norm(root)
    constant, first = root / length, ((root > 0) / length).astype(np.float32)
    # W times the vector of ones is known.
    residual = float(np.linalg.norm(sums * scale / length - edges * constant))
    lift = (1 + edges) * constant
    return Graph(w, inside, scale, constant, lift, first, float(edges), residual)


def solve_densely(graph: Graph, others: int) -> Pairs:
    """Solve densely in fp64 by LAPACK, for the wanted pairs only."""
    size = int(graph.inside.sum())
    if others == 0:
        return Pairs(np.zeros(0, np.float32), np.zeros((len(graph.w), 0), np.float32), residual=0.0, iterations=0)
    full = graph.matrix(np.float64)
    # Eigenvalues of A are at least -1. At -2 the constant vector comes last, and is left out.
    constant = graph.constant[graph.inside].astype(np.float64)
    full -= np.outer(constant, constant)
    nu, u = eigh(full, subset_by_index=[size - others, size - 1])
    if len(nu) != others:
        # LAPACK's search by index returns too few pairs of some spectra with many equal values (the identity, N = 31).
        nu, u = (part[..., -others:] for part in eigh(full, driver="evd"))
    residual = float(np.linalg.norm(full @ u - u * nu, axis=0).max())
    return Pairs(nu[::-1].astype(np.float32), graph.widened(u[:, ::-1]), residual=residual, iterations=0)


def solve_by_arpack(graph: Graph, others: int, tolerance: float, max_iterations: int) -> Pairs | None:
    """Solve by SciPy's implicitly restarted Lanczos method in fp32; None where it gives up."""
    from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh

    products = 0

    def product(x: Array) -> Array:
        nonlocal products
        products += 1
        return graph @ x.ravel()

    size = len(graph.w)
    try:
        _, u = eigsh(
            LinearOperator((size, size), matvec=product, dtype=np.float32),
            k=others,
            which="LA",
            v0=_random_block(graph, 1)[:, 0],
            ncv=min(max(2 * others + 1, 20), int(graph.inside.sum()) - 1),
            tol=tolerance,
            maxiter=max_iterations,
        )
    except (ArpackError, ValueError):
        # Equal affinities leave nothing to start from, and where the Krylov space ends early SciPy 1.17 trips over
        # arrays of unequal length. Either way the dense solver takes the image, and the result says so.
        return None
    return checked_pairs(graph, u, tolerance, iterations=products)


def solve_by_lobpcg(
    graph: Graph, others: int, tolerance: float, max_iterations: int, *, cuda: int | None = None
) -> Pairs | None:
    """Solve by LOBPCG of SciPy or, on the CUDA device of that number, of CuPy; None where it gives up."""
    block = _random_block(graph, others)
    # A margin: the recurrences' residuals drift from the true ones in fp32.
    options: dict[str, Any] = {
        "tol": tolerance / 2,
        "maxiter": max_iterations,
        "largest": True,
        "retResidualNormsHistory": True,
    }
    try:
        if cuda is not None:
            import cupy
            from cupyx.scipy.sparse.linalg import lobpcg as cupy_lobpcg

            with cupy.cuda.Device(cuda):
                start = cupy.asarray(block[graph.inside])
                _, found, history = cupy_lobpcg(cupy.asarray(graph.matrix(np.float32)), start, **options)
                u, iterations = graph.widened(found.get()), len(history) - 1
        else:
            from scipy.sparse.linalg import LinearOperator, lobpcg

            operator = LinearOperator(graph.w.shape, matvec=graph.__matmul__, matmat=graph.__matmul__, dtype=np.float32)
            with warnings.catch_warnings():
                # It warns of a missed tolerance and of near-singular blocks. The residual measured below decides.
                warnings.simplefilter("ignore")
                _, u, history = lobpcg(operator, block, **options)
            iterations = len(history) - 2
    except (ValueError, TypeError, AttributeError, np.linalg.LinAlgError):
        # Both libraries end like this, CuPy with an operation on None, when a Cholesky factorisation breaks down on
        # a block that has lost its rank. The dense solver takes the image, and the result says so.
        return None
    return checked_pairs(graph, u, tolerance, iterations=iterations)


def checked_pairs(graph: Graph, u: Array, tolerance: float, *, iterations: int) -> Pairs | None:
    """Take the best pairs out of the span of ``u`` (N, k), and measure them; None if they are not the largest.

    A small residual of each pair does not prove that they are the largest: a Lanczos method may return one copy of an
    eigenvalue that occurs several times. A few Lanczos steps from a random vector outside the span show an eigenvalue
    there that exceeds those found, if it stands apart from the rest of the spectrum, as separate parts of a graph do.
    """
    # A sum is finite if all terms are, unless it overflows.
    if not np.isfinite(u.sum()) or (not graph.inside.all() and u[~graph.inside].any()):
        return None
    u = u - np.outer(graph.constant, graph.constant @ u)
    image = graph @ u
    exact = u.astype(np.float64)
    cross = exact.T @ image.astype(np.float64)
    try:
        nu, mix = eigh((cross + cross.T) / 2, exact.T @ exact, check_finite=False)
    except (LinAlgError, ValueError):
        # The vectors depend on each other.
        return None
    nu, mix = nu[::-1].astype(np.float32), mix[:, ::-1].astype(np.float32)
    u, image = u @ mix, image @ mix
    residual = float(np.sqrt(np.square(image - u * nu).sum(axis=0).max()))
    if _largest_outside(graph, u) > nu[-1] + max(tolerance, _LEAST_MARGIN):
        return None
    return Pairs(nu=nu, u=u, residual=residual, iterations=iterations)


def _largest_outside(graph: Graph, u: Array) -> float:
    """A lower bound of the largest eigenvalue on the complement of the orthonormal ``u`` (N, k), or inf."""
    found = np.concatenate([graph.constant[None], u.T])
    steps = max(min(PROBE_STEPS, int(graph.inside.sum()) - len(found)), 0)
    basis, images = np.zeros((2, steps, len(graph.w)), dtype=np.float32)
    x = _random_block(graph, 1, seed=1)[:, 0]
    # BLAS may compute on what lies beside its operands, and so raise the flag of an invalid value where there is none.
    with np.errstate(invalid="ignore"):
        for step in range(steps):
            x = x - (found @ x) @ found
            x -= (basis[:step] @ x) @ basis[:step]
            length = np.linalg.norm(x)
            if length < _LEAST_MARGIN:
                break
            basis[step] = x / length
            images[step] = x = graph @ basis[step]
    if not np.isfinite(images.sum()):
        return np.inf
    return float(np.linalg.eigvalsh(basis @ images.T).max(initial=-1.0))


def _random_block(graph: Graph, columns: int, *, seed: int = 0) -> Array:
    """Return the same normal numbers (N, columns) on every call, zero outside, orthogonal to the constant vector."""
    block = graph.widened(_normal_numbers(int(graph.inside.sum()), columns, seed))
    return block - np.outer(graph.constant, graph.constant @ block)


@lru_cache(16)
def _normal_numbers(rows: int, columns: int, seed: int) -> Array:
    numbers = np.random.default_rng(seed).standard_normal((rows, columns), dtype=np.float32)
    numbers.flags.writeable = False
    return numbers
