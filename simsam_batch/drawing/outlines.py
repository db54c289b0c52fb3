"""Lines around what was found that show on dark and on bright ground alike: light, with a dark rim."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageFilter

from simsam_batch.drawing.text import RIM, Color

LIGHT: Color = (255, 255, 255)

_THIN = 960
"""Longer side in pixels of the largest picture with the thinnest lines."""


def outline(picture: Image.Image, mask: Image.Image, color: Color, light: Color = LIGHT) -> None:
    """Draw a line along a mask's edge: from outside a dark rim, a light line, and within it one of a colour.

    Rim and light line are a pixel wide each, the coloured one two, and all wider on large pictures.

    Args:
        picture: drawn on.
        mask: of its size, in mode ``L``, 255 inside and 0 elsewhere.
        color: of the inner line.
        light: of the middle one.
    """
    unit = _unit(picture)
    picture.paste(RIM, mask=ImageChops.subtract(_around(mask, unit, some=True), mask))
    inside = _around(mask, unit, some=False)
    picture.paste(light, mask=ImageChops.subtract(mask, inside))
    picture.paste(color, mask=ImageChops.subtract(inside, _around(mask, 3 * unit, some=False)))


def border_lines(picture: Image.Image, edge: NDArray[np.bool_]) -> None:
    """Draw light lines with dark rims where two regions meet.

    Args:
        picture: drawn on.
        edge: (height, width) of its pixels, from `borders`.
    """
    line = Image.fromarray(edge.view(np.uint8) * np.uint8(255))
    unit = _unit(picture)
    if unit > 1:
        line = _around(line, unit // 2, some=True)
    picture.paste(RIM, mask=ImageChops.subtract(_around(line, unit, some=True), line))
    picture.paste(LIGHT, mask=line)


def borders(regions: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Pixels whose right or lower neighbour is of another region."""
    edge = np.zeros(regions.shape, dtype=np.bool_)
    edge[:, :-1] |= regions[:, :-1] != regions[:, 1:]
    edge[:-1] |= regions[:-1] != regions[1:]
    return edge


def _unit(picture: Image.Image) -> int:
    return max(1, round(max(picture.size) / _THIN))


def _around(mask: Image.Image, radius: int, *, some: bool) -> Image.Image:
    """White where some, or all, of the square around a pixel is white; faster than rank filters."""
    share = mask.filter(ImageFilter.BoxBlur(radius))
    return share.point([255 * (each > 0 if some else each == 255) for each in range(256)])
