"""Sheets of small pictures in rows, each with its name and what is said of it."""

from __future__ import annotations

from PIL import Image, ImageDraw

from simsam_batch.drawing.text import EMPTY, MARGIN, MUTED, TEXT, write

COLUMNS, ROWS = 8, 6
"""Pictures abreast and below each other."""

_CELL = 256, 192
_GAP, _CAPTION = 12, 40
_WIDTH = 2 * MARGIN + COLUMNS * _CELL[0] + (COLUMNS - 1) * _GAP


class Sheet:
    """One sheet, filled from the upper left.

    Args:
        title: written above.
        wide: half as many pictures abreast, each twice as wide.
    """

    def __init__(self, title: str, *, wide: bool = False) -> None:
        self._title = title
        self._columns = max(1, COLUMNS // 2) if wide else COLUMNS
        self._cell = (2 * _CELL[0] + _GAP if wide else _CELL[0]), _CELL[1]
        self._held: list[tuple[Image.Image, str, str]] = []

    def add(self, picture: Image.Image, name: str, fact: str) -> None:
        """Put a picture into the next place, as large as has room in it."""
        scale = min(self._cell[0] / picture.width, self._cell[1] / picture.height)
        size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
        self._held.append((picture.resize(size, Image.Resampling.LANCZOS), name, fact))

    def __len__(self) -> int:
        return len(self._held)

    @property
    def full(self) -> bool:
        """Whether there is no place left."""
        return len(self) == self._columns * ROWS

    def drawn(self) -> Image.Image:
        """The sheet as a picture, as high as its rows."""
        (width, height), columns = self._cell, self._columns
        pitch = width + _GAP, height + _CAPTION + _GAP
        top = MARGIN + 32
        sheet = Image.new("RGB", (_WIDTH, top + -(-len(self) // columns) * pitch[1] + MARGIN - _GAP), "white")
        draw = ImageDraw.Draw(sheet)
        write(draw, (MARGIN, MARGIN - 6), self._title, _WIDTH - 2 * MARGIN, TEXT, size=18)
        for place, (picture, name, fact) in enumerate(self._held):
            left, above = MARGIN + place % columns * pitch[0], top + place // columns * pitch[1]
            draw.rectangle((left, above, left + width - 1, above + height - 1), EMPTY)
            sheet.paste(picture, (left + (width - picture.width) // 2, above + (height - picture.height) // 2))
            write(draw, (left, above + height + 3), name, width, TEXT, size=13)
            write(draw, (left, above + height + 20), fact, width, MUTED, size=13)
        return sheet
