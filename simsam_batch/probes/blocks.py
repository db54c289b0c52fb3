"""Training patches, a block at a time: what linear probes are fitted on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

MOST_ROWS = 65_536
"""Rows whose sums are taken in float32; between tiles of so many rows, or fewer, they are added in float64."""

# Rows of a tile are standardised once and read by two products: on a CPU they should stay in the cache in between.
_ENTRIES_ON_CPU = 2**20
_FEWEST_ROWS = 512
# Targets are float32 quotients of counts.
_SUM_TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class Block:
    """One part of the training patches, the same rows of every feature set, all tensors on one device.

    Attributes:
        features: for each of F feature sets (n, D_f) float16 or float32, finite.
        targets: (n, C) float32, the share of each class among the pixels of a patch that count; rows sum to 1.
        weights: (n,) float32, the share of a patch's pixels that count, more than 0: patches without any are left out.
    """

    features: Sequence[Tensor]
    targets: Tensor
    weights: Tensor


Blocks = Callable[[], Iterable[Block]]
"""Gives all blocks, in the same order at every call; whether they are kept or read anew makes no difference."""


def tile_rows(width: int, device: torch.device) -> int:
    """Rows of ``width`` channels that are worked on at once."""
    if device.type != "cpu":
        return MOST_ROWS
    fitting: int = 2 ** ((_ENTRIES_ON_CPU // width).bit_length() - 1)
    return min(MOST_ROWS, max(_FEWEST_ROWS, fitting))


def tiles(block: Block, width: int) -> Iterator[slice]:
    """Cut a block's rows into parts of `tile_rows`."""
    rows = tile_rows(width, block.weights.device)
    return (slice(start, start + rows) for start in range(0, len(block.weights), rows))


def check(block: Block, number: int, classes: int, widths: Sequence[int]) -> None:
    """Refuse a block that does not fit; whether its features are finite is not looked at.

    Args:
        block: to be looked at.
        number: of the block, for messages.
        classes: C.
        widths: D_f of every feature set; empty for whatever the block has.

    Raises:
        ValueError: if shapes do not fit together or to these, targets do not sum to 1, or a weight is not more than 0.
    """
    count = len(block.weights)
    shapes = [tuple(features.shape) for features in block.features]
    wanted = [(count, width) for width in widths or [shape[-1] for shape in shapes]]
    if not shapes or shapes != wanted or block.targets.shape != (count, classes) or block.weights.dim() != 1:
        raise ValueError(
            f"block {number} of the training patches has features {shapes}, targets {tuple(block.targets.shape)} and "
            f"weights {tuple(block.weights.shape)}; features {wanted}, targets {(count, classes)} and weights "
            f"{(count,)} would fit together"
        )
    sums = block.targets.sum(dim=1)
    if not bool(((sums - 1).abs() <= _SUM_TOLERANCE).all() and (block.targets >= 0).all()):
        raise ValueError(f"block {number} of the training patches has targets that are no shares with the sum 1")
    if not bool(((block.weights > 0) & torch.isfinite(block.weights)).all()):
        raise ValueError(
            f"block {number} of the training patches has weights that are not positive; leave out patches of which no "
            "pixel counts"
        )
