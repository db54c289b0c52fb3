"""A region tree as a diagram: rows by depth, a cut-out of the photograph for each node, lines to its children."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import sqrt

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from simsam_batch.drawing.cut_out import cut_out
from simsam_batch.drawing.text import MUTED, TEXT, Color, font
from simsam_batch.results.trees import RegionTree

_AREA = 8_400
"""Pixels of a thumbnail in a large tree; small trees get larger ones, by one of `_SCALES`."""

_SCALES = (2.2, 1.8, 1.5, 1.25, 1.0)
_ASPECTS = (0.5, 2.0)
_FRAME, _ASIDE, _FORK, _LETTERS, _CAPTION = 3, 10, 34, 13, 17
_LINES: Color = (150, 158, 166)


@dataclass(slots=True)
class Layout:
    """The part of a tree that has room, and where it goes.

    Attributes:
        column: of each node shown; a node with children stands in the middle over them.
        more: of each node some of whose children are left out, how many nodes below it are.
        beside: where that is said: the column after those children that are shown; below the node itself if none is.
        columns: how many there are.
    """

    column: dict[int, float] = field(default_factory=dict)
    more: dict[int, int] = field(default_factory=dict)
    beside: dict[int, int] = field(default_factory=dict)
    columns: int = 0


def laid_out(tree: RegionTree, areas: Sequence[int], most_columns: int, most_rows: int) -> Layout:
    """Choose the nodes that are shown, the largest first, and give them their columns.

    An area counts half for every level down, so that the parts of a small object come before those of parts of a large
    ground.

    Args:
        tree: of M nodes.
        areas: (M,) of their regions, in any unit.
        most_columns: at least 1; a node without children that are shown takes one, and so do the children left out
            beside some that are shown.
        most_rows: at least 1; the root's is the first.
    """
    shown = {0}
    for node in sorted(
        range(1, len(tree.nodes)), key=lambda node: (-areas[node] / 2 ** tree.nodes[node]["depth"], node)
    ):
        if tree.nodes[node]["parent"] in shown and tree.nodes[node]["depth"] < most_rows:
            with_it = shown | {node}
            if _placed(tree, with_it).columns <= most_columns:
                shown = with_it
    return _placed(tree, shown)


def _placed(tree: RegionTree, shown: set[int]) -> Layout:
    layout = Layout()

    def next_column() -> int:
        layout.columns += 1
        return layout.columns - 1

    def place(node: int) -> float:
        inside = [child for child in tree.children[node] if child in shown]
        left_out = sum(tree.end[child] - child for child in tree.children[node] if child not in shown)
        columns = [place(child) for child in inside]
        if left_out:
            layout.more[node] = left_out
            if inside:
                layout.beside[node] = next_column()
                columns.append(layout.beside[node])
        if not inside:
            columns = [next_column()]
        layout.column[node] = (columns[0] + columns[-1]) / 2
        return layout.column[node]

    place(0)
    return layout


def draw_diagram(
    photo: Image.Image,
    owners: NDArray[np.int32],
    tree: RegionTree,
    colors: Sequence[Color],
    labels: Sequence[int] | None,
    size: tuple[int, int],
) -> Image.Image:
    """Draw as much of a tree as has room.

    Below a node stand the cut that separates it from its siblings and, where there are labels, its label.

    Args:
        photo: the image.
        owners: of its pixels, see `RegionTree.owners`.
        tree: its tree.
        colors: of the nodes.
        labels: of the nodes, or None.
        size: (width, height) in pixels at most.
    """
    held = np.bincount(owners[owners >= 0], minlength=len(tree.nodes))
    before = np.concatenate([[0], np.cumsum(held)])
    areas = (before[tree.end] - before[:-1]).tolist()
    for scale in _SCALES:
        place = _Places.of(photo, scale, captions=1 if labels is None else 2)
        columns, rows = (size[0] + _ASIDE) // place.pitch[0], (size[1] + _FORK - _CAPTION) // place.pitch[1]
        layout = laid_out(tree, areas, max(1, columns), max(1, rows))
        if not layout.more:
            break
    depths = [tree.nodes[node]["depth"] + (node in layout.beside) for node in layout.column]
    # no lines go down from the last row, but it may be said that nodes are left out below
    height = (max(depths) + 1) * place.pitch[1] - _FORK + _CAPTION
    strip = Image.new("RGB", (layout.columns * place.pitch[0] - _ASIDE, height), "white")
    draw = ImageDraw.Draw(strip)
    for node, column in layout.column.items():
        left, top = place.corner(column, tree.nodes[node]["depth"])
        right, bottom = left + place.thumbnail[0] + 2 * _FRAME - 1, top + place.thumbnail[1] + 2 * _FRAME - 1
        draw.rectangle((left, top, right, bottom), colors[node])
        region = (owners >= node) & (owners < tree.end[node])
        thumbnail = cut_out(photo, region, place.thumbnail, colors[node] if node else None)
        strip.paste(thumbnail, (left + _FRAME, top + _FRAME))
        if not areas[node]:
            _centred(draw, ((left + right) // 2, (top + bottom) // 2), "no pixels", MUTED)
        lines = _captions(tree, node, labels)
        _draw_lines(draw, tree, node, layout, place, colors, bottom + 5 + len(lines) * _CAPTION)
        if node in layout.more and node not in layout.beside:
            lines.append(_left_out(layout, node))
        for line, text in enumerate(lines):
            below = bottom + 1 + _CAPTION // 2 + 2 + line * _CAPTION
            _centred(draw, (place.middle(column), below), text, MUTED if text.startswith("+") else TEXT)
    return strip


@dataclass(frozen=True, slots=True)
class _Places:
    """Where things stand, in pixels.

    Attributes:
        thumbnail: (width, height).
        pitch: from column to column and from row to row.
    """

    thumbnail: tuple[int, int]
    pitch: tuple[int, int]

    @classmethod
    def of(cls, photo: Image.Image, scale: float, *, captions: int) -> _Places:
        aspect = min(max(photo.width / photo.height, _ASPECTS[0]), _ASPECTS[1])
        width = round(sqrt(_AREA * aspect) * scale)
        height = round(width / aspect)
        row = height + 2 * _FRAME + captions * _CAPTION + 4 + _FORK
        return cls((width, height), (width + 2 * _FRAME + _ASIDE, row))

    def corner(self, column: float, depth: int) -> tuple[int, int]:
        return round(column * self.pitch[0]), depth * self.pitch[1]

    def middle(self, column: float) -> int:
        return round(column * self.pitch[0]) + self.thumbnail[0] // 2 + _FRAME


def _draw_lines(
    draw: ImageDraw.ImageDraw,
    tree: RegionTree,
    node: int,
    layout: Layout,
    place: _Places,
    colors: Sequence[Color],
    top: int,
) -> None:
    """From below a node's captions down to a bar over its children, and from there to each."""
    ends = [(layout.column[child], colors[child]) for child in tree.children[node] if child in layout.column]
    if not ends:
        return
    below = place.corner(0, tree.nodes[node]["depth"] + 1)[1]
    bar, start = below - _FORK // 2, place.middle(layout.column[node])
    if node in layout.beside:
        ends.append((layout.beside[node], _LINES))
        said = place.middle(layout.beside[node]), below + _CAPTION // 2 + 2
        _centred(draw, said, _left_out(layout, node), MUTED)
    draw.line((start, top, start, bar), _LINES, 2)
    draw.line((place.middle(ends[0][0]), bar, place.middle(ends[-1][0]), bar), _LINES, 2)
    for column, color in ends:
        draw.line((place.middle(column), bar, place.middle(column), below), color, 3)


def _captions(tree: RegionTree, node: int, labels: Sequence[int] | None) -> list[str]:
    ncut = tree.nodes[node]["ncut"]
    lines = [f"cut {ncut:.2f}"] if node and ncut is not None else []
    return [*lines, f"label {labels[node]}"] if labels is not None and labels[node] else lines


def _left_out(layout: Layout, node: int) -> str:
    return f"+ {layout.more[node]} more"


def _centred(draw: ImageDraw.ImageDraw, where: tuple[int, int], text: str, color: Color) -> None:
    """Write around a point."""
    draw.text(where, text, color, font(_LETTERS), anchor="mm")
