"""Linear probes that are trained by steps on small batches, as most of the literature has them.

They depend on a seed, a schedule and an order; `simsam_batch.probes.linear.fit_linear` does not. Feature sets descend
side by side on the same batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Generator, Tensor

from simsam_batch.probes.blocks import Block, Blocks
from simsam_batch.probes.linear import LinearProbe
from simsam_batch.probes.standard import Standard, standards

Solver = Literal["adamw", "sgd"]
Schedule = Literal["cosine", "published"]

POOL_ROWS = 262_144
"""Rows that wait to be shuffled together. Of a longer stream a row moves some of these far, and no farther."""

_PUBLISHED_WARM_UP = 5
_PUBLISHED_TOP = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Steps:
    """How to train by steps.

    Attributes:
        solver: ``adamw``, or ``sgd`` with ``momentum``.
        learning_rate: at the top of the schedule.
        weight_decay: of the weights alone; decoupled for ``adamw``, part of the gradient for ``sgd``.
        momentum: of ``sgd``.
        epochs: passes over all rows.
        warm_up_epochs: of the ``cosine`` schedule, over which the rate rises evenly.
        batch: rows of a step; with ``shuffle`` the last step of an epoch may have fewer.
        schedule: ``cosine``, to 0 at the last step, or ``published``, see `published_rate`.
        shuffle: rows in a new random order every epoch; otherwise in their own, in parts of equal length.
        standardise: features to mean 0 and deviation 1.
    """

    solver: Solver = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    momentum: float = 0.9
    epochs: int = 50
    warm_up_epochs: int = 5
    batch: int = 4096
    schedule: Schedule = "cosine"
    shuffle: bool = True
    standardise: bool = True

    def __post_init__(self) -> None:
        if self.solver not in get_args(Solver) or self.schedule not in get_args(Schedule):
            raise ValueError(
                f"solver={self.solver!r} and schedule={self.schedule!r}; there are {', '.join(get_args(Solver))} and "
                f"{', '.join(get_args(Schedule))}"
            )
        if self.batch < 1 or not 0 <= self.warm_up_epochs <= self.epochs or self.epochs < 1:
            raise ValueError(
                f"batch={self.batch} and epochs={self.epochs} must be at least 1, and warm_up_epochs="
                f"{self.warm_up_epochs} between 0 and the epochs"
            )


IBOT_LEGACY = Steps(
    solver="sgd", weight_decay=0.0, batch=16 * 196, schedule="published", shuffle=False, standardise=False
)
"""Published linear probe of iBOT's features: batches of 16 images of 196 patches, raw features, no shuffling."""


@torch.no_grad()
def fit_by_steps(
    blocks: Blocks, classes: int, how: Steps, *, seed: int, beat: Callable[[], None] = lambda: None
) -> list[LinearProbe]:
    """Train one probe for each feature set.

    The loss of a batch is the weighted mean of the cross-entropy. Parameters start as PyTorch's linear layers do, from
    the seed; one pass over the blocks comes first, for means, deviations and the number of rows.

    Args:
        blocks: called once for every epoch, and once before.
        classes: C.
        how: see `Steps`.
        seed: of the start and of every order, 0 to 2^63 - 1.
        beat: called after every block.

    Returns:
        F probes for raw features, on the CPU. ``iterations`` counts steps, ``objective`` is the mean loss of the last
        epoch's steps, ``l2`` is 0, and ``converged`` is false: nothing tells.

    Raises:
        ValueError: for blocks as `simsam_batch.probes.standard.standards`.
    """
    found = standards(blocks, classes, beat)
    generator = Generator("cpu").manual_seed(seed)
    each = -(-found[0].rows // how.batch)
    size = how.batch if how.shuffle else -(-found[0].rows // each)
    each = -(-found[0].rows // size)
    heads: list[_Head] = []
    step = 0
    for epoch in range(how.epochs):
        for batch in _batches(blocks, size, generator if how.shuffle else None, beat):
            if not heads:
                heads = [_Head(standard, classes, how, generator, batch.weights.device) for standard in found]
            rate = _rate(step, each, how)
            for head, features in zip(heads, batch.features, strict=True):
                head.step(features, batch, rate, counted=epoch == how.epochs - 1)
            step += 1
    return [head.probe(step, each) for head in heads]


def published_rate(step: int, top: float = 1e-3) -> float:
    """Learning rate of published code for probes of iBOT's features at one step, from 0.

    Its lengths are meant as epochs and count steps: it rises over 5 steps, falls to 0 at step 50, and goes on along the
    same cosine with a period of 90.
    """
    if step < _PUBLISHED_WARM_UP:
        return top * step / (_PUBLISHED_WARM_UP - 1)
    turn = math.pi * (step - _PUBLISHED_WARM_UP) / (_PUBLISHED_TOP - _PUBLISHED_WARM_UP)
    return top * (1 + math.cos(turn)) / 2


def cosine_rate(step: int, steps: int, warm_up: int, top: float) -> float:
    """Learning rate that rises evenly to ``top`` at the last of ``warm_up`` steps, and falls to 0 after ``steps``."""
    if step < warm_up:
        return top * (step + 1) / warm_up
    return top * (1 + math.cos(math.pi * (step - warm_up) / (steps - warm_up))) / 2


def _rate(step: int, each: int, how: Steps) -> float:
    if how.schedule == "published":
        return published_rate(step, how.learning_rate)
    return cosine_rate(step, each * how.epochs, each * how.warm_up_epochs, how.learning_rate)


class _Head:
    """Parameters of one feature set, their optimiser, and their gradient in closed form."""

    def __init__(
        self, standard: Standard, classes: int, how: Steps, generator: Generator, device: torch.device
    ) -> None:
        width = len(standard.mean)
        mean, scale = standard.mean, standard.scale.float()
        if not how.standardise:
            mean, scale = torch.zeros(width), torch.ones(width)
        self._mean, self._scale = mean.to(device), scale.to(device)
        bound = width**-0.5
        self._weight = torch.empty(classes, width).uniform_(-bound, bound, generator=generator).to(device)
        self._bias = torch.empty(classes).uniform_(-bound, bound, generator=generator).to(device)
        groups = [
            {"params": [self._weight], "weight_decay": how.weight_decay},
            {"params": [self._bias], "weight_decay": 0.0},
        ]
        self._optimizer: torch.optim.Optimizer = (
            torch.optim.AdamW(groups, lr=how.learning_rate)
            if how.solver == "adamw"
            else torch.optim.SGD(groups, lr=how.learning_rate, momentum=how.momentum)
        )
        self._loss = torch.zeros((), dtype=torch.float64, device=device)

    def step(self, features: Tensor, batch: Block, rate: float, *, counted: bool) -> None:
        rows = (features.float() - self._mean) / self._scale
        logs = torch.addmm(self._bias, rows, self._weight.T).log_softmax(dim=1)
        shares = (batch.weights / batch.weights.sum())[:, None]
        if counted:
            self._loss -= (shares * batch.targets * logs).sum()
        wrong = shares * (logs.exp() - batch.targets)
        self._weight.grad, self._bias.grad = wrong.T @ rows, wrong.sum(dim=0)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()

    def probe(self, steps: int, each: int) -> LinearProbe:
        weight = (self._weight / self._scale).double()
        bias = self._bias.double() - weight @ self._mean.double()
        loss = self._loss.item() / each
        return LinearProbe(weight.float().cpu(), bias.float().cpu(), 0.0, steps, loss, converged=False)


def _batches(blocks: Blocks, size: int, generator: Generator | None, beat: Callable[[], None]) -> Iterator[Block]:
    """All rows once, ``size`` at a time and the rest at the end; in their own order without a generator."""
    held: list[Block] = []
    # Half of a full pool stays, so that rows on either side of where it was full can meet.
    room, stays = (size, 0) if generator is None else (max(POOL_ROWS, 2 * size), max(POOL_ROWS, 2 * size) // 2)
    for block in blocks():
        held.append(block)
        beat()
        if sum(len(part.weights) for part in held) >= room:
            pool = _mixed(held, generator)
            end = (len(pool.weights) - stays) // size * size
            yield from (_rows(pool, slice(start, start + size)) for start in range(0, end, size))
            held = [_rows(pool, slice(end, None))]
    pool = _mixed(held, generator)
    yield from (_rows(pool, slice(start, start + size)) for start in range(0, len(pool.weights), size))


def _mixed(parts: Sequence[Block], generator: Generator | None) -> Block:
    """One block of all, its rows in a random order if there is a generator."""
    whole = Block(
        [torch.cat(same) for same in zip(*(part.features for part in parts), strict=True)],
        torch.cat([part.targets for part in parts]),
        torch.cat([part.weights for part in parts]),
    )
    if generator is None:
        return whole
    order = torch.randperm(len(whole.weights), generator=generator).to(whole.weights.device)
    return _rows(whole, order)


def _rows(block: Block, which: slice | Tensor) -> Block:
    return Block([features[which] for features in block.features], block.targets[which], block.weights[which])
