"""What is drawn over a photograph or beside it: object masks with boxes and truth, maps, eigenvectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from simsam_batch.drawing.outlines import outline
from simsam_batch.drawing.text import RIM, Color
from simsam_batch.regions.run_lengths import decode

# Hues of Okabe and Ito's palette, which every kind of colour vision tells apart; lines get a dark rim.
MASK: Color = (0, 140, 220)
TRUTH: Color = (245, 225, 40)
BOX: Color = (255, 255, 255)
_MAP: Color = (190, 30, 130)
_OBJECTS = (MASK, (230, 130, 0), (0, 158, 115), (204, 121, 167), (160, 60, 20), (86, 180, 233), (90, 60, 160))
# Negative to positive, from blue over near white to orange.
NEGATIVE: Color = (18, 63, 135)
POSITIVE: Color = (150, 65, 5)
_DIVERGING = np.array([NEGATIVE, [120, 170, 215], [246, 246, 244], [240, 165, 95], POSITIVE], np.float64)


Window = tuple[int, int, int, int]
"""Left, top, right and bottom of a part of an image, in its pixels; right and bottom exclusive."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What is drawn over one photograph.

    Attributes:
        row: with the columns ``mask_rle``, ``bbox_xyxy``, ``width`` and ``height``; with ``objects`` these are drawn.
        truth: ``(height, width)`` booleans, or None.
    """

    row: dict[str, Any]
    truth: NDArray[np.bool_] | None


def vector_picture(vector: NDArray[np.float32], size: tuple[int, int], covered: tuple[float, float]) -> Image.Image:
    """An eigenvector as colours, zero in the middle; what lies under no whole patch continues the nearest one."""
    width, height = max(1, round(size[0] * covered[1])), max(1, round(size[1] * covered[0]))
    scaled = Image.fromarray(vector).resize((width, height), Image.Resampling.BICUBIC)
    padded = np.pad(np.asarray(scaled), ((0, size[1] - height), (0, size[0] - width)), mode="edge")
    # A few extreme patches must not wash out the rest.
    limit = max(float(np.quantile(np.abs(vector), 0.98)), 1e-12)
    position = (np.clip(padded / limit, -1, 1) + 1) / 2
    steps = np.linspace(0, 1, len(_DIVERGING))
    colors = np.stack([np.interp(position, steps, channel) for channel in _DIVERGING.T], axis=-1)
    return Image.fromarray(colors.round().astype(np.uint8))


def overlay(picture: Image.Image, entry: Entry, window: Window | None = None) -> Image.Image:
    """The picture with the mask tinted and outlined, the rest in pale grey, the truth's outline and the box.

    Of several objects each has its colour, the surest the mask's, and lies over those that are less sure.

    Args:
        picture: the photograph, or a part of it.
        entry: what is drawn over it.
        window: the part; None for the whole.
    """
    size, several = picture.size, entry.row.get("objects")
    left, top, right, bottom = window or (0, 0, entry.row["width"], entry.row["height"])
    part = np.s_[top:bottom, left:right]
    drawn = [entry.row] if several is None else several
    colors = [MASK if several is None else _OBJECTS[place % len(_OBJECTS)] for place in range(len(drawn))]
    masks = [_shrunk(decode(each["mask_rle"])[part], size) for each in drawn]
    shown = pale(picture)
    for mask, color in reversed([*zip(masks, colors, strict=True)]):
        shown.paste(Image.blend(picture, Image.new("RGB", size, color), 0.4), mask=mask)
        outline(shown, mask, color)
    if entry.truth is not None:
        outline(shown, _shrunk(entry.truth[part], size), TRUTH, TRUTH)
    for each, color in zip(drawn, colors, strict=True):
        _box(shown, (left, top, right, bottom), each["bbox_xyxy"], BOX if several is None else color)
    return shown


def _box(shown: Image.Image, window: Window, box: Sequence[int] | None, color: Color) -> None:
    """Draw a box of the image, of which a window is shown, with a dark rim; none if there is none."""
    if box is None:
        return
    across, down = shown.width / (window[2] - window[0]), shown.height / (window[3] - window[1])
    left, top, right, bottom = box
    corners = [round((left - window[0]) * across), round((top - window[1]) * down)]
    corners += [round((right - window[0]) * across) - 1, round((bottom - window[1]) * down) - 1]
    corners[2:] = [max(corners[0], corners[2]), max(corners[1], corners[3])]
    draw = ImageDraw.Draw(shown)
    draw.rectangle(corners, outline=RIM, width=3)
    if corners[2] - corners[0] > 2 and corners[3] - corners[1] > 2:
        draw.rectangle([corners[0] + 1, corners[1] + 1, corners[2] - 1, corners[3] - 1], outline=color)


def pale(picture: Image.Image) -> Image.Image:
    """In light greys, as what was not found is shown."""
    return Image.blend(picture.convert("L").convert("RGB"), Image.new("RGB", picture.size, "white"), 0.35)


def map_over(picture: Image.Image, values: NDArray[np.float32], window: Sequence[float]) -> Image.Image:
    """The picture tinted where the highest quarter of a map lies, the more the higher; the rest in pale grey.

    Args:
        picture: the photograph.
        values: (Hp, Wp) finite.
        window: left, top, right and bottom of what the map covers, as shares of the picture's width and height.
    """
    low, high = float(np.quantile(values, 0.75)), float(values.max())
    strength = ((values - low) / max(high - low, 1e-12)).clip(0, 1).astype(np.float32)
    left, top, right, bottom = (round(share * side) for share, side in zip(window, 2 * picture.size, strict=True))
    inside = max(1, right - left), max(1, bottom - top)
    large = np.asarray(Image.fromarray(strength).resize(inside, Image.Resampling.BILINEAR))
    mask = Image.new("L", picture.size)
    mask.paste(Image.fromarray((255 * large).round().astype(np.uint8)), (left, top))
    return _tinted(picture, mask, _MAP, 0.75)


def _tinted(picture: Image.Image, mask: Image.Image, color: Color, share: float) -> Image.Image:
    """The picture with so much of a colour where the mask is white, the rest in pale grey."""
    return Image.composite(Image.blend(picture, Image.new("RGB", picture.size, color), share), pale(picture), mask)


def _shrunk(mask: NDArray[np.bool_], size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.NEAREST)
