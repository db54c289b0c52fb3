"""A run whose rows hold objects that the test knows: which are found is another test's matter."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco

from simsam_batch.cli import run
from simsam_batch.stages.segment.stage import SegmentWorker
from simsam_batch.workers.records import Row

HEIGHT, WIDTH = 96, 128
SETTINGS = ["--backbone", "descriptors", "--resize", "native", "--head", "none", "--k", "3"]
SETTINGS += ["--engine", "inline", "--quiet", "--objects", "3"]

Found = list[tuple[NDArray[np.bool_], float]]


def rectangle(left: int, top: int, right: int, bottom: int) -> NDArray[np.bool_]:
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.bool_)
    mask[top:bottom, left:right] = True
    return mask


def objects_by_hand() -> list[Found]:
    """Of four images: two objects, one with a hole and in two parts, the same again in other order, and none."""
    red, blue = rectangle(16, 16, 64, 48), rectangle(80, 48, 112, 90)
    odd = rectangle(8, 8, 56, 80)
    odd[24:40, 20:40] = False
    odd[4:14, 66:78] = True
    return [[(red, 0.875), (blue, 0.5)], [(odd, 0.75)], [(blue, 0.875), (odd, 0.25), (red, 0.125)], []]


def column_of(found: Found) -> list[dict[str, Any]]:
    """As rows of the stage ``segment`` hold them."""
    objects = []
    for mask, score in found:
        runs = coco.encode(np.asfortranarray(mask).view(np.uint8))
        left, top, width, height = map(int, coco.toBbox(runs))
        objects.append(
            {
                "mask_rle": {"size": runs["size"], "counts": runs["counts"].decode()},
                "bbox_xyxy": [left, top, left + width, top + height],
                "area_fraction": float(mask.mean()),
                "score": score,
            }
        )
    return objects


def photographs(folder: Path) -> list[str]:
    """Four pictures whose upper left pixel tells which they are; their names."""
    folder.mkdir(parents=True)
    names = []
    for number, found in enumerate(objects_by_hand()):
        pixels = np.random.default_rng(number).integers(90, 140, (HEIGHT, WIDTH, 3)).astype(np.uint8)
        for mask, score in found:
            pixels[mask] = (round(200 * score), 60, 200)
        pixels[0, 0] = number
        names.append(f"images/{number}.png" if number == 1 else f"{number}.png")
        (folder / names[-1]).parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(folder / names[-1])
    return names


def run_with_known_objects(pictures: Path, out: Path, *more: str) -> None:
    """``simsam segment`` whose rows hold `objects_by_hand`."""
    rows = SegmentWorker._row
    numbers = {sha256(file.read_bytes()).hexdigest(): int(file.stem) for file in pictures.rglob("*.png")}

    def with_objects(self: SegmentWorker, loaded: Any, *arguments: Any, **named: Any) -> Row:
        row = rows(self, loaded, *arguments, **named)
        number = numbers[loaded.image.content_sha256]
        return Row(row.columns | {"objects": column_of(objects_by_hand()[number])}, row.attachments, row.state)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SegmentWorker, "_row", with_objects)
        assert run(["segment", str(pictures), str(out), *SETTINGS, *more]) == 0
