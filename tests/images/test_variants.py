"""Variants of TIFF and JPEG, written by another library or by hand: the right picture, or that they are not read."""

from __future__ import annotations

import io
import struct
from contextlib import suppress
from itertools import product
from typing import Any

import numpy as np
import pytest
from PIL import Image

from simsam_batch.errors import ImageError
from simsam_batch.images import ImageLimits, decode, load_label_map, load_mask

tifffile = pytest.importorskip("tifffile")

LIMITS = ImageLimits()
HEIGHT, WIDTH = 33, 47


def ramp() -> np.ndarray:
    """Values over all of 0 to 1, (33, 47) float, different in each corner."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    return (x / (WIDTH - 1) * 2 + y / (HEIGHT - 1)) / 3


def written(values: np.ndarray, **options: Any) -> bytes:
    """A TIFF by tifffile."""
    file = io.BytesIO()
    tifffile.imwrite(file, values, **options)
    return file.getvalue()


def failure(data: bytes) -> ImageError:
    with pytest.raises(ImageError) as caught:
        decode(data, LIMITS)
    return caught.value


def picture_of(data: bytes) -> np.ndarray | None:
    """What is decoded; None for a variant that is not read."""
    with suppress(ImageError):
        return decode(data, LIMITS).rgb
    assert failure(data).kind == "unsupported"
    return None


def stored(dtype: str, white_is_zero: bool) -> np.ndarray:
    """The ramp over the whole range of a type, as a file of it holds it."""
    values = 1 - ramp() if white_is_zero else ramp()
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return values.astype(kind)
    low, high = np.iinfo(kind).min, np.iinfo(kind).max
    return np.rint(low + values * (float(high) - low)).clip(low, high).astype(kind)


GREYS = list(
    product(
        ["u1", "i1", "u2", "i2", "u4", "i4", "f2", "f4", "f8"],
        ["<", ">"],
        [None, "zlib"],
        ["minisblack", "miniswhite"],
        [None, (16, 16)],
    )
)
READ = {"u1", "u2", "i2", "i4", "f4"}


@pytest.mark.parametrize(("dtype", "order", "compression", "photometric", "tile"), GREYS)
def test_a_grey_tiff_of_any_kind_shows_its_picture_or_is_not_read(
    dtype: str, order: str, compression: str | None, photometric: str, tile: tuple[int, int] | None
) -> None:
    options = {"byteorder": order, "compression": compression, "photometric": photometric, "tile": tile}
    data = written(stored(dtype, photometric == "miniswhite"), **options)
    found = picture_of(data)
    if found is None:
        assert photometric == "miniswhite" or dtype not in READ
        return
    assert np.abs(found[:, :, 1] - ramp() * 255).max() <= 1.01


@pytest.mark.parametrize(
    ("dtype", "order", "compression", "planes", "tile"),
    list(product(["u1", "u2"], ["<", ">"], [None, "zlib"], ["contig", "separate"], [None, (16, 16)])),
)
def test_a_colour_tiff_of_any_kind_shows_its_picture_or_is_not_read(
    dtype: str, order: str, compression: str | None, planes: str, tile: tuple[int, int] | None
) -> None:
    shades = [stored(dtype, False), stored(dtype, True), stored(dtype, False)[::-1]]
    values = np.stack(shades, axis=2 if planes == "contig" else 0)
    options = {"byteorder": order, "compression": compression, "photometric": "rgb", "tile": tile}
    data = written(values, planarconfig=planes, **options)
    expected = np.stack([ramp(), 1 - ramp(), ramp()[::-1]], axis=2) * 255
    found = picture_of(data)
    if found is None:
        assert (dtype, planes, compression) == ("u2", "separate", None)
        return
    assert np.abs(found - expected).max() <= 1.01


@pytest.mark.parametrize(("most", "scale"), [(65_535, 65_535), (65_536, 131_071), (2**32 - 1, 2**32 - 1)])
def test_unsigned_32_bits_go_up_to_the_next_power_of_two(most: int, scale: int) -> None:
    values = np.array([[0, most // 2, most]], np.uint32)
    found = decode(written(values, photometric="minisblack"), LIMITS).rgb[0, :, 0]
    np.testing.assert_array_equal(found, np.rint(values[0].astype(float) * 255 / scale))


@pytest.mark.parametrize("scale", [1, 257])
def test_a_palette_of_8_or_16_bits_gives_its_colours(scale: int) -> None:
    # TIFF 6.0 has 16 bits; libtiff and with it most readers take a map without any value above 255 for one of 8
    colours = np.array([[10, 200, 30], [0, 90, 255]], np.uint8)
    table = np.zeros((3, 256), np.uint16)
    table[:, :2] = colours.T.astype(np.uint16) * scale
    indices = np.array([[0, 1, 1], [1, 0, 0]], np.uint8)
    data = written(indices, photometric="palette", colormap=table)
    np.testing.assert_array_equal(decode(data, LIMITS).rgb, colours[indices])


def test_masks_in_which_white_is_zero_are_masks_of_what_is_white(tmp_path: Any) -> None:
    lit = ramp() > 0.5
    for dtype in (np.uint8, np.uint16):
        values = np.where(lit, 0, np.iinfo(dtype).max).astype(dtype)
        path = tmp_path / f"{np.dtype(dtype).name}.tif"
        path.write_bytes(written(values, photometric="miniswhite"))
        np.testing.assert_array_equal(load_mask(str(path), LIMITS), lit)


def test_ids_above_two_to_the_31_keep_their_value(tmp_path: Any) -> None:
    ids = np.array([[0, 1, 2**31 + 7]], np.uint32)
    (tmp_path / "ids.tif").write_bytes(written(ids, photometric="minisblack"))
    np.testing.assert_array_equal(load_label_map(str(tmp_path / "ids.tif"), LIMITS), ids)


def test_a_raw_file_of_a_camera_is_not_taken_for_its_preview() -> None:
    small, large = (np.zeros((n, n, 3), np.uint8) for n in (16, 64))
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as writer:
        writer.write(small, photometric="rgb", subfiletype=1)
        writer.write(large, photometric="rgb")
    dng = written(large, photometric="rgb", extratags=[(50706, 1, 4, (1, 4, 0, 0), True)])
    canon = b"II*\0" + struct.pack("<I", 16) + b"CR\2\0" + bytes(64)
    for data in (file.getvalue(), dng, canon):
        error = failure(data)
        assert error.kind == "unsupported"
        assert "camera raw" in error.message
        assert "raw converter" in error.message


def test_a_page_that_calls_itself_a_copy_but_is_alone_is_read() -> None:
    assert decode(written(np.zeros((16, 16, 3), np.uint8), photometric="rgb", subfiletype=1), LIMITS).size == (16, 16)


def with_compression(number: int) -> bytes:
    """A TIFF of two by two grey pixels whose tag 259 says so."""
    tags = {256: 2, 257: 2, 258: 8, 259: number, 262: 1, 273: 8, 277: 1, 278: 2, 279: 4}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<I", 12) + bytes(4) + struct.pack("<H", len(tags)) + entries + bytes(4)


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (34712, "JPEG 2000"),
        (33005, "JPEG 2000"),
        (50002, "JPEG XL"),
        (34887, "LERC"),
        (34661, "JBIG"),
        (12345, "unknown"),
    ],
)
def test_a_compression_that_is_not_read_is_named(number: int, name: str) -> None:
    error = failure(with_compression(number))
    assert error.kind == "unsupported"
    assert f"{number} (" in error.message
    assert name in error.message


def jpeg(**options: Any) -> bytearray:
    file = io.BytesIO()
    Image.fromarray(np.rint(ramp() * 255).astype(np.uint8)).save(file, "JPEG", **options)
    return bytearray(file.getvalue())


@pytest.mark.parametrize(
    ("marker", "bits", "words"),
    [
        (0xC1, 12, "12 bits a sample"),
        (0xC0, 16, "16 bits a sample"),
        (0xC3, 8, "lossless"),
        (0xC3, 16, "lossless, 16 bits"),
        (0xC5, 8, "hierarchical"),
        (0xF7, 8, "JPEG-LS"),
    ],
)
def test_a_jpeg_of_another_kind_is_not_called_damaged(marker: int, bits: int, words: str) -> None:
    data = jpeg()
    at = data.index(b"\xff\xc0")
    data[at + 1], data[at + 4] = marker, bits
    error = failure(bytes(data))
    assert error.kind == "unsupported"
    assert words in error.message


def test_a_jpeg_of_two_channels_is_not_called_damaged() -> None:
    data = jpeg()
    at = data.index(b"\xff\xc0")
    data[at + 9] = 2
    assert failure(bytes(data)).kind == "unsupported"


def test_a_damaged_jpeg_of_the_usual_kind_is_called_so() -> None:
    data = jpeg(progressive=True)
    assert failure(bytes(data[: len(data) // 2])).kind == "truncated"
