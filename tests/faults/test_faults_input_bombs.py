"""Small files that would take a decoder gigabytes or hours: each is decoded or refused within its bounds."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from simsam_batch.images import ImageLimits, decode

CHILD = Path(__file__).parent / "decode_in_bounds.py"


def encoded(kind: str, mode: str = "RGB", side: int = 40, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.new(mode, (side, side)).save(file, kind, **options)
    return file.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_with(chunks: bytes) -> bytes:
    """A PNG with chunks right behind its header, whose 33 bytes are signature and IHDR."""
    data = encoded("PNG")
    return data[:33] + chunks + data[33:]


def directory(entries: list[tuple[int, int, int, int]]) -> bytes:
    """A TIFF directory of (tag, type, count, value or offset)."""
    packed = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    return struct.pack("<H", len(entries)) + packed + b"\0" * 4


def tiff(body: bytes, *entries: tuple[int, int, int, int], side: int = 2) -> bytes:
    """A grey TIFF whose 8-byte header is followed by a body and then by the directory."""
    usual = [(256, 4, 1, side), (257, 4, 1, side), (258, 4, 1, 8), (262, 4, 1, 1)]
    return b"II*\0" + struct.pack("<I", 8 + len(body)) + body + directory([*usual, *entries])


def bmp(width: int, height: int, runs: bytes) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(runs), 0, 0, 4, 0)
    return b"BM" + struct.pack("<IHHI", 70 + len(runs), 0, 0, 70) + header + b"\0" * 16 + runs


def scans(side: int, copies: int) -> bytes:
    """A progressive JPEG of one colour whose last scan, a few bytes, is repeated."""
    data = encoded("JPEG", "L", side, progressive=True)
    last = data[data.rindex(b"\xff\xc4", 0, data.rindex(b"\xff\xda")) : -2]
    return data[:-2] + last * copies + b"\xff\xd9"


def many_values(tags: int, size: int) -> list[tuple[int, int, int, int]]:
    """Directory entries that all lead to the same bytes, from the 8th of the file on."""
    return [(tag, 1, size, 8) for tag in range(1000, 1000 + tags)]


def exif_of(tags: int, size: int) -> bytes:
    return b"II*\0" + struct.pack("<I", 8 + size) + bytes(size) + directory(many_values(tags, size))


def codestream(side: int, tile: int, layers: int = 1, precincts: bytes = b"", block: int = 4) -> bytes:
    """A JPEG 2000 of headers alone: one component, one level; blocks have sides of ``2 ** (block + 2)``."""
    size = struct.pack(">HHH8LHBBB", 0xFF51, 41, 0, side, side, 0, 0, tile, tile, 0, 0, 1, 7, 1, 1)
    style = struct.pack(">BBHBBBBBB", bool(precincts), 0, layers, 0, 1, block, block, 0, 1) + precincts
    steps = struct.pack(">HHB", 0xFF5C, 7, 0x40) + bytes([64, 72, 72, 80])
    start = struct.pack(">HHHLBB", 0xFF90, 10, 0, 14, 0, 1) + b"\xff\x93"
    return b"\xff\x4f" + size + struct.pack(">HH", 0xFF52, 2 + len(style)) + style + steps + start + b"\xff\xd9"


def jpeg_2000_that_lies(side: int) -> bytes:
    """A JPEG 2000 whose file says 40 by 40 pixels, and whose codestream more."""
    data = bytearray(encoded("JPEG2000"))
    at = data.index(b"\xff\x4f\xff\x51") + 8
    data[at : at + 8] = struct.pack(">LL", side, side)
    return bytes(data)


def nothing(length: int) -> bytes:
    return zlib.compress(bytes(length), 9)


STRIP = [(259, 4, 1, 1), (273, 4, 1, 8), (278, 4, 1, 2), (279, 4, 1, 4)]
TILED = [(322, 4, 1, 1), (323, 4, 1, 1), (325, 4, 1, 1)]
# what each would take without a bound is told in the name
BOMBS: dict[str, tuple[Callable[[], bytes], set[str]]] = {
    "a PNG of 10.8 GB of pixels": (
        lambda: (
            b"\x89PNG\r\n\x1a\n"
            + chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0))
            + chunk(b"IDAT", b"")
        ),
        {"too_large"},
    ),
    "a TIFF of 3.6 GB of pixels": (lambda: tiff(b"", *STRIP, side=60000), {"too_large"}),
    "a BMP of 3.6 GB of pixels": (lambda: bmp(60000, 60000, b"\0\1"), {"too_large"}),
    "a WebP of 268 million pixels": (
        lambda: b"RIFF\x2a\0\0\0WEBPVP8X\x0a\0\0\0\x02\0\0\0" + b"\xfe\x3f\0" * 2 + b"ANIM\x06\0\0\0" + b"\0" * 6,
        {"too_large", "undecodable", "truncated"},
    ),
    "a TIFF tile of 1.6 GB around 16 by 16 pixels": (
        lambda: tiff(
            nothing(1000), (259, 4, 1, 8), (322, 4, 1, 40000), (323, 4, 1, 40000), (324, 4, 1, 8), (325, 4, 1, 17)
        ),
        {"too_large"},
    ),
    "a TIFF of two million tiles": (
        lambda: tiff(bytes(4_000_000), (259, 4, 1, 1), *TILED, (324, 3, 2_000_000, 8)),
        {"unsupported"},
    ),
    "a TIFF directory that reads 50 GB": (
        lambda: tiff(bytes(10**6), *STRIP, *many_values(59_000, 900_000)),
        {"decoded", "timed_out"},
    ),
    "EXIF in a PNG that reads 50 GB": (
        lambda: png_with(chunk(b"eXIf", exif_of(59_000, 900_000))),
        {"decoded", "timed_out"},
    ),
    "EXIF in a JPEG that reads 60 MB": (lambda: encoded("JPEG", exif=exif_of(1200, 50_000)), {"decoded"}),
    "text in a PNG of 300 MB": (lambda: png_with(chunk(b"zTXt", b"k\0\0" + nothing(3 * 10**8))), {"decoded"}),
    "a colour profile of 300 MB": (lambda: png_with(chunk(b"iCCP", b"k\0\0" + nothing(3 * 10**8))), {"decoded"}),
    "a PNG of more pixels than it says": (
        lambda: png_with(chunk(b"IDAT", nothing(3 * 10**8)) + chunk(b"IEND", b"")),
        {"decoded", "undecodable"},
    ),
    "runs of a BMP that skip 25 GB": (
        lambda: bmp(50_000_000, 1, b"\0\2\0\xff" * 4 + b"\0\1"),
        {"decoded", "truncated"},
    ),
    "lines too long for the decoder": (lambda: bmp(99_000_000, 1, b"\0\1"), {"unsupported"}),
    "a JPEG 2000 of 3.6 GB of pixels": (lambda: codestream(60000, 60000), {"too_large"}),
    "a JPEG 2000 of 3.6 GB of pixels that says 40 by 40": (lambda: jpeg_2000_that_lies(60000), {"too_large"}),
    "a JPEG 2000 of a million tiles": (lambda: codestream(9000, 9), {"unsupported"}),
    "65,535 layers in 10,000 tiles": (lambda: codestream(900, 9, layers=65535), {"unsupported"}),
    "80 million precincts": (lambda: codestream(9000, 9000, precincts=b"\x00\x00"), {"unsupported"}),
    "5 million blocks": (lambda: codestream(9000, 9000, block=0), {"unsupported"}),
    "a million chunks": (lambda: png_with(chunk(b"abCd", b"") * 10**6), {"decoded", "timed_out"}),
    "a million segments": (lambda: b"\xff\xd8" + b"\xff\xe5\0\x02" * 10**6 + encoded("JPEG")[2:], {"timed_out"}),
    "40,000 scans, minutes of work": (lambda: scans(3000, 40_000), {"timed_out"}),
}


@pytest.mark.slow
def test_files_made_to_exhaust_a_decoder_cost_little_memory_and_time(tmp_path: Path) -> None:
    for number, (make, _) in enumerate(BOMBS.values()):
        (tmp_path / str(number)).write_bytes(make())
    # 600 MiB hold two copies of the 50 million pixels of the widest of them, and none of what their names say
    command = [sys.executable, str(CHILD), "600", "0.5", *(str(tmp_path / str(n)) for n in range(len(BOMBS)))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    for (name, (_, allowed)), (kind, message, seconds) in zip(BOMBS.items(), json.loads(done.stdout), strict=True):
        assert kind in allowed, (name, kind, message)
        assert seconds < 6, name
        if kind == "timed_out":
            assert "more than 0.5 seconds of processor time" in message
            assert "--decode-seconds" in message


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "mib"), [("L", 560), ("RGB", 800), ("I;16", 720)])
def test_an_image_at_the_pixel_limit_takes_eight_bytes_a_pixel(tmp_path: Path, mode: str, mib: int) -> None:
    # 100 million pixels: Pillow's own of 1, 4 or 2 bytes, and the three of the result; 95 MiB for each byte
    Image.new(mode, (10_000, 10_000)).save(tmp_path / "large.png", compress_level=1)
    command = [sys.executable, str(CHILD), str(mib), "60", str(tmp_path / "large.png")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout)[0][0] == "decoded"


def test_a_long_decode_within_its_time_gives_the_pixels(tmp_path: Path) -> None:
    # twenty repeated scans change nothing: the file is of one colour
    found = decode(scans(200, 20), ImageLimits(decode_seconds=30.0)).rgb
    assert np.ptp(found) == 0


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF", "JPEG2000", "AVIF"])
def test_no_time_at_all_is_too_little_for_any_format(kind: str) -> None:
    from simsam_batch.errors import ImageError

    with pytest.raises(ImageError) as caught:
        decode(encoded(kind), ImageLimits(decode_seconds=-1.0))
    assert (caught.value.kind, caught.value.step) == ("timed_out", "decode")
