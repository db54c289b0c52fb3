"""L-BFGS for a smooth convex function that somebody else evaluates, so that many descents share each evaluation.

`descend` is a generator: it yields a point and is sent the function's value and gradient there. Source: Nocedal and
Wright, "Numerical Optimization", 2nd edition, algorithms 7.4 and 3.5; the acceptance of a step where rounding hides the
decrease is after Hager and Zhang, SIAM J. Optim. 16 (2005).
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass

from torch import Tensor

HISTORY = 10
_DECREASE = 1e-4
_CURVATURE = 0.9
_MOST_TRIALS = 25
_FARTHER = 4.0
_LEAST_CURVATURE = 1e-10
# Of float32 terms a value is known to about so much of itself.
_ROUNDING = 2.0**-22


@dataclass(frozen=True, slots=True)
class Minimum:
    """Where a descent ended.

    Attributes:
        point: (n,) float64.
        value: of the function there.
        iterations: steps taken.
        converged: whether the next step would have gained no more than the tolerance.
    """

    point: Tensor
    value: float
    iterations: int
    converged: bool


Descent = Generator[Tensor, tuple[float, Tensor], Minimum]


def descend(start: Tensor, *, iterations: int, tolerance: float) -> Descent:
    """Minimise from ``start``.

    Args:
        start: (n,) float64, in coordinates in which the function's second derivatives are about 1.
        iterations: most steps.
        tolerance: it ends when what a step is thought to gain is at most this, in units of the function: half the
            product of gradient and step, and half the squared gradient, which is that for second derivatives of 1.

    Yields:
        (n,) float64 points; to each belongs a ``send`` of (value, (n,) float64 gradient).

    Returns:
        The last point if it converged. Otherwise, after so many steps or where rounding of the values allows no
        further, the one with the least value.
    """
    point = best = start
    value, gradient = yield point
    least, since = value, 0
    pairs: list[tuple[Tensor, Tensor]] = []
    iteration = 0
    while True:
        step = _direction(gradient, pairs)
        slope = float(step @ gradient)
        if max(-slope, float(gradient @ gradient)) / 2 <= tolerance:
            return Minimum(point, value, iteration, converged=True)
        if iteration == iterations or since == HISTORY:
            return Minimum(best, least, iteration, converged=False)
        found = yield from _search(point, value, least, step, slope)
        if found is None:
            return Minimum(best, least, iteration, converged=False)
        iteration += 1
        before = point, gradient
        point, value, gradient = found
        since += 1
        if value < least:
            best, least, since = point, value, 0
        moved, turned = point - before[0], gradient - before[1]
        # A pair without positive curvature would make the next direction no descent; rounding can bring one about.
        if float(moved @ turned) > _LEAST_CURVATURE * float(moved.norm() * turned.norm()):
            pairs = [*pairs[-HISTORY + 1 :], (moved, turned)]


def _direction(gradient: Tensor, pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Two-loop recursion: minus the gradient, times the inverse Hessian that the last pairs tell of."""
    step = -gradient
    shares = []
    for moved, turned in reversed(pairs):
        share = float(moved @ step) / float(moved @ turned)
        step = step - share * turned
        shares.append(share)
    if pairs:
        moved, turned = pairs[-1]
        step = step * (float(moved @ turned) / float(turned @ turned))
    for (moved, turned), share in zip(pairs, reversed(shares), strict=True):
        step = step + (share - float(turned @ step) / float(moved @ turned)) * moved
    return step


def _search(
    start: Tensor, value: float, least: float, step: Tensor, slope: float
) -> Generator[Tensor, tuple[float, Tensor], tuple[Tensor, float, Tensor] | None]:
    """Find a length that meets the strong Wolfe conditions, from 1; None if rounding leaves none to be found.

    Values may lie above the ``least`` so far by what rounding does, whatever their decrease: not above the last one, or
    many steps together could climb.
    """
    low, low_value, low_slope = 0.0, value, slope
    high: tuple[float, float, float] | None = None
    length = 1.0
    slack = _ROUNDING * max(1.0, abs(value))
    for _ in range(_MOST_TRIALS):
        point = start + length * step
        reached, gradient = yield point
        along = float(gradient @ step)
        limit = max(value + _DECREASE * length * slope, least + slack)
        enough = math.isfinite(reached) and reached <= limit
        if enough and abs(along) <= -_CURVATURE * slope:
            return point, reached, gradient
        # The function is convex: where it still falls, a minimum along the line lies beyond; where it rises, before.
        if enough and along < 0:
            low, low_value, low_slope = length, reached, along
        else:
            high = length, reached, along
        length = _between(low, low_value, low_slope, *high) if high else _FARTHER * length
    return None


def _between(
    low: float, low_value: float, low_slope: float, high: float, high_value: float, high_slope: float
) -> float:
    """Minimum of the cubic through two values and slopes, kept a tenth of the way from either end."""
    width = high - low
    bend = low_slope + high_slope - 3 * (high_value - low_value) / width
    under = bend * bend - low_slope * high_slope
    if not math.isfinite(under):
        return low + width / 10
    root = math.sqrt(max(under, 0.0))
    divisor = high_slope - low_slope + 2 * root
    found = high - width * (high_slope + root - bend) / divisor if divisor else low + width / 2
    return min(max(found, low + width / 10), high - width / 10)
