"""The pictures of one image on the page: a small one for its card, and a larger one behind it."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from simsam_batch import images
from simsam_batch.drawing.cut_out import cut_out
from simsam_batch.drawing.labels import fitted, painted
from simsam_batch.drawing.overlays import Entry, overlay, vector_picture
from simsam_batch.drawing.photograph import shown_photograph
from simsam_batch.drawing.text import EMPTY, LINE, MUTED, Color, write
from simsam_batch.drawing.tree_colors import tree_colors
from simsam_batch.drawing.tree_levels import draw_level, nodes_at
from simsam_batch.drawing.tree_page import page
from simsam_batch.regions.pixel_index import nearest, upsample_index
from simsam_batch.regions.run_lengths import decode
from simsam_batch.results.eigenvectors import grid_eigenvectors
from simsam_batch.results.photographs import limits_of, working_size
from simsam_batch.results.trees import RegionTree
from simsam_batch.runs.reading import StageRows

SMALL, LARGE = 320, 640
"""Pixels: a card's width, and the longer side of each panel behind it."""

CUT_OUT = 144, 108
"""Width and height of a region cut out, in pixels."""

_VECTORS, _ABREAST, _GAP = 6, 3, 6
_LEVELS = 4
"""Depths at which a tree is shown, beside the photograph and its leaves."""

_GROUND: Color = (255, 255, 255)


@dataclass(frozen=True, slots=True)
class Drawn:
    """What was drawn of one image.

    Attributes:
        small, large: JPEG files.
        size: (width, height) of the small one.
        fault: why there is no photograph in it; None where there is.
        regions: by label a region cut out, as a JPEG file.
        alone: what was found over the photograph, larger and with nothing beside it; None where the small one is that.
    """

    small: bytes
    large: bytes
    size: tuple[int, int]
    fault: str | None
    regions: dict[int, bytes]
    alone: Image.Image | None = None


def draw_masks(row: dict[str, Any], rows: StageRows, truth_uri: str | None) -> Drawn:
    """The object mask over the photograph, with the first eigenvectors below.

    Args:
        row: of the stage ``segment``, of an image that is ``ok``.
        rows: what it is from.
        truth_uri: of its mask, or None.

    Raises:
        RunError: its arrays cannot be read.
        StorageError: the storage did not answer.
    """
    photo, fault = shown_photograph(row, rows.settings)
    truth = None
    if truth_uri is not None and row["truth_error"] is None:
        with suppress(images.TruthError):
            truth = images.load_truth(truth_uri, limits_of(rows.settings, row), (row["height"], row["width"]))
    working = working_size(row, rows.settings)
    across, down = (min(1.0, row[f"grid_{s}"] * row["patch"] / working[i]) for i, s in ((1, "w"), (0, "h")))
    vectors = grid_eigenvectors(row, rows)
    entry = Entry(row, truth)

    def maps(width: int, most: int) -> list[Image.Image]:
        if vectors is None:
            return []
        size = fitted(photo.size, width)
        return [vector_picture(vector, size, (down, across)) for vector in vectors[1 : most + 1]]

    third = (SMALL - 2 * _GAP) // 3
    card = overlay(_shrunk(photo, SMALL, fault), entry)
    small = stacked([[card], maps(third, 3)])
    shown = _shrunk(photo, LARGE, fault)
    wide = (2 * shown.width + _GAP - 2 * _GAP) // 3
    behind = maps(wide, _VECTORS)
    alone = overlay(shown, entry)
    large = stacked([[shown, alone], behind[:_ABREAST], behind[_ABREAST:]])
    return Drawn(jpeg(small), jpeg(large), small.size, fault, {}, alone)


def draw_labels(
    row: dict[str, Any], settings: Mapping[str, Any], colors: Mapping[int, Color], truth: Image.Image | None
) -> Drawn:
    """The label map over the photograph; behind it the photograph, the regions, the labels and the truth.

    Args:
        row: of the stages ``semantic`` and ``regions`` together, of an image that is ``ok``.
        settings: of ``regions``.
        colors: of the labels.
        truth: the classes in their colours, of any size; None without.
    """
    photo, fault = shown_photograph(row, dict(settings))
    labels = np.zeros((row["height"], row["width"]), np.int32)
    for segment in row["segments"]:
        labels[decode(segment["mask_rle"])] = segment["label"]
    own = nearest(labels, (photo.size[1], photo.size[0]))
    there = [label for label in np.unique(own).tolist() if label]
    cut_outs = {label: jpeg(cut_out(photo, own == label, CUT_OUT, colors[label])) for label in there}
    card = painted(_shrunk(photo, SMALL, fault), labels, colors)
    shown = _shrunk(photo, LARGE, fault)
    panels = [shown, painted(shown, _region_map(row, settings), None), painted(shown, labels, colors)]
    if truth is not None:
        panels.append(truth.resize(shown.size, Image.Resampling.NEAREST))
    large = stacked([panels[:2], panels[2:]])
    return Drawn(jpeg(card), jpeg(large), card.size, fault, cut_outs, panels[2])


def draw_tree(row: dict[str, Any], settings: dict[str, Any], labelled: Sequence[int]) -> Drawn:
    """The first levels of a region tree; behind it all of them, and the tree itself.

    Args:
        row: as `simsam_batch.results.label_maps.map_rows` gives it, of an image that is ``ok``.
        settings: of its stage.
        labelled: labels of which the largest region is cut out.
    """
    photo, fault = shown_photograph(row, settings)
    tree = RegionTree(row, settings)
    colors = tree_colors(tree.children)
    owners = tree.owners((photo.height, photo.width))
    card = _levels(photo, owners, tree, colors)
    cut_outs = {}
    for label in labelled:
        nodes = [node for node, of in enumerate(row["labels"] or ()) if of == label]
        if nodes:
            node = max(nodes, key=lambda each: (tree.nodes[each]["patches"], -each))
            region = (owners >= node) & (owners < tree.end[node])
            cut_outs[label] = jpeg(cut_out(photo, region, CUT_OUT, colors[node] if node else None))
    with Image.open(io.BytesIO(page(row, settings)[0])) as whole:
        large = whole.convert("RGB")
    return Drawn(jpeg(card), jpeg(large), card.size, fault, cut_outs)


def true_classes(
    uri: str, limits: images.ImageLimits, row: Mapping[str, Any], truth: Mapping[str, Any], colors: Mapping[int, Color]
) -> Image.Image | None:
    """The classes of an image in their colours, white where they do not count; None if they cannot be read."""
    classes, ignore = truth["classes"], truth.get("ignore_label")
    count, size = 256 if classes is None else len(classes), (row["height"], row["width"])
    try:
        if truth.get("kind") == "object":
            ids: NDArray[Any] = images.load_truth(uri, limits, size).astype(np.int32)
        else:
            ids = images.load_labels(uri, limits, size, classes=count, ignore=ignore)
    except images.TruthError:
        return None
    table = np.full((max(count, int(ids.max()) + 1), 3), 255, np.uint8)
    for label, color in colors.items():
        if label < count and label != ignore:
            table[label] = color
    return Image.fromarray(table[ids])


def _levels(photo: Image.Image, owners: NDArray[np.int32], tree: RegionTree, colors: Sequence[Color]) -> Image.Image:
    """The photograph, the image cut at the first depths, and all leaves, three abreast."""
    deepest = max(node["depth"] for node in tree.nodes)
    depths = [*range(1, min(_LEVELS + 1, deepest)), *([deepest] if deepest else [])]
    wide = 2 * SMALL // _ABREAST - _GAP
    size = wide, max(1, round(photo.height * wide / photo.width))
    shown, near = photo.resize(size, Image.Resampling.LANCZOS), nearest(owners, (size[1], size[0]))
    trunk = np.append(nodes_at(tree, 1), -1)[near]
    cuts = [draw_level(shown, np.append(nodes_at(tree, depth), -1)[near], trunk, colors) for depth in depths]
    names = ["photograph", *(f"depth {depth}" for depth in depths[:-1]), *(["leaves"] if depths else [])]
    tiles = [captioned(tile, name) for tile, name in zip([shown, *cuts], names, strict=True)]
    return stacked([tiles[:_ABREAST], tiles[_ABREAST:]])


def _region_map(row: Mapping[str, Any], settings: Mapping[str, Any]) -> NDArray[np.int32]:
    """(height, width) of the photograph at the size it was computed at: the region of every pixel."""
    grid, working = (row["grid_h"], row["grid_w"]), working_size(row, settings)
    index = upsample_index(grid, row["patch"], working, working)
    regions: NDArray[np.int32] = np.array(row["region_map"], dtype=np.int32).reshape(grid)[np.ix_(*index)]
    return regions


def _shrunk(photo: Image.Image, side: int, fault: str | None) -> Image.Image:
    shown = photo.resize(fitted(photo.size, side), Image.Resampling.LANCZOS)
    if fault is not None:
        write(ImageDraw.Draw(shown), (8, 8), "no photograph", shown.width - 16, MUTED)
    return shown


def captioned(picture: Image.Image, caption: str) -> Image.Image:
    """A picture with a line below it that says what it is."""
    sheet = Image.new("RGB", (picture.width, picture.height + LINE), _GROUND)
    sheet.paste(picture)
    write(ImageDraw.Draw(sheet), (4, picture.height + 2), caption, picture.width - 8, size=13)
    return sheet


def stacked(strips: Sequence[Sequence[Image.Image]]) -> Image.Image:
    """Rows of pictures below each other, from the left."""
    held = [list(strip) for strip in strips if strip]
    width = max(sum(part.width for part in strip) + _GAP * (len(strip) - 1) for strip in held)
    height = sum(max(part.height for part in strip) for strip in held) + _GAP * (len(held) - 1)
    sheet, top = Image.new("RGB", (width, height), EMPTY), 0
    for strip in held:
        left = 0
        for part in strip:
            sheet.paste(part, (left, top))
            left += part.width + _GAP
        top += max(part.height for part in strip) + _GAP
    return sheet


def jpeg(picture: Image.Image) -> bytes:
    """A picture as a JPEG file."""
    target = io.BytesIO()
    picture.save(target, "JPEG", quality=82, optimize=True)
    return target.getvalue()
