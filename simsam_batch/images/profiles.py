"""Colours turned to sRGB by the ICC profile that a file carries."""

from __future__ import annotations

import io
from collections.abc import Callable

from PIL import Image, ImageCms

_MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}


def to_srgb(image: Image.Image) -> Callable[[Image.Image], Image.Image] | None:
    """What turns an image, or a part of it, to sRGB; None if it carries no profile that can be used for its colours.

    By LittleCMS: relative colorimetric, with black point compensation. Transparency is dropped. A profile that is
    damaged, or of other colours than the image has (of RGB in a grey one), counts as none, as in browsers.
    """
    data = image.info.get("icc_profile")
    if not isinstance(data, bytes) or not data:
        return None
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
        mode = _MODES.get(profile.profile.xcolor_space.strip())
        if mode is None or mode != _colours_of(image):
            return None
        transform = ImageCms.buildTransform(
            profile,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None

    def turned(part: Image.Image) -> Image.Image:
        plain = part.convert("LA") if part.mode == "La" else part
        if plain.mode == mode:
            return transform.apply(plain)
        converted = plain.convert(mode)
        # no third copy of a large image
        return transform.apply_in_place(converted) if mode == "RGB" else transform.apply(converted)

    return turned


def _colours_of(image: Image.Image) -> str:
    """The mode in which a profile would speak of an image's colours."""
    if image.mode in ("1", "L", "LA", "La", "F") or image.mode.startswith("I"):
        return "L"
    return image.mode if image.mode in ("CMYK", "LAB") else "RGB"
