"""Descriptors of patches: of unit length, and with those around them, at one and at three patches' distance."""

from __future__ import annotations

import torch
from torch.nn import functional

_TINY = 1e-12

_PLACES = [(0, down, right) for down in (-1, 0, 1) for right in (-1, 0, 1)]
_PLACES += [(1, down, right) for down in (-3, 0, 3) for right in (-3, 0, 3) if down or right]

_FAR = 3

BINS = len(_PLACES)
"""Vectors that stand side by side in a descriptor with context: 17."""


def unit(features: torch.Tensor) -> torch.Tensor:
    """(..., C) float32, each vector scaled to unit length; one of no length stays it."""
    return functional.normalize(features.float(), dim=-1, eps=_TINY)


def with_context_mirrored(features: torch.Tensor) -> torch.Tensor:
    """The context of patches as it is in the mirrored picture; features and result (Hp, Wp, ...) are mirrored back."""
    return with_context(features.flip(1)).flip(1)


def with_context(features: torch.Tensor) -> torch.Tensor:
    """Each patch beside those around it: the nine within one patch, and eight means of 3 x 3 at three patches.

    At the border the nearest patch stands for one that is not there, but in a mean, which it makes smaller.

    Args:
        features: (Hp, Wp, C), scaled to unit length here, so that no token of outlying length outweighs the others.

    Returns:
        (Hp, Wp, 17 C) float32 of unit length.

    Source: Amir et al., Deep ViT features as dense visual descriptors, 2021 (bins of two levels; there the vectors are
        taken as they are).
    """
    rows, columns, channels = features.shape
    own = unit(features)
    mean = functional.avg_pool2d(own.permute(2, 0, 1), 3, stride=1, padding=1).permute(1, 2, 0)
    # at the border the nearest patch, by slices of maps that are as much larger as the farthest bin is away
    wide = [
        functional.pad(each.permute(2, 0, 1), (_FAR,) * 4, mode="replicate").permute(1, 2, 0).contiguous()
        for each in (own, mean)
    ]
    lengths = [each.square().sum(dim=-1) for each in wide]
    found = torch.empty(rows, columns, BINS, channels, device=features.device)
    squares = torch.zeros(rows, columns, device=features.device)
    for number, (level, down, right) in enumerate(_PLACES):
        part = slice(_FAR + down, _FAR + down + rows), slice(_FAR + right, _FAR + right + columns)
        found[:, :, number] = wide[level][part]
        squares += lengths[level][part]
    found /= squares.sqrt().clamp_min(_TINY)[:, :, None, None]
    return found.reshape(rows, columns, BINS * channels)
