"""Pictures on their way to a device and to a network."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def normalized(images: Tensor, mean: tuple[float, float, float], std: tuple[float, float, float]) -> Tensor:
    """Pictures (B, H, W, 3) uint8 as a backbone takes them, (B, 3, H, W) float32."""
    pixels = images.permute(0, 3, 1, 2).to(torch.float32).div_(255.0)
    shift, scale = torch.tensor([mean, std], dtype=pixels.dtype).to(pixels.device, non_blocking=True)
    return pixels.sub_(shift[:, None, None]).div_(scale[:, None, None])


def uploaded(pictures: Sequence[NDArray[np.uint8]], device: torch.device) -> Tensor:
    """Pictures of one size, (H, W, 3) each, stacked on a device; a GPU fetches them while the host goes on."""
    # torch keeps pinned memory for the next batch, and does not hand it out before the copy is done.
    stacked = torch.empty((len(pictures), *pictures[0].shape), dtype=torch.uint8, pin_memory=device.type == "cuda")
    np.stack(pictures, out=stacked.numpy())
    return stacked.to(device, non_blocking=True)
