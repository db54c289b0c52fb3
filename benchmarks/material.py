"""What is measured on: photographs, a vision transformer, affinities of real images."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor

from simsam_batch import images
from simsam_batch.demo import truth_polygons
from simsam_batch.features.backbones import load_backbone
from simsam_batch.features.contract import Backbone
from simsam_batch.features.descriptors import Descriptors
from simsam_batch.features.outliers import spike_mask
from simsam_batch.spectral import affinity
from simsam_batch.spectral.head import train_head
from simsam_batch.stages.segment.settings import SegmentSettings

VIT_SMALL = "vit_small_patch16_224"
PATCH = 16


@dataclass(frozen=True, slots=True)
class Photographs:
    """Files of real photographs, and where they come from, in words."""

    files: list[Path]
    source: str


@cache
def photographs() -> Photographs:
    """The Weizmann horses below ``SIMSAM_TEST_DATA``; without it, photographs that ship with scikit-image."""
    data = os.environ.get("SIMSAM_TEST_DATA")
    horses = Path(data or ".") / "weizmann_horses" / "images"
    if data and horses.is_dir():
        return Photographs(sorted(horses.iterdir()), "Weizmann horses")
    source = find_spec("skimage")
    if source is None or source.origin is None:
        raise SystemExit("benchmarks need photographs: set SIMSAM_TEST_DATA, or pip install 'simsam-batch[demo]'")
    folder = Path(source.origin).parent / "data"
    return Photographs(sorted(folder / each["file"] for each in truth_polygons()), "photographs of scikit-image")


def pixels(file: Path, resize: str) -> tuple[Tensor, tuple[int, int]]:
    """One photograph, (H, W, 3) uint8, resized as the setting says and cut to patches of 16; and its grid."""
    limits = images.ImageLimits()
    prepared = images.prepare(file.read_bytes(), limits=limits, resize=images.parse_resize(resize), patch=PATCH)
    return torch.from_numpy(prepared.rgb), prepared.grid


def normalized(pictures: Tensor, backbone: Backbone) -> Tensor:
    """Pictures (B, H, W, 3) uint8 as the backbone takes them."""
    scaled = pictures.permute(0, 3, 1, 2).float() / 255
    mean, std = (scaled.new_tensor(part)[:, None, None] for part in (backbone.mean, backbone.std))
    return (scaled - mean) / std


def write_random_weights(folder: Path) -> Path:
    """A weights file of ViT-S/16, randomly drawn: as much to compute as with trained ones."""
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model: Any = timm.create_model(VIT_SMALL, pretrained=False, num_classes=0)
    path = folder / "random.safetensors"
    save_file(model.state_dict(), path)
    return path


@cache
def _describing() -> tuple[Backbone, str]:
    weights = os.environ.get("SIMSAM_TEST_WEIGHTS")
    file = Path(weights or ".") / "vit_tiny_patch16_224.supervised.safetensors"
    if weights and file.is_file():
        return load_backbone("vit_tiny_patch16_224", weights=file, block=8), "ViT-Ti/16, keys of block 8"
    return Descriptors(PATCH), "the 'descriptors' backbone"


@torch.inference_mode()
def affinities(grid: tuple[int, int], count: int) -> tuple[list[Tensor], str]:
    """Graphs of ``count`` photographs as `segment` makes them by default, without outlier tokens; and what they are.

    Returns:
        ``count`` float32 matrices (n, n), n a little under Hp * Wp, on the CPU.
    """
    backbone, described_by = _describing()
    chosen = photographs()
    settings = SegmentSettings()
    made = []
    for i in range(count):
        file = chosen.files[i * len(chosen.files) // count % len(chosen.files)]
        picture, _ = pixels(file, f"{grid[0] * PATCH}x{grid[1] * PATCH}")
        found = backbone(normalized(picture[None], backbone))
        valid = ~spike_mask(found.norms, settings.outlier_ratio)
        rows = affinity.normalize_rows(found.descriptors)
        head = train_head(
            rows,
            grid,
            valid,
            [i],
            patches_per_step=settings.patches_per_step,
            learning_rate=settings.learning_rate,
            epochs=settings.epochs,
        )
        w = affinity.feature_affinity(rows, valid, shift=settings.shift)
        w_sa = affinity.head_affinity(head.outputs, valid, normalize=True, center=settings.center_head)
        w = affinity.graph(affinity.combine(w, w_sa, settings.kappa), valid, floor=settings.floor)[0]
        inside = valid[0].nonzero()[:, 0]
        made.append(w[inside][:, inside].contiguous().clone())
    return made, f"{chosen.source}, {described_by}"
