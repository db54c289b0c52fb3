"""What a PNG carries beside its pixels costs itself at most, and never the image."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from simsam_batch.errors import ImageError
from simsam_batch.images import ImageLimits, decode, image_size

LIMITS = ImageLimits()
HEAD = 33  # the signature and IHDR
MEGABYTE = zlib.compress(bytes(1_200_000))


def photograph() -> np.ndarray:
    y, x = np.mgrid[:40, :56]
    return np.stack([y * 6, x * 4, (x + y) * 2], axis=2).astype(np.uint8)


def png(**options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(photograph()).save(file, "PNG", **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes, checksum: int | None = None) -> bytes:
    found = zlib.crc32(kind + data) if checksum is None else checksum
    return struct.pack(">L", len(data)) + kind + data + struct.pack(">L", found)


REMARKS = {
    "text that unpacks to 1.2 MB": chunk(b"zTXt", b"prompt\0\0" + MEGABYTE),
    "international text of 1.2 MB": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + MEGABYTE),
    "EXIF as text of 1.2 MB": chunk(b"zTXt", b"Raw profile type exif\0\0" + MEGABYTE),
    "a profile of 1.2 MB": chunk(b"iCCP", b"icc\0\0" + MEGABYTE),
    "70 texts of 1 MB": chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(1_000_000))) * 70,
    "70 times EXIF as text of 1 MB": chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(bytes(1_000_000)))
    * 70,
    "text packed in an unknown way": chunk(b"zTXt", b"k\0\7abc"),
    "EXIF as text packed in an unknown way": chunk(b"zTXt", b"Raw profile type exif\0\7abc"),
    "a profile packed in an unknown way": chunk(b"iCCP", b"icc\0\7abc"),
    "a profile without a name": chunk(b"iCCP", b"icc"),
    "text with a wrong checksum": chunk(b"tEXt", b"k\0v", checksum=1),
    "EXIF with a wrong checksum": chunk(b"eXIf", b"II*\0\x08\0\0\0", checksum=1),
    "a gamma that is cut": chunk(b"gAMA", b"\0"),
    "a size that is cut": chunk(b"pHYs", b"\0"),
    "a transparency that is cut": chunk(b"tRNS", b"\0"),
    "colours that are cut": chunk(b"cHRM", b"\0"),
    "an animation that is cut": chunk(b"acTL", b"\0"),
    "frames out of order": chunk(b"acTL", struct.pack(">LL", 2, 0)) + chunk(b"fcTL", struct.pack(">L", 9) + bytes(22)),
}


@pytest.mark.parametrize("remark", REMARKS)
@pytest.mark.parametrize("behind", [False, True])
def test_a_remark_that_cannot_be_read_costs_no_pixel(remark: str, behind: bool) -> None:
    plain = png()
    at = len(plain) - 12 if behind else HEAD
    data = plain[:at] + REMARKS[remark] + plain[at:]
    np.testing.assert_array_equal(decode(data, LIMITS, "srgb").rgb, photograph())
    assert image_size(data, LIMITS) == (40, 56)


@pytest.mark.parametrize("where", ["eXIf", "eXIf behind the pixels", "raw profile", "XMP"])
def test_an_orientation_counts_wherever_it_stands(where: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    body = exif.tobytes()
    plain = png()
    if where.startswith("eXIf"):
        at = len(plain) - 12 if "behind" in where else HEAD
        data = plain[:at] + chunk(b"eXIf", body[6:]) + plain[at:]
    elif where == "raw profile":
        # as ImageMagick writes it: the length, and the bytes in hexadecimal
        text = f"\nexif\n{len(body):8}\n{body.hex()}\n".encode()
        data = plain[:HEAD] + chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(text)) + plain[HEAD:]
    else:
        info = PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", '<rdf:Description tiff:Orientation="6"/>', zip=True)
        data = png(pnginfo=info)
    found = decode(data, LIMITS)
    assert found.orientation == 6
    np.testing.assert_array_equal(found.rgb, np.rot90(photograph(), -1))
    assert image_size(data, LIMITS) == (56, 40)


def animated(default_image: bool) -> bytes:
    frames = [Image.fromarray(photograph()), Image.new("RGB", (56, 40)), Image.new("RGB", (56, 40), "white")]
    file = io.BytesIO()
    frames[0].save(file, "PNG", save_all=True, append_images=frames[1:], default_image=default_image)
    return file.getvalue()


@pytest.mark.parametrize("default_image", [False, True])
def test_of_an_animation_the_first_frame_is_shown_and_that_is_said(default_image: bool) -> None:
    found = decode(animated(default_image), LIMITS)
    np.testing.assert_array_equal(found.rgb, photograph())
    assert found.more_frames
    assert not decode(png(), LIMITS).more_frames


def test_frames_that_are_damaged_do_not_cost_the_first() -> None:
    data = bytearray(animated(default_image=False))
    at = data.index(b"fcTL", data.index(b"IDAT"))
    data[at + 4 : at + 8] = b"\xff\xff\xff\xff"
    found = decode(bytes(data), LIMITS)
    np.testing.assert_array_equal(found.rgb, photograph())
    assert found.more_frames


def test_data_in_two_parts_around_a_text_are_one_picture() -> None:
    plain = png()
    at = plain.index(b"IDAT") - 4
    (length,) = struct.unpack_from(">L", plain, at)
    packed = plain[at + 8 : at + 8 + length]
    parts = chunk(b"IDAT", packed[:50]) + chunk(b"tEXt", b"k\0v") + chunk(b"IDAT", packed[50:])
    data = plain[:at] + parts + plain[at + 12 + length :]
    np.testing.assert_array_equal(decode(data, LIMITS).rgb, photograph())


def test_the_variant_of_ios_is_not_called_damaged() -> None:
    plain = png()
    with pytest.raises(ImageError, match="CgBI") as caught:
        decode(plain[:8] + chunk(b"CgBI", bytes(4)) + plain[8:], LIMITS)
    assert caught.value.kind == "unsupported"
