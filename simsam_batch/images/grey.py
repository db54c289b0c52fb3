"""Grey of more than 8 bits, or with a sign: what the stored values mean, and as 8 bits."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ImageFile
from PIL.TiffImagePlugin import TiffImageFile

from simsam_batch.errors import ImageError
from simsam_batch.images.strips import array_of

_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339
_WHITE_IS_ZERO, _UNSIGNED, _SIGNED = 0, 1, 2
_LEAST_BITS_OF_INTEGERS = 16
_BLOCK = 1 << 20


def is_deep(image: ImageFile.ImageFile) -> bool:
    """Whether an image is grey and not of plain bytes."""
    return image.mode.startswith("I") or image.mode == "F" or _is_signed_byte(image)


def deep_values(image: ImageFile.ImageFile) -> NDArray[Any]:
    """The values of a loaded image for which `is_deep`, (H, W), as its file means them: more is brighter.

    Pillow gives unsigned 32-bit integers and signed bytes with the wrong sign, and leaves values of a TIFF in which 0
    is white (TIFF 6.0, PhotometricInterpretation) as they are where they have more than 8 bits.
    """
    values = array_of(image)
    if not isinstance(image, TiffImageFile):
        return values
    if _is_signed_byte(image):
        return np.asarray(values.view(np.int8))
    if image.mode == "I" and _format(image) == _UNSIGNED and image.tag_v2.get(_BITS_PER_SAMPLE, (0,))[0] == 32:
        values = values.view(np.uint32)
    if image.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        bits = declared_bits(image)
        return np.asarray(np.subtract(1 if bits is None else 2**bits - 1, values, dtype=values.dtype))
    return values


def declared_bits(image: ImageFile.ImageFile) -> int | None:
    """How many bits the file declares for grey of up to 16 unsigned bits; None for other grey, which has no range."""
    if not image.mode.startswith("I;16"):
        return None
    bits = image.tag_v2.get(_BITS_PER_SAMPLE, (16,))[0] if isinstance(image, TiffImageFile) else 16
    return int(bits)


def grey_as_8_bit(values: NDArray[Any], bits: int | None) -> NDArray[np.uint8]:
    """Grey values as uint8, rounded to nearest; nothing is clipped (rules of this project).

    Args:
        values: integers or floats. Of signed bytes, the least that there can be becomes 0.
        bits: how many bits the file declares; then 0 to ``2**bits - 1`` becomes 0 to 255. None where no range is
            declared (floats, 32-bit integers): values in 0 to 1 (floats) or 0 to 65535 (integers) are taken to use
            that range, larger unsigned integers that up to the next ``2**n - 1``; any others are stretched from their
            own minimum and maximum.

    Raises:
        ImageError: ``unsupported``, for values that are not finite.
    """
    if values.dtype == np.int8:
        return values.view(np.uint8) ^ np.uint8(128)
    least, most = values.min(), values.max()
    if not (np.isfinite(least) and np.isfinite(most)):
        raise ImageError("unsupported", "it holds pixel values that are not finite numbers", "decode")
    low, high = 0.0, 1.0
    if values.dtype.kind != "f":
        high = float(
            2 ** (bits or max(_LEAST_BITS_OF_INTEGERS, int(most).bit_length() * (values.dtype.kind == "u"))) - 1
        )
    if least < low or most > high:
        low, high = float(least), float(most)
    found = np.zeros(values.shape, np.uint8)
    rows = max(1, _BLOCK // max(1, values.shape[-1]))
    for start in range(0, len(values) if high > low else 0, rows):
        exact = values[start : start + rows].astype(np.float64)
        exact -= low
        exact *= 255 / (high - low)
        found[start : start + rows] = np.rint(exact, out=exact)
    return found


def _format(image: TiffImageFile) -> int:
    return int(image.tag_v2.get(_SAMPLE_FORMAT, (_UNSIGNED,))[0])


def _is_signed_byte(image: ImageFile.ImageFile) -> bool:
    return image.mode == "L" and isinstance(image, TiffImageFile) and _format(image) == _SIGNED
