"""What every backbone gives: one descriptor and one norm for each patch of the grid."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from torch import Tensor

Triple = tuple[float, float, float]
"""One number each for red, green and blue."""

MIRRORED = "mirrored-"
"""Begins the facets of mirrored pictures."""


class Features(NamedTuple):
    """Descriptors of a batch of images with equal grids.

    Attributes:
        descriptors: (B, N, C) float32, N = Hp * Wp patches in row-major order; class and register tokens are left out.
        norms: (B, N) float32, length of each patch's residual stream, by which `spike_mask` finds outlier tokens.
    """

    descriptors: Tensor
    norms: Tensor


def patch_grid(images: Tensor, patch: int) -> tuple[int, int]:
    """How many patches of images (..., H, W) lie below and beside each other: (Hp, Wp).

    Raises:
        ValueError: H or W is no multiple of ``patch``, or nothing.
    """
    height, width = images.shape[-2:]
    if height % patch or width % patch or not height or not width:
        raise ValueError(f"images of {height}x{width} pixels do not divide into patches of {patch}")
    return height // patch, width // patch


class Backbone(Protocol):
    """Turns images into patch descriptors.

    Attributes:
        name: the resolved name, without aliases.
        patch: side of a patch, in pixels.
        channels: C, length of a descriptor.
        blocks: depth of the network; 0 where there are no blocks.
        block: the block the descriptors come from, from 0.
        facet: which vector of that block (``key``, ``query``, ``value``, ``token``, ``norm-token``).
        mean, std: per RGB channel; images are to be normalised to ``(rgb - mean) / std`` with rgb in [0, 1].
        prefix_tokens: tokens before the patches (class, registers), which take part but are not returned.
    """

    name: str
    patch: int
    channels: int
    blocks: int
    block: int
    facet: str
    mean: Triple
    std: Triple
    prefix_tokens: int

    def __call__(self, images: Tensor) -> Features:
        """Describe the patches of ``images`` (B, 3, H, W), float32, normalised, H and W multiples of ``patch``."""
        ...

    def describe(self) -> dict[str, Any]:
        """Everything that identifies this backbone, as plain JSON values, for the run's record."""
        ...
