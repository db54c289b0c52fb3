"""Regions cut out of a photograph: what is around them is pale and grey, or nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from simsam_batch.drawing.outlines import outline
from simsam_batch.drawing.text import EMPTY, Color

Box = tuple[int, int, int, int]

_LEAST_SEEN, _TINT, _PALE = 0.2, 0.35, 0.65


def cut_out(photo: Image.Image, region: NDArray[np.bool_], size: tuple[int, int], color: Color | None) -> Image.Image:
    """The photograph around a region: the region with a tint of its colour, lest it be grey too, the rest pale grey.

    Args:
        photo: the image.
        region: (height, width), the pixels of the photograph that are the region's; if none is, nothing is drawn.
        size: (width, height) of the picture; what the cut-out leaves of it is `EMPTY`.
        color: of the region; None: the photograph around it as it is.
    """
    picture = Image.new("RGB", size, EMPTY)
    if not region.any():
        return picture
    box = around(bounds(region), photo.size, size)
    crop = photo.crop(box)
    scale = min(size[0] / crop.width, size[1] / crop.height)
    fitted = max(1, round(crop.width * scale)), max(1, round(crop.height * scale))
    shown = crop.resize(fitted, Image.Resampling.LANCZOS, reducing_gap=2.0)
    if color is not None:
        shown = picked_out(shown, region[box[1] : box[3], box[0] : box[2]], color)
    picture.paste(shown, ((size[0] - fitted[0]) // 2, (size[1] - fitted[1]) // 2))
    return picture


def picked_out(part: Image.Image, region: NDArray[np.bool_], color: Color, tint: float = _TINT) -> Image.Image:
    """A part of a photograph with all but a region pale and grey, and an outline around the region.

    Args:
        part: of the photograph.
        region: (height, width) of the same part, at any scale.
        color: of the line and the tint.
        tint: share of the colour within the region; 0 leaves the photograph as it is there.
    """
    inside = Image.fromarray(region).resize(part.size, Image.Resampling.NEAREST)
    pale = Image.blend(part.convert("L").convert("RGB"), Image.new("RGB", part.size, "white"), _PALE)
    shown = Image.composite(Image.blend(part, Image.new("RGB", part.size, color), tint), pale, inside)
    outline(shown, inside.convert("L"), color)
    return shown


def bounds(region: NDArray[np.bool_]) -> Box:
    """The tight box (left, top, right, bottom) of a region that has pixels, its ends exclusive."""
    across, down = np.flatnonzero(region.any(axis=0)), np.flatnonzero(region.any(axis=1))
    return int(across[0]), int(down[0]), int(across[-1]) + 1, int(down[-1]) + 1


def around(region: Box, image: tuple[int, int], size: tuple[int, int]) -> Box:
    """A box around a region with the proportions of ``size`` as far as the image allows, and not too small.

    Args:
        region: its tight box.
        image: (width, height) of the image, in the same pixels.
        size: (width, height) of the picture that is to be made.
    """
    width, height = image
    wide = max(1.2 * float(region[2] - region[0]), _LEAST_SEEN * min(height, width))
    high = max(1.2 * float(region[3] - region[1]), _LEAST_SEEN * min(height, width))
    wide, high = max(wide, high * size[0] / size[1]), max(high, wide * size[1] / size[0])
    whole = min(width, max(1, round(wide))), min(height, max(1, round(high)))
    left = min(max(0, round((region[0] + region[2] - whole[0]) / 2)), width - whole[0])
    top = min(max(0, round((region[1] + region[3] - whole[1]) / 2)), height - whole[1])
    return left, top, left + whole[0], top + whole[1]


def isolated(photo: Image.Image, masks: Sequence[NDArray[np.bool_]], *, crop: bool) -> Image.Image:
    """Objects on nothing: the photograph in mode ``RGBA``, transparent black around them, opaque within.

    Their edges are soft over two pixels; of a smaller photograph a pixel is as opaque as its share of the mask.

    Args:
        photo: the image, whole, at its own size or smaller.
        masks: (height, width) of the image, those of its objects; at least one.
        crop: leave out what is transparent around them all.
    """
    whole = Image.fromarray(np.logical_or.reduce(masks).view(np.uint8) * np.uint8(255))
    if whole.size == photo.size:
        alpha = whole.filter(ImageFilter.BoxBlur(0.5))
    else:
        alpha = whole.resize(photo.size, Image.Resampling.BOX)
    # what is taken away is not to be found under the transparency
    seen = alpha.point([0, *[255] * 255])
    shown = Image.composite(photo, Image.new("RGB", photo.size), seen)
    shown.putalpha(alpha)
    return shown.crop(alpha.getbbox()) if crop else shown
