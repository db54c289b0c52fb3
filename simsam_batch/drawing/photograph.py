"""The photograph that pictures of a row are drawn on."""

from __future__ import annotations

from typing import Any

from PIL import Image

from simsam_batch.drawing.text import EMPTY
from simsam_batch.results.sources import decoded_of

_LONGEST_SIDE = 1600
"""Of a photograph as it is drawn from: no thumbnail shows more."""


def shown_photograph(row: dict[str, Any], settings: dict[str, Any]) -> tuple[Image.Image, str | None]:
    """The photograph, or a grey ground in its place and why it is there."""
    decoded = decoded_of(row, settings)
    if decoded is not None:
        picture = decoded.picture
        picture.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE), Image.Resampling.LANCZOS)
        return picture, None
    scale = min(1.0, _LONGEST_SIDE / max(row["width"], row["height"]))
    size = max(1, round(row["width"] * scale)), max(1, round(row["height"] * scale))
    return Image.new("RGB", size, EMPTY), "the image cannot be read any more as it was"
