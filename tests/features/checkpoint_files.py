"""Checkpoint files as training scripts save them, and what a network loaded from one must give."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from published_vit import Design, Names, PublishedViT
from torch import Tensor

from simsam_batch.features.backbones import load_taps
from simsam_batch.features.fitting import LoadReport

PLAIN = Design(ratio=3)
"""The design of timm's ``test_vit``: 6 blocks, 64 wide."""


def saved(content: Any, folder: Path) -> Path:
    torch.save(content, folder / "checkpoint.pth")
    return folder / "checkpoint.pth"


def some_images(rows: int, columns: int, patch: int = 16, batch: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(rows * columns)
    return torch.randn(batch, 3, rows * patch, columns * patch, generator=generator)


def under(prefix: str, names: Names) -> Names:
    return {prefix + name: value for name, value in names.items()}


def noise(*shape: int) -> Tensor:
    return torch.full(shape, 9.0)


def assert_same(network: PublishedViT, name: str, path: Path, images: Tensor, **options: Any) -> LoadReport:
    """All facets of all blocks, for patches, class token and registers, within 1e-4 of the published forward."""
    depth, width, registers = network.design.depth, network.design.width, network.design.registers
    facets = ("query", "key", "value", "token", "norm-token")
    taps = load_taps(
        name, weights=path, blocks=range(depth), facets=facets, class_token=True, registers=True, **options
    )
    seen, found = network(images), taps(images)
    for block in range(depth):
        tokens = seen.tokens[block]
        parts = [*seen.projections[block].split(width, dim=-1), tokens, network.norm(tokens)]
        for facet, expected in zip(facets, parts, strict=True):
            at = (block, facet)
            of_registers = [found.registers[at]] if registers else []
            got = torch.cat([found.class_tokens[at][:, None], *of_registers, found.descriptors[at]], dim=1)
            torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-5)
    assert taps.loaded is not None
    return taps.loaded


def head_of_ibot(width: int) -> Names:
    """The projection head of iBOT's repository: an MLP, and a last layer with weight norm for each of two tasks."""
    names = {f"mlp.{layer}.{kind}": noise(8) for layer in (0, 2, 4) for kind in ("weight", "bias")}
    names |= {"last_layer.weight_g": noise(9, 1), "last_layer.weight_v": noise(9, 8)}
    return under("head.", names | {"last_layer2.weight_g": noise(9, 1), "mlp2.0.weight": noise(8, width)})


def full_ibot(teacher: PublishedViT, student: PublishedViT) -> Names:
    """``checkpoint.pth`` of iBOT's repository."""
    width = teacher.design.width
    masked = {"backbone.masked_embed": noise(1, width)}
    return {
        "student": under("module.", under("backbone.", student.names()) | masked | head_of_ibot(width)),
        "teacher": under("backbone.", teacher.names()) | head_of_ibot(width),
        "optimizer": {"state": {0: {"exp_avg": noise(3)}}, "param_groups": [{"lr": 0.1}]},
        "epoch": 80,
        "args": argparse.Namespace(arch="vit_small", patch_size=16, lr=5e-4),
        "ibot_loss": {"center": noise(1, 9), "center2": noise(1, 1, 9)},
        "fp16_scaler": {"scale": 65536.0},
    }


def full_dino(teacher: PublishedViT, student: PublishedViT) -> Names:
    """``checkpoint.pth`` of DINO's repository."""
    head = {"head.mlp.0.weight": noise(8, teacher.design.width), "head.last_layer.weight_v": noise(9, 8)}
    return {
        "student": under("module.", under("backbone.", student.names()) | head),
        "teacher": under("backbone.", teacher.names()) | head,
        "optimizer": {"state": {}, "param_groups": []},
        "epoch": 100,
        "args": argparse.Namespace(arch="vit_small"),
        "dino_loss": {"center": noise(1, 9)},
    }
