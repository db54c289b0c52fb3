"""Tiny collections with truth for probes, and runs over them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file

NETWORK, PATCH = "test_vit", 16
HEIGHT, WIDTH = 64, 96
CLASSES = ("ground", "square", "disc")
VOID = 255


def make_collection(home: Path, images: int = 12) -> None:
    """``photos`` and ``truth`` of coloured shapes on noise, ``names.txt``, and ``vit.safetensors``, weights by chance.

    Every image holds a red square, every second one a blue disc; pixels between a shape and the ground do not count.
    """
    for folder in ("photos", "truth"):
        (home / folder).mkdir(parents=True, exist_ok=True)
    for number in range(images):
        pixels, ids = picture(number)
        Image.fromarray(pixels).save(home / "photos" / f"{name_of(number)}.png")
        Image.fromarray(ids).save(home / "truth" / f"{name_of(number)}.png")
    (home / "names.txt").write_text("\n".join(CLASSES) + "\n")
    torch.manual_seed(0)
    model = timm.create_model(NETWORK, pretrained=False, num_classes=0)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, home / "vit.safetensors")


def name_of(number: int) -> str:
    """Names that are no numbered sequence."""
    return f"{'abcdefghijklmnopqrstuvwxyz'[number]}-shape"


def picture(number: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """(H, W, 3) pixels and (H, W) ids of one image."""
    draw = np.random.default_rng(number)
    pixels = draw.integers(30, 90, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    ids = np.zeros((HEIGHT, WIDTH), np.uint8)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    top, left = int(draw.integers(2, 30)), int(draw.integers(2, 20))
    around = (rows >= top - 2) & (rows < top + 30) & (columns >= left - 2) & (columns < left + 30)
    square = (rows >= top) & (rows < top + 28) & (columns >= left) & (columns < left + 28)
    ids[around] = VOID
    ids[square], pixels[square] = 1, (220, 40, 30)
    if number % 2:
        away = (rows - draw.integers(18, 46)) ** 2 + (columns - 74) ** 2
        ids[away < 19**2] = VOID
        ids[away < 17**2], pixels[away < 17**2] = 2, (40, 60, 230)
    return pixels, ids


def arguments(home: Path, out: Path | str, *more: str) -> list[str]:
    """Of a probe run over a collection; small and quick."""
    command = ["probe", str(home / "photos"), str(out), "--truth", str(home / "truth")]
    network = ["--backbone", NETWORK, "--weights", str(home / "vit.safetensors"), "--resize", "native"]
    classes = ["--class-names", str(home / "names.txt"), "--ignore-label", str(VOID)]
    small = ["--clusters", "6", "--micro-clusters", "12", "--neighbours", "5", "--iterations", "20"]
    return [*command, *network, *classes, *small, "--threads", "1", "--shard-size", "4", "--quiet", *more]
