"""Exports as pictures: overlays, objects cut out, contact sheets; of objects that the test knows."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
from known_objects import HEIGHT, WIDTH, objects_by_hand, photographs, run_with_known_objects
from PIL import Image

from simsam_batch import operations
from simsam_batch.cli import run
from simsam_batch.drawing import contact_sheet
from simsam_batch.errors import SettingsError
from simsam_batch.report.exports import photographs as photographs_export
from simsam_batch.report.page import thumbnails

NAMES = ["0", "images/1", "2", "3"]
"""Of the images without their suffix, in the order of `objects_by_hand`."""

LARGE = 1200, 900
"""(width, height) of a JPEG that is worth decoding smaller."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run ``out`` whose objects are known, over ``photos``; of the last image there are none."""
    home = tmp_path_factory.mktemp("pictures")
    photographs(home / "photos")
    run_with_known_objects(home / "photos", home / "out")
    return home


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs ``segment``, ``semantic`` and ``hierarchy`` over a dark JPEG with a bright square, lying on its side."""
    home = tmp_path_factory.mktemp("large")
    pixels = np.random.default_rng(0).integers(10, 40, (*LARGE[::-1], 3)).astype(np.uint8)
    pixels[300:700, 200:600] = (230, 200, 90)
    exif = Image.Exif()
    exif[0x0112] = 6
    (home / "photos").mkdir()
    Image.fromarray(pixels).save(home / "photos/a.jpg", exif=exif, quality=95)
    common = ["--backbone", "descriptors", "--resize", "short:96", "--engine", "inline", "--quiet"]
    for command, more in {"segment": [], "semantic": ["--clusters", "2"], "hierarchy": []}.items():
        assert run([command, str(home / "photos"), str(home / command), *common, *more]) == 0
    return home


def files_of(to: Path) -> dict[str, str]:
    with (to / "index.csv").open(encoding="utf-8", newline="") as file:
        return {row["image_id"].removesuffix(".png"): row["file"] for row in csv.DictReader(file)}


def test_cutouts_are_the_photograph_where_the_object_is_and_nothing_elsewhere(home: Path, tmp_path: Path) -> None:
    record = operations.export(str(home / "out"), str(tmp_path / "to"), format="cutout")
    assert (record["ok"], record["without_object"], record["complete"]) == (3, 1, True)
    assert record["missing"] == [{"image_id": "3.png", "outcome": "without_object"}]
    files = files_of(tmp_path / "to")
    assert files == {"0": "cutouts/0.png", "images/1": "cutouts/images/1.png", "2": "cutouts/2.png", "3": ""}
    assert not (tmp_path / "to/cutouts/3.png").exists()
    for name, objects in zip(NAMES[:3], objects_by_hand(), strict=False):
        held = np.logical_or.reduce([mask for mask, _ in objects])
        with Image.open(tmp_path / "to" / files[name]) as picture:
            assert (picture.mode, picture.size) == ("RGBA", (WIDTH, HEIGHT))
            pixels = np.asarray(picture)
        photo = np.asarray(Image.open(home / f"photos/{name}.png").convert("RGB"))
        padded = np.pad(held, 1, mode="edge")
        around = np.stack([padded[y : y + HEIGHT, x : x + WIDTH] for y in range(3) for x in range(3)])
        alpha = pixels[..., 3]
        assert (alpha[around.all(axis=0)] == 255).all()
        assert (alpha[~around.any(axis=0)] == 0).all()
        edge = around.any(axis=0) & ~around.all(axis=0)
        assert (alpha[edge & held] >= 128).all()
        assert (alpha[edge & ~held] < 128).all()
        assert (pixels[alpha > 0, :3] == photo[alpha > 0]).all()
        assert not pixels[alpha == 0].any()


def test_cropped_cutouts_end_where_their_objects_do(home: Path, tmp_path: Path) -> None:
    to = tmp_path / "to"
    operations.export(str(home / "out"), str(to), format="cutout", crop=True, min_score=0.6)
    whole = tmp_path / "whole"
    record = operations.export(str(home / "out"), str(whole), format="cutout", min_score=0.6)
    assert record["ok"] == 3
    # of the first image the red one alone, from 16 to 64 and from 16 to 48, with a soft pixel around it
    with Image.open(to / "cutouts/0.png") as picture, Image.open(whole / "cutouts/0.png") as full:
        assert picture.size == (50, 34)
        assert full.getchannel("A").getbbox() == (15, 15, 65, 49)
        assert picture.tobytes() == full.crop((15, 15, 65, 49)).tobytes()


def test_nothing_to_cut_out_at_all_ends_with_three(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    to = ["--to", str(tmp_path / "to"), "--format", "cutout"]
    assert run(["export", str(home / "out"), *to, "--min-score", "0.99"]) == 3
    said = capsys.readouterr()
    assert "4 of 4 without an object: '0.png'" in said.out
    assert "no image could be exported whole. To mend it: take a lower --min-score" in said.err


@pytest.mark.parametrize("stage", ["segment", "semantic", "hierarchy"])
def test_overlays_are_upright_and_as_large_as_asked_for(large: Path, tmp_path: Path, stage: str) -> None:
    for side, size in ((None, (900, 1200)), (300, (225, 300))):
        to = tmp_path / str(side)
        assert operations.export(str(large / stage), str(to), format="overlay", max_side=side)["ok"] == 1
        with Image.open(to / "overlays/a.jpg") as picture:
            assert picture.size == size
            pixels = np.asarray(picture.convert("RGB"), np.int32)
        # turned by EXIF, the square is at 200 to 600 from above and from the left; colours are in it alone
        scale = size[0] / 900
        inside = pixels[round(300 * scale) : round(500 * scale), round(300 * scale) : round(500 * scale)].mean(
            axis=(0, 1)
        )
        outside = pixels[round(900 * scale) :].mean(axis=(0, 1))
        assert np.abs(inside - outside).max() > 50


def test_a_smaller_overlay_is_decoded_smaller(large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from simsam_batch import images

    reductions, decode = [], images.decode

    def counted(*arguments: object, **named: object) -> images.Decoded:
        found = decode(*arguments, **named)  # type: ignore[arg-type]
        reductions.append(found.reduction)
        return found

    monkeypatch.setattr(images, "decode", counted)
    for side in (None, 600, 140):
        operations.export(str(large / "segment"), str(tmp_path / str(side)), format="overlay", max_side=side)
    assert reductions == [1, 2, 8]


def test_contact_sheets_have_every_image_and_work_from_a_file(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    to = tmp_path / "to"
    monkeypatch.setattr(contact_sheet, "ROWS", 1)
    monkeypatch.setattr(contact_sheet, "COLUMNS", 3)
    record = operations.export(str(home / "out"), str(to), format="contact-sheet")
    assert (record["ok"], record["images"]) == (4, 4)
    page = (to / "index.html").read_text(encoding="utf-8")
    assert re.findall(r'class="id">(.*?)</bdi>', page) == ["0.png", "2.png", "3.png", "images/1.png"]
    pictures = re.findall(r'<a href="(large/[^"]*)"><img src="(thumbs/[^"]*)"[^>]*loading="lazy"', page)
    assert len(pictures) == 4
    for larger, small in pictures:
        with Image.open(to / larger) as large, Image.open(to / small) as thumbnail:
            assert large.size == (WIDTH, HEIGHT)
            assert max(thumbnail.size) <= thumbnails.THUMBNAIL
    assert not re.search(r'(src|href)="(https?:|//|/)', page)
    assert "<script" not in page
    assert sorted(file.name for file in (to / "sheets").iterdir()) == ["sheet-0000.jpg", "sheet-0001.jpg"]
    # of fewer images a sheet less remains
    first = {file.name: file.read_bytes() for file in to.rglob("*.*")}
    operations.export(str(home / "out"), str(to), format="contact-sheet")
    assert {file.name: file.read_bytes() for file in to.rglob("*.*")} == first


def test_more_images_than_a_page_takes_stand_on_further_pages(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thumbnails, "MOST", 3)
    operations.export(str(home / "out"), str(tmp_path / "to"), format="contact-sheet")
    pages = [(tmp_path / "to" / name).read_text(encoding="utf-8") for name in ("index.html", "index-2.html")]
    assert [page.count("<figure") for page in pages] == [3, 1]
    assert "1 to 3 of 4 images" in pages[0]
    assert "4 to 4 of 4 images" in pages[1]
    assert all('href="index.html"' in page and 'href="index-2.html"' in page for page in pages)


@pytest.mark.parametrize("most", [2, 4])
def test_the_last_sheet_is_there_where_the_last_page_is_full(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(thumbnails, "MOST", most)
    monkeypatch.setattr(contact_sheet, "ROWS", 1)
    monkeypatch.setattr(contact_sheet, "COLUMNS", 3)
    operations.export(str(home / "out"), str(tmp_path / "to"), format="contact-sheet")
    assert sorted(file.name for file in (tmp_path / "to/sheets").iterdir()) == ["sheet-0000.jpg", "sheet-0001.jpg"]


def test_an_image_longer_than_a_jpeg_may_be_is_drawn_smaller(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(photographs_export, "LONGEST_JPEG", WIDTH // 2)
    assert operations.export(str(home / "out"), str(tmp_path / "to"), format="overlay")["ok"] == 4
    with Image.open(tmp_path / "to/overlays/0.jpg") as picture:
        assert picture.width == WIDTH // 2


def test_images_that_have_gone_are_counted_and_shown_as_gone(tmp_path: Path) -> None:
    photographs(tmp_path / "photos")
    run_with_known_objects(tmp_path / "photos", tmp_path / "out")
    (tmp_path / "photos/0.png").unlink()
    for form in ("overlay", "cutout", "contact-sheet"):
        record = operations.export(str(tmp_path / "out"), str(tmp_path / form), format=form)
        assert (record["unreadable"], record["complete"]) == (1, False)
    page = (tmp_path / "contact-sheet/index.html").read_text(encoding="utf-8")
    assert page.count("the image cannot be read any more as it was") == 1
    assert page.count("<figure") == 4
    assert page.count("<img") == 3


@pytest.mark.parametrize(
    ("form", "options", "said"),
    [
        ("overlay", {"crop": True}, "crop: only cutout takes it"),
        ("png", {"max_side": 100}, "max_side: only cutout | overlay takes it"),
        ("overlay", {"max_side": 0}, "max_side: 0 is not allowed"),
        ("overlay", {"min_score": 0.5}, "min_score: only a stage with objects as coco | cutout | yolo"),
    ],
)
def test_options_of_other_formats_are_refused(
    home: Path, tmp_path: Path, form: str, options: dict[str, float], said: str
) -> None:
    with pytest.raises(SettingsError, match=re.escape(said)):
        operations.export(str(home / "out"), str(tmp_path / "to"), format=form, **options)  # type: ignore[arg-type]
    assert not (tmp_path / "to").exists()


def test_cutouts_of_another_kind_overwrite_nothing(home: Path, tmp_path: Path) -> None:
    operations.export(str(home / "out"), str(tmp_path / "to"), format="cutout")
    with pytest.raises(SettingsError, match=r"something else \(crop differ"):
        operations.export(str(home / "out"), str(tmp_path / "to"), format="cutout", crop=True)
    assert json.loads((tmp_path / "to/export.json").read_text())["crop"] is None
