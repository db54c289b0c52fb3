"""Linear probes: one pass over the patches for many problems at once, and whole fits against scikit-learn."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from benchmarks.measure import Row, Setup, alternate, cores, ratios, seconds_of, threads
from simsam_batch.probes.blocks import Block, tile_rows, tiles
from simsam_batch.probes.linear import LinearProbe, fit_linear
from simsam_batch.probes.softmax import StackedClassifiers
from simsam_batch.probes.standard import Standard, standards

GROUP = "linear-probes"
SETS, PENALTIES, L2 = 4, 3, 1e-3
BLOCK_ROWS = 65_536


def rows(setup: Setup) -> Iterator[Row]:
    """One evaluation, then a fit."""
    yield from evaluation(setup)
    yield from fit(setup)


def evaluation(setup: Setup) -> Iterator[Row]:
    """A pass for twelve problems on four feature sets against one for a single problem."""
    count, channels, classes = setup.pick(cpu=(131_072, 384, 21), cuda=(1_048_576, 384, 21), smoke=(600, 12, 3))
    blocks = list(made_up(count, channels, classes, SETS, setup.device))
    found = standards(lambda: blocks, classes, lambda: None)
    random = torch.Generator().manual_seed(1)
    start = 0.05 * torch.randn(PENALTIES, classes, channels + 1, dtype=torch.float64, generator=random)
    cases = {
        "all": lambda: one_pass(blocks, found, start),
        "three": lambda: one_pass(blocks, found[:1], start),
        "one": lambda: one_pass(blocks, found[:1], start[:1]),
    }
    with threads(cores()):
        seconds = alternate(cases, setup, rounds=setup.pick(cpu=5, cuda=9, smoke=2))
    said = f"{count} x {channels} float16 in blocks of {BLOCK_ROWS}, {classes} classes; seconds for the pass"
    for name, what, target in (
        ("all", f"a pass for {SETS} feature sets x {PENALTIES} l2", 2.0),
        ("three", f"a pass for 1 feature set x {PENALTIES} l2", None),
    ):
        problems = SETS * PENALTIES if name == "all" else PENALTIES
        times = ratios(seconds[name], seconds["one"])
        yield Row(
            GROUP,
            what,
            f"{problems} problems in one pass",
            "1 problem",
            times,
            float(np.median(seconds[name])),
            float(np.median(seconds["one"])),
            threads=f"{cores()} each",
            target=target,
            at_most=True,
            note=f"{said}. {problems} times the arithmetic, and as many times the features as there are sets",
            details={"problems": problems, "seconds": seconds},
        )


def fit(setup: Setup) -> Iterator[Row]:
    """A fit of one problem against scikit-learn's, stopped where it is as near to the optimum."""
    from sklearn.linear_model import LogisticRegression

    count, channels, classes = setup.pick(cpu=(50_000, 192, 11), cuda=(50_000, 192, 11), smoke=(600, 12, 3))
    whole = list(made_up(count, channels, classes, 1, torch.device("cpu"), hard=True))
    there = [
        Block([block.features[0].to(setup.device)], block.targets.to(setup.device), block.weights.to(setup.device))
        for block in whole
    ]
    features = torch.cat([block.features[0] for block in whole]).float()
    labels = torch.cat([block.targets for block in whole]).argmax(dim=1)
    objective = Objective(features, labels, classes)
    # A tight fit of each says where the optimum is; then each is measured at the loosest tolerance that comes near it.
    ours: dict[float, LinearProbe] = {}

    def our_fit(tolerance: float) -> None:
        ((ours[tolerance],),) = fit_linear(lambda: there, classes, [L2], iterations=1000, tolerance=tolerance)

    theirs: dict[float, LogisticRegression] = {}

    def their_fit(tolerance: float) -> None:
        model = LogisticRegression(C=1 / (L2 * count), tol=tolerance, max_iter=5000)
        # Standardising is part of the fit.
        theirs[tolerance] = model.fit((features - objective.mean) / objective.scale, labels.numpy())

    with threads(cores()):
        our_fit(1e-12)
        least = objective(ours[1e-12].weight, ours[1e-12].bias, raw=True)
        near = setup.pick(cpu=1e-5, cuda=1e-5, smoke=1e-4)
        our_tolerance, our_gap = _loosest(
            our_fit,
            lambda t: objective(ours[t].weight, ours[t].bias, raw=True) - least,
            [1e-5, 1e-6, 1e-7, 1e-8, 1e-9],
            near,
        )
        their_tolerance, their_gap = _loosest(
            their_fit,
            lambda t: objective(torch.from_numpy(theirs[t].coef_), torch.from_numpy(theirs[t].intercept_)) - least,
            [1e-2, 1e-3, 1e-4, 1e-5, 1e-6],
            near,
        )
        seconds = alternate(
            {"ours": lambda: our_fit(our_tolerance), "theirs": lambda: their_fit(their_tolerance)},
            setup,
            rounds=setup.pick(cpu=3, cuda=3, smoke=2),
            warm=False,
        )
        three = seconds_of(
            lambda: fit_linear(
                lambda: there, classes, [L2 * 10, L2, L2 / 10], iterations=1000, tolerance=our_tolerance
            ),
            setup,
        )
    yield Row(
        GROUP,
        f"fit, {count} x {channels}, {classes} classes, l2 {L2:g}",
        f"fit_linear, float16 features, {ours[our_tolerance].iterations} steps",
        f"scikit-learn LogisticRegression, float32, {int(theirs[their_tolerance].n_iter_[0])} steps",
        ratios(seconds["theirs"], seconds["ours"]),
        float(np.median(seconds["ours"])),
        float(np.median(seconds["theirs"])),
        threads=f"{cores()} each",
        note=(
            f"hard labels, standardising included; each at its loosest tolerance within {near:g} nats of the optimum: "
            f"{our_gap:.1e} (ours) and {their_gap:.1e} above it in fp64; seconds for the whole fit"
        ),
        details={
            "seconds": seconds,
            "three_penalties_at_once": three,
            "gaps": {"ours": our_gap, "theirs": their_gap},
            "tolerances": {"ours": our_tolerance, "theirs": their_tolerance},
        },
    )


def made_up(
    count: int, channels: int, classes: int, sets: int, device: torch.device, *, hard: bool = False
) -> Iterator[Block]:
    """Blocks of correlated float16 features whose variances fall off as those of real patches do, and targets."""
    random = torch.Generator().manual_seed(0)
    spectrum = torch.logspace(0, -2, channels)
    turns = [torch.linalg.qr(torch.randn(channels, channels, generator=random))[0] for _ in range(sets)]
    heads = torch.randn(channels, classes, generator=random) * spectrum[:, None] * 3
    for start in range(0, count, BLOCK_ROWS):
        rows_here = min(BLOCK_ROWS, count - start)
        hidden = torch.randn(rows_here, channels, generator=random)
        shares = (hidden @ heads + torch.randn(rows_here, classes, generator=random)).softmax(dim=1)
        if hard:
            shares = torch.nn.functional.one_hot(shares.argmax(dim=1), classes).float()
        features = [((hidden * spectrum) @ turn).half().to(device) for turn in turns]
        yield Block(features, shares.to(device), torch.ones(rows_here, device=device))


def one_pass(blocks: Sequence[Block], found: Sequence[Standard], start: Tensor) -> None:
    """What `fit_linear` does for one evaluation of all its problems."""
    device = blocks[0].weights.device
    stacks = [StackedClassifiers(standard, list(start), device) for standard in found]
    width = start.shape[2] - 1
    room = torch.empty(tile_rows(width, device) * (width + 1), device=device)
    for block in blocks:
        for stack, features in zip(stacks, block.features, strict=False):
            for part in tiles(block, width):
                stack.add(features[part], block.weights[part], room)
    for stack in stacks:
        stack.results()


class Objective:
    """The objective of either side, in fp64."""

    def __init__(self, features: Tensor, labels: Tensor, classes: int) -> None:
        self.mean = features.double().mean(dim=0).float()
        self.scale = features.double().std(dim=0, correction=0).float()
        self._rows = (features.double() - self.mean) / self.scale
        self._labels, self._classes = labels, classes

    def __call__(self, weight: Tensor, bias: Tensor, *, raw: bool = False) -> float:
        weight, bias = weight.double(), bias.double()
        if raw:
            bias = bias + weight @ self.mean.double()
            weight = weight * self.scale
        loss = torch.nn.functional.cross_entropy(self._rows @ weight.T + bias, self._labels)
        return float(loss + L2 / 2 * weight.square().sum())


def _loosest(
    action: Callable[[float], None], gap: Callable[[float], float], tolerances: Sequence[float], near: float
) -> tuple[float, float]:
    for tolerance in tolerances:
        action(tolerance)
        if gap(tolerance) <= near:
            break
    return tolerance, gap(tolerance)
