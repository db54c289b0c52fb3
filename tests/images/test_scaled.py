"""JPEGs decoded no larger than is enough: their size, where their pixels lie, and how near the result is."""

from __future__ import annotations

import io
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from simsam_batch.errors import ImageError
from simsam_batch.images import (
    Decoded,
    ImageLimits,
    decode,
    enough_for,
    parse_resize,
    prepare_decoded,
    resize_image,
)
from simsam_batch.images.bounded import PixelBudget

LIMITS = ImageLimits()


def scene(height: int, width: int) -> NDArray[np.uint8]:
    """A slope across and one down, with a dark rectangle whose corners are known."""
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([255 * x / width, 255 * y / height, np.full_like(x, 128)], axis=-1)
    pixels[height // 4 : height // 2, width // 4 : width // 2] = 0
    return pixels.astype(np.uint8)


def jpeg(pixels: NDArray[np.uint8] | Image.Image, orientation: int = 1, **options: Any) -> bytes:
    picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    target, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    picture.save(target, "JPEG", quality=95, exif=exif, **options)
    return target.getvalue()


def both(data: bytes, resize: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Pixels for patches of 8, of an image decoded whole and of one decoded scaled; all else about them is equal."""
    parsed = parse_resize(resize)
    exact = prepare_decoded(decode(data, LIMITS), limits=LIMITS, resize=parsed, patch=8)
    smaller = decode(data, LIMITS, enough=enough_for(parsed))
    scaled = prepare_decoded(smaller, limits=LIMITS, resize=parsed, patch=8, way="scaled")
    for name in ("grid", "working_size", "full_size", "orientation", "content_sha256", "more_frames"):
        assert getattr(exact, name) == getattr(scaled, name)
    return exact.rgb, scaled.rgb


@pytest.mark.parametrize(
    ("least", "size", "reduction"),
    [
        ((47, 63), (48, 64), 8),
        ((49, 64), (95, 128), 4),
        ((100, 200), (190, 255), 2),
        ((190, 255), (379, 510), 1),
        ((379, 510), (379, 510), 1),
        ((500, 600), (379, 510), 1),
    ],
)
def test_a_jpeg_is_never_smaller_than_is_enough(least: tuple[int, int], size: tuple[int, int], reduction: int) -> None:
    found = decode(jpeg(scene(379, 510)), LIMITS, enough=lambda _: least)
    assert (found.picture.height, found.picture.width) == size
    assert found.reduction == reduction
    assert found.size == (379, 510)


@pytest.mark.parametrize("side", [24, 25, 31, 33, 41])
def test_a_few_pixels_are_reduced_by_what_they_are(side: int) -> None:
    # rounded up to whole pixels, 25 / 8 are 4, of which each stands for 8 and not for 6
    found = decode(jpeg(scene(side, side)), LIMITS, enough=lambda _: (3, 3))
    assert found.reduction == 8
    assert found.stored.size == (-(-side // 8), -(-side // 8))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("resize", ["short:64", "40x64", "crop:64:56", "bucket:64"])
def test_pixels_lie_where_they_did(resize: str, orientation: int) -> None:
    # odd sizes: the last pixel of a reduced picture stands for less than the others
    exact, scaled = both(jpeg(scene(653, 1003), orientation), resize)
    # half a pixel off, the slopes would differ by 1 everywhere and the edges by most of what they are high
    apart = np.abs(exact.astype(int) - scaled)
    assert apart.mean() < 0.7
    assert np.median(apart) == 0
    assert apart.max() < 90


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_grey_and_inks_are_scaled_too(mode: str) -> None:
    exact, scaled = both(jpeg(Image.fromarray(scene(640, 960)).convert(mode)), "short:64")
    assert np.abs(exact.astype(int) - scaled).mean() < 1


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_other_formats_are_decoded_whole(kind: str) -> None:
    target = io.BytesIO()
    Image.fromarray(scene(320, 480)).save(target, kind)
    assert decode(target.getvalue(), LIMITS, enough=lambda _: (20, 30)).reduction == 1
    exact, scaled = both(target.getvalue(), "short:64")
    # of one filter, that rounds in other places
    assert np.abs(exact.astype(int) - scaled).max() <= 2
    assert np.abs(exact.astype(int) - scaled).mean() < 0.1


def test_at_its_own_size_an_image_is_what_it_was() -> None:
    assert enough_for(parse_resize("native")) is None
    exact, scaled = both(jpeg(scene(96, 128)), "short:96")
    np.testing.assert_array_equal(exact, scaled)


def test_limits_hold_for_the_whole_image() -> None:
    data = jpeg(scene(400, 600))
    with pytest.raises(ImageError, match="600x400 pixels"):
        decode(data, ImageLimits(max_pixels=400 * 600 - 1), enough=lambda _: (10, 10))


class _Told(PixelBudget):
    def __init__(self) -> None:
        super().__init__(10**9)
        self.pixels: list[int] = []

    def held(self, pixels: int) -> Any:
        self.pixels.append(pixels)
        return super().held(pixels)


@pytest.mark.parametrize(("progressive", "counted"), [(False, 50 * 75), (True, 400 * 600)])
def test_what_is_decoded_counts_as_in_flight(progressive: bool, counted: int, monkeypatch: pytest.MonkeyPatch) -> None:
    budget = _Told()
    monkeypatch.setattr(sys.modules[decode.__module__], "IN_FLIGHT", budget)
    decode(jpeg(scene(400, 600), progressive=progressive), LIMITS, enough=lambda _: (50, 75))
    assert budget.pixels == [counted]


@settings(deadline=None)
@given(
    size=st.tuples(st.integers(9, 4000), st.integers(9, 4000)),
    wanted=st.tuples(st.integers(1, 900), st.integers(1, 900)),
    reduction=st.sampled_from([1, 2, 4, 8]),
    turn=st.integers(1, 8),
)
def test_the_size_is_the_one_asked_for(
    size: tuple[int, int], wanted: tuple[int, int], reduction: int, turn: int
) -> None:
    stored = size[::-1] if turn >= 5 else size
    # never reduced to less than is wanted
    reduction = reduction if all(w * reduction <= s for w, s in zip(wanted, size, strict=True)) else 1
    if reduction == 1:
        size = stored = (min(size[0], 60), min(size[1], 60))
        stored = size[::-1] if turn >= 5 else size
    held = Image.new("RGB", (-(-stored[1] // reduction), -(-stored[0] // reduction)), (7, 8, 9))
    decoded = Decoded(held, turn, "", more_frames=False, size=size, turn=turn, reduction=reduction)
    found = resize_image(decoded, wanted, "scaled")
    assert found.shape == (*wanted, 3)
    assert (found == np.array([7, 8, 9])).all()
