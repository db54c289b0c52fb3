"""Outlines of masks, against Pillow's own rank filters."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageChops, ImageFilter
from pycocotools import mask as coco

from simsam_batch.drawing.overlays import Entry, overlay


@pytest.mark.parametrize("share", [0.0, 0.04, 0.5, 0.96, 1.0])
def test_an_outline_is_two_pixels_inside_and_one_outside(share: float) -> None:
    drawn = np.random.default_rng(3)
    mask = drawn.random((37, 53)) < share
    lengths = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    held = {"size": lengths["size"], "counts": lengths["counts"].decode()}
    entry = Entry({"width": 53, "height": 37, "mask_rle": held, "bbox_xyxy": None}, None)
    shown = overlay(Image.new("RGB", (53, 37), (90, 90, 90)), entry)
    whole = Image.fromarray(mask.astype(np.uint8) * 255)
    rim = np.asarray(ImageChops.subtract(whole.filter(ImageFilter.MaxFilter(3)), whole)) > 0
    line = np.asarray(ImageChops.subtract(whole, whole.filter(ImageFilter.MinFilter(5)))) > 0
    colors = np.asarray(shown)
    # each of the four kinds of places has one colour, and no other kind has it
    kinds = [rim, line, mask & ~line, ~mask & ~rim]
    found = [np.unique(colors[kind], axis=0) for kind in kinds if kind.any()]
    assert all(len(each) == 1 for each in found)
    assert len({tuple(each[0]) for each in found}) == len(found)
