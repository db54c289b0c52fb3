"""The size at which an image is computed: the ``--resize`` words, their arithmetic, and the cut to whole patches."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from simsam_batch.errors import SettingsError

_ALLOWED = (
    "allowed are 'native' (the image's own size), 'HEIGHTxWIDTH' in pixels such as '480x640', "
    "and 'short:PIXELS' such as 'short:384' (the shorter side, the other in proportion)"
)
MINIMUM_PATCHES = 2
"""Patches that an image must have along each side: fewer give no graph to cut."""


@dataclass(frozen=True, slots=True)
class Resize:
    """A parsed ``--resize``.

    Attributes:
        kind: ``native`` (no resize), ``exact`` (to height x width, whatever the image's proportions) or ``short``.
        height: pixels, for ``exact``; for ``short`` the length of the shorter side.
        width: pixels, for ``exact``; for ``short`` equal to ``height``.
    """

    kind: Literal["native", "exact", "short"]
    height: int = 0
    width: int = 0

    def __str__(self) -> str:
        return {"native": "native", "exact": f"{self.height}x{self.width}", "short": f"short:{self.height}"}[self.kind]


def parse_resize(text: str) -> Resize:
    """Read ``native``, ``HEIGHTxWIDTH`` or ``short:PIXELS``.

    >>> parse_resize("480x640")
    Resize(kind='exact', height=480, width=640)

    Raises:
        SettingsError: anything else; the message says what is allowed.
    """
    if text == "native":
        return Resize("native")
    if found := re.fullmatch(r"([1-9][0-9]{0,5})x([1-9][0-9]{0,5})", text):
        return Resize("exact", int(found[1]), int(found[2]))
    if found := re.fullmatch(r"short:([1-9][0-9]{0,5})", text):
        return Resize("short", int(found[1]), int(found[1]))
    raise SettingsError(f"resize: {text!r} is not a size; {_ALLOWED}")


def check_resize(resize: Resize, patch: int) -> None:
    """Refuse a resize under which every image would have fewer than 2x2 patches.

    Raises:
        SettingsError: the size is below two patches of ``patch`` pixels.
    """
    least = MINIMUM_PATCHES * patch
    if resize.kind != "native" and min(resize.height, resize.width) < least:
        raise SettingsError(
            f"resize: {resize} leaves no image 2x2 patches of {patch} pixels; each side needs at least {least} pixels"
        )


def working_size(size: tuple[int, int], resize: Resize) -> tuple[int, int]:
    """Size (height, width) in pixels at which an image of the given size is computed.

    For ``short`` the shorter side becomes exactly that long, smaller images being enlarged, and the longer side is
    rounded to the nearest pixel, halves up, in integers.

    >>> working_size((300, 400), parse_resize("short:150"))
    (150, 200)
    """
    if resize.kind == "native":
        return size
    if resize.kind == "exact":
        return resize.height, resize.width
    height, width = size
    short = min(size)
    longer = (2 * max(size) * resize.height + short) // (2 * short)
    return (resize.height, longer) if height <= width else (longer, resize.height)


def resize_image(rgb: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """An ``(H, W, 3)`` uint8 image at another size (height, width): Pillow's bicubic filter (a = -0.5).

    When it shrinks, the filter's support grows with the scale, so that fine texture is averaged and not aliased.
    """
    if rgb.shape[:2] == size:
        return rgb
    height, width = size
    return np.array(Image.fromarray(rgb).resize((width, height), Image.Resampling.BICUBIC))


def crop_to_grid(rgb: NDArray[np.uint8], patch: int) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """Cut the bottom and right remainders, so that whole patches are left.

    Returns:
        The image ``(Hp * patch, Wp * patch, 3)`` and its grid ``(Hp, Wp)``, both floor(side / patch).
    """
    rows, columns = rgb.shape[0] // patch, rgb.shape[1] // patch
    return np.ascontiguousarray(rgb[: rows * patch, : columns * patch]), (rows, columns)
