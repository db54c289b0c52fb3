"""Write docs/first.png: a photograph, its object, its eigenvectors: python docs/write_first_picture.py WEIGHTS.

The photograph is coffee.png of scikit-image, by Rachel Michetti, in the public domain. The picture that is there was
made with a ViT-Ti/16 trained with ImageNet's labels.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import skimage
from numpy.typing import NDArray
from PIL import Image

import simsam_batch

PICTURE = Path(__file__).with_name("first.png")
PHOTOGRAPH = "coffee.png"
HEIGHT, GAP, VECTORS = 240, 6, 6


def colored(vector: NDArray[np.float64]) -> Image.Image:
    """An eigenvector (Hp, Wp): orange where it is positive, blue where negative, white at 0."""
    scaled = np.clip(vector / np.quantile(np.abs(vector), 0.98), -1, 1)[..., None]
    ends = np.where(scaled > 0, np.array([217.0, 95, 2]), np.array([31.0, 90, 170]))
    return Image.fromarray((255 + (ends - 255) * np.abs(scaled)).astype(np.uint8))


def cut_out(photograph: Image.Image, mask: NDArray[np.bool_]) -> Image.Image:
    """The object on white, what is around it faint."""
    alpha = Image.fromarray(np.where(mask, 255, 38).astype(np.uint8))
    return Image.composite(photograph, Image.new("RGB", photograph.size, "white"), alpha)


def drawn(run: simsam_batch.Run) -> Image.Image:
    """All of it side by side: two large pictures, and the eigenvectors in two rows."""
    with Image.open(Path(skimage.__file__).parent / "data" / PHOTOGRAPH) as file:
        photograph = file.convert("RGB")
    width = round(photograph.width * HEIGHT / photograph.height)
    mask = np.asarray(dict(run.masks())[PHOTOGRAPH], np.bool_)
    _, vectors = run.eigenvectors(PHOTOGRAPH)
    large = [photograph, cut_out(photograph, mask)]
    pictures = [each.resize((width, HEIGHT), Image.Resampling.LANCZOS) for each in large]
    high = (HEIGHT - GAP) // 2
    wide = round(high * photograph.width / photograph.height)
    columns = VECTORS // 2
    sheet = Image.new("RGB", (2 * (width + GAP) + columns * (wide + GAP) - GAP, HEIGHT), "white")
    for i, each in enumerate(pictures):
        sheet.paste(each, (i * (width + GAP), 0))
    for i in range(VECTORS):
        row, column = divmod(i, columns)
        small = colored(np.asarray(vectors[i + 1], np.float64)).resize((wide, high), Image.Resampling.BICUBIC)
        sheet.paste(small, (2 * (width + GAP) + column * (wide + GAP), row * (high + GAP)))
    return sheet


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        photos = Path(folder) / "photos"
        photos.mkdir()
        shutil.copy(Path(skimage.__file__).parent / "data" / PHOTOGRAPH, photos)
        run = simsam_batch.segment(
            photos,
            Path(folder) / "out",
            backbone="vit_tiny_patch16_224",
            block=8,
            weights=sys.argv[1],
            eigenvectors="fp32",
            k=VECTORS + 1,
            quiet=True,
        )
        drawn(run).quantize(256).save(PICTURE, optimize=True)
