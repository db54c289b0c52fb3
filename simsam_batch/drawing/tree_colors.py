"""Colours for the nodes of a tree: a child's is near its parent's, and those of different branches are far apart.

Hues are shared out as in Tree Colors (Tennekes and de Jonge, IEEE TVCG 2014): a node has an interval of hues, of which
its children get equal shares, each less a gap to the next. Here siblings below depth 1 differ in lightness too, since
deep down their hues hardly do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from simsam_batch.drawing.text import Color

_KEPT = 0.66
_CHROMA, _LIGHTNESS = 0.135, 0.70
_LIGHTER, _LIGHTNESS_RANGE = 0.08, (0.52, 0.86)


def tree_colors(children: Sequence[Sequence[int]]) -> list[Color]:
    """The colour of every node; the root's is grey.

    Args:
        children: of each node, in pre-order, node 0 being the root.
    """
    colors: list[Color] = [(128, 128, 128)] * len(children)
    # the middle of the first child's hues is then an orange, of two children the second's a blue
    stack = [(0, -30.0, 330.0, _LIGHTNESS, 0.0)]
    while stack:
        node, start, stop, lightness, step = stack.pop()
        if node:
            colors[node] = _rgb(lightness, _CHROMA, (start + stop) / 2)
        share = (stop - start) / max(1, len(children[node]))
        for place, child in enumerate(children[node]):
            low = start + place * share + share * (1 - _KEPT) / 2
            lighter = lightness + (step if place % 2 else -step)
            bounded = min(max(lighter, _LIGHTNESS_RANGE[0]), _LIGHTNESS_RANGE[1])
            stack.append((child, low, low + share * _KEPT, bounded, step * 0.9 if step else _LIGHTER))
    return colors


def _rgb(lightness: float, chroma: float, hue: float) -> Color:
    """OKLCH to sRGB (Ottosson, A perceptual color space for image processing, 2020), cut to what can be shown."""
    a, b = chroma * math.cos(math.radians(hue)), chroma * math.sin(math.radians(hue))
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    middle = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    return (
        _gamma(4.0767416621 * long - 3.3077115913 * middle + 0.2309699292 * short),
        _gamma(-1.2684380046 * long + 2.6097574011 * middle - 0.3413193965 * short),
        _gamma(-0.0041960863 * long - 0.7034186147 * middle + 1.7076147010 * short),
    )


def _gamma(linear: float) -> int:
    bounded = min(max(linear, 0.0), 1.0)
    return round(255 * (12.92 * bounded if bounded <= 0.0031308 else 1.055 * bounded ** (1 / 2.4) - 0.055))
