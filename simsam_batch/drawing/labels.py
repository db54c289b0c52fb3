"""Labels in their colours over a photograph."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from simsam_batch.drawing.outlines import border_lines, borders
from simsam_batch.drawing.text import Color
from simsam_batch.drawing.tree_colors import tree_colors
from simsam_batch.regions.pixel_index import nearest

UNNAMED: Color = (120, 120, 120)
"""Of a label that has no colour of its own."""

_TINT = 0.55
_GROUND: Color = (255, 255, 255)


def palette(count: int) -> list[Color]:
    """So many colours that can be told apart as far as there are that many: hues in threes of differing lightness."""
    groups = max(1, -(-count // 3))
    children: list[list[int]] = [[] for _ in range(1 + 4 * groups)]
    for group in range(groups):
        top = 1 + 4 * group
        children[0].append(top)
        children[top] = [top + 1, top + 2, top + 3]
    found = tree_colors(children)
    # numbers next to each other get hues far apart
    return [found[2 + 4 * (place % groups) + place // groups] for place in range(count)]


def painted(photo: Image.Image, labels: NDArray[np.int32], colors: Mapping[int, Color] | None) -> Image.Image:
    """Labels in their colours over a photograph, with light borders; without colours the borders alone."""
    near = nearest(labels, (photo.size[1], photo.size[0]))
    shown = photo.copy()
    if colors is not None:
        table = np.array([colors.get(label, _GROUND) for label in range(int(near.max()) + 1)], np.uint8)
        flat = Image.fromarray(table[near])
        grey = photo.convert("L").convert("RGB")
        shown = Image.composite(Image.blend(grey, flat, _TINT), photo, Image.fromarray(near > 0))
    border_lines(shown, borders(near))
    return shown


def fitted(size: tuple[int, int], side: int) -> tuple[int, int]:
    """(width, height) with the proportions of a size: so wide, or so high if it is higher than wide."""
    scale = side / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
