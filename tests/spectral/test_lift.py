"""The lift against the graph that its eigenpairs are of."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import eigh

from simsam_batch.spectral.lift import lift

N = 40


def graph(seed: int = 0) -> np.ndarray:
    """Symmetric weights with two groups."""
    rng = np.random.default_rng(seed)
    weights = rng.uniform(0.01, 1, (N, N))
    weights[:15, 15:] *= 0.1
    return np.asarray((weights + weights.T) / 2)


def pairs(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All eigenpairs of (D - W) v = mu D v, D-orthonormal, as rows."""
    degrees = np.diag(weights.sum(1))
    values, vectors = eigh(degrees - weights, degrees)
    return values, vectors.T


def test_with_all_pairs_the_lift_of_one_step_is_the_affinity_over_that_of_the_degrees() -> None:
    weights = graph()
    degrees = weights.sum(1)
    expected = weights * degrees.sum() / np.outer(degrees, degrees)
    assert np.allclose(lift(*pairs(weights)), expected, rtol=1e-10)


@pytest.mark.parametrize("steps", [2, 4, 8])
def test_with_all_pairs_the_lift_of_more_steps_is_that_of_the_random_walk(steps: int) -> None:
    weights = graph()
    degrees = weights.sum(1)
    walked = np.linalg.matrix_power(weights / degrees[:, None], steps)
    assert np.allclose(lift(*pairs(weights), steps), walked * degrees.sum() / degrees, rtol=1e-10)


def test_a_graph_without_structure_is_tied_as_its_degrees_say() -> None:
    degrees = np.linspace(1, 5, N)
    weights = np.outer(degrees, degrees)
    assert np.allclose(lift(*pairs(weights)), 1)


def test_rows_may_be_asked_for_and_halves_are_precise_enough() -> None:
    values, vectors = pairs(graph())
    whole = lift(values[:5], vectors[:5], 2)
    wanted = np.array([3, 17])
    assert np.array_equal(lift(values[:5], vectors[:5], 2, wanted), lift(values[:5], vectors[:5], 2)[wanted])
    assert np.abs(lift(values[:5].astype(np.float32), vectors[:5].astype(np.float16), 2) - whole).max() < 0.01


@pytest.mark.parametrize(("count", "steps"), [(0, 1), (3, 0)])
def test_nothing_to_lift_is_refused(count: int, steps: int) -> None:
    values, vectors = pairs(graph())
    with pytest.raises(ValueError, match="step"):
        lift(values[:count], vectors[:count], steps)
    with pytest.raises(ValueError, match="step"):
        lift(values[:2], vectors[:3])
