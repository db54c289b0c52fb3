"""Bytes of one image to upright 8-bit RGB, within limits; every way in which that can fail has a name."""

from __future__ import annotations

import hashlib
import io
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import AvifImagePlugin, Image, ImageFile
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from simsam_batch import formats
from simsam_batch.errors import ImageError, StorageError, UnreadableError
from simsam_batch.formats import Format
from simsam_batch.images.bounded import IN_FLIGHT, Deadline, TimedFile
from simsam_batch.images.faults import decoder_fault, readable_kind
from simsam_batch.images.grey import declared_bits, deep_values, grey_as_8_bit, is_deep
from simsam_batch.images.jpeg_2000 import check_jpeg_2000
from simsam_batch.images.png import essentials
from simsam_batch.images.profiles import to_srgb
from simsam_batch.images.strips import array_of
from simsam_batch.images.tiff import check_tiff, mend_tiff, tile_size
from simsam_batch.images.unread import not_read, refuse_by_content, refuse_by_name, too_large
from simsam_batch.storage import ObjectNotFound, ObjectRefused, UnusableMember, read_url

ColorProfile = Literal["ignore", "srgb"]

_ORIENTATION = 0x0112

# The threads of a batch job are those that decode side by side.
AvifImagePlugin.DEFAULT_MAX_THREADS = 1


def _heic(file: io.BytesIO, name: str) -> ImageFile.ImageFile:
    from pillow_heif import HeifImageFile, options

    options.DECODE_THREADS = 1
    image: ImageFile.ImageFile = HeifImageFile(file, name)
    return image


# Pillow's own classes instead of Image.open: that one compares every image with a process-wide pixel limit and warns,
# and the limit here is the caller's. Image.open would choose the class by the same first bytes.
_READERS: dict[Format, Callable[[io.BytesIO, str], ImageFile.ImageFile]] = {
    formats.JPEG: JpegImageFile,
    formats.PNG: PngImageFile,
    formats.WEBP: WebPImageFile,
    formats.TIFF: TiffImageFile,
    formats.BMP: BmpImageFile,
    formats.GIF: GifImageFile,
    formats.JPEG_2000: Jpeg2KImageFile,
    formats.AVIF: AvifImageFile,
    formats.HEIC: _heic,
}

# A hundred scans of a progressive JPEG fit into so few bytes, and only between two blocks can it be given up.
_JPEG_BLOCK = 8192

# Pillow counts the bits of a line in 32-bit integers, and calls what does not fit a lack of memory.
_LONGEST_LINE = (2**31 - 1) // 32 - 8

FIRST_ON_ITS_SIDE = 5
"""Of the eight EXIF orientations 5 to 8 exchange height and width."""

Enough = Callable[[tuple[int, int]], tuple[int, int]]
"""Of an image of a size (height, width) the size that is enough, likewise."""

# Decoders of these formats hold several copies of an image, or numbers of four bytes.
_HEAVY = {formats.JPEG_2000: 3, formats.WEBP: 2, formats.AVIF: 2, formats.HEIC: 2}

_NUMBER_OF_PICTURES = 0xB001


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
    """One image as 8-bit RGB.

    Attributes:
        stored: its pixels in mode ``RGB`` as the file has them, before the orientation; fewer than the image has where
            less was enough.
        orientation: EXIF value of the file, 1 to 8; 1 if there is none or it means nothing.
        content_sha256: of the file's bytes, in hexadecimal.
        more_frames: whether the file has further frames, pages or pictures; this is the first.
        size: (height, width) of the image itself, in pixels, upright.
        turn: the orientation that is still to be applied to ``stored``.
        reduction: pixels of the image, along each side, that one of ``stored`` stands for; 1 if it is decoded whole.
            Those at the right and lower side may reach beyond the image.
    """

    stored: Image.Image
    orientation: int
    content_sha256: str
    more_frames: bool
    size: tuple[int, int]
    turn: int = 1
    reduction: int = 1

    @property
    def picture(self) -> Image.Image:
        """The pixels upright."""
        return self.stored.transpose(_TRANSPOSED[self.turn]) if self.turn in _TRANSPOSED else self.stored

    @property
    def rgb(self) -> NDArray[np.uint8]:
        """The pixels upright, ``(H, W, 3)`` uint8; copied at each call."""
        return array_of(self.picture)

    @classmethod
    def of_array(cls, rgb: NDArray[np.uint8], orientation: int = 1, content_sha256: str = "") -> Decoded:
        """An image ``(H, W, 3)`` uint8, upright, that was decoded before."""
        size = rgb.shape[0], rgb.shape[1]
        return cls(Image.fromarray(rgb), orientation, content_sha256, more_frames=False, size=size)


@dataclass(frozen=True, slots=True)
class Opened:
    """A file that Pillow has opened.

    Attributes:
        image: the first picture in it.
        orientation: that the file states; what remains to be turned is `orientation_of` the image, since Pillow turns a
            TIFF itself while loading it.
        more_frames: as of `Decoded`.
        size: (height, width), upright, of an image that is decoded smaller than it is.
        reduction: pixels of it, along each side, that one of ``image`` stands for; 1 of what is decoded whole.
    """

    image: ImageFile.ImageFile
    orientation: int
    more_frames: bool
    size: tuple[int, int] = (0, 0)
    reduction: int = 1


def fetch(uri: str, limits: ImageLimits) -> bytes:
    """The bytes of one image.

    Raises:
        ImageError: ``not_found``; ``too_large`` if it has more than ``limits.max_bytes``; ``unsupported`` for a video
            or a camera's raw file by its name, of which nothing is read, and for a member of an archive that is
            encrypted or packed as is not read; ``undecodable`` for one that is damaged.
        UnreadableError: the storage refuses it, or does not answer.
    """
    refuse_by_name(uri)
    try:
        data = read_url(uri, limits.max_bytes)
    except UnusableMember as error:
        raise ImageError(error.kind, str(error), "read") from error
    except ObjectNotFound as error:
        raise ImageError("not_found", str(error), "read") from error
    except StorageError as error:
        raise UnreadableError(str(error), uri, isinstance(error, ObjectRefused)) from error
    if len(data) > limits.max_bytes:
        refuse_by_content(data)
        message = f"{uri}: the file has more than {limits.max_bytes} bytes. To mend it: raise --max-bytes"
        raise ImageError("too_large", message, "read")
    return data


def decode(
    data: bytes,
    limits: ImageLimits,
    color_profile: ColorProfile = "ignore",
    hold: ExitStack | None = None,
    enough: Enough | None = None,
) -> Decoded:
    """Decode an image of any depth and colour mode in one of `formats.READ`; may be called from many threads.

    Transparency is dropped: the colours stored under it count (Pillow's ``convert("RGB")``). Of several pages or frames
    the first is taken. Deeper grey is scaled as `grey_as_8_bit` says; colours of 16 bits keep their high byte. The
    pixel limit is checked on the header, before any pixel is decoded.

    Args:
        data: the file's bytes.
        limits: on it.
        color_profile: ``srgb`` turns colours to sRGB by the ICC profile in the file, as `to_srgb` does; ``ignore``
            takes them as they are stored.
        hold: its pixels count as in flight (`IN_FLIGHT`) until this is closed; None: until it is decoded.
        enough: a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, by its decoder, where that is no smaller than
            this says of its whole size; None: it is decoded whole, as every other format is.

    Raises:
        ImageError: ``empty_file``, ``not_an_image``, ``too_large``, ``timed_out``, ``truncated``, ``unsupported`` or
            ``undecodable``.
    """
    with opened(data, limits, with_profile=color_profile == "srgb", hold=hold, enough=enough) as found:
        turn = orientation_of(found.image)
        stored = _as_rgb(found.image, color_profile)
    # what was said of the file is no longer so of the pixels, and whatever saves them would write it
    stored.info = {}
    size = found.size
    if found.reduction == 1:
        size = (stored.width, stored.height) if turn >= FIRST_ON_ITS_SIDE else (stored.height, stored.width)
    digest = hashlib.sha256(data).hexdigest()
    return Decoded(stored, found.orientation, digest, found.more_frames, size, turn, found.reduction)


def image_size(data: bytes, limits: ImageLimits) -> tuple[int, int]:
    """Height and width of an image, upright, from its header alone.

    Raises:
        ImageError: as `decode`, as far as the header shows.
    """
    with opened(data, limits, load=False) as found:
        width, height = found.image.size
        # of a TIFF, Pillow gives the size upright
        turned = found.orientation >= FIRST_ON_ITS_SIDE and not isinstance(found.image, TiffImageFile)
    return (width, height) if turned else (height, width)


@contextmanager
def opened(
    data: bytes,
    limits: ImageLimits,
    *,
    load: bool = True,
    with_profile: bool = False,
    hold: ExitStack | None = None,
    enough: Enough | None = None,
) -> Iterator[Opened]:
    """A Pillow image, loaded unless ``load`` is false. Faults while it is in use become `ImageError`.

    Args:
        data: the file's bytes.
        limits: on it.
        load: decode the pixels; they count as in flight until ``hold`` is closed, or else until the image is.
        with_profile: keep a large colour profile.
        hold: see ``load``.
        enough: see `decode`.
    """
    kind = readable_kind(data)
    with ExitStack() as own:
        try:
            file, more_frames, profile = _prepared(kind, data, limits, with_profile=with_profile)
            with _READERS[kind](file, "") as image:
                if profile is not None:
                    image.info["icc_profile"] = profile
                pixels = _checked_pixels(image, limits)
                more_frames = more_frames or _has_more(image)
                stated = orientation_of(image) if isinstance(image, TiffImageFile) else None
                if isinstance(image, JpegImageFile):
                    image.decodermaxblock = _JPEG_BLOCK
                size, reduction = (0, 0), 1
                if enough is not None and isinstance(image, JpegImageFile):
                    size, reduction = _reduced(image, enough)
                    # of a progressive one, all coefficients are held at once
                    pixels = pixels if image.info.get("progressive") else image.width * image.height
                if isinstance(image, TiffImageFile):
                    mend_tiff(image)
                if load:
                    (own if hold is None else hold).enter_context(IN_FLIGHT.held(pixels * _HEAVY.get(kind, 1)))
                    image.load()
                    # the size of HEIC may become another one
                    _checked_pixels(image, limits)
                stated = orientation_of(image) if stated is None else stated
                yield Opened(image, stated, more_frames, size, reduction)
        except (ImageError, MemoryError):
            raise
        except Exception as error:
            raise decoder_fault(error, kind, data) from error


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


_TRANSPOSED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _reduced(image: JpegImageFile, enough: Enough) -> tuple[tuple[int, int], int]:
    """Have an open JPEG decoded no larger than is enough; its own size (height, width), upright, and the reduction."""
    on_its_side = orientation_of(image) >= FIRST_ON_ITS_SIDE
    width, height = image.size
    size = (width, height) if on_its_side else (height, width)
    least = enough(size)
    # the part of its own pixels that the whole image is decoded to, before it is rounded up to whole ones
    chosen = image.draft(image.mode, least if on_its_side else least[::-1])
    return size, 1 if chosen is None else round(width / chosen[1][2])


def orientation_of(image: ImageFile.ImageFile) -> int:
    """The EXIF orientation of an open image, 1 to 8; 1 if it has none, none that can be read, or another number."""
    try:
        # PngImageFile's own loads the pixels, to see what stands behind them; here nothing does
        exif = Image.Image.getexif(image) if isinstance(image, PngImageFile) else image.getexif()
        value = exif.get(_ORIENTATION, 1)
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, EOFError, AttributeError):
        # metadata that cannot be read does not make the pixels unreadable; if the pixels are at fault, load() says so
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _prepared(
    kind: Format, data: bytes, limits: ImageLimits, *, with_profile: bool
) -> tuple[TimedFile, bool, bytes | None]:
    """A file for the decoder, once what it must not meet is out of it; whether it has more frames; and its profile."""
    deadline = Deadline(limits.decode_seconds)
    if kind is formats.PNG:
        held = essentials(data, deadline, with_profile=with_profile)
        return TimedFile(held.data, deadline), held.more_frames, held.profile
    if kind is formats.TIFF:
        check_tiff(data)
    if kind is formats.JPEG_2000:
        check_jpeg_2000(data, limits.max_pixels, deadline)
    return TimedFile(data, deadline), False, None


def _checked_pixels(image: ImageFile.ImageFile, limits: ImageLimits) -> int:
    """How many pixels are decoded, at most those that may be."""
    most = 0
    for what, (w, h) in (
        ("", image.size),
        ("tiles of ", tile_size(image) if isinstance(image, TiffImageFile) else (0, 0)),
    ):
        if w * h > limits.max_pixels:
            raise too_large(w, h, limits.max_pixels, what)
        most = max(most, w * h)
    if image.width > _LONGEST_LINE:
        raise not_read(f"a picture with lines of {image.width} pixels")
    return most


def _has_more(image: ImageFile.ImageFile) -> bool:
    """Whether an opened file has further frames, pages or pictures."""
    try:
        if isinstance(image, JpegImageFile):
            listed = image._getmp() if "mp" in image.info else None
            return listed is not None and listed.get(_NUMBER_OF_PICTURES, 1) > 1
        return bool(getattr(image, "is_animated", False))
    except (OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, struct.error):
        # what follows cannot be read, and is not wanted; of a JPEG it is a remark that is broken
        return not isinstance(image, JpegImageFile)


def _as_rgb(image: ImageFile.ImageFile, color_profile: ColorProfile) -> Image.Image:
    turned = (to_srgb(image) if color_profile == "srgb" else None) or _to_rgb
    if is_deep(image):
        return turned(Image.fromarray(grey_as_8_bit(deep_values(image), declared_bits(image))))
    # for colours, the transparent one is as good as any other; with it Pillow would warn and look for a replacement
    image.info.pop("transparency", None)
    return turned(image)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    # premultiplied grey has a conversion to LA only
    return (image.convert("LA") if image.mode == "La" else image).convert("RGB")
