"""Exports of several objects an image, as the readers of others see them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from known_objects import HEIGHT, WIDTH, objects_by_hand, photographs, run_with_known_objects
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco
from pycocotools.coco import COCO

import simsam_batch
from simsam_batch import operations
from simsam_batch.cli import run
from simsam_batch.errors import SettingsError


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run ``out`` whose objects are known, over ``photos``, of which the last says it lies on its side."""
    home = tmp_path_factory.mktemp("objects")
    photographs(home / "photos")
    last = home / "photos/3.png"
    picture, exif = Image.open(last), Image.Exif()
    exif[0x0112] = 3
    pixels = np.asarray(picture)
    Image.fromarray(pixels[::-1, ::-1]).save(last, exif=exif)
    run_with_known_objects(home / "photos", home / "out")
    return home


def polygons(file: Path) -> list[NDArray[np.float64]]:
    """The lines of a YOLO label file: (n, 2) shares of the width and height."""
    found = []
    for line in file.read_text().splitlines():
        number, *values = line.split()
        assert number == "0"
        found.append(np.array(values, np.float64).reshape(-1, 2))
    return found


def overlap(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return float((a & b).sum() / (a | b).sum())


def test_coco_has_an_annotation_for_each_object_with_its_score(home: Path, tmp_path: Path) -> None:
    operations.export(str(home / "out"), str(tmp_path / "to"), format="coco")
    found = COCO(tmp_path / "to/instances.json")
    expected = dict(zip(found_names(), objects_by_hand(), strict=True))
    assert len(found.anns) == 6
    for image in found.imgs.values():
        held = found.imgToAnns[image["id"]]
        objects = expected[image["file_name"]]
        assert [each["score"] for each in held] == [score for _, score in objects]
        for each, (mask, _) in zip(held, objects, strict=True):
            assert np.array_equal(found.annToMask(each).astype(bool), mask)
            assert each["area"] == mask.sum()


def test_polygons_of_coco_are_the_outer_rings_of_each_part(home: Path, tmp_path: Path) -> None:
    operations.export(str(home / "out"), str(tmp_path / "to"), format="coco", polygons=True)
    operations.export(str(home / "out"), str(tmp_path / "runs"), format="coco")
    found, runs = COCO(tmp_path / "to/instances.json"), COCO(tmp_path / "runs/instances.json")
    # of the second image the object has a hole and a part of its own
    hole, part = (slice(24, 40), slice(20, 40)), (slice(4, 14), slice(66, 78))
    of_two = [each for each in found.anns.values() if len(each["segmentation"]) == 2]
    assert len(of_two) == 2
    corners = [{*zip(each[::2], each[1::2], strict=True)} for each in of_two[0]["segmentation"]]
    assert {(8, 8), (56, 8), (56, 80), (8, 80)} in corners
    assert {(66, 4), (78, 4), (78, 14), (66, 14)} in corners
    for number, each in found.anns.items():
        assert {**each, "segmentation": None} == {**runs.anns[number], "segmentation": None}
        expected = runs.annToMask(runs.anns[number]).astype(bool)
        if len(each["segmentation"]) == 2:
            assert expected[part].any()
            assert not expected[hole].all()
            expected[hole] = True
        # COCO's own rasteriser shifts polygons by up to half a pixel
        assert overlap(found.annToMask(each).astype(bool), expected) > 0.9


def test_relative_uris_lead_from_the_root_to_the_images(home: Path, tmp_path: Path) -> None:
    operations.export(str(home / "out"), str(tmp_path / "to"), format="coco", relative_uris=str(home / "photos/"))
    images = json.loads((tmp_path / "to/instances.json").read_text())["images"]
    assert sorted(each["uri"] for each in images) == ["0.png", "2.png", "3.png", "images/1.png"]
    assert all((home / "photos" / each["uri"]).is_file() for each in images)
    with pytest.raises(SettingsError, match=r"relative_uris: '.*' was read at .*, which is not below .*photos/images/"):
        operations.export(
            str(home / "out"), str(tmp_path / "no"), format="coco", relative_uris=str(home / "photos/images")
        )
    assert not (tmp_path / "no").exists()


def found_names() -> list[str]:
    return ["0.png", "images/1.png", "2.png", "3.png"]


def test_a_trainer_of_yolo_finds_images_and_the_outlines_of_their_objects(home: Path, tmp_path: Path) -> None:
    record = operations.export(str(home / "out"), str(tmp_path / "to"), format="yolo")
    assert (record["ok"], record["complete"], record["min_score"]) == (4, True, None)
    data = yaml.safe_load((tmp_path / "to/data.yaml").read_text())
    assert (data["names"], data["train"], "path" in data) == ({0: "object"}, "images", False)
    with (tmp_path / "to/index.csv").open(newline="") as file:
        table = {row["image_id"]: tmp_path / "to" / row["file"] for row in csv.DictReader(file)}
    for name, objects in zip(found_names(), objects_by_hand(), strict=True):
        image = table[name]
        # the rule of Ultralytics: the last folder images becomes labels, and the suffix .txt
        before, _, below = str(image).rpartition("/images/")
        labels = Path(f"{before}/labels/{below}").with_suffix(".txt")
        assert Path(before) == tmp_path / "to"
        found = polygons(labels)
        assert len(found) == len(objects)
        for polygon, (mask, _) in zip(found, objects, strict=True):
            assert ((polygon >= 0) & (polygon <= 1)).all()
            points = (polygon * [WIDTH, HEIGHT]).ravel().tolist()
            again = coco.decode(coco.frPyObjects([points], HEIGHT, WIDTH))[:, :, 0].astype(bool)
            assert overlap(again, mask) > 0.99
    # what lies on its side in the file is upright here
    with Image.open(table["3.png"]) as picture:
        assert picture.getexif().get(0x0112, 1) == 1
        assert np.asarray(picture)[0, 0, 0] == 3


@pytest.mark.parametrize("form", ["coco", "yolo"])
def test_objects_of_lower_scores_can_be_left_out(home: Path, tmp_path: Path, form: str) -> None:
    to = tmp_path / form
    record = operations.export(str(home / "out"), str(to), format=form, min_score=0.5)
    if form == "coco":
        scores = [each["score"] for each in json.loads((to / "instances.json").read_text())["annotations"]]
        assert scores == [0.875, 0.5, 0.875, 0.75]
    else:
        assert sum(len(polygons(file)) for file in (to / "labels").rglob("*.txt")) == 4
        # an image without an object is one without an object, not one that is missing
        assert (to / "labels/3.txt").read_bytes() == b""
    assert record["min_score"] == 0.5
    with pytest.raises(SettingsError, match="min_score differ"):
        operations.export(str(home / "out"), str(to), format=form, min_score=0.6)
    before = {path: path.read_bytes() for path in to.rglob("*") if path.is_file()}
    operations.export(str(home / "out"), str(to), format=form, min_score=0.5)
    assert before == {path: path.read_bytes() for path in to.rglob("*") if path.is_file()}


def test_scores_are_of_formats_and_stages_that_have_some(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SettingsError, match=r"min_score: only a stage with objects as coco \| cutout \| yolo"):
        operations.export(str(home / "out"), str(tmp_path / "to"), format="png", min_score=0.5)
    with pytest.raises(SettingsError, match="min_score: nan is not allowed"):
        operations.export(str(home / "out"), str(tmp_path / "to"), format="coco", min_score=float("nan"))
    arguments = ["export", str(home / "out"), "--to", str(tmp_path / "to"), "--format", "yolo", "--min-score", "0.7"]
    assert run(arguments) == 0
    assert "4 images of the stage segment" in capsys.readouterr().out


def test_an_image_that_has_gone_is_left_out_of_yolo(home: Path, tmp_path: Path) -> None:
    photo = home / "photos/2.png"
    kept = photo.read_bytes()
    photo.unlink()
    record = operations.export(str(home / "out"), str(tmp_path / "to"), format="yolo")
    photo.write_bytes(kept)
    assert (record["unreadable"], record["complete"]) == (1, False)
    assert not (tmp_path / "to/labels/2.txt").exists()


def test_python_gives_each_images_objects(home: Path) -> None:
    found = dict(simsam_batch.open_run(str(home / "out")).objects())
    for name, objects in zip(found_names(), objects_by_hand(), strict=True):
        assert [each.score for each in found[name]] == [score for _, score in objects]
        for each, (mask, _) in zip(found[name], objects, strict=True):
            assert np.array_equal(each.mask, mask)
            rows, columns = np.nonzero(mask)
            assert each.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


def test_of_a_run_with_one_mask_an_image_that_is_the_object(home: Path, tmp_path: Path) -> None:
    arguments = ["--backbone", "descriptors", "--resize", "native", "--head", "none", "--engine", "inline", "--quiet"]
    assert run(["segment", str(home / "photos"), str(tmp_path / "out"), *arguments]) == 0
    opened = simsam_batch.open_run(str(tmp_path / "out"))
    masks = dict(opened.masks())
    rows = {row["image_id"]: row for _, row in opened.rows("segment").each()}
    for image_id, objects in opened.objects():
        assert "objects" not in rows[image_id]
        assert [each.score for each in objects] == [rows[image_id]["confidence"]]
        assert np.array_equal(objects[0].mask, masks[image_id])


def test_the_report_draws_every_object_in_a_colour_of_its_own(home: Path) -> None:
    from simsam_batch.drawing.overlays import Entry, overlay

    assert run(["report", str(home / "out")]) == 0
    page = (home / "out/report/index.html").read_text()
    assert "3 objects" in page
    assert "0 objects" in page
    rows = {row["image_id"]: row for _, row in simsam_batch.open_run(str(home / "out")).rows("segment").each()}
    grey = Image.new("RGB", (WIDTH, HEIGHT), (120, 120, 120))
    plain = overlay(grey, Entry(rows["3.png"] | {"objects": []}, None))
    drawn = np.asarray(overlay(grey, Entry(rows["0.png"], None)))
    outside = np.asarray(plain)[0, 0]

    inside = [{tuple(color) for color in drawn[20:44, 24:56].reshape(-1, 3).tolist()}]
    inside += [{tuple(color) for color in drawn[60:80, 90:104].reshape(-1, 3).tolist()}]
    assert all(len(colors) == 1 for colors in inside)
    assert inside[0] != inside[1]
    assert np.array_equal(drawn[0, 0], outside)
    assert len(np.unique(np.asarray(plain).reshape(-1, 3), axis=0)) == 1
    assert not ({tuple(outside.tolist())} & (inside[0] | inside[1]))
    # where two lie over each other, the surer one is seen: of the third image blue lies over odd, odd over red
    third = np.asarray(overlay(grey, Entry(rows["2.png"], None)))
    assert tuple(third[70, 100]) == next(iter(inside[0]))
