"""Vision transformers written out from their papers and published code, under the names of their releases.

One class for all, since the families differ in a few parts: iBOT (Zhou et al., 2022) and DINO (Caron et al., 2021) are
the plain pre-norm ViT of Dosovitskiy et al. (2021); MAE (He et al., 2022) has fixed positions and, in pre-training, a
decoder; DINOv2 (Oquab et al., 2023) has layer scales, registers (Darcet et al., 2024) and, at its largest, SwiGLU;
DINOv3 (Siméoni et al., 2025) rotary positions, and a key bias that is masked. Nothing here comes from timm.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

Names = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Design:
    """What a network is built of.

    Attributes:
        width, depth, heads, patch, grid: of the network; ``grid`` is the side of its position table, in patches.
        registers: how many; the release names them ``register_name``.
        layer_scale: the release's name of the two scales of a block, with ``{}`` for 1 or 2; empty for none.
        ratio: hidden numbers of the MLP for each of the width.
        gated: SwiGLU of this many hidden numbers instead; 0 for none.
        packed: gate and value of SwiGLU are one layer, ``w12``, rather than two.
        rotary: positions turn queries and keys, and no table is added.
        epsilon: of the norms.
    """

    width: int = 64
    depth: int = 6
    heads: int = 2
    patch: int = 16
    grid: int = 10
    registers: int = 0
    register_name: str = "register_tokens"
    layer_scale: str = ""
    ratio: int = 4
    gated: int = 0
    packed: bool = True
    rotary: bool = False
    epsilon: float = 1e-6


@dataclass
class Seen:
    """What passed through: for each block its fused projection (B, L, 3C) and its output (B, L, C)."""

    projections: list[Tensor] = field(default_factory=list)
    tokens: list[Tensor] = field(default_factory=list)


class PublishedViT(nn.Module):
    """A network of random numbers, none of which is zero or one on the whole, that would hide mistakes."""

    def __init__(self, design: Design, seed: int = 0) -> None:
        super().__init__()
        self.design = design
        width = design.width
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, width, kernel_size=design.patch, stride=design.patch)
        self.cls_token = nn.Parameter(torch.empty(1, 1, width))
        if design.registers:
            setattr(self, design.register_name, nn.Parameter(torch.empty(1, design.registers, width)))
        if design.rotary:
            self.rope_embed = nn.Module()
            pairs = width // design.heads // 4
            periods = torch.tensor([100.0 ** (i / pairs) for i in range(pairs)])
            self.rope_embed.register_buffer("periods", periods)
        else:
            self.pos_embed = nn.Parameter(torch.empty(1, 1 + design.grid**2, width))
        self.blocks = nn.ModuleList(_block(design) for _ in range(design.depth))
        self.norm = nn.LayerNorm(width, eps=design.epsilon)
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if parameter.is_meta:
                continue
            centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            spread = 1 / math.sqrt(parameter.shape[1]) if parameter.ndim == 2 else 0.2
            parameter.data = centre + spread * torch.randn(parameter.shape, generator=generator)
            parameter.requires_grad_(requires_grad=False)

    def forward(self, images: Tensor) -> Seen:
        """Of (B, 3, H, W) of the network's own grid; rotary networks take any."""
        design, seen = self.design, Seen()
        x = self.patch_embed.proj(images)
        rows, columns = x.shape[2:]
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1)
        if not design.rotary:
            x = x + self.pos_embed
        if design.registers:
            registers = getattr(self, design.register_name).expand(len(x), -1, -1)
            x = torch.cat([x[:, :1], registers, x[:, 1:]], dim=1)
        angles = _angles(self.rope_embed.periods, rows, columns) if design.rotary else None
        for block in self.blocks:
            fused = _fused(block.attn.qkv, block.norm1(x), masks_key=design.rotary)
            seen.projections.append(fused)
            x = x + self._scaled(block, 1, self._attended(block, fused, angles))
            x = x + self._scaled(block, 2, _mlp(block.mlp, block.norm2(x), design))
            seen.tokens.append(x)
        return seen

    def _attended(self, block: Any, fused: Tensor, angles: Tensor | None) -> Tensor:
        heads = self.design.heads
        query, key, value = (
            part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in fused.split(self.design.width, dim=-1)
        )
        if angles is not None:
            query, key = (_turned(part, angles) for part in (query, key))
        weights = (query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])).softmax(dim=-1)
        attended: Tensor = block.attn.proj((weights @ value).transpose(1, 2).flatten(2))
        return attended

    def _scaled(self, block: Any, which: int, x: Tensor) -> Tensor:
        if not self.design.layer_scale:
            return x
        scale: Tensor = block.get_parameter(self.design.layer_scale.format(which))
        return scale * x

    def names(self) -> Names:
        """Parameters and buffers by the names of the release."""
        return dict(self.state_dict())


def _block(design: Design) -> nn.Module:
    width, block = design.width, nn.Module()
    block.norm1, block.norm2 = (nn.LayerNorm(width, eps=design.epsilon) for _ in range(2))
    block.attn = nn.Module()
    block.attn.qkv, block.attn.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
    if design.rotary:
        mask = torch.ones(3 * width)
        mask[width : 2 * width] = 0
        block.attn.qkv.register_buffer("bias_mask", mask)
    block.mlp = nn.Module()
    if not design.gated:
        hidden = design.ratio * width
        block.mlp.fc1, block.mlp.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
    elif design.packed:
        block.mlp.w12, block.mlp.w3 = nn.Linear(width, 2 * design.gated), nn.Linear(design.gated, width)
    else:
        block.mlp.w1, block.mlp.w2 = (nn.Linear(width, design.gated) for _ in range(2))
        block.mlp.w3 = nn.Linear(design.gated, width)
    for which in (1, 2) if design.layer_scale else ():
        module, _, name = design.layer_scale.format(which).rpartition(".")
        if module:
            setattr(block, module, nn.Module())
        block.get_submodule(module).register_parameter(name, nn.Parameter(torch.empty(width)))
    return block


def _fused(qkv: nn.Linear, x: Tensor, *, masks_key: bool) -> Tensor:
    bias = qkv.bias
    if masks_key:
        query, key, value = bias.chunk(3)
        bias = torch.cat([query, 0 * key, value])
    return x @ qkv.weight.T + bias


def _mlp(mlp: Any, x: Tensor, design: Design) -> Tensor:
    if not design.gated:
        hidden = mlp.fc1(x)
        # GELU: x times the normal distribution's cumulative probability at x
        return torch.as_tensor(mlp.fc2(hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))))
    gate, up = mlp.w12(x).chunk(2, dim=-1) if design.packed else (mlp.w1(x), mlp.w2(x))
    return torch.as_tensor(mlp.w3(gate * torch.sigmoid(gate) * up))


def _angles(periods: Tensor, rows: int, columns: int) -> Tensor:
    """(rows * columns, head width): of patch centres, the image from -1 to 1 in both directions, y before x."""
    found = []
    for row in range(rows):
        for column in range(columns):
            y, x = (row + 0.5) / rows * 2 - 1, (column + 0.5) / columns * 2 - 1
            half = torch.cat([2 * math.pi * y / periods, 2 * math.pi * x / periods])
            found.append(torch.cat([half, half]))
    return torch.stack(found)


def _turned(x: Tensor, angles: Tensor) -> Tensor:
    """Turn the patches among tokens (B, heads, L, head width); those before them have no position."""
    patches = x[:, :, -len(angles) :]
    first, second = patches.chunk(2, dim=-1)
    turned = patches * angles.cos() + torch.cat([-second, first], dim=-1) * angles.sin()
    return torch.cat([x[:, :, : -len(angles)], turned], dim=2)


def fixed_positions(width: int, grid: int) -> Tensor:
    """Positions of MAE, (1, 1 + grid * grid, width): zeros, then sine and cosine of column and row, in float64.

    Half of the numbers tell the column and half the row, each half the sines and then the cosines of the place times
    10000^(-2 i / (width / 2)), i = 0 ... width / 4 - 1.
    """
    table = torch.zeros(1, 1 + grid * grid, width, dtype=torch.float64)
    quarter = width // 4
    for row in range(grid):
        for column in range(grid):
            for half, place in enumerate((column, row)):
                for i in range(quarter):
                    angle = place / 10000 ** (i / quarter)
                    entry = table[0, 1 + row * grid + column]
                    entry[2 * half * quarter + i] = math.sin(angle)
                    entry[(2 * half + 1) * quarter + i] = math.cos(angle)
    return table.float()
