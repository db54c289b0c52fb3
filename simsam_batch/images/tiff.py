"""What the first page of a TIFF is, before and after Pillow: variants that it reads wrong are mended or refused."""

from __future__ import annotations

import io
import struct
from functools import cache

from PIL import Image, ImagePalette
from PIL.TiffImagePlugin import COMPRESSION_INFO, TiffImageFile

from simsam_batch.formats import CAMERA_RAW
from simsam_batch.images.unread import not_read

MOST_TIFF_PIECES = 1_000_000
"""Strips or tiles of a TIFF; the decoder makes some 300 bytes of Python objects for each."""

_SUBFILE_TYPE, _BITS, _COMPRESSION, _PHOTOMETRIC, _SAMPLES, _PLANES = 254, 258, 259, 262, 277, 284
_STRIP_OFFSETS, _TILE_OFFSETS, _COLOR_MAP, _SUBSAMPLING, _DNG_VERSION = 273, 324, 320, 530, 50706
_TILE_SIDES, _SUB_DIRECTORIES = (322, 323), 330
_PLAIN, _JPEG, _YCBCR, _SEPARATE = 1, 7, 6, 2
_MOST_ENTRIES = 65_536
_DNG_VERSION_BYTES = 4
_MOST_VALUES = 8
_CODES = {1: "B", 3: "H", 4: "L", 16: "Q"}
_COMPRESSIONS = {
    **dict.fromkeys((33003, 33004, 33005, 34712), "JPEG 2000"),
    **dict.fromkeys((34934, 22610), "JPEG XR"),
    **dict.fromkeys((50002, 52546), "JPEG XL"),
    34661: "JBIG",
    34887: "LERC",
    34892: "lossy JPEG of DNG",
    34926: "Zstandard",
    50001: "WebP",
}

# What libtiff has unpacked is in this machine's byte order, whatever the file's; Pillow would turn these once more.
_NATIVE = {"F;32F": "F;32NF", "F;32BF": "F;32NF"} | {
    f"I;{bits}{order}S": f"I;{bits}NS" for bits in (16, 32) for order in ("", "B")
}


def check_tiff(data: bytes) -> None:
    """Look into the first directory of a TIFF (TIFF 6.0, section 2), before a decoder does.

    What cannot be followed is left for the decoder to name.

    Raises:
        ImageError: ``unsupported``, for what Pillow does not know or would show as something else, for a camera's raw
            file, and for more than `MOST_TIFF_PIECES` strips or tiles.
    """
    first, following = _first_directory(data)
    if len(first.get(_DNG_VERSION, ())) == _DNG_VERSION_BYTES:
        raise not_read("camera raw (DNG)", str(CAMERA_RAW.mend))
    if first.get(_SUBFILE_TYPE, (0,))[0] & 1 and following:
        what = "a TIFF whose first page is a small copy of another picture in it, as in camera raw files,"
        raise not_read(what, str(CAMERA_RAW.mend))
    compression = first.get(_COMPRESSION, (_PLAIN,))[0]
    name = COMPRESSION_INFO.get(compression)
    if name is None or not _is_built_in(name):
        of = _COMPRESSIONS.get(compression, name or "an unknown kind")
        raise not_read(f"a TIFF with compression {compression} ({of})")
    bits = max(first.get(_BITS, (1,)))
    planes = first.get(_PLANES, (1,))[0] if first.get(_SAMPLES, (1,))[0] > 1 else 1
    if compression == _JPEG and bits > 8:
        raise not_read(f"a TIFF of JPEG with {bits} bits a sample")
    if compression == _PLAIN and planes == _SEPARATE and bits != 8:
        raise not_read(f"a TIFF whose channels of {bits} bits lie apart without compression")
    if compression == _PLAIN and first.get(_PHOTOMETRIC) == (_YCBCR,) and first.get(_SUBSAMPLING, (1, 1)) != (1, 1):
        raise not_read("a TIFF of YCbCr with fewer values of colour, without compression,")


def mend_tiff(image: TiffImageFile) -> None:
    """Let Pillow decode an opened TIFF in the byte order and the palette that it has."""
    image.tile = [
        tile._replace(args=(_NATIVE.get(tile.args[0], tile.args[0]), *tile.args[1:]))
        if tile.codec_name == "libtiff" and isinstance(tile.args, tuple)
        else tile
        for tile in image.tile
    ]
    colors = image.tag_v2.get(_COLOR_MAP, ())
    # of 16 bits by the format's text; some write 8, and libtiff takes them so
    if image.mode in ("P", "PA") and 0 < max(colors, default=0) < 256:
        image.palette = ImagePalette.raw("RGB;L", bytes(colors))


def tile_size(image: TiffImageFile) -> tuple[int, int]:
    """Width and height of the tiles of a TIFF, which are decoded whole however small the image is; 0 for none."""
    width, height = (side if isinstance(side, int) else 0 for side in map(image.tag_v2.get, _TILE_SIDES))
    return width, height


def _first_directory(data: bytes) -> tuple[dict[int, tuple[int, ...]], bool]:
    """Whole numbers in the first directory by tag, up to eight of each, and whether the file has further ones."""
    order = "<" if data[:2] == b"II" else ">"
    found: dict[int, tuple[int, ...]] = {}
    following = False
    try:
        is_big = struct.unpack_from(order + "H", data, 2)[0] == 43
        at, head, entry = ("Q", "Q", "HHQ") if is_big else ("L", "H", "HHL")
        (start,) = struct.unpack_from(order + at, data, 8 if is_big else 4)
        (entries,) = struct.unpack_from(order + head, data, start)
        size = struct.calcsize(order + entry) + struct.calcsize(order + at)
        end = start + struct.calcsize(order + head) + entries * size
        for position in range(end - entries * size, end, size)[:_MOST_ENTRIES]:
            tag, kind, count = struct.unpack_from(order + entry, data, position)
            if tag in (_STRIP_OFFSETS, _TILE_OFFSETS) and count > MOST_TIFF_PIECES:
                raise not_read(f"a TIFF of {count} strips or tiles, more than {MOST_TIFF_PIECES},")
            if kind in _CODES:
                values = struct.Struct(f"{order}{min(count, _MOST_VALUES)}{_CODES[kind]}")
                where = position + struct.calcsize(order + entry)
                if count * struct.calcsize(order + _CODES[kind]) > struct.calcsize(order + at):
                    (where,) = struct.unpack_from(order + at, data, where)
                found[tag] = values.unpack_from(data, where)
        (after,) = struct.unpack_from(order + at, data, end)
        following = after != 0 or _SUB_DIRECTORIES in found
    except (struct.error, OverflowError):
        pass
    return {tag: values for tag, values in found.items() if values}, following


@cache
def _is_built_in(compression: str) -> bool:
    """Whether the libtiff that Pillow has with it knows a compression that it may have been built without."""
    if compression not in ("lzma", "zstd", "webp"):
        return True
    try:
        Image.new("RGB", (16, 16)).save(io.BytesIO(), "TIFF", compression=compression)
    except (OSError, ValueError, RuntimeError):
        return False
    return True
