"""Whether a GPU does the arithmetic of a transformer right, tried on a small one before results are made with it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor, nn

from simsam_batch.errors import RunError
from simsam_batch.features.precision import arithmetic

_WIDTH, _HEADS, _PATCH = 64, 2, 16
_LARGEST = {"fp32": 1e-3, "bf16": 5e-2}


@cache
def bf16_trouble(device: str) -> str | None:
    """What is the matter with bf16 on a GPU, in words; None if nothing is. It is tried once in a process.

    A patch embedding and a block of attention are computed there and, in fp32, on the CPU.

    Args:
        device: such as ``cuda:0``.

    Raises:
        RunError: fp32 is wrong as well, so that nothing computed there could be trusted.
    """
    network, pictures = _network()
    with torch.no_grad():
        right = network(pictures)
    on = torch.device(device)
    network, pictures = network.to(on), pictures.to(on)
    if (wrong := trouble(lambda: network(pictures), right, on, "fp32")) is not None:
        raise RunError(
            f"the GPU computes wrong in fp32 ({wrong}). To mend it: see what simsam doctor says; use --device cpu, or "
            "another GPU, driver or build of torch"
        )
    return trouble(lambda: network(pictures), right, on, "bf16")


def trouble(compute: Callable[[], Tensor], right: Tensor, device: torch.device, precision: str) -> str | None:
    """How far what is computed with a precision is off, or how it fails; None if it is near what is right."""
    try:
        with torch.no_grad(), arithmetic(device, precision):
            found = compute().float().cpu()
    except Exception as error:  # noqa: BLE001  whatever a build without such a kernel raises
        return f"{precision}: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
    off = float((found - right).norm() / right.norm())
    return None if off < _LARGEST[precision] else f"{precision} is off by {off:.1e} of the length"


def _network() -> tuple[nn.Module, Tensor]:
    """A patch embedding and a block, and pictures for them; the same on every call."""
    from timm.models.vision_transformer import Block

    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Conv2d(3, _WIDTH, _PATCH, _PATCH)
            self.block = Block(_WIDTH, _HEADS, qkv_bias=True)

        def forward(self, pictures: Tensor) -> Tensor:
            tokens: Tensor = self.block(self.embed(pictures).flatten(2).mT)
            return tokens

    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        return Small().eval(), torch.randn(2, 3, 4 * _PATCH, 6 * _PATCH)
