"""Variants of files that the decoders do not know, told from damage."""

from __future__ import annotations

from simsam_batch.errors import ImageError
from simsam_batch.formats import kind_by_name, kind_of, mend_of
from simsam_batch.storage import redact

_AS_OTHER = "save it as PNG, or as JPEG of 8 bits, or leave it out"

_JPEG_FRAMES = range(0xC0, 0xD0)
_JPEG_TABLES = (0xC4, 0xC8, 0xCC)
_JPEG_LS = 0xF7
_JPEG_ALONE = (0x01, *range(0xD0, 0xD9))
_JPEG_SCAN_OR_END = (0xDA, 0xD9)
_JPEG_PLAIN = {0xC0: "", 0xC1: "", 0xC2: ""}
_JPEG_NAMES = {0xC3: "lossless", 0xC9: "arithmetic coding", 0xCA: "arithmetic coding", _JPEG_LS: "JPEG-LS"}


def not_read(what: str, mend: str = _AS_OTHER, step: str = "decode") -> ImageError:
    """The error of a file that is whole, as far as one can see, and of a kind or variant that is not read."""
    return ImageError("unsupported", f"{what} cannot be read. To mend it: {mend}", step)


def refuse_by_name(uri: str) -> None:
    """Refuse a file that by its name is of a kind that is never read, before gigabytes of it are fetched.

    Raises:
        ImageError: ``unsupported``.
    """
    kind = kind_by_name(uri)
    if kind is not None and kind.mend is not None:
        raise not_read(f"{redact(uri)}: {kind.name}", kind.mend, "read")


def refuse_by_content(data: bytes) -> None:
    """Refuse a file that by its first bytes is a picture or video of a kind that is not read.

    Raises:
        ImageError: ``unsupported``.
    """
    kind = kind_of(data)
    if kind is not None and (mend := mend_of(kind)) is not None:
        raise not_read(kind.name, mend)


def jpeg_variant(data: bytes) -> str | None:
    """What is unusual about how a JPEG is coded (ITU-T T.81, table B.1), in words; None if nothing, or if unclear."""
    at = 2
    while at + 5 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
        elif marker in _JPEG_ALONE:
            at += 2
        elif marker in _JPEG_SCAN_OR_END:
            return None
        elif (marker in _JPEG_FRAMES and marker not in _JPEG_TABLES) or marker == _JPEG_LS:
            name = _JPEG_PLAIN.get(marker, _JPEG_NAMES.get(marker, "hierarchical or lossless"))
            bits = "" if data[at + 4] == 8 else f"{data[at + 4]} bits a sample"
            return ", ".join(filter(None, (name, bits))) or None
        else:
            at += 2 + int.from_bytes(data[at + 2 : at + 4])
    return None


def too_large(width: int, height: int, max_pixels: int, what: str = "") -> ImageError:
    """The error of an image that has more pixels than are allowed."""
    return ImageError(
        "too_large",
        f"{what}{width}x{height} pixels are more than the limit of {max_pixels}. "
        "To mend it: raise --max-pixels, or leave it out",
        "decode",
    )
