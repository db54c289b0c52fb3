"""Small real image files of every format and mode, and seeded damage to them."""

from __future__ import annotations

import io
import struct
import zlib
from contextlib import suppress
from random import Random
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin, TiffImagePlugin, features

_EDGES = (0, 1, 2, 8, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)


def small_files() -> dict[str, bytes]:
    """A file for each of the ways to store an image that decoders have code of their own for."""
    y, x = np.mgrid[:20, :28]
    rgb = np.stack([y * 12, x * 9, (x * y) % 256], axis=2).astype(np.uint8)
    colour, grey = Image.fromarray(rgb), Image.fromarray(rgb[:, :, 2])
    alpha = Image.fromarray(np.dstack([rgb, rgb[:, :, 0]]))
    palette = colour.quantize(16)
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "words " * 10
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "words " * 20, zip=True)
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[0x0112] = 8
    pages: dict[str, Any] = {"save_all": True, "append_images": [colour.rotate(90), colour]}
    made: list[tuple[str, Image.Image, str, dict[str, Any]]] = [
        ("baseline", colour, "JPEG", {}),
        ("turned", colour, "JPEG", {"exif": exif, "icc_profile": b"profile" * 30}),
        ("progressive", colour, "JPEG", {"progressive": True, "restart_marker_blocks": 2}),
        ("cmyk", colour.convert("CMYK"), "JPEG", {}),
        ("grey", grey, "JPEG", {}),
        ("colour", colour, "PNG", {"exif": exif, "pnginfo": text}),
        ("alpha", alpha, "PNG", {}),
        ("palette", palette, "PNG", {"transparency": bytes(range(0, 160, 10))}),
        ("grey-alpha", alpha.convert("LA"), "PNG", {}),
        ("deep", Image.fromarray(rgb[:, :, 0].astype(np.uint16) * 257), "PNG", {}),
        ("bits", grey.convert("1"), "PNG", {}),
        ("animated", colour, "PNG", pages),
        ("raw", colour, "TIFF", {"tiffinfo": tags}),
        ("lzw", colour, "TIFF", {"compression": "tiff_lzw", "tiffinfo": tags}),
        ("deflate", alpha, "TIFF", {"compression": "tiff_adobe_deflate"}),
        ("jpeg", colour, "TIFF", {"compression": "jpeg"}),
        ("fax", grey.convert("1"), "TIFF", {"compression": "group4"}),
        ("packbits", palette, "TIFF", {"compression": "packbits"}),
        ("float", Image.fromarray((rgb[:, :, 0] / 255).astype(np.float32)), "TIFF", {}),
        ("deep", Image.fromarray(rgb[:, :, 0].astype(np.uint16) * 99), "TIFF", {}),
        ("big", colour, "TIFF", {"big_tiff": True}),
        ("pages", colour, "TIFF", pages),
        ("lossy", colour, "WEBP", {"exif": exif}),
        ("lossless", alpha, "WEBP", {"lossless": True}),
        ("animated", colour, "WEBP", pages),
        ("colour", colour, "BMP", {}),
        ("palette", palette, "BMP", {}),
        ("animated", palette, "GIF", pages),
        ("grey", grey, "GIF", {"interlace": True, "comment": b"words " * 100}),
        ("pictures", colour, "MPO", pages),
        ("lossless", colour, "JPEG2000", {}),
        ("codestream", colour, "JPEG2000", {"no_jp2": True, "irreversible": True, "quality_layers": [20, 5]}),
        ("tiles", alpha, "JPEG2000", {"tile_size": (8, 8), "num_resolutions": 2}),
        ("deep", Image.fromarray(rgb[:, :, 0].astype(np.uint16) * 257), "JPEG2000", {}),
        *_of_phones(colour, alpha, {"exif": exif.tobytes(), "icc_profile": b"profile" * 30}, pages),
    ]
    files = {"RLE.BMP": _run_length_bmp()}
    for name, image, kind, options in made:
        file = io.BytesIO()
        image.save(file, kind, **options)
        files[f"{name}.{kind}"] = file.getvalue()
    return files


def _of_phones(
    colour: Image.Image, alpha: Image.Image, about: dict[str, Any], pages: dict[str, Any]
) -> list[tuple[str, Image.Image, str, dict[str, Any]]]:
    """AVIF and HEIC, as far as they can be written here."""
    kinds = ["AVIF"] if features.check("avif") else []
    with suppress(ImportError):
        from pillow_heif import register_heif_opener

        register_heif_opener()
        kinds.append("HEIF")
    forms = (("turned", colour, about), ("alpha", alpha, {}), ("sequence", colour, pages))
    return [(name, image, kind, options) for kind in kinds for name, image, options in forms]


def _run_length_bmp() -> bytes:
    """8 by 4 pixels of 8 bits in runs: encoded, absolute, delta, end of line, end of bitmap."""
    runs = bytes([8, 1, 0, 0, 0, 4, 1, 2, 3, 1, 4, 2, 0, 0, 0, 2, 1, 1, 7, 3, 0, 1])
    colours = b"".join(bytes([i * 60, i * 30, i * 10, 0]) for i in range(4))
    header = struct.pack("<IiiHHIIiiII", 40, 8, 4, 1, 8, 1, len(runs), 0, 0, 4, 0)
    start = 14 + len(header) + len(colours)
    return b"BM" + struct.pack("<IHHI", start + len(runs), 0, 0, start) + header + colours + runs


def damaged(files: list[bytes], random: Random) -> bytes:
    """One of the files with one to six changes; a PNG's checksums are mostly made good again."""
    data = bytearray(random.choice(files))
    for _ in range(random.choice((1, 1, 1, 2, 3, 6))):
        _damage(data, files, random)
    if data[:4] == b"\x89PNG" and random.random() < 0.8:
        return _with_checksums(bytes(data))
    return bytes(data)


def _damage(data: bytearray, files: list[bytes], random: Random) -> None:
    # headers are where the decisions are
    at = random.randrange(min(len(data), 200) if random.random() < 0.6 else len(data)) if data else 0
    span = random.choice((1, 2, 4, 12, 64))
    how = random.randrange(8)
    if how <= 1 and data:
        data[at] ^= 1 << random.randrange(8)
    elif how == 2 and data:
        data[at] = random.randrange(256)
    elif how <= 4:
        width = random.choice((1, 2, 4))
        edge = random.choice(_EDGES) & ((1 << 8 * width) - 1)
        data[at : at + width] = edge.to_bytes(width, random.choice(("little", "big")))
    elif how == 5:
        del data[at : at + span]
    elif how == 6:
        other = random.choice(files)
        start = random.randrange(len(other))
        data[at : at + random.choice((0, span))] = other[start : start + span] * random.choice((1, 1, 1, 1000))
    else:
        del data[random.randrange(len(data) + 1) :]


def _with_checksums(data: bytes) -> bytes:
    """A PNG whose chunks, as far as their lengths lead, have the right checksum."""
    out, position = bytearray(data[:8]), 8
    while position + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, position)
        if position + 12 + length > len(data):
            break
        content = data[position + 4 : position + 8 + length]
        out += data[position : position + 4] + content + struct.pack(">I", zlib.crc32(content))
        position += 12 + length
    return bytes(out + data[position:])
