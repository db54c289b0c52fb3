"""Outlines of masks and borders of regions, against Pillow's own rank filters."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageChops, ImageFilter
from pycocotools import mask as coco

from simsam_batch.drawing.outlines import border_lines, borders, outline
from simsam_batch.drawing.overlays import Entry, overlay


@pytest.mark.parametrize("share", [0.0, 0.04, 0.5, 0.96, 1.0])
def test_an_outline_is_dark_outside_then_light_then_of_its_colour(share: float) -> None:
    drawn = np.random.default_rng(3)
    mask = drawn.random((37, 53)) < share
    lengths = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    held = {"size": lengths["size"], "counts": lengths["counts"].decode()}
    entry = Entry({"width": 53, "height": 37, "mask_rle": held, "bbox_xyxy": None}, None)
    shown = overlay(Image.new("RGB", (53, 37), (90, 90, 90)), entry)
    whole = Image.fromarray(mask.astype(np.uint8) * 255)
    rim = np.asarray(ImageChops.subtract(whole.filter(ImageFilter.MaxFilter(3)), whole)) > 0
    light = np.asarray(ImageChops.subtract(whole, whole.filter(ImageFilter.MinFilter(3)))) > 0
    line = (np.asarray(ImageChops.subtract(whole, whole.filter(ImageFilter.MinFilter(7)))) > 0) & ~light
    colors = np.asarray(shown)
    # each of the five kinds of places has one colour, and no other kind has it
    kinds = [rim, light, line, mask & ~line & ~light, ~mask & ~rim]
    found = [np.unique(colors[kind], axis=0) for kind in kinds if kind.any()]
    assert all(len(each) == 1 for each in found)
    assert len({tuple(each[0]) for each in found}) == len(found)


@pytest.mark.parametrize("ground", [(0, 0, 0), (255, 255, 255), (128, 128, 128), (0, 140, 220)])
@pytest.mark.parametrize("side", [64, 3000])
def test_an_outline_has_a_line_that_shows_on_any_ground(ground: tuple[int, int, int], side: int) -> None:
    picture = Image.new("RGB", (side, 48), ground)
    mask = Image.new("L", picture.size)
    mask.paste(255, (16, 16, 48, 32))
    outline(picture, mask, (0, 140, 220))
    # up the middle of the upper edge
    brightness = np.asarray(picture.convert("L"), np.int32)[:, 32]
    assert np.abs(brightness - int(Image.new("RGB", (1, 1), ground).convert("L").getpixel((0, 0)))).max() >= 90


def test_borders_of_regions_show_on_black_and_on_white() -> None:
    regions = np.zeros((20, 40), np.int32)
    regions[:, 20:] = 1
    for ground in (0, 255):
        picture = Image.new("RGB", (40, 20), (ground,) * 3)
        border_lines(picture, borders(regions))
        row = np.asarray(picture.convert("L"), np.int32)[10]
        assert np.abs(np.diff(row)).max() > 200
        assert (row[:17] == ground).all()
        assert (row[23:] == ground).all()
