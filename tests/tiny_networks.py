"""A CLIP and a VGG-19 of the real classes, small or random, as files that the real loaders read."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

TINY = {
    "embed_dim": 32,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}


def write_clip(folder: Path, name: str = "tiny-clip", seed: int = 0) -> tuple[Path, Path]:
    """Its configuration and its weights."""
    import open_clip

    config = folder / f"{name}.json"
    config.write_text(json.dumps(TINY))
    open_clip.add_model_config(config)
    torch.manual_seed(seed)
    model = open_clip.create_model(name)
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, folder / f"{name}.safetensors")
    return config, folder / f"{name}.safetensors"


def write_vgg(folder: Path) -> Path:
    """Its weights, those of its layers alone."""
    from torchvision.models import vgg19

    with torch.device("meta"):
        layers = vgg19(weights=None).features.state_dict()
    torch.manual_seed(1)
    tensors = {
        f"features.{name}": torch.randn(like.shape) * (2 / like[0].numel()) ** 0.5
        if like.ndim > 1
        else torch.zeros(like.shape)
        for name, like in layers.items()
    }
    save_file(tensors, folder / "vgg19.safetensors")
    return folder / "vgg19.safetensors"
