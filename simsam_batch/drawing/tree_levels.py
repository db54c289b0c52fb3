"""The levels of a region tree side by side over the photograph."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from simsam_batch.drawing.outlines import border_lines, borders
from simsam_batch.drawing.text import GAP, LINE, TEXT, Color, write
from simsam_batch.regions.pixel_index import nearest
from simsam_batch.results.trees import RegionTree

MOST_TILES = 12
_MOST_ABREAST, _NARROWEST, _HIGHEST_TILE, _LARGEST_TILE, _HIGHEST = 6, 160, 500, 165_000, 1120
_BELOW = LINE + GAP + 6
_BORDER = np.array([255, 255, 255], dtype=np.uint8)
_COLOR_SHARE = 0.62


def draw_levels(
    photo: Image.Image, owners: NDArray[np.int32], tree: RegionTree, colors: Sequence[Color], width: int
) -> Image.Image:
    """The photograph, then the image cut at depth 1, 2 and so on, each region in its colour.

    A leaf stays in all levels below its own. Borders between regions of depth 1 have a dark rim. Of very deep trees the
    levels before the last are left out.

    Args:
        photo: the image.
        owners: of its pixels, see `RegionTree.owners`.
        tree: its tree.
        colors: of the nodes.
        width: of the picture at most, in pixels.
    """
    deepest = max(node["depth"] for node in tree.nodes)
    depths = list(range(1, deepest + 1))
    if len(depths) >= MOST_TILES:
        depths = [*depths[: MOST_TILES - 2], deepest]
    tiles = len(depths) + 1
    abreast, scale = _arranged(photo, tiles, width)
    tile = max(1, int(photo.width * scale)), max(1, int(photo.height * scale))
    pitch = max(tile[0], _NARROWEST) + GAP, tile[1] + _BELOW
    strip = Image.new("RGB", (abreast * pitch[0] - GAP, -(-tiles // abreast) * pitch[1]), "white")
    draw = ImageDraw.Draw(strip)
    shown = photo.resize(tile, Image.Resampling.LANCZOS, reducing_gap=2.0)
    # the owner at the centre of every pixel of the tile
    small = nearest(owners, (tile[1], tile[0]))
    leaves = [node for node, inside in enumerate(tree.children) if not inside]
    trunk = nodes_at(tree, 1)
    for place in range(tiles):
        left, top = place % abreast * pitch[0], place // abreast * pitch[1]
        picture, caption = shown, "photograph"
        if place:
            cut = nodes_at(tree, depths[place - 1])
            picture = draw_level(shown, np.append(cut, -1)[small], np.append(trunk, -1)[small], colors)
            caption = f"depth {depths[place - 1]}: {len(np.unique(cut[leaves]))} regions"
        strip.paste(picture, (left, top))
        write(draw, (left, top + tile[1] + 5), caption, pitch[0] - GAP, TEXT)
    return strip


def _arranged(photo: Image.Image, tiles: int, width: int) -> tuple[int, float]:
    """How many tiles stand abreast, and the scale of the photograph in them: the largest that has room."""
    large = min(_HIGHEST_TILE / photo.height, sqrt(_LARGEST_TILE / (photo.width * photo.height)))
    found: list[tuple[float, int]] = []
    for abreast in range(1, min(tiles, _MOST_ABREAST) + 1):
        scale = min((width - (abreast - 1) * GAP) / abreast / photo.width, large)
        if -(-tiles // abreast) * (photo.height * scale + _BELOW) <= _HIGHEST:
            found.append((scale, abreast))
    scale, abreast = max(found)
    return abreast, scale


def nodes_at(tree: RegionTree, depth: int) -> NDArray[np.int32]:
    """The node of each node's region when the tree is cut at a depth, (M,): itself, or its ancestor there."""
    found = np.arange(len(tree.nodes), dtype=np.int32)
    # parents come before their children
    for number, node in enumerate(tree.nodes):
        if node["depth"] > depth:
            found[number] = found[node["parent"]]
    return found


def draw_level(
    photo: Image.Image, regions: NDArray[np.int32], trunk: NDArray[np.int32], colors: Sequence[Color]
) -> Image.Image:
    """One level: ``regions`` has the node of every pixel, ``trunk`` that of depth 1 above it."""
    grey = np.asarray(photo.convert("L"), dtype=np.float32)[..., None]
    flat = np.array([*colors, (255, 255, 255)], dtype=np.float32)[regions]
    # light and shade of the photograph, drawn in from black and white
    shaded = flat * _COLOR_SHARE + (0.75 * grey + 32) * (1 - _COLOR_SHARE)
    pixels = np.clip(shaded, 0, 255).round().astype(np.uint8)
    pixels[borders(regions)] = _BORDER
    picture = Image.fromarray(pixels)
    border_lines(picture, borders(trunk))
    return picture
