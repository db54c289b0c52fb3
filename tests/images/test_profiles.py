"""Colours of wide-gamut photographs turned to sRGB, compared with matrices and curves worked out here."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
from PIL import Image

from simsam_batch.images import ImageLimits, decode

LIMITS = ImageLimits()
D65, D50 = (0.3127, 0.3290), (0.9642, 1.0, 0.8249)
SRGB = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06))
DISPLAY_P3 = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060))
ADOBE_RGB = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06))
ADOBE_GAMMA = 563 / 256
BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


def xyz(xy: tuple[float, float]) -> np.ndarray:
    return np.array([xy[0] / xy[1], 1, (1 - xy[0] - xy[1]) / xy[1]])


def to_xyz(primaries: tuple[tuple[float, float], ...]) -> np.ndarray:
    """Linear RGB to XYZ with white at D65, (3, 3): columns are the primaries, scaled so that they add up to white."""
    columns = np.stack([xyz(each) for each in primaries], axis=1)
    return columns * np.linalg.solve(columns, xyz(D65))


def adapted(matrix: np.ndarray) -> np.ndarray:
    """The same with white at D50, as profiles have it (ICC.1, annex E)."""
    scale = (BRADFORD @ D50) / (BRADFORD @ xyz(D65))
    return np.linalg.inv(BRADFORD) @ np.diag(scale) @ BRADFORD @ matrix


def linear(srgb: np.ndarray) -> np.ndarray:
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def encoded(values: np.ndarray) -> np.ndarray:
    values = values.clip(0, 1)
    return np.where(values <= 0.0031308, values * 12.92, 1.055 * values ** (1 / 2.4) - 0.055)


def fixed(*numbers: float) -> bytes:
    return b"".join(struct.pack(">i", round(number * 65536)) for number in numbers)


SRGB_CURVE = b"para\0\0\0\0\0\3\0\0" + fixed(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
ADOBE_CURVE = b"curv\0\0\0\0\0\0\0\1" + struct.pack(">H", 563) + b"\0\0"


def profile(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    """An ICC profile of a display (ICC.1:2010): header, tag table and tags."""
    about = {
        b"desc": b"mluc\0\0\0\0" + struct.pack(">LL2s2sLL", 1, 12, b"en", b"US", 8, 28) + "test".encode("utf-16-be"),
        b"cprt": b"mluc\0\0\0\0" + struct.pack(">LL2s2sLL", 1, 12, b"en", b"US", 8, 28) + "none".encode("utf-16-be"),
        b"wtpt": b"XYZ \0\0\0\0" + fixed(*D50),
    }
    table, body = b"", b""
    start = 128 + 4 + 12 * (len(tags) + len(about))
    for name, content in (about | tags).items():
        table += name + struct.pack(">LL", start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    head = struct.pack(">L4sL4s4s4s", start + len(body), b"\0\0\0\0", 0x04200000, b"mntr", space, b"XYZ ")
    head += struct.pack(">6H4s", 2026, 1, 1, 0, 0, 0, b"acsp") + bytes(28) + fixed(*D50)
    return head.ljust(128, b"\0") + struct.pack(">L", len(tags) + len(about)) + table + body


def of_primaries(primaries: tuple[tuple[float, float], ...], curve: bytes) -> bytes:
    columns = adapted(to_xyz(primaries)).T
    tags = {
        name + b"XYZ": b"XYZ \0\0\0\0" + fixed(*column)
        for name, column in zip((b"r", b"g", b"b"), columns, strict=True)
    }
    return profile(b"RGB ", tags | {name + b"TRC": curve for name in (b"r", b"g", b"b")})


P3 = of_primaries(DISPLAY_P3, SRGB_CURVE)
ADOBE = of_primaries(ADOBE_RGB, ADOBE_CURVE)


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
