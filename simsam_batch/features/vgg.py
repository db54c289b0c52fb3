"""VGG-19 from a local file: what an image is of, whatever its style."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from simsam_batch.features.precision import arithmetic
from simsam_batch.features.weights import load_into, read_checkpoint

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TAPS = (22, 31)
"""relu4_2 and relu5_2, where these are not done in place: what published code looks at."""


class Vgg:
    """A frozen VGG-19, up to the last of `TAPS`.

    Args:
        features: its layers, none of which works in place.
        precision: ``fp32`` or ``bf16``.
    """

    def __init__(self, features: nn.Sequential, precision: str = "fp32") -> None:
        self._precision = precision
        self._layers = features[: TAPS[-1] + 1]
        like = next(features.parameters())
        self._mean, self._std = (like.new_tensor(part)[:, None, None] for part in (MEAN, STD))

    def maps(self, images: Tensor) -> list[Tensor]:
        """Float32 maps (B, 512, H / 8, W / 8) and (B, 512, H / 16, W / 16) of images (B, 3, H, W) in 0..1."""
        x, found = (images - self._mean) / self._std, []
        with arithmetic(images.device, self._precision):
            for number, layer in enumerate(self._layers):
                x = layer(x)
                if number in TAPS:
                    found.append(x)
        return [each.to(images.dtype) for each in found]


def load_vgg(weights: str, device: str, *, precision: str = "fp32") -> Vgg:
    """VGG-19 with the weights of a file, as torchvision names them; its classifier may be missing.

    Args:
        weights: the file.
        device: torch's name.
        precision: ``fp32`` or ``bf16``, of what it computes; its maps are float32.

    Raises:
        SettingsError: the file is none of this network.
    """
    from torchvision.models import vgg19

    # without memory or numbers, which the classifier would have the most of
    with torch.device("meta"):
        features: Any = vgg19(weights=None).features
    for layer in features:
        if isinstance(layer, nn.ReLU):
            layer.inplace = False
    tensors = {name.removeprefix("features."): each for name, each in read_checkpoint(Path(weights)).tensors.items()}
    own = {name: each for name, each in tensors.items() if not name.startswith("classifier.")}
    load_into(features, own, weights, "VGG-19")
    return Vgg(features.to(device=device).eval().requires_grad_(False), precision)
