"""Copies to a device that the host does not wait for."""

from __future__ import annotations

import torch
from torch import Tensor


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor from the CPU to a device, behind what the device has been given to do before.

    A GPU reads from pinned memory, so that the host need not stand by; torch keeps that memory until it is read.

    Args:
        tensor: any shape and dtype, on the CPU.
        device: where to; on the CPU nothing is copied.
    """
    if device.type == "cuda":
        tensor = torch.empty_like(tensor, pin_memory=True).copy_(tensor)
    return tensor.to(device, non_blocking=True)
