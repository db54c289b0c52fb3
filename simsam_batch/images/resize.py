"""The size at which an image is computed: the ``--resize`` words, their arithmetic, and the cut to whole patches."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from simsam_batch.errors import SettingsError
from simsam_batch.images.decode import FIRST_ON_ITS_SIDE, Decoded, Enough, oriented
from simsam_batch.images.strips import array_of

_ALLOWED = (
    "allowed are 'native' (the image's own size), 'HEIGHTxWIDTH' in pixels such as '480x640', "
    "'short:PIXELS' such as 'short:384' (the shorter side, the other in proportion), 'bucket:PIXELS' (the shorter "
    "side, the other in the nearest of a few proportions, so that images share grids and batches are full), and "
    "'crop:SHORT:SIDE' such as 'crop:256:224' (the shorter side to SHORT, then the central square of SIDE)"
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
        kind: ``native`` (no resize), ``exact`` (to height x width, whatever the image's proportions), ``short``,
            ``bucket`` or ``crop``.
        height: pixels, for ``exact``; for ``short`` and ``bucket`` the length of the shorter side, for ``crop`` that
            of the square.
        width: pixels, for ``exact``; for the others equal to ``height``.
        short: for ``crop`` the length of the shorter side before it; 0 for the others.
    """

    kind: Literal["native", "exact", "short", "bucket", "crop"]
    height: int = 0
    width: int = 0
    short: int = 0

    def __str__(self) -> str:
        if self.kind == "native":
            return "native"
        if self.kind == "crop":
            return f"crop:{self.short}:{self.height}"
        return f"{self.height}x{self.width}" if self.kind == "exact" else f"{self.kind}:{self.height}"


def parse_resize(text: str) -> Resize:
    """Read ``native``, ``HEIGHTxWIDTH``, ``short:PIXELS``, ``bucket:PIXELS`` or ``crop:SHORT:SIDE``.

    >>> parse_resize("480x640")
    Resize(kind='exact', height=480, width=640, short=0)

    Raises:
        SettingsError: anything else; the message says what is allowed.
    """
    if text == "native":
        return Resize("native")
    if found := re.fullmatch(r"([1-9][0-9]{0,5})x([1-9][0-9]{0,5})", text):
        return Resize("exact", int(found[1]), int(found[2]))
    if found := re.fullmatch(r"(short|bucket):([1-9][0-9]{0,5})", text):
        return Resize("short" if found[1] == "short" else "bucket", int(found[2]), int(found[2]))
    if found := re.fullmatch(r"crop:([1-9][0-9]{0,5}):([1-9][0-9]{0,5})", text):
        short, side = int(found[1]), int(found[2])
        if side > short:
            raise SettingsError(f"resize: {text!r}: a square of {side} pixels does not fit a shorter side of {short}")
        return Resize("crop", side, side, short)
    raise SettingsError(f"resize: {text!r} is not a size; {_ALLOWED}")


def require_whole_images(text: str) -> None:
    """Refuse a resize that leaves a part of an image out, for what gives every pixel a region.

    Raises:
        SettingsError: for ``crop``.
    """
    if parse_resize(text).kind == "crop":
        raise SettingsError(
            f"resize: {text!r} leaves out what lies beside the central square, and regions cover whole images. To mend "
            "it: choose another --resize; features and probe take this one"
        )


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
    >>> working_size((300, 410), parse_resize("crop:256:224"))
    (224, 224)
    """
    return (resize.height, resize.width) if resize.kind == "crop" else resized_size(size, resize)


def resized_size(size: tuple[int, int], resize: Resize) -> tuple[int, int]:
    """Size (height, width) in pixels of a whole image after the resize: `working_size` but for ``crop``.

    There the longer side is rounded down, as torchvision's resize of the shorter side does.

    >>> resized_size((300, 410), parse_resize("crop:256:224"))
    (256, 349)
    """
    if resize.kind == "native":
        return size
    if resize.kind == "exact":
        return resize.height, resize.width
    height, width = size
    short = min(size)
    if resize.kind == "crop":
        longer = resize.short * max(size) // short
        return (resize.short, longer) if height <= width else (longer, resize.short)
    proportion = Fraction(max(size), short)
    if resize.kind == "bucket":
        whole = (Fraction(n) for n in (int(proportion), int(proportion) + 1) if n > BUCKETS[-1])
        proportion = min((*BUCKETS, *whole), key=lambda each: max(each / proportion, proportion / each))
    longer = int(proportion * resize.height + Fraction(1, 2))
    return (resize.height, longer) if height <= width else (longer, resize.height)


def enough_for(resize: Resize, kept_side: int = 0) -> Enough | None:
    """The size of a decoded picture that a resize makes no use of more than; None: it needs the whole image.

    Args:
        resize: what is made of it.
        kept_side: longer side of a picture that is kept beside; 0: none is.
    """
    return None if resize.kind == "native" else partial(_enough, resize=resize, kept_side=kept_side)


def _enough(size: tuple[int, int], resize: Resize, kept_side: int) -> tuple[int, int]:
    height, width = resized_size(size, resize)
    longer = max(size)
    kept = min(kept_side, longer)
    return max(height, -(-size[0] * kept // longer)), max(width, -(-size[1] * kept // longer))


def crop_corner(size: tuple[int, int], resize: Resize) -> tuple[int, int]:
    """Top and left of the part of the resized image that is computed; 0, 0 but for ``crop``.

    The square is central; half a pixel goes to the even side, as in torchvision's central crop.

    >>> crop_corner((300, 410), parse_resize("crop:256:224"))
    (16, 62)
    """
    if resize.kind != "crop":
        return 0, 0
    height, width = resized_size(size, resize)
    return round((height - resize.height) / 2), round((width - resize.width) / 2)


def covered_part(size: tuple[int, int], resize: Resize) -> tuple[slice, slice]:
    """Rows and columns of an image of a size (height, width) whose pixels' centres lie in what is computed.

    >>> covered_part((256, 300), parse_resize("crop:256:224"))
    (slice(16, 240, None), slice(38, 262, None))
    """

    def along(full: int, resized: int, corner: int, side: int) -> slice:
        # the centre (y + 1/2) resized / full lies between the corner and the corner + side
        start, stop = (-(-(2 * end * full - resized) // (2 * resized)) for end in (corner, corner + side))
        return slice(max(start, 0), min(stop, full))

    axes = zip(size, resized_size(size, resize), crop_corner(size, resize), working_size(size, resize), strict=True)
    rows, columns = (along(*axis) for axis in axes)
    return rows, columns


Way = Literal["exact", "scaled"]
"""How images come to the size at which they are computed, see `resize_image`."""


def resize_image(decoded: Decoded, size: tuple[int, int], way: Way = "exact") -> NDArray[np.uint8]:
    """An image at another size (height, width), upright, ``(H, W, 3)`` uint8, by a bicubic filter (a = -0.5).

    When it shrinks, the filter's support grows with the scale, so that fine texture is averaged and not aliased.

    Args:
        decoded: whole, unless the way is ``scaled``.
        size: (height, width).
        way: ``exact``: Pillow's filter. ``scaled``: torch's, before the image is turned upright, which takes a fifth of
            the time; they differ by rounding.
    """
    if decoded.size == size and decoded.reduction == 1:
        return decoded.rgb
    if way == "exact":
        return np.array(decoded.picture.resize(size[::-1], Image.Resampling.BICUBIC))
    return _scaled(decoded, size)


def _scaled(decoded: Decoded, size: tuple[int, int]) -> NDArray[np.uint8]:
    import torch
    from torch.nn.functional import interpolate

    pixels = array_of(decoded.stored)
    on_its_side = decoded.turn >= FIRST_ON_ITS_SIDE
    target, of = (each[::-1] if on_its_side else each for each in (size, decoded.size))
    # By the scale of the image, since the last pixels may reach beyond it; torch rounds what it gives down, and a hair
    # more keeps that from being a pixel too few.
    scale = [wanted * decoded.reduction / there * (1 + 1e-9) for wanted, there in zip(target, of, strict=True)]
    planes = torch.from_numpy(pixels)[None].permute(0, 3, 1, 2)
    found = interpolate(planes, scale_factor=scale, mode="bicubic", antialias=True, recompute_scale_factor=False)
    return oriented(found[0].permute(1, 2, 0).numpy(), decoded.turn)


def resize_ids(ids: NDArray[np.int32], size: tuple[int, int]) -> NDArray[np.int32]:
    """Class ids (H, W) int32 at another size (height, width), each from the nearest pixel.

    That is Pillow's filter, as published protocols use it: where a centre lies between two pixels, rounding decides.
    """
    if ids.shape == size:
        return ids
    return np.array(Image.fromarray(ids).resize(size[::-1], Image.Resampling.NEAREST))


def crop_to_grid(rgb: NDArray[np.uint8], patch: int) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """Cut the bottom and right remainders, so that whole patches are left.

    Returns:
        The image ``(Hp * patch, Wp * patch, 3)`` and its grid ``(Hp, Wp)``, both floor(side / patch).
    """
    rows, columns = rgb.shape[0] // patch, rgb.shape[1] // patch
    return np.ascontiguousarray(rgb[: rows * patch, : columns * patch]), (rows, columns)
