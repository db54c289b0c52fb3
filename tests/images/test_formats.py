"""Formats beyond the five that everybody writes, and files of kinds that are not read."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

from simsam_batch import formats
from simsam_batch.errors import ImageError
from simsam_batch.images import ImageLimits, decode, fetch, image_size, load_labels, load_truth

LIMITS = ImageLimits()
AVIF = pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
KINDS = ["GIF", "JPEG2000", "MPO", pytest.param("AVIF", marks=AVIF), "HEIF"]
EXACT = ("GIF", "JPEG2000")


def photograph(height: int = 48, width: int = 64) -> np.ndarray:
    """A smooth picture whose corners all differ."""
    y, x = np.mgrid[:height, :width]
    return np.stack([y * 255 // (height - 1), x * 255 // (width - 1), (x + y) * 2 % 256], axis=2).astype(np.uint8)


def encoded(picture: np.ndarray, kind: str, **options: Any) -> bytes:
    """A file of a format; those that can be lossless are."""
    if kind == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    image = Image.fromarray(picture)
    image = image.quantize(256) if kind == "GIF" else image
    known = {"AVIF": {"quality": 95}, "HEIF": {"quality": 95}, "MPO": {"quality": 95, "subsampling": 0}}
    file = io.BytesIO()
    image.save(file, kind, **known.get(kind, {}), **options)
    return file.getvalue()


def expected(kind: str) -> np.ndarray:
    picture = photograph()
    return np.asarray(Image.fromarray(picture).quantize(256).convert("RGB")) if kind == "GIF" else picture


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_comes_back_as_it_was_written(kind: str) -> None:
    data = encoded(photograph(), kind)
    found = decode(data, LIMITS)
    off = np.abs(found.rgb.astype(int) - expected(kind))
    assert off.max() == 0 if kind in EXACT else off.mean() < 6
    assert (found.orientation, found.more_frames) == (1, False)
    assert image_size(data, LIMITS) == (48, 64)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "JPEG2000"])
def test_of_several_frames_the_first_is_taken_and_that_is_said(kind: str) -> None:
    others = [Image.new("RGB", (64, 48), "white"), Image.new("RGB", (64, 48), "black")]
    found = decode(encoded(photograph(), kind, save_all=True, append_images=others), LIMITS)
    assert np.abs(found.rgb.astype(int) - expected(kind)).mean() < 6
    assert found.more_frames


@pytest.mark.parametrize("kind", KINDS)
def test_the_pixel_limit_holds_for_every_format(kind: str) -> None:
    data = encoded(photograph(), kind)
    assert decode(data, ImageLimits(max_pixels=48 * 64)).size[1] == 64
    with pytest.raises(ImageError) as caught:
        decode(data, ImageLimits(max_pixels=48 * 64 - 1))
    assert caught.value.kind == "too_large"
    with pytest.raises(ImageError) as caught:
        decode(data, ImageLimits(decode_seconds=-1.0))
    assert caught.value.kind == "timed_out"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_file_cut_short_is_a_fault_of_the_image(kind: str, share: float) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    data = encoded(noise, kind)
    with pytest.raises(ImageError) as caught:
        decode(data[: int(len(data) * share)], LIMITS)
    assert caught.value.kind in {"truncated", "undecodable"}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", [pytest.param("AVIF", marks=AVIF), "HEIF"])
def test_phone_formats_are_turned_upright_once(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    plain = photograph()
    upright = {
        1: plain,
        2: plain[:, ::-1],
        3: plain[::-1, ::-1],
        4: plain[::-1],
        5: plain.swapaxes(0, 1),
        6: np.rot90(plain, -1),
        7: np.rot90(plain, 2).swapaxes(0, 1),
        8: np.rot90(plain, 1),
    }[orientation]
    data = encoded(plain, kind, exif=exif.tobytes())
    found = decode(data, LIMITS)
    assert found.rgb.shape == upright.shape
    assert np.abs(found.rgb.astype(int) - upright).mean() < 8
    assert image_size(data, LIMITS) == upright.shape[:2]


def test_16_bit_grey_of_jpeg_2000_is_scaled(tmp_path: Path) -> None:
    grey = photograph()[:, :, 0]
    data = encoded(grey.astype(np.uint16) * 257, "JPEG2000")
    np.testing.assert_array_equal(decode(data, LIMITS).rgb[:, :, 0], grey)


def test_class_maps_and_masks_may_be_gif(tmp_path: Path) -> None:
    ids = np.arange(48 * 64, dtype=np.uint8).reshape(48, 64) % 5
    image = Image.fromarray(ids)
    image.putpalette([10, 0, 0, 0, 90, 0, 0, 0, 200, 1, 2, 3, 200, 200, 0])
    image.save(tmp_path / "ids.gif")
    np.testing.assert_array_equal(load_labels(str(tmp_path / "ids.gif"), LIMITS, (48, 64), classes=5, ignore=None), ids)
    Image.fromarray((ids > 2).astype(np.uint8) * 255).save(tmp_path / "mask.gif")
    np.testing.assert_array_equal(load_truth(str(tmp_path / "mask.gif"), LIMITS, (48, 64)), ids > 2)


BOX = b"\0\0\0\x18ftyp"
UNREAD = {
    "JPEG XL": b"\xff\x0a\xfa\x1f",
    "JPEG XL in a container": b"\0\0\0\x0cJXL \r\n\x87\n",
    "Photoshop": b"8BPS\0\1",
    "video": BOX + b"isom\0\0\2\0isomiso2avc1mp41",
    "video of QuickTime": BOX + b"qt  \0\0\0\0qt  ",
    "video as Matroska": b"\x1a\x45\xdf\xa3",
    "camera raw of Canon": BOX + b"crx \0\0\0\1crx isom",
    "camera raw of Fujifilm": b"FUJIFILMCCD-RAW 0201",
    "DICOM": bytes(128) + b"DICM",
    "a Windows icon": b"\0\0\1\0\1\0\x10\x10",
    "an Apple icon": b"icns\0\0\1\0",
}


@pytest.mark.parametrize("what", UNREAD)
def test_pictures_and_videos_of_other_kinds_are_unsupported_and_not_damaged(what: str) -> None:
    with pytest.raises(ImageError) as caught:
        decode(UNREAD[what], LIMITS)
    assert caught.value.kind == "unsupported"
    assert caught.value.message.startswith(what.partition(" of ")[0].partition(" in ")[0].partition(" as ")[0])
    assert "To mend it: " in caught.value.message


@pytest.mark.parametrize(
    ("brands", "kind"),
    [
        (b"avif\0\0\0\0mif1miaf", "AVIF"),
        (b"mif1\0\0\0\0mif1avif", "AVIF"),
        (b"heic\0\0\0\0mif1heic", "HEIC"),
        (b"mif1\0\0\0\0mif1heic", "HEIC"),
        (b"heix\0\0\0\0mif1heix", "HEIC"),
        (b"mp42\0\0\0\0isommp42", "video"),
    ],
)
def test_a_container_is_what_its_brands_say(brands: bytes, kind: str) -> None:
    found = formats.kind_of(BOX + brands)
    assert found is not None
    assert found.name == kind


def test_without_the_extra_heic_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    with pytest.raises(ImageError) as caught:
        decode(BOX + b"heic\0\0\0\0mif1heic", LIMITS)
    assert caught.value.kind == "unsupported"
    assert "simsam-batch[heic]" in caught.value.message


def test_avif_without_a_decoder_is_unsupported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(features, "check", lambda name: False)
    with pytest.raises(ImageError) as caught:
        decode(BOX + b"avif\0\0\0\0mif1miaf", LIMITS)
    assert caught.value.kind == "unsupported"


@pytest.mark.parametrize("name", ["a.MOV", "b.mp4", "c.CR2", "d.nef", "e.dng", "f.arw"])
def test_of_a_video_or_raw_file_nothing_is_read(tmp_path: Path, name: str) -> None:
    # not even whether it is there
    with pytest.raises(ImageError) as caught:
        fetch(str(tmp_path / name), LIMITS)
    assert (caught.value.kind, caught.value.step) == ("unsupported", "read")
    assert name in caught.value.message


def test_a_video_under_another_name_is_no_matter_of_its_size(tmp_path: Path) -> None:
    (tmp_path / "video.jpg").write_bytes(UNREAD["video"] + bytes(1000))
    with pytest.raises(ImageError) as caught:
        fetch(str(tmp_path / "video.jpg"), ImageLimits(max_bytes=100))
    assert caught.value.kind == "unsupported"
