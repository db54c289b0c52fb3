"""Several objects an image: `simsam segment` beside MaskCut's published procedure, on the same features.

`scores_of` compares what any other method found.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, reduce
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco

import simsam_batch
from benchmarks import maskcut, material
from benchmarks.measure import Row, Setup, threads
from simsam_batch import images, operations
from simsam_batch.features.backbones import load_backbone
from simsam_batch.features.contract import Backbone
from simsam_batch.features.descriptors import Descriptors
from simsam_batch.features.outliers import spike_mask
from simsam_batch.regions.boxes import tight_box
from simsam_batch.regions.pixel_index import upsample_index
from simsam_batch.regions.run_lengths import run_lengths
from simsam_batch.results.detection_scoring import ObjectDetectionScores, of_numbers
from simsam_batch.results.objects import FoundObject
from simsam_batch.spectral.affinity import normalize_rows
from simsam_batch.stages.segment.settings import SegmentSettings
from simsam_batch.telling.console import reporter

GROUP = "objects"
RESIZE = "short:384"
ORDERS = 20
_WEIGHTS = "vit_tiny_patch16_224.supervised.safetensors"
_SHOWN = ("mask_ap50", "mask_ap", "mask_ar_100", "box_ap50", "corloc")

Mask = NDArray[np.bool_]
Found = tuple[Sequence[Mask], Sequence[float]]
"""Masks (H, W) of the objects that were found in one image, and their scores."""


@dataclass(frozen=True, slots=True)
class Picture:
    """One photograph and its one true object.

    Attributes:
        name: of the file.
        file: where it is.
        truth: (H, W).
        group: pictures of one group are alike, such as frames of a video.
        chosen_on: settings may be chosen on it; figures that are quoted are of the others.
    """

    name: str
    file: Path
    truth: Mask
    group: str
    chosen_on: bool


def rows(setup: Setup) -> Iterator[Row]:
    """AP50 of both on every set, with all other figures in the details."""
    sets, backbone, settings, described_by = _material(setup)
    with threads(1):
        for name, pictures in sets.items():
            ours = found_by_segment(pictures, settings)
            theirs = [found_by_maskcut(picture, backbone, settings.resize) for picture in pictures]
            figures = {
                part: {
                    "images": len(held),
                    "ours": scores_of(held, _of(pictures, held, ours)),
                    "peer": scores_of(held, _of(pictures, held, theirs)),
                }
                for part, held in (("all", pictures), ("confirm", [each for each in pictures if not each.chosen_on]))
            }
            of_all = figures["all"]
            yield Row(
                GROUP,
                f"AP50 of masks without refinement, {name}",
                "simsam segment: " + _said(of_all["ours"]),
                f"MaskCut, tau {maskcut.TAU}, {maskcut.ROUNDS} rounds: " + _said(of_all["peer"]),
                [of_all["ours"]["mask_ap50"] / max(of_all["peer"]["mask_ap50"], 1e-3)],
                threads="1 each",
                target=1.0,
                note=f"{len(pictures)} images, one true object each; {described_by}. AP and AR by COCO's definition; "
                "the peer's masks all have the score 1",
                details=figures,
            )


def scores_of(pictures: Sequence[Picture], found: Sequence[Found]) -> dict[str, Any]:
    """COCO's figures, and CorLoc, of what any method found in these pictures.

    Of equal scores those of earlier images come first, and a method may give all the same: figures are means over
    `ORDERS` orders of the images, which change nothing where no two scores are equal.
    """
    return mean_over_orders(states_of(pictures, found))


def mean_over_orders(states: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Figures of states of images, see `scores_of`."""
    rng = np.random.default_rng(0)
    each = [_result([states[i] for i in rng.permutation(len(states))]) for _ in range(ORDERS)]
    return {
        name: float(np.mean([one[name] for one in each])) if isinstance(value, float) else value
        for name, value in each[0].items()
    }


def states_of(pictures: Sequence[Picture], found: Sequence[Found]) -> list[dict[str, Any]]:
    """The same before it is merged, an item for each picture."""
    fold, states = ObjectDetectionScores(), []
    for picture, (masks, scores) in zip(pictures, found, strict=True):
        nothing = np.zeros(picture.truth.shape, dtype=np.bool_)
        truth = of_numbers(picture.truth.astype(np.uint8), nothing)
        objects = [_object(*each) for each in zip(masks, scores, strict=True) if each[0].any()]
        states.append(fold.of_image(objects, truth))
    return states


def interval_of_difference(
    pictures: Sequence[Picture],
    ours: Sequence[dict[str, Any]],
    theirs: Sequence[dict[str, Any]],
    metric: str,
    draws: int = 1000,
) -> tuple[float, float]:
    """A 95 % interval of how much higher a metric is with our states, groups of pictures being drawn again."""
    groups = sorted({picture.group for picture in pictures})
    members = {group: [i for i, picture in enumerate(pictures) if picture.group == group] for group in groups}
    rng = np.random.default_rng(0)
    differences = []
    for _ in range(draws):
        drawn = [i for place in rng.integers(0, len(groups), len(groups)) for i in members[groups[place]]]
        drawn = rng.permutation(drawn).tolist()
        first, second = (_result([states[i] for i in drawn])[metric] for states in (ours, theirs))
        differences.append(first - second)
    low, high = np.percentile(differences, [2.5, 97.5])
    return float(low), float(high)


def found_by_segment(pictures: Sequence[Picture], settings: SegmentSettings) -> list[Found]:
    """What `simsam segment` finds."""
    with tempfile.TemporaryDirectory() as folder, reporter("text", quiet=True) as report:
        photographs = Path(folder) / "photographs"
        photographs.mkdir()
        for number, picture in enumerate(pictures):
            shutil.copy(picture.file, photographs / f"{number:06d}{picture.file.suffix}")
        operations.run("segment", str(photographs), f"{folder}/out", settings, report)
        run = simsam_batch.open_run(f"{folder}/out")
        return [([each.mask for each in found], [each.score or 0.0 for each in found]) for _, found in run.objects()]


@torch.inference_mode()
def found_by_maskcut(picture: Picture, backbone: Backbone, resize: str, tau: float = maskcut.TAU) -> Found:
    """What MaskCut's procedure finds on the keys of our network at our size, without outlier tokens as ours."""
    limits, size = images.ImageLimits(), picture.truth.shape
    parsed = images.parse_resize(resize)
    prepared = images.prepare(picture.file.read_bytes(), limits=limits, resize=parsed, patch=material.PATCH)
    described = backbone(material.normalized(torch.from_numpy(prepared.rgb)[None], backbone))
    features = normalize_rows(described.descriptors)[0].numpy()
    index = upsample_index(prepared.grid, material.PATCH, prepared.working_size, (size[0], size[1]))
    valid = ~spike_mask(described.norms, SegmentSettings().outlier_ratio)[0].numpy()
    masks = maskcut.masks(features, prepared.grid, valid, tau=tau)
    return [mask[np.ix_(*index)] for mask in masks], [1.0] * len(masks)


def _result(states: Iterable[dict[str, Any]]) -> dict[str, Any]:
    fold = ObjectDetectionScores()
    return fold.result(reduce(fold.merge, states, fold.zero()))


def _object(mask: Mask, score: float) -> FoundObject:
    size = mask.shape[0], mask.shape[1]
    index = upsample_index(size, 1, size, size)
    box = tight_box(mask, index)
    assert box is not None
    return FoundObject(run_lengths(mask, index), box, float(score))


def _of(pictures: Sequence[Picture], part: Sequence[Picture], found: Sequence[Found]) -> list[Found]:
    names = {picture.name for picture in part}
    return [each for picture, each in zip(pictures, found, strict=True) if picture.name in names]


def _said(figures: Mapping[str, Any]) -> str:
    return ", ".join(f"{name.removeprefix('mask_')} {figures[name]:.3f}" for name in _SHOWN)


def _material(setup: Setup) -> tuple[dict[str, list[Picture]], Backbone, SegmentSettings, str]:
    """The sets of pictures, the network that describes them, the settings that use it, and what it is, in words."""
    data = Path(os.environ.get("SIMSAM_TEST_DATA") or ".")
    weights = Path(os.environ.get("SIMSAM_TEST_WEIGHTS") or ".") / _WEIGHTS
    common: dict[str, Any] = {"engine": "inline", "device": setup.device.type, "objects": 3, "eigenvectors": "none"}
    common["refine"] = "none"
    if setup.smoke or not ((data / "car_parts").is_dir() and weights.is_file()):
        settings = SegmentSettings(backbone="descriptors", resize="native", head="none", **common)
        return {"made-up pictures": made_up()}, Descriptors(material.PATCH), settings, "colours and gradients"
    network = {"backbone": "vit_tiny_patch16_224", "weights": str(weights), "block": 8}
    settings = SegmentSettings(resize=RESIZE, **network, **common)
    backbone = load_backbone("vit_tiny_patch16_224", weights=weights, block=8)
    readers: dict[str, Callable[[Path], list[Picture]]] = {
        "weizmann_horses": lambda folder: _masked(folder, "masks"),
        "davis_videos": lambda folder: _masked(folder, "masks", by_video=True),
        "ccp": lambda folder: _masked(folder, "labels"),
        "car_parts": _cars,
    }
    sets = {name: read(data / name) for name, read in readers.items() if (data / name).is_dir()}
    return sets, backbone, settings, "ViT-Ti/16 trained with labels, keys of block 8"


def single_objects(setup: Setup) -> tuple[dict[str, list[Picture]], SegmentSettings, str]:
    """The sets but for cars, settings for one mask an image, unrefined, and what describes the patches, in words."""
    sets, _, settings, described_by = _material(setup)
    return (
        {name: pictures for name, pictures in sets.items() if name != "car_parts"},
        settings.model_copy(update={"objects": 0}),
        described_by,
    )


def _masked(folder: Path, truth: str, *, by_video: bool = False) -> list[Picture]:
    """Photographs whose object is all that is not 0 in a picture of the same name."""
    found = []
    for file in sorted((folder / "images").iterdir()):
        with Image.open(folder / truth / f"{file.stem}.png") as picture:
            mask = np.asarray(picture) > 0
        group = file.stem.rpartition("-")[0] if by_video else file.stem
        found.append(Picture(file.stem, file, mask, group, chosen_on=False))
    return _halved(found)


def _cars(folder: Path) -> list[Picture]:
    """Photographs of cars; all parts of the car that have an outline are one object."""
    held = json.loads((folder / "annotations.json").read_text(encoding="utf-8"))
    outlines: dict[int, list[list[float]]] = {}
    for each in held["annotations"]:
        polygons = each["segmentation"]
        polygons = json.loads(polygons) if isinstance(polygons, str) else polygons
        outlines.setdefault(int(each["image_id"]), []).extend(polygons)
    pictures = []
    for image in sorted(held["images"], key=lambda image: str(image["file_name"])):
        file, size = folder / "images" / image["file_name"], (int(image["height"]), int(image["width"]))
        if file.is_file() and int(image["id"]) in outlines:
            parts = coco.merge(coco.frPyObjects(outlines[int(image["id"])], *size))
            mask = coco.decode(parts).astype(np.bool_)
            pictures.append(Picture(file.stem, file, mask, file.stem, chosen_on=False))
    return _halved(pictures)


def _halved(pictures: Sequence[Picture]) -> list[Picture]:
    """Every second group, the first of them included, may be what settings are chosen on."""
    place = {group: i for i, group in enumerate(sorted({picture.group for picture in pictures}))}
    return [
        Picture(each.name, each.file, each.truth, each.group, chosen_on=place[each.group] % 2 == 0) for each in pictures
    ]


def made_up(count: int = 4) -> list[Picture]:
    """Pictures of a red rectangle on grey, in a temporary folder that goes with the process."""
    folder = Path(_folder().name)
    found = []
    for number in range(count):
        mask = np.zeros((192, 256), dtype=np.bool_)
        mask[48:128, 32 * (number + 1) : 32 * (number + 3)] = True
        pixels = np.random.default_rng(number).integers(90, 140, (192, 256, 3)).astype(np.uint8)
        pixels[mask] = (200, 40, 40)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        found.append(Picture(f"{number}", folder / f"{number}.png", mask, f"{number}", chosen_on=False))
    return _halved(found)


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory()
