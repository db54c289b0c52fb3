"""One image's page: the levels of its region tree over the photograph, and the tree itself."""

from __future__ import annotations

import io
from typing import Any

from PIL import Image, ImageDraw

from simsam_batch.drawing.photograph import shown_photograph
from simsam_batch.drawing.text import FAULT, GAP, LINE, MARGIN, MUTED, RULE, TEXT, write
from simsam_batch.drawing.tree_colors import tree_colors
from simsam_batch.drawing.tree_diagram import draw_diagram
from simsam_batch.drawing.tree_levels import draw_levels
from simsam_batch.results.trees import RegionTree

WIDTH, HIGHEST = 1800, 3000
"""Of a page at most, in pixels."""

_HEADER, _NARROWEST = 84, 640
_LEGEND = "Each region of the tree. Below it: its cut, near 0 where nothing ties it to its siblings, 1 where all does."


def page(row: dict[str, Any], settings: dict[str, Any]) -> tuple[bytes, str | None]:
    """One image's page as a PNG, at most `WIDTH` by `HIGHEST` pixels; and why there is no photograph on it, if so.

    Args:
        row: of `simsam_batch.results.label_maps.map_rows`, of an image that is ``ok``.
        settings: of its stage.
    """
    tree = RegionTree(row, settings)
    photo, fault = shown_photograph(row, settings)
    owners = tree.owners((photo.height, photo.width))
    colors = tree_colors(tree.children)
    inner = WIDTH - 2 * MARGIN
    strips = [draw_levels(photo, owners, tree, colors, inner)]
    if len(tree.nodes) > 1:
        room = HIGHEST - _HEADER - strips[0].height - 2 * GAP - LINE - MARGIN
        strips.append(draw_diagram(photo, owners, tree, colors, row["labels"], (inner, room)))
    width = max(_NARROWEST, *(strip.width for strip in strips))
    height = _HEADER + sum(strip.height for strip in strips) + (len(strips) - 1) * (2 * GAP + LINE) + MARGIN
    sheet = Image.new("RGB", (width + 2 * MARGIN, height), "white")
    draw = ImageDraw.Draw(sheet)
    write(draw, (MARGIN, 18), row["image_id"], width, TEXT, size=20)
    leaves = sum(not children for children in tree.children)
    facts = f"{row['width']} x {row['height']} pixels, {len(tree.nodes)} regions, {leaves} of them undivided, "
    facts += f"depth {max(node['depth'] for node in tree.nodes)}"
    write(draw, (MARGIN, 47), facts if fault is None else f"{facts}; {fault}", width, FAULT if fault else MUTED)
    sheet.paste(strips[0], (MARGIN, _HEADER))
    if len(strips) > 1:
        top = _HEADER + strips[0].height
        draw.line((MARGIN, top, MARGIN + width, top), RULE)
        write(draw, (MARGIN, top + GAP - 2), _LEGEND, width, MUTED)
        sheet.paste(strips[1], (MARGIN + (width - strips[1].width) // 2, top + 2 * GAP + LINE))
    target = io.BytesIO()
    # the usual level takes twice the time of all that is drawn, for a tenth less
    sheet.save(target, "PNG", dpi=(144, 144), compress_level=3)
    return target.getvalue(), fault
