"""What the pictures of this room share: colours, the font, and text that fits its place."""

from __future__ import annotations

from functools import cache

from PIL import ImageDraw, ImageFont

from simsam_batch.plain_text import plain

Color = tuple[int, int, int]
TEXT, MUTED, FAULT, EMPTY = (31, 35, 40), (89, 99, 110), (176, 32, 24), (236, 238, 240)
RULE, RIM = (208, 213, 218), (20, 20, 20)
GAP, MARGIN, LINE = 14, 24, 20
"""Pixels between pictures, around the sheet, and from line to line of a text."""


@cache
def font(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own font at a size in pixels, the same on every machine."""
    found = ImageFont.load_default(size)
    assert isinstance(found, ImageFont.FreeTypeFont)  # noqa: S101  Pillow gives this kind whenever a size is asked for
    return found


def write(
    draw: ImageDraw.ImageDraw, where: tuple[int, int], text: str, width: int, color: Color = TEXT, size: int = 15
) -> None:
    """Write one line; what does not fit loses its middle, so that the file's name stays."""
    text, letters = plain(text), font(size)
    kept = len(text)
    shown = text
    while kept > 2 and letters.getlength(shown) > width:
        kept -= 1
        shown = f"{text[: kept // 2]}\N{HORIZONTAL ELLIPSIS}{text[len(text) - (kept - kept // 2) :]}"
    draw.text(where, shown, color, letters)
