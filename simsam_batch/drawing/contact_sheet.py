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
    """

    def __init__(self, title: str) -> None:
        self._title = title
        self._held: list[tuple[Image.Image, str, str]] = []

    def add(self, picture: Image.Image, name: str, fact: str) -> None:
        """Put a picture into the next place, as large as has room in it."""
        scale = min(_CELL[0] / picture.width, _CELL[1] / picture.height)
        size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
        self._held.append((picture.resize(size, Image.Resampling.LANCZOS), name, fact))

    def __len__(self) -> int:
        return len(self._held)

    @property
    def full(self) -> bool:
        """Whether there is no place left."""
        return len(self) == COLUMNS * ROWS

    def drawn(self) -> Image.Image:
        """The sheet as a picture, as high as its rows."""
        pitch = _CELL[0] + _GAP, _CELL[1] + _CAPTION + _GAP
        top = MARGIN + 32
        sheet = Image.new("RGB", (_WIDTH, top + -(-len(self) // COLUMNS) * pitch[1] + MARGIN - _GAP), "white")
        draw = ImageDraw.Draw(sheet)
        write(draw, (MARGIN, MARGIN - 6), self._title, _WIDTH - 2 * MARGIN, TEXT, size=18)
        for place, (picture, name, fact) in enumerate(self._held):
            left, above = MARGIN + place % COLUMNS * pitch[0], top + place // COLUMNS * pitch[1]
            draw.rectangle((left, above, left + _CELL[0] - 1, above + _CELL[1] - 1), EMPTY)
            sheet.paste(picture, (left + (_CELL[0] - picture.width) // 2, above + (_CELL[1] - picture.height) // 2))
            write(draw, (left, above + _CELL[1] + 3), name, _CELL[0], TEXT, size=13)
            write(draw, (left, above + _CELL[1] + 20), fact, _CELL[0], MUTED, size=13)
        return sheet
