"""What is wrong with the bytes of an image, by name."""

from __future__ import annotations

import re
import struct

from PIL import Image

from simsam_batch import formats
from simsam_batch.errors import ImageError
from simsam_batch.formats import Format
from simsam_batch.images.unread import jpeg_variant, not_read, refuse_by_content

_READABLE = ", ".join(kind.name for kind in formats.READ[:-1]) + f" and {formats.READ[-1].name} can be read"
_NO_PICTURES = [
    ("a PDF", re.compile(rb"%PDF-")),
    ("a gzip archive", re.compile(rb"\x1f\x8b")),
    ("a zip archive", re.compile(rb"PK\x03\x04")),
    ("a web page or XML", re.compile(rb"(\xef\xbb\xbf)?\s*<")),
]
_VARIANT = re.compile(
    r"unsupported|not (yet )?supported|decoder \S+ not available|cannot handle|unknown pixel mode|unknown compression|"
    r"unrecognized image mode|unable to determine j2k image mode"
)


def readable_kind(data: bytes) -> Format:
    """The kind of an image file that is read, by its first bytes.

    Raises:
        ImageError: ``empty_file``, ``not_an_image``, or ``unsupported`` for a picture or video of another kind.
    """
    if not data:
        raise ImageError("empty_file", "the file is empty", "decode")
    refuse_by_content(data)
    kind = formats.kind_of(data)
    if kind is None:
        raise ImageError("not_an_image", f"not an image: it looks like {_looks_like(data)}. {_READABLE}", "decode")
    return kind


def _looks_like(data: bytes) -> str:
    for name, magic in _NO_PICTURES:
        if magic.match(data):
            return name
    start = data[:256]
    try:
        text = start.decode("utf-8")
    except UnicodeDecodeError as error:
        # a character cut by the end of the excerpt is no sign of binary data
        text = start[: error.start].decode("utf-8") if error.start > len(start) - 4 and error.start else ""
    if text and all(character.isprintable() or character in "\r\n\t" for character in text):
        return "text"
    return f"binary data that begins with {data[:8].hex(' ')}"


def decoder_fault(error: Exception, kind: Format, data: bytes) -> ImageError:
    """The error of a failure inside Pillow, its message without what differs between two equal failures."""
    words = re.sub(r"<[^<>]* at 0x[0-9a-fA-F]+>", "the data", str(error))
    cause = " ".join(words.split())[:300] or type(error).__name__
    said, lower = f"{kind.name} that cannot be decoded: {cause}", cause.lower()
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        said += " That limit is the decoder's own. To mend it: leave it out, or make it smaller"
        return ImageError("too_large", said, "decode")
    if kind is formats.JPEG and (variant := jpeg_variant(data)) is not None:
        return not_read(f"a JPEG of another kind ({variant})")
    # a WebP states its own length; its decoder does not say what was missing
    webp_is_short = kind is formats.WEBP and len(data) < 8 + int.from_bytes(data[4:8], "little")
    # Pillow's plugins read beyond the end of a header that was cut, and raise one of these
    header_is_short = isinstance(error.__cause__ or error, EOFError | IndexError | struct.error)
    if webp_is_short or header_is_short or "truncated" in lower or "not enough data" in lower:
        return ImageError("truncated", said, "decode")
    if _VARIANT.search(lower):
        return not_read(f"a variant of {kind.name} ({cause})")
    return ImageError("undecodable", said, "decode")
