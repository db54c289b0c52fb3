"""The size at which an image is computed: the ``--resize`` words, their arithmetic, and the cut to whole patches."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from simsam_batch.errors import SettingsError

_ALLOWED = (
    "allowed are 'native' (the image's own size), 'HEIGHTxWIDTH' in pixels such as '480x640', "
    "'short:PIXELS' such as 'short:384' (the shorter side, the other in proportion), and 'bucket:PIXELS' (the shorter "
    "side, the other in the nearest of a few proportions, so that images share grids and batches are full)"
)

BUCKETS = (Fraction(1), *(Fraction(n, d) for n, d in ((7, 6), (4, 3), (3, 2), (7, 4), (2, 1), (5, 2), (3, 1))))
"""Proportions of ``bucket``, longer to shorter side; beyond 3 every whole number. No image of up to 3:1 is stretched
along one side by more than a factor of sqrt(5/4) = 1.12, and up to 2:1 by 1.08."""
MINIMUM_PATCHES = 2
"""Patches that an image must have along each side: fewer give no graph to cut."""


@dataclass(frozen=True, slots=True)
class Resize:
    """A parsed ``--resize``.

    Attributes:
        kind: ``native`` (no resize), ``exact`` (to height x width, whatever the image's proportions), ``short`` or
            ``bucket``.
        height: pixels, for ``exact``; for ``short`` and ``bucket`` the length of the shorter side.
        width: pixels, for ``exact``; for the others equal to ``height``.
    """

    kind: Literal["native", "exact", "short", "bucket"]
    height: int = 0
    width: int = 0

    def __str__(self) -> str:
        if self.kind == "native":
            return "native"
        return f"{self.height}x{self.width}" if self.kind == "exact" else f"{self.kind}:{self.height}"


def parse_resize(text: str) -> Resize:
    """Read ``native``, ``HEIGHTxWIDTH``, ``short:PIXELS`` or ``bucket:PIXELS``.

    >>> parse_resize("480x640")
    Resize(kind='exact', height=480, width=640)

    Raises:
        SettingsError: anything else; the message says what is allowed.
    """
    if text == "native":
        return Resize("native")
    if found := re.fullmatch(r"([1-9][0-9]{0,5})x([1-9][0-9]{0,5})", text):
        return Resize("exact", int(found[1]), int(found[2]))
    if found := re.fullmatch(r"(short|bucket):([1-9][0-9]{0,5})", text):
        return Resize("short" if found[1] == "short" else "bucket", int(found[2]), int(found[2]))
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
    rounded to the nearest pixel, halves up, in integers. For ``bucket`` the longer side is in the proportion of
    `BUCKETS` that stretches the image least, so that a set of photographs has a dozen grids at most.

    >>> working_size((300, 400), parse_resize("short:150"))
    (150, 200)
    >>> working_size((300, 410), parse_resize("bucket:384"))
    (384, 512)
    """
    if resize.kind == "native":
        return size
    if resize.kind == "exact":
        return resize.height, resize.width
    height, width = size
    short = min(size)
    proportion = Fraction(max(size), short)
    if resize.kind == "bucket":
        whole = (Fraction(n) for n in (int(proportion), int(proportion) + 1) if n > BUCKETS[-1])
        proportion = min((*BUCKETS, *whole), key=lambda each: max(each / proportion, proportion / each))
    longer = int(proportion * resize.height + Fraction(1, 2))
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
