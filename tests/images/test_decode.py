"""Decoding of real files in every format and mode, and a name for every fault."""

from __future__ import annotations

import hashlib
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps, TiffImagePlugin

from simsam_batch.errors import ImageError
from simsam_batch.images import ImageLimits, decode, fetch, image_size

LIMITS = ImageLimits()
FORMATS = ["JPEG", "PNG", "WEBP", "TIFF", "BMP"]


def photograph(height: int = 40, width: int = 56) -> np.ndarray:
    """A smooth picture whose corners all differ."""
    y, x = np.mgrid[:height, :width]
    return np.stack([y * 255 // (height - 1), x * 255 // (width - 1), (x + y) * 2 % 256], axis=2).astype(np.uint8)


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_header(width: int, height: int) -> bytes:
    """A PNG that promises pixels and has none."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") + chunk(b"IEND", b"")


def tiff(tags: dict[int, int], pixels: bytes) -> bytes:
    """A little-endian TIFF with the pixels right after its 8-byte header (StripOffsets 273 = 8) and then the tags."""
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted({**tags, 273: 8}.items()))
    directory = struct.pack("<H", len(tags) + 1) + entries + b"\0" * 4
    return b"II\x2a\0" + struct.pack("<I", 8 + len(pixels)) + pixels + directory


def failure(data: bytes, limits: ImageLimits = LIMITS) -> ImageError:
    with pytest.raises(ImageError) as caught:
        decode(data, limits)
    return caught.value


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP"])
def test_lossless_formats_give_the_pixels_that_were_written(kind: str) -> None:
    data = encoded(Image.fromarray(photograph()), kind)
    found = decode(data, LIMITS)
    np.testing.assert_array_equal(found.rgb, photograph())
    assert (found.rgb.dtype, found.size, found.orientation) == (np.uint8, (40, 56), 1)
    assert found.content_sha256 == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize(("kind", "options"), [("JPEG", {"quality": 95, "subsampling": 0}), ("WEBP", {"quality": 95})])
def test_lossy_formats_come_close(kind: str, options: dict[str, Any]) -> None:
    found = decode(encoded(Image.fromarray(photograph()), kind, **options), LIMITS).rgb
    assert np.abs(found.astype(int) - photograph()).mean() < 6


def test_lossless_webp_with_alpha_keeps_its_colours() -> None:
    rgba = np.dstack([photograph(), np.full((40, 56), 200, np.uint8)])
    found = decode(encoded(Image.fromarray(rgba), "WEBP", lossless=True, exact=True), LIMITS).rgb
    np.testing.assert_array_equal(found, photograph())


@pytest.mark.parametrize("alpha", [0, 77, 255])
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_transparency_is_dropped_and_the_colours_under_it_stay(kind: str, alpha: int) -> None:
    rgba = np.dstack([photograph(), np.full((40, 56), alpha, np.uint8)])
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(rgba), kind), LIMITS).rgb, photograph())


def test_grey_and_grey_with_alpha_become_three_equal_channels() -> None:
    grey = photograph()[:, :, 0]
    expected = np.dstack([grey] * 3)
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(grey), "PNG"), LIMITS).rgb, expected)
    with_alpha = np.dstack([grey, np.full_like(grey, 9)])
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(with_alpha), "PNG"), LIMITS).rgb, expected)


def test_one_bit_images_are_black_and_white() -> None:
    bits = photograph()[:, :, 0] > 100
    found = decode(encoded(Image.fromarray(bits), "PNG"), LIMITS).rgb
    np.testing.assert_array_equal(found[:, :, 1], np.where(bits, 255, 0))


@pytest.mark.parametrize("transparency", [None, 1, b"\x00\x80\xff"])
def test_palettes_give_their_colours_with_any_kind_of_transparency(transparency: int | bytes | None) -> None:
    indices = np.arange(12, dtype=np.uint8).reshape(3, 4) % 3
    colours = np.array([[10, 20, 30], [200, 0, 0], [0, 0, 255]], np.uint8)
    image = Image.fromarray(indices)
    image.putpalette(colours.tobytes())
    options = {} if transparency is None else {"transparency": transparency}
    np.testing.assert_array_equal(decode(encoded(image, "PNG", **options), LIMITS).rgb, colours[indices])


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_is_turned_into_rgb(kind: str) -> None:
    # no ink is white; full cyan takes all red away: (255 - c) * (255 - k) / 255 for each colour
    ink = np.zeros((32, 32, 4), np.uint8)
    ink[:, 16:, 0] = 255
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    found = decode(encoded(Image.fromarray(ink, "CMYK"), kind, **options), LIMITS).rgb.astype(int)
    assert np.abs(found[:, :14] - [255, 255, 255]).max() <= 4
    assert np.abs(found[:, 18:] - [0, 255, 255]).max() <= 4


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_and_not_clipped(kind: str) -> None:
    # 257 * v is the 16-bit value of the 8-bit value v, since 65535 = 257 * 255
    grey = photograph()[:, :, 0]
    deep = grey.astype(np.uint16) * 257
    found = decode(encoded(Image.fromarray(deep), kind), LIMITS).rgb
    np.testing.assert_array_equal(found[:, :, 0], grey)


def test_16_bit_grey_in_the_other_byte_order_is_the_same() -> None:
    grey = photograph()[:, :, 0]
    big_endian = Image.frombytes("I;16B", (56, 40), (grey.astype(">u2") * 257).tobytes())
    np.testing.assert_array_equal(decode(encoded(big_endian, "TIFF"), LIMITS).rgb[:, :, 0], grey)


def test_16_bit_colour_keeps_its_high_byte() -> None:
    rgb = photograph()
    rows = b"".join(b"\0" + (row.astype(">u2") * 257).tobytes() for row in rgb)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 56, 40, 16, 2, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    np.testing.assert_array_equal(decode(data, LIMITS).rgb, rgb)


def test_12_bit_tiff_uses_its_own_full_scale() -> None:
    # two pixels of 12 bits in three bytes: 0xfff (white, 255) and 0x800 (2048 * 255 / 4095 = 127.53, so 128)
    data = tiff({256: 2, 257: 1, 258: 12, 259: 1, 262: 1, 277: 1, 278: 1, 279: 3}, b"\xff\xf8\x00")
    assert decode(data, LIMITS).rgb[0, :, 0].tolist() == [255, 128]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),  # in 0..1: times 255; 127.5 rounds to the even 128
        ([-10.0, 0.0, 10.0], [0, 128, 255]),  # beyond: from the own minimum to the own maximum
        ([7.0, 7.0, 7.0], [0, 0, 0]),  # one value beyond 0..1 has no range of its own
    ],
)
def test_float_tiff_follows_the_documented_range(values: list[float], expected: list[int]) -> None:
    image = Image.fromarray(np.array([values], np.float32))
    assert decode(encoded(image, "TIFF"), LIMITS).rgb[0, :, 2].tolist() == expected


@pytest.mark.parametrize(("values", "expected"), [([0, 32896, 65535], [0, 128, 255]), ([-100, 0, 70000], [0, 0, 255])])
def test_32_bit_integer_tiff_follows_the_documented_range(values: list[int], expected: list[int]) -> None:
    # 32896 = 128 * 257; and 100 * 255 / 70100 = 0.36
    image = Image.fromarray(np.array([values], np.int32))
    assert decode(encoded(image, "TIFF"), LIMITS).rgb[0, :, 0].tolist() == expected


def test_values_that_are_no_numbers_are_unsupported() -> None:
    image = Image.fromarray(np.array([[0.0, np.nan]], np.float32))
    assert failure(encoded(image, "TIFF")).kind == "unsupported"


def test_a_pixel_format_that_pillow_does_not_know_is_unsupported() -> None:
    # one grey pixel as a 64-bit float (SampleFormat 339 = 3)
    data = tiff({256: 1, 257: 1, 258: 64, 259: 1, 262: 1, 277: 1, 278: 1, 279: 8, 339: 3}, struct.pack("<d", 0.5))
    assert failure(data).kind == "unsupported"


# what the tag says about the first stored row and column, undone by hand
UPRIGHT = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: np.transpose(a, (1, 0, 2)),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(np.transpose(a, (1, 0, 2)), 2),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_every_orientation_is_turned_upright_exactly_once(kind: str, orientation: int) -> None:
    stored = photograph(24, 40)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    found = decode(encoded(Image.fromarray(stored), kind, exif=exif, **options), LIMITS)
    np.testing.assert_array_equal(found.rgb, UPRIGHT[orientation](stored))
    assert found.orientation == orientation
    assert found.size == ((24, 40) if orientation < 5 else (40, 24))
    assert image_size(encoded(Image.fromarray(stored), kind, exif=exif, **options), LIMITS) == found.rgb.shape[:2]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_of_a_jpeg_agrees_with_pillow(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(photograph(24, 40)), "JPEG", exif=exif)
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(decode(data, LIMITS).rgb, expected)


def test_a_compressed_tiff_is_turned_once_too() -> None:
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[0x0112] = 6
    stored = photograph(24, 40)
    data = encoded(Image.fromarray(stored), "TIFF", compression="tiff_lzw", tiffinfo=tags)
    found = decode(data, LIMITS)
    np.testing.assert_array_equal(found.rgb, np.rot90(stored, -1))
    assert found.orientation == 6


@pytest.mark.parametrize("value", [0, 9, 42, 65535])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_an_orientation_that_means_nothing_counts_as_none(kind: str, value: int) -> None:
    # a row's column is of 8 bits
    exif = Image.Exif()
    exif[0x0112] = value
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    data = encoded(Image.fromarray(photograph()), kind, exif=exif, **options)
    found = decode(data, LIMITS)
    np.testing.assert_array_equal(found.rgb, photograph())
    assert found.orientation == 1
    assert image_size(data, LIMITS) == (40, 56)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_metadata_that_cannot_be_read_does_not_cost_the_image() -> None:
    data = encoded(Image.fromarray(photograph()), "PNG", exif=b"Exif\0\0garbage that is no directory")
    np.testing.assert_array_equal(decode(data, LIMITS).rgb, photograph())


@pytest.mark.parametrize("kind", ["TIFF", "PNG", "WEBP"])
def test_the_first_page_or_frame_is_taken(kind: str) -> None:
    first, second = Image.fromarray(photograph()), Image.new("RGB", (56, 40), "white")
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(first, kind, save_all=True, append_images=[second], **options)
    np.testing.assert_array_equal(decode(data, LIMITS).rgb, photograph())


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_truncated_file_is_called_truncated(kind: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), kind)
    error = failure(data[: int(len(data) * share)])
    assert (error.kind, error.step) == ("truncated", "decode")


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_cut_within_its_header_is_an_error_of_the_image(kind: str) -> None:
    data = encoded(Image.fromarray(photograph()), kind)
    for end in range(1, 54):
        assert failure(data[:end]).kind in {"truncated", "undecodable", "not_an_image"}


@pytest.mark.parametrize(
    ("data", "looks_like"),
    [
        (b"just some notes\nin a file named .jpg\n", "text"),
        ("éàü ".encode() * 100, "text"),
        (b"<!DOCTYPE html><html>404</html>", "a web page"),
        (b'{"error": "AccessDenied"}', "text"),
        (b"%PDF-1.7\n", "a PDF"),
        (bytes(range(128, 160)), "binary data that begins with 80 81 82 83 84 85 86 87"),
        (b"\0" * 64, "binary data that begins with 00 00"),
    ],
)
def test_what_is_not_an_image_is_named_by_its_first_bytes(data: bytes, looks_like: str) -> None:
    error = failure(data)
    assert error.kind == "not_an_image"
    assert f"looks like {looks_like}" in error.message
    assert "JPEG, PNG, WebP, TIFF, BMP, GIF, JPEG 2000, AVIF and HEIC" in error.message


def test_an_empty_file_has_its_own_name() -> None:
    assert failure(b"").kind == "empty_file"


def test_the_pixel_limit_is_checked_on_the_header_alone() -> None:
    # 60000 x 60000 x 3 bytes are 10.8 GB, which the test machine could not hold; the file holds no pixel at all
    error = failure(png_header(60000, 60000))
    assert error.kind == "too_large"
    assert "60000x60000" in error.message
    assert "100000000" in error.message


def test_the_pixel_limit_is_the_callers_and_includes_its_own_value() -> None:
    data = encoded(Image.fromarray(photograph()), "PNG")
    assert decode(data, ImageLimits(max_pixels=40 * 56)).size[1] == 56
    assert failure(data, ImageLimits(max_pixels=40 * 56 - 1)).kind == "too_large"
    # beyond the limit at which Pillow itself refuses (about 179 million), only the missing pixels are at fault
    assert failure(png_header(20000, 10000), ImageLimits(max_pixels=10**9)).kind == "truncated"


def test_messages_repeat_to_the_letter_and_hold_no_addresses() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for kind in FORMATS:
        data = encoded(Image.fromarray(noise), kind)
        for broken in (data[: len(data) // 2], data[:30], data[:40] + b"\xff" * (len(data) - 40)):
            messages = set()
            for _ in range(2):
                try:
                    decode(bytes(bytearray(broken)), LIMITS)
                except ImageError as error:
                    messages.add(str(error))
            assert len(messages) <= 1
            assert not any(" at 0x" in message for message in messages)


@pytest.mark.parametrize("name", ["plain.png", "with space.png", "ünïcode é.png", "new\nline.png", "percent%20#?.png"])
def test_files_are_fetched_by_any_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"content")
    assert fetch(str(tmp_path / name), LIMITS) == b"content"


def test_a_missing_file_is_an_error_of_the_image(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"gone\.jpg") as caught:
        fetch(str(tmp_path / "gone.jpg"), LIMITS)
    assert (caught.value.kind, caught.value.step) == ("not_found", "read")


def test_the_byte_limit_includes_its_own_value(tmp_path: Path) -> None:
    (tmp_path / "ten").write_bytes(b"0123456789")
    assert len(fetch(str(tmp_path / "ten"), ImageLimits(max_bytes=10))) == 10
    with pytest.raises(ImageError, match="more than 9 bytes") as caught:
        fetch(str(tmp_path / "ten"), ImageLimits(max_bytes=9))
    assert (caught.value.kind, caught.value.step) == ("too_large", "read")


SAMPLES = [encoded(Image.fromarray(photograph(12, 9)), kind) for kind in FORMATS]


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    data=st.sampled_from(SAMPLES),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=8),
    cut=st.floats(0, 1),
)
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damaged_files_decode_or_fail_as_images_and_never_otherwise(
    data: bytes, changes: list[tuple[float, int]], cut: float
) -> None:
    damaged = bytearray(data)
    for position, value in changes:
        damaged[int(position * len(damaged))] = value
    if cut > 0.5:
        del damaged[int(cut * len(damaged)) :]
    try:
        shape: tuple[int, ...] = decode(bytes(damaged), ImageLimits(max_pixels=1_000_000)).rgb.shape
        kind = "decoded"
    except ImageError as error:
        shape, kind = (1, 1, 3), error.kind
    assert kind in {"decoded", "truncated", "not_an_image", "unsupported", "undecodable", "too_large", "empty_file"}
    assert len(shape) == 3
    assert shape[2] == 3
