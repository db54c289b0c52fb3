"""Bytes of one image to upright 8-bit RGB, within limits; every way in which that can fail has a name."""

from __future__ import annotations

import hashlib
import io
import re
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from simsam_batch.errors import ImageError, StorageError, UnreadableError
from simsam_batch.images.bounded import TimedFile, check_tiff_pieces
from simsam_batch.storage import ObjectNotFound, ObjectRefused, read_url

_ORIENTATION = 0x0112
_BITS_PER_SAMPLE = 0x0102
_TILE_SIDES = (0x0142, 0x0143)
_FORMATS = "JPEG, PNG, WebP, TIFF and BMP can be read"

# Pillow's own classes instead of Image.open: that one compares every image with a process-wide pixel limit and warns,
# and the limit here is the caller's. Image.open would choose the class by the same first bytes.
_READERS: list[tuple[str, re.Pattern[bytes], Callable[[io.BytesIO, str], ImageFile.ImageFile]]] = [
    ("JPEG", re.compile(rb"\xff\xd8\xff"), JpegImageFile),
    ("PNG", re.compile(rb"\x89PNG\r\n\x1a\n"), PngImageFile),
    ("WebP", re.compile(rb"RIFF....WEBP", re.DOTALL), WebPImageFile),
    ("TIFF", re.compile(rb"II\x2a\0|MM\0\x2a|II\x2b\0|MM\0\x2b"), TiffImageFile),
    ("BMP", re.compile(rb"BM"), BmpImageFile),
]
_OTHERS: list[tuple[str, re.Pattern[bytes]]] = [
    ("GIF", re.compile(rb"GIF8[79]a")),
    ("HEIC or AVIF", re.compile(rb"....ftyp(hei|hev|mif|msf|avi)", re.DOTALL)),
    ("JPEG 2000", re.compile(rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51")),
    ("a PDF", re.compile(rb"%PDF-")),
    ("a gzip archive", re.compile(rb"\x1f\x8b")),
    ("a zip archive", re.compile(rb"PK\x03\x04")),
    ("a web page or XML", re.compile(rb"(\xef\xbb\xbf)?\s*<")),
]


# A hundred scans of a progressive JPEG fit into so few bytes, and only between two blocks can it be given up.
_JPEG_BLOCK = 8192

# Pillow counts the bits of a line in 32-bit integers, and calls what does not fit a lack of memory.
_LONGEST_LINE = (2**31 - 1) // 32 - 8

# Of the eight EXIF orientations 5 to 8 exchange height and width.
_FIRST_ON_ITS_SIDE = 5


@dataclass(frozen=True, slots=True)
class ImageLimits:
    """What one image may cost at most.

    Attributes:
        max_bytes: of the file as stored.
        max_pixels: width times height, in the file's header and again after the resize.
        decode_seconds: processor time of the thread that decodes it, see `TimedFile`.
    """

    max_bytes: int = 200_000_000
    max_pixels: int = 100_000_000
    decode_seconds: float = 60.0


@dataclass(frozen=True, slots=True)
class Decoded:
    """One image as 8-bit RGB, upright.

    Attributes:
        rgb: ``(H, W, 3)`` uint8, the orientation applied.
        orientation: EXIF value of the file, 1 to 8; 1 if there is none or it means nothing.
        content_sha256: of the file's bytes, in hexadecimal.
    """

    rgb: NDArray[np.uint8]
    orientation: int
    content_sha256: str

    @property
    def height(self) -> int:
        """Rows, in pixels."""
        return int(self.rgb.shape[0])

    @property
    def width(self) -> int:
        """Columns, in pixels."""
        return int(self.rgb.shape[1])


def fetch(uri: str, limits: ImageLimits) -> bytes:
    """The bytes of one image.

    Raises:
        ImageError: ``not_found``, or ``too_large`` if it has more than ``limits.max_bytes``.
        UnreadableError: the storage refuses it, or does not answer.
    """
    try:
        data = read_url(uri, limits.max_bytes)
    except ObjectNotFound as error:
        raise ImageError("not_found", str(error), "read") from error
    except StorageError as error:
        raise UnreadableError(str(error), uri, isinstance(error, ObjectRefused)) from error
    if len(data) > limits.max_bytes:
        message = f"{uri}: the file has more than {limits.max_bytes} bytes. To mend it: raise --max-bytes"
        raise ImageError("too_large", message, "read")
    return data


def decode(data: bytes, limits: ImageLimits) -> Decoded:
    """Decode JPEG, PNG, WebP, TIFF or BMP of any depth and colour mode; may be called from many threads.

    Transparency is dropped: the colours stored under it count (Pillow's ``convert("RGB")``). Of several pages or frames
    the first is taken. Colour profiles are ignored. Deeper grey is scaled as `grey_as_8_bit` says; colours of 16 bits
    keep their high byte. The pixel limit is checked on the header, before any pixel is decoded.

    Raises:
        ImageError: ``empty_file``, ``not_an_image``, ``too_large``, ``timed_out``, ``truncated``, ``unsupported`` or
            ``undecodable``.
    """
    with opened(data, limits) as (image, orientation):
        rgb = oriented(_as_rgb(image), orientation_of(image))
    return Decoded(rgb, orientation, hashlib.sha256(data).hexdigest())


def image_size(data: bytes, limits: ImageLimits) -> tuple[int, int]:
    """Height and width of an image, upright, from its header alone.

    Raises:
        ImageError: as `decode`, as far as the header shows.
    """
    with opened(data, limits, load=False) as (image, orientation):
        width, height = image.size
        # of a TIFF, Pillow gives the size upright
        turned = orientation >= _FIRST_ON_ITS_SIDE and not isinstance(image, TiffImageFile)
    return (width, height) if turned else (height, width)


@contextmanager
def opened(data: bytes, limits: ImageLimits, *, load: bool = True) -> Iterator[tuple[ImageFile.ImageFile, int]]:
    """A Pillow image, loaded unless ``load`` is false, and the orientation its file states.

    Faults while it is in use become `ImageError`.

    What remains to be turned is `orientation_of` the image: Pillow turns a TIFF itself while loading it.
    """
    name, reader = _reader(data)
    if name == "TIFF":
        check_tiff_pieces(data)
    try:
        with reader(TimedFile(data, limits.decode_seconds), "") as image:
            for what, (w, h) in (("", image.size), ("tiles of ", _tile_size(image))):
                if w * h > limits.max_pixels:
                    raise ImageError(
                        "too_large",
                        f"{what}{w}x{h} pixels are more than the limit of {limits.max_pixels}. "
                        "To mend it: raise --max-pixels, or leave it out",
                        "decode",
                    )
            if image.width > _LONGEST_LINE:
                message = f"its lines of {image.width} pixels are longer than can be decoded"
                raise ImageError("unsupported", message, "decode")
            stated = orientation_of(image) if isinstance(image, TiffImageFile) else None
            if isinstance(image, JpegImageFile):
                image.decodermaxblock = _JPEG_BLOCK
            if load:
                image.load()
            yield image, orientation_of(image) if stated is None else stated
    except (ImageError, MemoryError):
        raise
    except Exception as error:
        kind, cause = _classified(error, name, data)
        raise ImageError(kind, f"{name} that cannot be decoded: {cause}", "decode") from error


def oriented(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Pixels ``(H, W, ...)`` turned upright for an orientation (TIFF 6.0, tag 274); other values change nothing."""
    turns: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.swapaxes(0, 1),
        6: lambda a: a.swapaxes(0, 1)[:, ::-1],
        7: lambda a: a.swapaxes(0, 1)[::-1, ::-1],
        8: lambda a: a.swapaxes(0, 1)[::-1],
    }
    return np.ascontiguousarray(turns[orientation](pixels)) if orientation in turns else pixels


def grey_as_8_bit(values: NDArray[Any], bits: int | None) -> NDArray[np.uint8]:
    """Grey values of more than 8 bits as uint8, rounded to nearest; nothing is clipped (rules of this project).

    Args:
        values: integers or floats.
        bits: how many bits the file declares; then 0 to ``2**bits - 1`` becomes 0 to 255. None where no range is
            declared (floats, 32-bit integers): values in 0 to 1 (floats) or 0 to 65535 (integers) are taken to use
            that range; any others are stretched from their own minimum and maximum.

    Raises:
        ImageError: ``unsupported``, for values that are not finite.
    """
    exact = values.astype(np.float64)
    if not np.isfinite(exact).all():
        raise ImageError("unsupported", "it holds pixel values that are not finite numbers", "decode")
    low, high = 0.0, float(2**bits - 1) if bits else 1.0 if values.dtype.kind == "f" else 65535.0
    if exact.min() < low or exact.max() > high:
        low, high = float(exact.min()), float(exact.max())
    if high <= low:
        return np.zeros(values.shape, np.uint8)
    exact -= low
    exact *= 255 / (high - low)
    return np.rint(exact, out=exact).astype(np.uint8)


def _reader(data: bytes) -> tuple[str, Callable[[io.BytesIO, str], ImageFile.ImageFile]]:
    if not data:
        raise ImageError("empty_file", "the file is empty", "decode")
    for name, magic, reader in _READERS:
        if magic.match(data):
            return name, reader
    raise ImageError("not_an_image", f"not an image: it looks like {_looks_like(data)}. {_FORMATS}", "decode")


def _looks_like(data: bytes) -> str:
    for name, magic in _OTHERS:
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


def _tile_size(image: ImageFile.ImageFile) -> tuple[int, int]:
    """Width and height of the tiles of a TIFF, which are decoded whole however small the image is; else nothing."""
    sides = [image.tag_v2.get(tag) for tag in _TILE_SIDES] if isinstance(image, TiffImageFile) else []
    width, height = (side if isinstance(side, int) else 0 for side in sides or (0, 0))
    return width, height


def orientation_of(image: ImageFile.ImageFile) -> int:
    """The EXIF orientation of an open image, 1 to 8; 1 if it has none, none that can be read, or another number."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, EOFError, AttributeError):
        # metadata that cannot be read does not make the pixels unreadable; if the pixels are at fault, load() says so
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _as_rgb(image: ImageFile.ImageFile) -> NDArray[np.uint8]:
    mode = image.mode
    if mode.startswith("I") or mode == "F":
        grey = grey_as_8_bit(np.asarray(image), _declared_bits(image))
        return np.repeat(grey[:, :, None], 3, axis=2)
    # for colours, the transparent one is as good as any other; with it Pillow would warn and look for a replacement
    image.info.pop("transparency", None)
    # premultiplied grey has a conversion to LA only
    plain = image.convert("LA") if mode == "La" else image
    return np.array(plain.convert("RGB"))


def _declared_bits(image: ImageFile.ImageFile) -> int | None:
    if not image.mode.startswith("I;16"):
        return None
    bits = image.tag_v2.get(_BITS_PER_SAMPLE, (16,))[0] if isinstance(image, TiffImageFile) else 16
    return int(bits)


def _classified(
    error: Exception, name: str, data: bytes
) -> tuple[Literal["truncated", "unsupported", "undecodable", "too_large"], str]:
    """The kind of a failure inside Pillow, and its message without what differs between two equal failures."""
    words = re.sub(r"<[^<>]* at 0x[0-9a-fA-F]+>", "the data", str(error))
    cause = " ".join(words.split())[:300] or type(error).__name__
    lower = cause.lower()
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return "too_large", f"{cause} That limit is the decoder's own. To mend it: leave it out, or make it smaller"
    # a WebP states its own length; its decoder does not say what was missing
    webp_is_short = name == "WebP" and len(data) < 8 + int.from_bytes(data[4:8], "little")
    # Pillow's plugins read beyond the end of a header that was cut, and raise one of these
    header_is_short = isinstance(error.__cause__ or error, EOFError | IndexError | struct.error)
    if webp_is_short or header_is_short or "truncated" in lower or "not enough data" in lower:
        return "truncated", cause
    if re.search(r"unsupported|not supported|unknown pixel mode|unknown compression|unrecognized image mode", lower):
        return "unsupported", cause
    return "undecodable", cause
