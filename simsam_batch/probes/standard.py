"""Moments of the training patches: how features are standardised, and the curvature that they have in common."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from simsam_batch.probes.blocks import Block, Blocks, check, tiles

_FEWEST_SAMPLED = 16_384
_SAMPLED_PER_CHANNEL = 8


@dataclass(frozen=True, slots=True)
class Standard:
    """How one feature set is standardised, and the part of the cross-entropy that is linear in the parameters.

    A row x becomes ((x - m) / s, 1), the 1 for the bias. All on the CPU.

    Attributes:
        mean: m, (D,) float32.
        scale: s, (D,) float64: the weighted standard deviation, 1 for a constant channel.
        pull: (C, D + 1) float64, the weighted mean of t ((x - m) / s, 1)^T over targets t and rows x. Its last column
            is the share of each class.
        total: sum of the weights.
        rows: how many there are.
    """

    mean: Tensor
    scale: Tensor
    pull: Tensor
    total: float
    rows: int


def standards(blocks: Blocks, classes: int, beat: Callable[[], None]) -> list[Standard]:
    """Standardise every feature set by one pass over the blocks, with all sums in float64.

    Args:
        blocks: of which at least one has a row.
        classes: C.
        beat: called after every block.

    Returns:
        One for each feature set. Channels are summed about the first row, so that those far from 0 lose no digits.

    Raises:
        ValueError: as `simsam_batch.probes.blocks.check`, for features that are not finite, or without any row.
    """
    sums: list[_Sums] = []
    for number, block in enumerate(blocks()):
        check(block, number, classes, [len(held.shift) for held in sums])
        if len(block.weights):
            sums = sums or [_Sums(features[0], classes) for features in block.features]
            for held, features in zip(sums, block.features, strict=True):
                held.add(block, features)
                if not bool(torch.isfinite(held.squares).all()):
                    raise ValueError(f"block {number} of the training patches has features that are not finite")
        beat()
    if not sums:
        raise ValueError("there is no training patch of which a pixel counts; fit on more images")
    return [held.standard() for held in sums]


def covariances(blocks: Blocks, found: Sequence[Standard], beat: Callable[[], None]) -> list[Tensor]:
    """Covariance of the standardised rows of every feature set, from a sample of them, by one pass over the blocks.

    It only shapes the steps of a descent, for which some rows at equal distances are enough: 16,384, or eight for every
    channel if that is more. Products are float32.

    Returns:
        For every feature set (D, D) float64, on the CPU.
    """
    strides = [max(1, held.rows // max(_SAMPLED_PER_CHANNEL * len(held.scale), _FEWEST_SAMPLED)) for held in found]
    sums = [torch.zeros(len(held.scale), len(held.scale), dtype=torch.float64) for held in found]
    totals = [0.0] * len(found)
    before = 0
    for block in blocks():
        for i, (held, features) in enumerate(zip(found, block.features, strict=True)):
            rows = slice(-before % strides[i], None, strides[i])
            weights = block.weights[rows]
            drawn = features[rows].float() - held.mean.to(features.device)
            drawn *= weights.sqrt()[:, None] / held.scale.to(features.device, torch.float32)
            sums[i] += (drawn.T @ drawn).double().cpu()
            totals[i] += weights.double().sum().item()
        before += len(block.weights)
        beat()
    return [held / total for held, total in zip(sums, totals, strict=True)]


class _Sums:
    """Of one feature set, on the device of its blocks: sums of x - a, its squares, and its products with targets."""

    def __init__(self, shift: Tensor, classes: int) -> None:
        self.shift = shift.double()
        self.total = 0.0
        self.rows = 0
        self.first = torch.zeros_like(self.shift)
        self.squares = torch.zeros_like(self.shift)
        self.products = self.shift.new_zeros(classes, len(self.shift))
        self.classes = self.shift.new_zeros(classes)

    def add(self, block: Block, features: Tensor) -> None:
        for rows in tiles(block, len(self.shift)):
            weights, targets = block.weights[rows].double(), block.targets[rows].double()
            moved = features[rows].double() - self.shift
            targets = targets * weights[:, None]
            self.products += targets.T @ moved
            self.classes += targets.sum(dim=0)
            self.first += weights @ moved
            self.squares += weights @ moved.square_()
            self.total += weights.sum().item()
            self.rows += len(weights)

    def standard(self) -> Standard:
        # What is subtracted from float32 rows is the mean in float32; moments are about that.
        mean = (self.shift + self.first / self.total).float()
        apart = mean.double() - self.shift
        variance = self.squares / self.total - 2 * apart * self.first / self.total + apart.square()
        # Rounding leaves a constant channel a variance of this share of its square about the first row.
        floor = 1e-12 * (self.squares / self.total + apart.square())
        scale = torch.where(variance > floor, variance, 1.0).sqrt()
        pull = (self.products - self.classes[:, None] * apart) / self.total / scale
        shares = self.classes / self.total
        return Standard(mean.cpu(), scale.cpu(), torch.cat([pull, shares[:, None]], dim=1).cpu(), self.total, self.rows)
