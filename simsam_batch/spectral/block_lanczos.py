"""The largest eigenpairs of a batch of symmetric matrices: a thick-restarted block Lanczos method.

Written over a namespace of the array API, that of NumPy, CuPy or torch, with nothing but products, elementwise
arithmetic and ``eigh`` of small matrices on arrays whose first axis is the batch: the number of calls does not depend
on how many images there are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from array_api_compat import device, to_device
from numpy.typing import NDArray

Array = Any
"""An array of the namespace in use."""

GUARDS = 2
"""Rows of a block beyond the pairs wanted: a block at least as wide as that finds all copies of an eigenvalue."""

STEPS = 6
"""Blocks added between two restarts. Measured: real affinities mostly need no restart, and so one small `eigh`."""

_BREAKDOWN = 2e-6
"""Directions shorter than this, in what A makes of unit vectors, are rounding noise in fp32."""

_DEPENDENT = 0.05
"""Directions of which unit vectors hold less than this outside the basis are left out: in fp32 they are not exact."""

_BELOW_ALL = -9.0
"""Stands for the eigenvalue of a basis row that is zero; real ones are at least -1."""


@dataclass(frozen=True, slots=True)
class Found:
    """Eigenpairs of every image; arrays of the namespace, counts on the host.

    Attributes:
        nu: (B, k) float32, descending.
        u: (B, k, N) float32, orthonormal rows.
        residual: (B,) float32, the largest ``||A u - nu u||`` over the pairs wanted of the image.
        products: (B,) int32, how often A was applied to a block.
        converged: (B,) bool.
        restarts: how often the host waited for the device: once a restart.
    """

    nu: Array
    u: Array
    residual: NDArray[np.float32]
    products: NDArray[np.int32]
    converged: NDArray[np.bool_]
    restarts: int


@dataclass(slots=True)
class _Space:
    """The search space of the n images still at work, of r = (steps + 1) * width rows.

    Attributes:
        a: (n, N, N) the matrices.
        inside: (n, 1, N) float32, 1 where a patch belongs to the graph, else 0.
        wanted: (n, k) bool, pairs that must converge.
        basis: (n, 1 + r, N) orthonormal or zero rows, of which the first is the vector known beforehand.
        images: (n, r, N) products of the rows but that first one with A.
        gram: (n, r, r) float64, inner products of rows with images.
        alive: (n, r) bool, False for rows that are zero.
    """

    a: Array
    inside: Array
    wanted: Array
    basis: Array
    images: Array
    gram: Array
    alive: Array

    def keep(self, chosen: NDArray[np.int64]) -> None:
        """Go on with some of the images only."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name)[chosen])


@dataclass(frozen=True, slots=True)
class _Ritz:
    """The best pairs of a space: nu (n, width), vectors and their images (n, width, N), residuals (n, width)."""

    nu: Array
    vectors: Array
    images: Array
    residuals: Array


def largest_eigenpairs(
    a: Array,
    known: Array,
    inside: Array,
    wanted: NDArray[np.int64],
    *,
    xp: Any,
    tolerance: float,
    max_products: int = 200,
    steps: int = STEPS,
    guards: int = GUARDS,
) -> Found:
    """Find the largest eigenpairs of each matrix besides one that is known.

    Block Krylov spaces of a few blocks, orthogonalised in full and restarted with the best Ritz vectors (thick restart:
    Wu and Simon, SIAM J. Matrix Anal. Appl. 22, 2000; blocks: Golub and Underwood 1977). Blocks are orthonormalised by
    the eigenvectors of their Gram matrix (SVQB: Stathopoulos and Wu, SIAM J. Sci. Comput. 23, 2002) in fp64, twice.
    Directions that vanish, as when the space is exhausted, are replaced by random ones, or by zeros if there are none.
    Pairs that have converged stay in the basis (soft locking). An image that is done is written down and no more
    looked at; when half of the images are done, the others go on by themselves.

    Args:
        a: (B, N, N) float32, symmetric, eigenvalues in [-1, 1], zero in rows and columns outside.
        known: (B, N) float32, the unit eigenvector to leave out, zero outside.
        inside: (B, N) bool, what belongs to each matrix; the rest never enters the search space.
        wanted: (B,) pairs asked for, on the host; at most the number of patches inside less one.
        xp: the namespace of the arrays, of ``array_api_compat``: its ``numpy``, ``cupy`` or ``torch``.
        tolerance: residual at which an image is done.
        max_products: products of A with a block after which an image is given up; its best pairs are returned. The
            first ``steps + 1`` are always made.
        steps: blocks added between two restarts.
        guards: rows of a block beyond the largest number wanted.
    """
    batch, size, _ = a.shape
    most = int(wanted.max())
    width = min(most + guards, size)
    on = {"device": device(a)}
    noise = _noise((steps + 1, width, size), xp, on)
    space = _start(a, known, inside, wanted, noise, xp, on)
    nu = xp.zeros((batch, most), dtype=xp.float32, **on)
    u = xp.zeros((batch, most, size), dtype=xp.float32, **on)
    residual = np.full(batch, np.inf, dtype=np.float32)
    products = np.zeros(batch, dtype=np.int32)
    working = np.arange(batch)
    done = np.zeros(batch, dtype=bool)
    first, spent, restarts = 0, 0, 0
    while True:
        for block in range(first, steps + 1):
            _multiply(space, block, width, xp)
            if block < steps:
                _extend(space, block, block + 1, width, noise[block + 1], xp)
        spent += steps + 1 - first
        restarts += 1
        ritz = _rayleigh_ritz(space, width, xp)
        measured = _on_host(xp.max(xp.where(space.wanted, ritz.residuals[:, :most], 0.0), axis=1))
        stop = spent + steps > max_products
        ready = ~done[working] & ((measured <= tolerance) | stop)
        if ready.any():
            # A slice copies nothing where the images finish together, as they mostly do.
            at, of = (slice(None), slice(None)) if ready.sum() == batch else (working[ready], np.flatnonzero(ready))
            nu[at], u[at] = ritz.nu[of, :most], ritz.vectors[of, :most]
            residual[working[ready]], products[working[ready]] = measured[ready], spent
            done[working[ready]] = True
        left = np.flatnonzero(~done[working])
        if not left.size:
            return Found(nu, u, residual, products, residual <= tolerance, restarts)
        if 2 * left.size <= len(working):
            space.keep(left)
            ritz = _Ritz(*(getattr(ritz, field.name)[left] for field in fields(ritz)))
            working = working[left]
        _restart(space, ritz, width, steps, noise[0], xp)
        first = 1


def _noise(shape: tuple[int, ...], xp: Any, on: Mapping[str, Any]) -> Array:
    """Return normal numbers of unit length on average along the last axis, the same on every call and device."""
    numbers = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
    return xp.asarray(numbers * np.float32(shape[-1] ** -0.5), **on)


def _on_host(array: Array) -> NDArray[np.float32]:
    """Copy from the device, which waits for it; a NumPy array is returned as it is."""
    return np.asarray(array.get() if hasattr(array, "get") else to_device(array, "cpu"))


def _start(
    a: Array, known: Array, inside: Array, wanted: NDArray[np.int64], noise: Array, xp: Any, on: Mapping[str, Any]
) -> _Space:
    """Lay out the space with a random first block."""
    batch, size, _ = a.shape
    blocks, width, _ = noise.shape
    rows = blocks * width
    space = _Space(
        a=a,
        inside=xp.astype(inside[:, None, :], xp.float32),
        wanted=xp.asarray(np.arange(wanted.max()) < wanted[:, None], **on),
        basis=xp.zeros((batch, 1 + rows, size), dtype=xp.float32, **on),
        images=xp.zeros((batch, rows, size), dtype=xp.float32, **on),
        gram=xp.zeros((batch, rows, rows), dtype=xp.float64, **on),
        alive=xp.zeros((batch, rows), dtype=xp.bool, **on),
    )
    space.basis[:, 0] = known
    fresh = _outside(space.inside * noise[0], space.basis[:, :1], xp)
    fresh, _ = _orthonormal(fresh, _DEPENDENT, xp)
    space.basis[:, 1 : 1 + width], space.alive[:, :width] = _settle(fresh, space.basis[:, :1], xp)
    return space


def _multiply(space: _Space, block: int, width: int, xp: Any) -> None:
    """Apply A to a block of the basis, and enter its inner products with all rows up to it."""
    begin, end = block * width, (block + 1) * width
    # As rows: the product with a symmetric matrix is the same, and reads it in the order it lies in memory.
    images = xp.matmul(space.basis[:, 1 + begin : 1 + end], space.a)
    space.images[:, begin:end] = images
    products = xp.astype(xp.matmul(space.basis[:, 1 : 1 + end], _turned(images)), xp.float64)
    space.gram[:, :end, begin:end] = products
    space.gram[:, begin:end, :end] = _turned(products)


def _extend(space: _Space, block: int, to: int, width: int, noise: Array, xp: Any) -> None:
    """Write the directions in which the images of ``block`` leave the basis, made orthonormal, as block ``to``."""
    rows, alive = _next_block(space, block, width, noise, xp)
    space.basis[:, 1 + to * width : 1 + (to + 1) * width] = rows
    space.alive[:, to * width : (to + 1) * width] = alive


def _next_block(space: _Space, block: int, width: int, noise: Array, xp: Any) -> tuple[Array, Array]:
    begin, end = block * width, (block + 1) * width
    basis = space.basis[:, : 1 + end]
    # The inner products are known already.
    onto = xp.astype(space.gram[:, begin:end, :end], xp.float32)
    fresh = space.images[:, begin:end] - xp.matmul(onto, basis[:, 1:])
    fresh, found = _orthonormal(fresh, _BREAKDOWN, xp)
    fresh = xp.where(found[:, :, None], fresh, space.inside * noise)
    return _settle(fresh, basis, xp)


def _settle(rows: Array, basis: Array, xp: Any) -> tuple[Array, Array]:
    """Make rows of about unit length orthonormal, and orthogonal to the basis, to rounding."""
    # Once is not enough for random rows: what the basis lacks in orthogonality would grow from block to block.
    return _orthonormal(_outside(_outside(rows, basis, xp), basis, xp), _DEPENDENT, xp)


def _outside(rows: Array, basis: Array, xp: Any) -> Array:
    """Take out of the rows (n, m, N) what lies in the span of the basis."""
    return rows - xp.matmul(xp.matmul(rows, _turned(basis)), basis)


def _turned(matrices: Array) -> Array:
    """Matrices (n, a, b) as (n, b, a)."""
    return matrices.swapaxes(1, 2)


def _orthonormal(rows: Array, shortest: float, xp: Any) -> tuple[Array, Array]:
    """Return orthonormal rows of the same span (n, m, N), zero for directions below a length, and which are not."""
    exact = xp.astype(rows, xp.float64)
    squares, mix = xp.linalg.eigh(xp.matmul(exact, _turned(exact)))
    found = squares > shortest**2
    scale = xp.where(found, 1 / xp.sqrt(xp.where(found, squares, 1.0)), 0.0)
    return xp.matmul(xp.astype(_turned(mix * scale[:, None, :]), xp.float32), rows), found


def _rayleigh_ritz(space: _Space, width: int, xp: Any) -> _Ritz:
    """Take the best pairs out of the whole space; residuals are measured, not estimated."""
    dead = xp.where(space.alive, 0.0, _BELOW_ALL)
    values, mix = xp.linalg.eigh(space.gram + dead[:, :, None] * _identity(space.gram, xp))
    nu = xp.astype(xp.flip(values, axis=1)[:, :width], xp.float32)
    mix = xp.astype(_turned(xp.flip(mix, axis=2)[:, :, :width]), xp.float32)
    vectors = xp.matmul(mix, space.basis[:, 1:])
    images = xp.matmul(mix, space.images)
    residuals = xp.sqrt(xp.sum(xp.square(images - nu[:, :, None] * vectors), axis=2))
    return _Ritz(nu, vectors, images, residuals)


def _identity(like: Array, xp: Any) -> Array:
    """The unit matrix of the size of matrices (n, r, r), of their type and where they are."""
    return xp.eye(like.shape[1], dtype=like.dtype, device=device(like))


def _restart(space: _Space, ritz: _Ritz, width: int, steps: int, noise: Array, xp: Any) -> None:
    """Keep the best vectors, and the block that all of them lack: the next one of the Krylov space."""
    following, alive = _next_block(space, steps, width, noise, xp)
    best = ritz.nu > _BELOW_ALL / 2
    space.basis[:, 1 : 1 + width] = ritz.vectors * best[:, :, None]
    space.images[:, :width] = ritz.images * best[:, :, None]
    kept = xp.astype(ritz.nu * best, xp.float64)
    space.gram[:, :width, :width] = kept[:, :, None] * _identity(space.gram, xp)[:width, :width]
    space.alive[:, :width] = best
    space.basis[:, 1 + width : 1 + 2 * width], space.alive[:, width : 2 * width] = following, alive
