"""The photograph that pictures of a row are drawn on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from PIL import Image

from simsam_batch import images
from simsam_batch.drawing.text import EMPTY
from simsam_batch.errors import ImageError
from simsam_batch.results.photographs import limits_of, profile_of
from simsam_batch.results.sources import file_of

LONGEST_SIDE = 1600
"""Of a photograph as the report draws from it: no picture there shows more."""

LONGEST_JPEG = 65_500
"""Pixels of a side: the encoder takes no more."""

FAULT = "the image cannot be read any more as it was"


def shown_photograph(
    row: Mapping[str, Any], settings: Mapping[str, Any], side: int | None = LONGEST_SIDE
) -> tuple[Image.Image, str | None]:
    """The photograph, or a grey ground in its place and why it is there; arguments as `photograph`.

    Raises:
        StorageError: the storage did not answer.
    """
    data = file_of(row)
    found = None if data is None else photograph(data, row, settings, side)
    return (Image.new("RGB", _size(row, side), EMPTY), FAULT) if found is None else (found, None)


def photograph(
    data: bytes, row: Mapping[str, Any], settings: Mapping[str, Any], side: int | None
) -> Image.Image | None:
    """A photograph, upright; None if it cannot be decoded, or has another size than the run saw.

    Args:
        data: its file.
        row: of an image that is ``ok``.
        settings: of the stage that read it.
        side: pixels of the longer side at most, beyond which a JPEG is decoded smaller at once; None: as it is.
    """
    width, height = size = _size(row, side)
    enough = None if side is None else (lambda _: (height, width))
    try:
        found = images.decode(data, limits_of(settings, row), profile_of(settings), enough=enough)
    except ImageError:
        return None
    if found.size != (row["height"], row["width"]):
        return None
    picture = found.picture
    if picture.size == size:
        return picture
    # at a fraction of its size, the last pixels may reach beyond the image
    whole = 0, 0, row["width"] / found.reduction, row["height"] / found.reduction
    return picture.resize(size, Image.Resampling.LANCZOS, whole, reducing_gap=2.0)


def _size(row: Mapping[str, Any], side: int | None) -> tuple[int, int]:
    """(width, height) of an image, its longer side at most ``side``."""
    scale = 1.0 if side is None else min(1.0, side / max(row["width"], row["height"]))
    return max(1, round(row["width"] * scale)), max(1, round(row["height"] * scale))
