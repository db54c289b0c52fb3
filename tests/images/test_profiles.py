"""Colours of wide-gamut photographs turned to sRGB, compared with matrices and curves worked out here."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from icc_profiles import ADOBE, ADOBE_CURVE, ADOBE_GAMMA, ADOBE_RGB, DISPLAY_P3, P3, SRGB, profile, to_xyz
from PIL import Image

from simsam_batch.images import ImageLimits, decode

LIMITS = ImageLimits()


def linear(srgb: np.ndarray) -> np.ndarray:
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def encoded(values: np.ndarray) -> np.ndarray:
    values = values.clip(0, 1)
    return np.where(values <= 0.0031308, values * 12.92, 1.055 * values ** (1 / 2.4) - 0.055)


def colours() -> np.ndarray:
    """Every colour of a coarse cube, (24, 25, 3) uint8, those outside sRGB among them."""
    steps = np.array([0, 20, 64, 100, 128, 180, 220, 255], np.uint8)
    cube = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    return np.concatenate([cube, cube[: 600 - len(cube)]]).reshape(24, 25, 3)


def as_srgb(stored: np.ndarray, primaries: tuple[tuple[float, float], ...], gamma: float | None) -> np.ndarray:
    light = linear(stored / 255) if gamma is None else (stored / 255) ** gamma
    matrix = np.linalg.inv(to_xyz(SRGB)) @ to_xyz(primaries)
    return encoded(light @ matrix.T) * 255


def file(picture: np.ndarray, icc: bytes, kind: str = "PNG", **options: Any) -> bytes:
    target = io.BytesIO()
    Image.fromarray(picture).save(target, kind, icc_profile=icc, **options)
    return target.getvalue()


@pytest.mark.parametrize(
    ("icc", "primaries", "gamma"), [(P3, DISPLAY_P3, None), (ADOBE, ADOBE_RGB, ADOBE_GAMMA)], ids=["P3", "Adobe RGB"]
)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_wide_gamut_colours_become_those_of_srgb(
    icc: bytes, primaries: tuple[tuple[float, float], ...], gamma: float | None, kind: str
) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    data = file(colours(), icc, kind, **options)
    found = decode(data, LIMITS, "srgb").rgb
    expected = as_srgb(colours().astype(float), primaries, gamma)
    # the converter works with curves and matrices of 16 bits
    assert np.abs(found - expected).max() <= 2
    assert np.abs(found - expected).mean() < 0.5
    # and it is a change that one would see
    assert np.abs(expected - colours()).max() > 30
    np.testing.assert_array_equal(decode(data, LIMITS).rgb, colours())
    np.testing.assert_array_equal(decode(data, LIMITS, "ignore").rgb, colours())


@pytest.mark.parametrize("mode", ["RGBA", "P"])
def test_colours_are_turned_in_every_mode_that_has_some(mode: str) -> None:
    picture = Image.fromarray(colours()).convert(mode, **({"palette": Image.Palette.ADAPTIVE} if mode == "P" else {}))
    target = io.BytesIO()
    picture.save(target, "PNG", icc_profile=P3)
    expected = as_srgb(np.asarray(picture.convert("RGB")).astype(float), DISPLAY_P3, None)
    assert np.abs(decode(target.getvalue(), LIMITS, "srgb").rgb - expected).max() <= 2


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_grey_is_turned_by_a_profile_of_grey(dtype: Any) -> None:
    icc = profile(b"GRAY", {b"kTRC": ADOBE_CURVE})
    grey = np.arange(240, dtype=np.uint8).reshape(12, 20)
    stored = grey if dtype is np.uint8 else grey.astype(np.uint16) * 257
    expected = encoded((grey / 255) ** ADOBE_GAMMA) * 255
    found = decode(file(stored, icc), LIMITS, "srgb").rgb
    assert np.abs(found - expected[:, :, None]).max() <= 1.5


@pytest.mark.parametrize("icc", [b"no profile", P3[:200], P3[:-40]], ids=["text", "cut in the table", "cut"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG"])
def test_a_damaged_profile_counts_as_none(icc: bytes, kind: str) -> None:
    options: dict[str, Any] = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    found = decode(file(colours(), icc, kind, **options), LIMITS, "srgb").rgb
    np.testing.assert_array_equal(found, decode(file(colours(), b"", kind, **options), LIMITS).rgb)


def test_a_profile_of_other_colours_than_the_image_has_counts_as_none() -> None:
    grey = np.arange(240, dtype=np.uint8).reshape(12, 20)
    np.testing.assert_array_equal(decode(file(grey, P3), LIMITS, "srgb").rgb[:, :, 0], grey)
    of_grey = profile(b"GRAY", {b"kTRC": ADOBE_CURVE})
    np.testing.assert_array_equal(decode(file(colours(), of_grey), LIMITS, "srgb").rgb, colours())


def test_without_a_profile_nothing_changes() -> None:
    target = io.BytesIO()
    Image.fromarray(colours()).save(target, "PNG")
    np.testing.assert_array_equal(decode(target.getvalue(), LIMITS, "srgb").rgb, colours())


def test_a_large_image_is_turned_alike_from_strip_to_strip() -> None:
    one = colours()
    tiled = np.tile(one, (40, 60, 1))
    found = decode(file(tiled, P3, compress_level=1), LIMITS, "srgb").rgb
    np.testing.assert_array_equal(found, np.tile(decode(file(one, P3), LIMITS, "srgb").rgb, (40, 60, 1)))
