"""Two photographs side by side, with lines from the points of the one to where they were found in the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from simsam_batch.drawing.text import EMPTY, RIM, Color

# Okabe and Ito's palette again: blue and vermilion are told apart by every kind of colour vision.
RIGHT: Color = (0, 140, 220)
WRONG: Color = (235, 105, 20)
UNKNOWN: Color = (250, 250, 250)
TRUE: Color = (245, 225, 40)
COLORS_SAY = (
    "blue is right, orange is wrong, with a thin line on to the yellow cross where the point should be; white is not "
    "scored"
)
"""What the colours of matches mean, for legends."""

_GAP = 6
_FEW = 16
_SMOOTH, _SMOOTH_TO = 2, 1600


def side_by_side(
    source: Image.Image,
    target: Image.Image,
    sizes: tuple[Sequence[int], Sequence[int]],
    points: Sequence[Mapping[str, Any]],
    height: int,
) -> Image.Image:
    """Both photographs at one height, with the matches.

    Blue is right, orange is wrong, with a thin line on to the yellow cross where the point should be; white is not
    scored. A point that was not found is a ring without a line.

    Args:
        source: the photograph that the points are of.
        target: the other one.
        sizes: (width, height) of the images that the places are pixels of.
        points: as `simsam_batch.stages.matches.rows.POINT` has them.
        height: of the picture.
    """
    # lines are smooth when they are drawn large and made smaller
    # those of a large picture are smooth enough, and it would take four times the memory
    smooth = _SMOOTH if height <= _SMOOTH_TO else 1
    shown, height = height, smooth * height
    photos = [_at_height(photo, height) for photo in (source, target)]
    left = photos[0].width + smooth * _GAP
    sheet = Image.new("RGB", (left + photos[1].width, height), EMPTY)
    sheet.paste(photos[0])
    sheet.paste(photos[1], (left, 0))
    draw = ImageDraw.Draw(sheet)
    thick = max(3, round(height / 200)) if len(points) <= _FEW else 2

    def place(point: Mapping[str, Any], name: str, which: int) -> tuple[float, float] | None:
        if point[f"{name}x"] is None:
            return None
        width, high = sizes[which]
        x, y = ((point[f"{name}{axis}"] + 0.5) / side for axis, side in (("x", width), ("y", high)))
        return x * photos[which].width + which * left, y * height

    for point in points:
        color = UNKNOWN if point["right"] is None else RIGHT if point["right"] else WRONG
        begin, end, true = place(point, "source_", 0), place(point, "", 1), place(point, "true_", 1)
        if begin is None:
            continue
        if end is None:
            _ring(draw, begin, 2.5 * thick, color, thick)
            continue
        if true is not None and not point["right"]:
            draw.line([end, true], TRUE, thick)
            _cross(draw, true, 2.5 * thick, thick)
        draw.line([begin, end], RIM, thick + 2)
        draw.line([begin, end], color, thick)
        for at in (begin, end):
            _dot(draw, at, 2.2 * thick, color)
    return sheet if smooth == 1 else sheet.resize((round(sheet.width / smooth), shown), Image.Resampling.BOX)


def dense_picture(source: Image.Image, target: Image.Image, places: NDArray[np.float32], height: int) -> Image.Image:
    """The target brought onto the source by the matches of all patches, and beside it in colours where each went.

    Hue is the direction from a patch to its match, both as shares of their images; the stronger the colour the farther.

    Args:
        source: the photograph that the patches are of.
        target: the other one.
        places: (Hp, Wp, 2) x and y of the match of each patch, as shares of the target's width and height.
        height: of the picture.
    """
    width = max(1, round(source.width * height / source.height))
    rows, columns = places.shape[:2]
    large = np.stack(
        [
            np.asarray(Image.fromarray(places[:, :, axis]).resize((width, height), Image.Resampling.BILINEAR))
            for axis in (0, 1)
        ],
        axis=-1,
    )
    pixels = np.asarray(target)
    x, y = (
        (large[:, :, axis] * side).astype(int).clip(0, side - 1)
        for axis, side in ((0, target.width), (1, target.height))
    )
    warped = Image.fromarray(np.ascontiguousarray(pixels[y, x]))
    down, along = np.mgrid[:rows, :columns]
    away = places - np.stack([(along + 0.5) / columns, (down + 0.5) / rows], axis=-1)
    length = np.linalg.norm(away, axis=-1)
    hue = (np.arctan2(away[:, :, 1], away[:, :, 0]) / (2 * np.pi)) % 1
    strength = (length / max(float(np.quantile(length, 0.95)), 1e-6)).clip(0, 1)
    hsv = np.stack([hue, strength, np.full_like(hue, 0.95)], axis=-1)
    colors = Image.fromarray((255 * hsv).round().astype(np.uint8), "HSV").convert("RGB")
    sheet = Image.new("RGB", (2 * width + _GAP, height), EMPTY)
    sheet.paste(warped)
    sheet.paste(colors.resize((width, height), Image.Resampling.NEAREST), (width + _GAP, 0))
    return sheet


def _at_height(photo: Image.Image, height: int) -> Image.Image:
    return photo.resize((max(1, round(photo.width * height / photo.height)), height), Image.Resampling.LANCZOS)


def _dot(draw: ImageDraw.ImageDraw, at: tuple[float, float], radius: float, color: Color) -> None:
    x, y = at
    draw.ellipse([x - radius - 1, y - radius - 1, x + radius + 1, y + radius + 1], RIM)
    draw.ellipse([x - radius, y - radius, x + radius, y + radius], color)


def _ring(draw: ImageDraw.ImageDraw, at: tuple[float, float], radius: float, color: Color, thick: int) -> None:
    x, y = at
    draw.ellipse([x - radius, y - radius, x + radius, y + radius], outline=RIM, width=thick + 2)
    draw.ellipse([x - radius, y - radius, x + radius, y + radius], outline=color, width=thick)


def _cross(draw: ImageDraw.ImageDraw, at: tuple[float, float], arm: float, thick: int) -> None:
    x, y = at
    for color, wide in ((RIM, thick + 2), (TRUE, thick)):
        draw.line([x - arm, y - arm, x + arm, y + arm], color, wide)
        draw.line([x - arm, y + arm, x + arm, y - arm], color, wide)
