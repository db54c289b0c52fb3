"""Runs of all the stages that a screen is about, over a few small pictures: what every screen is looked at with."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tiny_networks import write_clip, write_vgg
from viewing import write_photographs

from simsam_batch.cli import run

COUNT = 6
_SMALL = ["--backbone", "descriptors", "--resize", "native", "--engine", "inline", "--quiet"]


@dataclass(frozen=True)
class Whole:
    """Finished runs over the same pictures.

    Attributes:
        out: of ``segment``.
        maps: of ``semantic`` and ``hierarchy`` together, nodes labelled.
        other: of ``segment`` with another cut.
        pairs: of ``correspond``, with points that have truth and the maps of all of them.
        styled: of ``segment`` and ``stylize``, with two pictures of each image, by tiny networks.
        photos: folder of the pictures.
    """

    out: Path
    maps: Path
    other: Path
    pairs: Path
    styled: Path
    photos: Path


def make_whole_run(root: Path) -> Whole:
    """Compute them; some seconds."""
    names = [f"{'train' if i % 2 else 'val'}/{i}.png" for i in range(COUNT)]
    write_photographs(root, names)
    # as label maps the same truth: 0 the ground, 1 the rectangle
    for name in names:
        path = root / "ids" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((np.asarray(Image.open(root / "truth" / name)) > 0).astype(np.uint8)).save(path)
    (root / "classes.txt").write_text("ground\nbox")
    photos, out, other, maps = (str(root / name) for name in ("photos", "out", "other", "maps"))
    ids = ["--truth", str(root / "ids"), "--class-names", str(root / "classes.txt")]
    drawn = ["--truth", str(root / "truth"), "--refine", "none"]
    assert run(["segment", photos, out, *drawn, *_SMALL]) == 0
    assert run(["semantic", photos, maps, *ids, "--regions", "4", "--clusters", "3", *_SMALL]) == 0
    assert run(["hierarchy", photos, maps, *ids[:2], "--leaves", "8", "--clusters", "4", *_SMALL]) == 0
    assert run(["segment", photos, other, *drawn, "--cut", "fixed", *_SMALL]) == 0
    points = [[40.0, 40.0], [100.0, 60.0], [150.0, 100.0]]
    pairs = [
        {
            "source": names[0],
            "target": name,
            "source_points": points,
            "target_points": points,
            "point_names": ["left", "middle", "right"],
            "category": "boxes",
        }
        for name in names[1:4]
    ]
    (root / "pairs.json").write_text(json.dumps(pairs))
    matched = ["correspond", str(root / "pairs.json"), str(root / "matched"), "--root", photos, "--maps", "fp16"]
    assert run([*matched, "--context", "none", *_SMALL]) == 0
    make_styled_run(root, root / "photos" / "val")
    return Whole(root / "out", root / "maps", root / "other", root / "matched", root / "styled", root / "photos")


def make_styled_run(root: Path, photos: Path) -> Path:
    """Masks and two pictures of each image, in ``styled``: the object and the background, and the object alone."""
    out, quick = str(root / "styled"), ["--engine", "inline", "--quiet"]
    run(["segment", str(photos), out, "--backbone", "descriptors", "--resize", "native", *quick])
    (config, clip), vgg = write_clip(root), write_vgg(root)
    (root / "looks.csv").write_text("object,background\nfire,snow\na knitted toy,\n")
    weights = ["--clip", str(config), "--clip-weights", str(clip), "--vgg-weights", str(vgg)]
    words = ["--texts", str(root / "looks.csv"), "--side", "32", "--crops", "4", "--steps", "2"]
    assert run(["stylize", out, *weights, *words, *quick]) in (0, 3)
    return root / "styled"
