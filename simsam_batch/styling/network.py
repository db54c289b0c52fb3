"""The network that restyles one image: a small U-Net, trained anew for each image and text, or once for a text.

Source: Kwon and Ye, CLIPstyler: image style transfer with a single text condition, CVPR 2022.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTH = 16
LEAST_SIDE, MULTIPLE = 16, 8
"""Sides of an image must be multiples of the one, and no less than the other."""


class Block(nn.Module):
    """Two convolutions, each normalised over the image, beside one of single pixels.

    Args:
        before: channels.
        after: channels.
    """

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(before, after, 3, padding=1)
        self.second = nn.Conv2d(after, after, 3, padding=1)
        self.beside = nn.Conv2d(before, after, 1)
        # neither scale nor running statistics, so that the images of a batch do not see each other
        self.norm = nn.InstanceNorm2d(after)

    def forward(self, x: Tensor) -> Tensor:
        """(B, before, H, W) to (B, after, H, W)."""
        y = torch.relu(self.norm(self.first(x)))
        found: Tensor = torch.relu(self.norm(self.second(y))) + self.beside(x)
        return found


class StyleNet(nn.Module):
    """Images in 0..1 to images in 0..1, of the same size; 615,267 parameters.

    Three times halved and doubled, with what was there before beside it.
    """

    def __init__(self) -> None:
        super().__init__()
        w = WIDTH
        self.into = nn.Conv2d(3, w, 1)
        self.init = Block(w, w)
        self.down = nn.ModuleList([Block(w, w), Block(w, 2 * w), Block(2 * w, 4 * w)])
        self.halve = nn.ModuleList([nn.Conv2d(c, c, 4, stride=2, padding=1) for c in (w, 2 * w, 4 * w)])
        self.middle = Block(4 * w, 8 * w)
        self.up = nn.ModuleList([Block(12 * w, 4 * w), Block(6 * w, 2 * w), Block(3 * w, w)])
        self.last = Block(2 * w, w)
        self.out = nn.Conv2d(w, 3, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Restyle.

        Args:
            images: (B, 3, H, W) float, in 0..1.

        Returns:
            The same shape, in 0..1.

        Raises:
            ValueError: a side is no multiple of `MULTIPLE`, or less than `LEAST_SIDE`.
        """
        if any(side % MULTIPLE or side < LEAST_SIDE for side in images.shape[-2:]):
            height, width = images.shape[-2:]
            raise ValueError(f"images of {height}x{width} pixels: sides must be multiples of 8, and at least 16")
        x = first = self.init(self.into(images))
        beside = []
        for block, halve in zip(self.down, self.halve, strict=True):
            beside.append(block(x))
            x = halve(beside[-1])
        x = self.middle(x)
        for block in self.up:
            x = functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = block(torch.cat([x, beside.pop()], dim=1))
        found: Tensor = torch.sigmoid(self.out(self.last(torch.cat([x, first], dim=1))))
        return found


def working_size(width: int, height: int, side: int) -> tuple[int, int]:
    """What an image is worked on at: its shorter side so long, its shape kept, both sides as the network takes them.

    >>> working_size(640, 480, 512), working_size(100, 3000, 64)
    ((680, 512), (64, 1920))
    """
    scale = side / min(width, height)
    across, down = (max(LEAST_SIDE, MULTIPLE * round(of * scale / MULTIPLE)) for of in (width, height))
    return across, down
