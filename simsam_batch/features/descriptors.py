"""A backbone without weights: colour and gradient statistics of each patch."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as nnf

from simsam_batch.features.contract import Features, Triple, patch_grid

_ORIENTATIONS = 8
# Linear sRGB to CIE XYZ relative to the D65 white point (IEC 61966-2-1, each row divided by the white's X, Y, Z).
_XYZ_OVER_WHITE = (
    (0.412391 / 0.950456, 0.357584 / 0.950456, 0.180481 / 0.950456),
    (0.212639, 0.715169, 0.072192),
    (0.019331 / 1.089058, 0.119195 / 1.089058, 0.950532 / 1.089058),
)
# Variation over the image below which a group is noise (Lab over 100: two just noticeable differences) and stays small.
_FLAT = 0.02


class Descriptors:
    """Colour and texture of patches, in place of a network.

    Three groups for each patch: mean CIE Lab colour, its spread inside the patch, and a histogram of gradient
    orientations of the lightness, weighted by gradient length (square roots, as in Hellinger's kernel). Each group is
    smoothed by a 3x3 median, which keeps the borders of regions, centred on the image's mean and divided by the image's
    root mean square; colour counts twice as much as the other two. A constant channel keeps patches close to the
    image's mean alike, and all patches of a one-colour image identical. This project's own design: it serves to run
    everything without a download and finds objects that differ from their surroundings in colour or texture.

    See `simsam_batch.features.contract.Backbone` for the attributes; images are plain RGB in [0, 1].

    Args:
        patch: side of a patch in pixels.
    """

    def __init__(self, patch: int = 16) -> None:
        self.name = "descriptors"
        self.patch = patch
        self.channels = 3 + 3 + _ORIENTATIONS + 1
        self.blocks = 0
        self.block = 0
        self.facet = "token"
        self.mean: Triple = (0.0, 0.0, 0.0)
        self.std: Triple = (1.0, 1.0, 1.0)
        self.prefix_tokens = 0

    def __call__(self, images: Tensor) -> Features:
        """Describe patches.

        Args:
            images: (B, 3, H, W) float32 in [0, 1]; H and W multiples of ``patch``.

        Returns:
            (B, N, 15) descriptors and (B, N) norms, all 1: no patch is an outlier.

        Raises:
            ValueError: H or W is no multiple of ``patch``.
        """
        patch_grid(images, self.patch)
        lab = _lab(images)
        colour = nnf.avg_pool2d(lab, self.patch)
        # Around the patch's own mean: the difference of mean squares would leave rounding errors in flat patches.
        centred = lab - nnf.interpolate(colour, scale_factor=self.patch, mode="nearest")
        spread = nnf.avg_pool2d(centred.square(), self.patch).sqrt()
        texture = nnf.avg_pool2d(_oriented_gradients(lab[:, :1]), self.patch).sqrt()
        groups = [_standardised(colour), _standardised(spread) / 2, _standardised(texture) / 2]
        constant = torch.full_like(colour[:, :1], 0.5)
        rows = torch.cat([*groups, constant], dim=1).flatten(2).transpose(1, 2).contiguous()
        return Features(rows, torch.ones_like(rows[:, :, 0]))

    def describe(self) -> dict[str, Any]:
        """Everything that identifies the backbone, as plain JSON values."""
        return {
            "name": self.name,
            "weights": "none",
            "patch": self.patch,
            "channels": self.channels,
            "mean": list(self.mean),
            "std": list(self.std),
            "precision": "fp32",
        }


def _standardised(group: Tensor) -> Tensor:
    """Smooth, centre and scale one group of channels (B, C, Hp, Wp) over each image."""
    batch, channels, rows, columns = group.shape
    around = nnf.unfold(nnf.pad(group, (1, 1, 1, 1), mode="replicate"), kernel_size=3)
    group = around.view(batch, channels, 9, rows, columns).median(dim=2).values
    group = group - group.mean(dim=(2, 3), keepdim=True)
    scale = group.square().sum(dim=1, keepdim=True).mean(dim=(2, 3), keepdim=True).sqrt()
    return group / scale.clamp(min=_FLAT)


def _lab(rgb: Tensor) -> Tensor:
    """CIE 1976 L*a*b*, over 100, of sRGB images (B, 3, H, W)."""
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb.clamp(min=0) + 0.055) / 1.055) ** 2.4)
    xyz = torch.einsum("ij,bjhw->bihw", rgb.new_tensor(_XYZ_OVER_WHITE), linear)
    f = torch.where(xyz > (6 / 29) ** 3, xyz.clamp(min=1e-6) ** (1 / 3), xyz * (29 / 6) ** 2 / 3 + 4 / 29)
    x, y, z = f.unbind(dim=1)
    return torch.stack([1.16 * y - 0.16, 5 * (x - y), 2 * (y - z)], dim=1)


def _oriented_gradients(lightness: Tensor) -> Tensor:
    """Gradient length by orientation modulo 180 degrees, (B, 8, H, W); each pixel is shared by the two nearest bins."""
    padded = nnf.pad(lightness, (1, 1, 1, 1), mode="replicate")
    dx = (padded[:, :, 1:-1, 2:] - padded[:, :, 1:-1, :-2]) / 2
    dy = (padded[:, :, 2:, 1:-1] - padded[:, :, :-2, 1:-1]) / 2
    angle = torch.atan2(dy, dx).remainder(math.pi) * (_ORIENTATIONS / math.pi)
    bins = torch.arange(_ORIENTATIONS, dtype=angle.dtype, device=angle.device).view(1, -1, 1, 1)
    apart = (angle - bins).abs()
    apart = torch.minimum(apart, _ORIENTATIONS - apart)
    return torch.hypot(dx, dy) * (1 - apart).clamp(min=0)
