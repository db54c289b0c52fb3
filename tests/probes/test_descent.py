"""L-BFGS on functions whose minimum is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from simsam_batch.probes.descent import Minimum, descend

Function = Callable[[Tensor], tuple[float, Tensor]]


def run(function: Function, start: Tensor, *, iterations: int = 200, tolerance: float = 1e-12) -> tuple[Minimum, int]:
    descent = descend(start, iterations=iterations, tolerance=tolerance)
    point = next(descent)
    for count in range(1, 10_000):
        try:
            point = descent.send(function(point))
        except StopIteration as ended:
            return ended.value, count
    raise AssertionError


def quadratic(bends: Tensor, at: Tensor) -> Function:
    return lambda point: (float((bends * (point - at).square()).sum() / 2), bends * (point - at))


def test_the_minimum_of_a_quadratic_is_found() -> None:
    bends, at = torch.logspace(-2, 0, 20, dtype=torch.float64), torch.linspace(-3, 3, 20, dtype=torch.float64)
    found, _ = run(quadratic(bends, at), torch.zeros(20, dtype=torch.float64))
    assert found.converged
    np.testing.assert_allclose(found.point, at, atol=3e-4)  # |gradient| <= 1.5e-6, divided by 0.01


def test_where_it_bends_by_1_one_step_is_all() -> None:
    at = torch.arange(5, dtype=torch.float64)
    found, evaluations = run(quadratic(torch.ones(5, dtype=torch.float64), at), torch.zeros(5, dtype=torch.float64))
    assert (found.iterations, evaluations) == (1, 2)
    np.testing.assert_allclose(found.point, at)


def test_it_descends_where_the_first_step_is_much_too_long_or_too_short() -> None:
    for bend in (1e-6, 1e8):
        found, _ = run(
            quadratic(torch.tensor([bend], dtype=torch.float64), torch.ones(1, dtype=torch.float64)),
            torch.zeros(1, dtype=torch.float64),
            tolerance=1e-22,
        )
        np.testing.assert_allclose(found.point, 1, atol=1e-3)


def test_a_convex_function_that_overflows_far_out_is_minimised() -> None:
    # sum exp(x) - 3 x, with the minimum at log 3; the first step from 8 goes to -2970, a later one where exp overflows.
    def function(point: Tensor) -> tuple[float, Tensor]:
        return float((point.exp() - 3 * point).sum()), point.exp() - 3

    for start in (8.0, -8.0, 12.0):
        found, _ = run(function, torch.tensor([start, 1.0], dtype=torch.float64))
        np.testing.assert_allclose(found.point, np.log(3), atol=1e-5)


def test_values_never_rise() -> None:
    random = np.random.default_rng(0)
    rows = torch.from_numpy(random.standard_normal((60, 8)))
    signs = torch.from_numpy(random.choice([-1.0, 1.0], 60))

    def function(point: Tensor) -> tuple[float, Tensor]:
        margins = signs * (rows @ point)
        wrong = -signs * torch.sigmoid(-margins)
        value = float(torch.nn.functional.softplus(-margins).mean() + 0.005 * point.square().sum())
        return value, wrong @ rows / 60 + 0.01 * point

    start = torch.zeros(8, dtype=torch.float64)
    held = [run(function, start, iterations=iterations)[0].value for iterations in range(10)]
    assert (np.diff(held) <= 0).all()


def test_rounding_of_values_does_not_stop_it_before_the_gradient_is_small() -> None:
    # Values are 1e6 times coarser than the gradient, as those of float32 sums are.
    bends, at = torch.logspace(-1, 1, 6, dtype=torch.float64), torch.full((6,), 1e-3, dtype=torch.float64)
    exact = quadratic(bends, at)

    def rounded(point: Tensor) -> tuple[float, Tensor]:
        value, gradient = exact(point)
        return 0.3 + float(np.round(value, 7)), gradient

    found, _ = run(rounded, torch.zeros(6, dtype=torch.float64), tolerance=1e-14)
    assert found.converged
    np.testing.assert_allclose(found.point, at, atol=1e-6)


def test_many_steps_that_only_rounding_lets_pass_do_not_climb() -> None:
    # Noise of values and gradients is far above the tolerance, so that the descent can only go about the minimum.
    random = np.random.default_rng(0)
    bends = torch.logspace(-4, 0, 30, dtype=torch.float64)
    exact = quadratic(bends, torch.ones(30, dtype=torch.float64))
    evaluated: list[float] = []

    def noisy(point: Tensor) -> tuple[float, Tensor]:
        value, gradient = exact(point)
        evaluated.append(value)
        return value + 1e-8 * random.standard_normal(), gradient + 1e-6 * torch.from_numpy(random.standard_normal(30))

    found, _ = run(noisy, torch.zeros(30, dtype=torch.float64), iterations=1000, tolerance=1e-20)
    assert not found.converged
    assert found.iterations < 1000
    assert exact(found.point)[0] < min(evaluated) + 1e-7


def test_where_nothing_can_be_gained_it_ends_as_not_converged() -> None:
    # A gradient that lies: the function rises along it.
    found, evaluations = run(lambda point: (float(point.sum()), -torch.ones_like(point)), torch.zeros(3).double())
    assert not found.converged
    assert found.iterations == 0
    assert evaluations < 30
