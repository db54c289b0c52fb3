"""Linear probe: multinomial logistic regression on soft labels, many at once over blocks that are streamed.

For a feature set of rows x_i with weights w_i and targets t_i, and for an l2,

    min over W, b of    sum_i w_i CE(t_i, softmax(W x~_i + b)) / sum_i w_i + l2/2 |W|^2,    x~ = (x - m) / s

A logit is the same for all pixels of a patch: with the shares of classes as targets and the share of pixels that count
as weight, this is the mean cross-entropy over all pixels that count. It is convex, so that its minimum depends on no
seed and on no order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from simsam_batch.probes.blocks import Block, Blocks, tile_rows, tiles
from simsam_batch.probes.descent import Minimum, descend
from simsam_batch.probes.softmax import StackedClassifiers
from simsam_batch.probes.standard import Standard, covariances, standards

__all__ = ["ITERATIONS", "TOLERANCE", "UNSEEN", "Block", "LinearProbe", "fit_linear"]

ITERATIONS = 100
"""Enough on real patches (192 channels, 11 classes) to be within 1e-4 nats of the minimum at an l2 of 1e-4."""

TOLERANCE = 1e-9
"""A fit ends once the next step would lower the objective by less than this, in nats."""

UNSEEN = -1e4
"""Bias of a class that no training patch has: its probability is 0, and sums with it stay finite."""


@dataclass(frozen=True, slots=True)
class LinearProbe:
    """A linear map from raw features to logits, the standardisation included.

    Attributes:
        weight: (C, D) float32; 0 for a class that no training patch has.
        bias: (C,) float32, `UNSEEN` for such a class.
        l2: that it was fitted with.
        iterations: steps taken.
        objective: reached, in nats.
        converged: whether the fit ended before its limit of steps.
    """

    weight: Tensor
    bias: Tensor
    l2: float
    iterations: int
    objective: float
    converged: bool

    def logits(self, features: Tensor) -> Tensor:
        """Logits of raw features.

        Args:
            features: (..., D) of any floating type, any device.

        Returns:
            (..., C) float32 on the same device.
        """
        device = features.device
        return torch.nn.functional.linear(features.float(), self.weight.to(device), self.bias.to(device))


@torch.no_grad()
def fit_linear(
    blocks: Blocks,
    classes: int,
    l2: Sequence[float],
    *,
    iterations: int = ITERATIONS,
    tolerance: float = TOLERANCE,
    beat: Callable[[], None] = lambda: None,
) -> list[list[LinearProbe]]:
    """Fit one probe for each feature set and each l2.

    Two passes over the blocks measure means, deviations and covariances; every further one evaluates all problems that
    have not ended, usually once for a step of each. L-BFGS runs in float64, in coordinates in which the curvature at
    the start is at most 1 (this project): that halves the number of steps. Products are float32 over at most 65,536
    rows, and their sums float64: the split into blocks changes the result by rounding alone. Equal blocks give equal
    bits on one machine, device and number of threads, wherever their tensors lie.

    Args:
        blocks: called for every pass; see `simsam_batch.probes.blocks.Blocks`.
        classes: C.
        l2: R penalties of the squared weights for standardised features, each more than 0. The bias is free.
        iterations: most steps of each problem.
        tolerance: see `TOLERANCE`.
        beat: called after every block, to show that the fit is alive.

    Returns:
        F lists of R probes, on the CPU.

    Raises:
        ValueError: for blocks as `simsam_batch.probes.standard.standards`, or for an l2 that is not more than 0.
    """
    if not l2 or not all(0 < penalty < float("inf") for penalty in l2):
        raise ValueError(f"l2={list(l2)}: every penalty must be a number above 0, or the optimum may be at infinity")
    found = standards(blocks, classes, beat)
    seen = found[0].pull[:, -1] > 0
    problems: list[list[_Problem]] = []
    for standard, covariance in zip(found, covariances(blocks, found, beat), strict=True):
        values, axes = torch.linalg.eigh(covariance)
        own = replace(standard, pull=standard.pull[seen])
        problems.append([_Problem(own, values, axes, penalty, iterations, tolerance) for penalty in l2])
    while any(problem.minimum is None for row in problems for problem in row):
        _evaluate(blocks, problems, beat)
    return [[problem.probe(seen) for problem in row] for row in problems]


class _Problem:
    """One descent, between the coordinates that it is in and the parameters (C, D + 1) for standardised rows.

    Along the axes of cov(x~), of variance v, the Hessian at the start is at most v max_c p_c (1 - p_c) + l2 for shares
    p of the classes. The root of that is the unit of the coordinates, the same for all classes.
    """

    def __init__(
        self, standard: Standard, values: Tensor, axes: Tensor, l2: float, iterations: int, tolerance: float
    ) -> None:
        self.standard, self.l2, self._axes = standard, l2, axes
        shares = standard.pull[:, -1]
        # With one class there is nothing to learn, and no curvature but the penalty's.
        bend = float((shares * (1 - shares)).max()) or 1.0
        self._scale = torch.cat([bend * values.clamp_min(0) + l2, values.new_tensor([bend])]).rsqrt()
        start = torch.cat([standard.pull.new_zeros(len(shares), len(axes)), shares.log()[:, None]], dim=1)
        self.minimum: Minimum | None = None
        self._descent = descend(
            (self._turned(start) / self._scale).flatten(), iterations=iterations, tolerance=tolerance
        )
        self._point = next(self._descent)

    def parameters(self) -> Tensor:
        """(C, D + 1) of the point that the descent asks for, or ended at."""
        turned = self._point.view(-1, len(self._scale)) * self._scale
        return torch.cat([turned[:, :-1] @ self._axes.T, turned[:, -1:]], dim=1)

    def take(self, parameters: Tensor, value: float, gradient: Tensor) -> None:
        """Go on with the cross-entropy at ``parameters`` and its gradient there."""
        weight = parameters[:, :-1]
        value += self.l2 / 2 * float(weight.square().sum())
        gradient = torch.cat([gradient[:, :-1] + self.l2 * weight, gradient[:, -1:]], dim=1)
        try:
            self._point = self._descent.send((value, (self._turned(gradient) * self._scale).flatten()))
        except StopIteration as ended:
            self.minimum = ended.value
            self._point = ended.value.point

    def probe(self, seen: Tensor) -> LinearProbe:
        """For raw features, with all classes."""
        if self.minimum is None:
            raise RuntimeError("the descent has not ended")
        parameters = self.parameters()
        weight = parameters[:, :-1] / self.standard.scale
        bias = parameters[:, -1] - weight @ self.standard.mean.double()
        all_weights = torch.zeros(len(seen), weight.shape[1])
        all_weights[seen] = weight.float()
        all_biases = torch.full((len(seen),), UNSEEN)
        all_biases[seen] = bias.float()
        found = self.minimum
        return LinearProbe(all_weights, all_biases, self.l2, found.iterations, found.value, found.converged)

    def _turned(self, parameters: Tensor) -> Tensor:
        return torch.cat([parameters[:, :-1] @ self._axes, parameters[:, -1:]], dim=1)


def _evaluate(blocks: Blocks, problems: Sequence[Sequence[_Problem]], beat: Callable[[], None]) -> None:
    """One pass, for all problems that have not ended; a feature set whose problems all have is not looked at."""
    live = {i: open_ for i, row in enumerate(problems) if (open_ := [one for one in row if one.minimum is None])}
    points = {i: [problem.parameters() for problem in row] for i, row in live.items()}
    stacks: dict[int, StackedClassifiers] = {}
    room = torch.empty(0)
    for block in blocks():
        if not stacks:
            device = block.weights.device
            stacks = {i: StackedClassifiers(row[0].standard, points[i], device) for i, row in live.items()}
            widths = [len(row[0].standard.scale) for row in live.values()]
            room = torch.empty(max(tile_rows(width, device) * (width + 1) for width in widths), device=device)
        for i, stack in stacks.items():
            features = block.features[i]
            for rows in tiles(block, features.shape[1]):
                stack.add(features[rows], block.weights[rows], room)
        beat()
    for i, stack in stacks.items():
        for problem, point, (value, gradient) in zip(live[i], points[i], stack.results(), strict=True):
            problem.take(point, value, gradient)
