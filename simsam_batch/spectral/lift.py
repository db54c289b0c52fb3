"""Affinity of patches from the eigenpairs that a run stores, relative to what their degrees alone explain."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def lift(
    values: NDArray[Any], vectors: NDArray[Any], steps: int = 1, patches: NDArray[np.integer[Any]] | None = None
) -> NDArray[np.float64]:
    """How much more often than by chance a random walk of some steps that is at one patch ends at another.

    ``lift_t(i, j) = sum_k (1 - mu_k)^t v_k(i) v_k(j) / v_0^2``

    with mu_k and v_k the eigenpairs of ``(D - W) v = mu D v``, of which the vectors are D-orthonormal, so that
    ``v_0^2 = 1 / vol``. With all N pairs and t = 1 it is ``W_ij vol / (d_i d_j)``, the affinity over that of a graph
    with the same degrees and no structure; with fewer it is that of the coarse structure, and may be below 0. For t > 1
    it is ``(P^t)_ij vol / d_j`` with ``P = D^-1 W``. Degrees need not be known. Formula of this project; the walk is
    that of Meila and Shi (2001).

    Args:
        values: (K,) mu, ascending, the first 0.
        vectors: (K, N), of any precision, the first constant.
        steps: t, at least 1.
        patches: (M,) the rows i that are wanted; None: all.

    Returns:
        (M, N) float64, 1 where a pair is tied as its degrees say.

    Raises:
        ValueError: no pair, other numbers of values and vectors, or no step.
    """
    if steps < 1 or not len(values) or len(values) != len(vectors):
        raise ValueError(f"{len(values)} values, {len(vectors)} vectors and {steps} steps: give as many, and one step")
    held = np.asarray(vectors, np.float64)
    of_rows = held if patches is None else held[:, patches]
    weights = (1 - np.asarray(values, np.float64)) ** steps / np.square(held[0]).mean()
    return np.asarray((of_rows * weights[:, None]).T @ held)
