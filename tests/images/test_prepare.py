"""From bytes to the pixels of the patch grid: the resize words, their arithmetic, and the order of the checks."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from simsam_batch.errors import ImageError, SettingsError
from simsam_batch.images import (
    Decoded,
    ImageLimits,
    check_resize,
    crop_to_grid,
    parse_resize,
    prepare,
    resize_image,
    working_size,
)

LIMITS = ImageLimits()


def png(rgb: np.ndarray, orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, "PNG", exif=exif)
    return file.getvalue()


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * 1000 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("text", ["native", "480x640", "short:384", "bucket:384", "1x1"])
def test_a_resize_is_printed_as_it_is_written(text: str) -> None:
    assert str(parse_resize(text)) == text


@pytest.mark.parametrize(
    "text", ["", "Native", "480", "480*640", "0x640", "-4x4", "4.5x4", "short:", "short:0", "long:384", "9999999x1"]
)
def test_a_resize_that_cannot_be_read_says_what_is_allowed(text: str) -> None:
    with pytest.raises(SettingsError, match=r"'native'.*'HEIGHTxWIDTH'.*'short:PIXELS'"):
        parse_resize(text)


@pytest.mark.parametrize(
    ("size", "resize", "expected"),
    [
        ((333, 500), "native", (333, 500)),
        ((333, 500), "480x640", (480, 640)),
        ((333, 500), "short:384", (384, 577)),  # 500 * 384 / 333 = 576.58
        ((500, 333), "short:384", (577, 384)),
        ((100, 100), "short:384", (384, 384)),
        ((100, 100), "bucket:384", (384, 384)),
        ((333, 500), "bucket:384", (384, 576)),  # 1.502 is nearest to 3/2
        ((500, 400), "bucket:384", (512, 384)),  # 1.25: a factor 1.067 to 4/3, 1.071 to 7/6
        ((100, 240), "bucket:384", (384, 960)),  # 2.4: 1.042 to 5/2, 1.2 to 2
        ((100, 340), "bucket:384", (384, 1152)),  # 3.4: 1.133 to 3, 1.176 to 4
        ((100, 350), "bucket:384", (384, 1536)),  # 3.5: 1.167 to 3, 1.143 to 4
        ((1000, 100), "bucket:30", (300, 30)),
        ((8, 9), "short:4", (4, 5)),  # 4.5: a half goes up
        ((8, 11), "short:4", (4, 6)),  # 5.5 goes up to 6, as round-half-to-even would too
        ((8, 13), "short:4", (4, 7)),  # 6.5 goes up to 7, where round-half-to-even gives 6
    ],
)
def test_working_sizes(size: tuple[int, int], resize: str, expected: tuple[int, int]) -> None:
    assert working_size(size, parse_resize(resize)) == expected


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 2000))
def test_the_shorter_side_is_exact_and_the_longer_within_half_a_pixel(height: int, width: int, side: int) -> None:
    found = working_size((height, width), parse_resize(f"short:{side}"))
    assert min(found) == side
    assert abs(max(found) - max(height, width) * side / min(height, width)) <= 0.5
    assert (found[0] <= found[1]) == (height <= width) or found[0] == found[1]


def test_resizing_averages_when_it_shrinks() -> None:
    # a fine checkerboard of 0 and 255 has the mean 127.5 everywhere; a filter without support gives 0 or 255
    board = np.zeros((64, 64, 3), np.uint8)
    board[::2, 1::2] = board[1::2, ::2] = 255
    small = resize_image(Decoded.of_array(board), (8, 8)).astype(int)
    assert small.shape == (8, 8, 3)
    assert np.abs(small - 127.5).max() < 8


def test_resizing_to_the_own_size_changes_nothing() -> None:
    rgb = noise(20, 30)
    np.testing.assert_array_equal(resize_image(Decoded.of_array(rgb), (20, 30)), rgb)


def test_the_bottom_and_right_remainders_are_cut() -> None:
    rgb = noise(50, 67)
    cropped, grid = crop_to_grid(rgb, 16)
    assert grid == (3, 4)
    np.testing.assert_array_equal(cropped, rgb[:48, :64])


@pytest.mark.parametrize("orientation", [1, 6])
def test_an_image_is_turned_then_resized_then_cut(orientation: int) -> None:
    rgb = noise(60, 100)
    prepared = prepare(png(rgb, orientation), limits=LIMITS, resize=parse_resize("native"), patch=16)
    upright = np.rot90(rgb, -1) if orientation == 6 else rgb
    height, width = upright.shape[:2]
    assert prepared.full_size == prepared.working_size == (height, width)
    assert prepared.grid == (height // 16, width // 16)
    np.testing.assert_array_equal(prepared.rgb, upright[: height // 16 * 16, : width // 16 * 16])
    assert prepared.orientation == orientation


def test_full_and_working_size_are_kept_apart() -> None:
    prepared = prepare(png(noise(60, 100)), limits=LIMITS, resize=parse_resize("short:40"), patch=16)
    # 100 * 40 / 60 = 66.67
    assert (prepared.full_size, prepared.working_size, prepared.grid) == ((60, 100), (40, 67), (2, 4))
    assert prepared.rgb.shape == (32, 64, 3)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (31, 500), (500, 31)])
@pytest.mark.parametrize("resize", ["native", "480x640", "short:384"])
def test_an_image_under_two_patches_at_its_own_size_is_too_small(height: int, width: int, resize: str) -> None:
    with pytest.raises(ImageError, match=f"{width}x{height} pixels.*at least 32") as caught:
        prepare(png(noise(height, width)), limits=LIMITS, resize=parse_resize(resize), patch=16)
    assert (caught.value.kind, caught.value.step) == ("too_small", "resize")


def test_two_patches_are_enough() -> None:
    assert prepare(png(noise(32, 33)), limits=LIMITS, resize=parse_resize("native"), patch=16).grid == (2, 2)


def test_a_long_strip_cannot_be_blown_up_beyond_the_limit() -> None:
    # 40 x 4000 at short:384 is 384 x 38400 = 14.7 million pixels
    limits = ImageLimits(max_pixels=1_000_000)
    with pytest.raises(ImageError, match="38400x384") as caught:
        prepare(png(noise(40, 4000)), limits=limits, resize=parse_resize("short:384"), patch=16)
    assert (caught.value.kind, caught.value.step) == ("too_large", "resize")


def test_the_limit_on_patches_includes_its_own_value() -> None:
    data, native = png(noise(64, 80)), parse_resize("native")
    assert prepare(data, limits=LIMITS, resize=native, patch=16, max_patches=20).grid == (4, 5)
    with pytest.raises(ImageError, match="4x5 patches, more than the limit of 19"):
        prepare(data, limits=LIMITS, resize=native, patch=16, max_patches=19)


@pytest.mark.parametrize("resize", ["31x640", "640x31", "short:31"])
def test_a_resize_that_leaves_nobody_two_patches_is_a_fault_of_the_settings(resize: str) -> None:
    check_resize(parse_resize("32x32"), 16)
    with pytest.raises(SettingsError, match="at least 32 pixels"):
        check_resize(parse_resize(resize), 16)
    with pytest.raises(SettingsError):
        prepare(png(noise(64, 64)), limits=LIMITS, resize=parse_resize(resize), patch=16)


def test_threads_do_not_change_what_comes_out() -> None:
    files = [png(noise(40 + 3 * i, 90 - 2 * i), 1 + i % 8) for i in range(16)]
    resize = parse_resize("short:48")

    def pixels(data: bytes) -> bytes:
        return prepare(data, limits=LIMITS, resize=resize, patch=16).rgb.tobytes()

    alone = [pixels(data) for data in files]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            assert list(pool.map(pixels, files)) == alone


@given(height=st.integers(1, 5000), width=st.integers(1, 5000))
def test_a_bucket_stretches_little_and_there_are_few_of_them(height: int, width: int) -> None:
    h, w = working_size((height, width), parse_resize("bucket:384"))
    assert min(h, w) == 384
    proportion = max(height, width) / min(height, width)
    stretch = max(h / w / (height / width), (height / width) / (h / w))
    if proportion <= 2:
        assert stretch <= 1.081
        assert max(h, w) in {384, 448, 512, 576, 672, 768}
    if proportion <= 3:
        assert stretch <= 1.119
    assert (h <= w) == (height <= width) or h == w
