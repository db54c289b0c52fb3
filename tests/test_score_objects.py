"""simsam score of several objects: COCO's own code is the judge."""

from __future__ import annotations

import contextlib
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from known_objects import HEIGHT, WIDTH, column_of, objects_by_hand, photographs, rectangle, run_with_known_objects
from PIL import Image
from pycocotools import mask as coco
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from simsam_batch import operations
from simsam_batch.cli import run

STATS = ["ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"]
STATS += ["ar_1", "ar_10", "ar_100", "ar_small", "ar_medium", "ar_large"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run ``out`` over four images in ``photos``, whose objects are known, and ``truth.json`` that differs."""
    home = tmp_path_factory.mktemp("objects")
    names = photographs(home / "photos")
    run_with_known_objects(home / "photos", home / "out")
    outline = [16, 16, 60, 16, 60, 48, 16, 48]
    crowd = coco.encode(np.asfortranarray(rectangle(0, 0, 128, 96)).view(np.uint8))
    runs = np.asfortranarray(rectangle(80, 50, 112, 90)).ravel(order="F")
    changes = np.flatnonzero(np.diff(runs, prepend=False)).tolist()
    counts = np.diff([0, *changes, runs.size]).tolist()
    annotations: list[dict[str, Any]] = [
        {"image_id": 10, "segmentation": [outline], "bbox": [16, 16, 44, 32], "area": 44 * 32, "iscrowd": 0},
        {"image_id": 10, "segmentation": {"size": [96, 128], "counts": counts}, "bbox": [80, 50, 32, 40]},
        {"image_id": 11, "segmentation": [outline, [70, 70, 90, 70, 90, 90]], "bbox": [16, 16, 74, 74], "iscrowd": 0},
        {"image_id": 12, "bbox": [0, 0, 128, 96], "iscrowd": 1, "area": 128 * 96},
        {"image_id": 12, "segmentation": [outline], "bbox": [16, 16, 44, 32], "area": 44 * 32, "iscrowd": 0},
    ]
    annotations[3]["segmentation"] = {"size": crowd["size"], "counts": crowd["counts"].decode()}
    for number, each in enumerate(annotations, 1):
        each |= {"id": number, "category_id": 1 + number % 2}
    images = [{"id": 10 + i, "file_name": name, "width": WIDTH, "height": HEIGHT} for i, name in enumerate(names)]
    held = {"images": images, "annotations": annotations, "categories": [{"id": 1}, {"id": 2}]}
    (home / "truth.json").write_text(json.dumps(held))
    return home


def score(*arguments: object, into: Path) -> dict[str, Any]:
    assert run(["score", *map(str, arguments), "--json", str(into / "score.json")]) == 0
    result: dict[str, Any] = json.loads((into / "score.json").read_text())
    return result


def judged(truth: dict[str, Any], found: dict[str, Any], kind: str) -> dict[str, float | None]:
    """COCOeval's figures without regard to classes, images joined by their file names."""
    number_of = {image["file_name"]: image["id"] for image in truth["images"]}
    name_of = {image["id"]: image["file_name"] for image in found["images"]}
    results = [
        {"image_id": number_of[name_of[each["image_id"]]], "category_id": 1, "score": each["score"]}
        | ({"segmentation": each["segmentation"]} if kind == "segm" else {"bbox": each["bbox"]})
        for each in found["annotations"]
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        judge = COCO()
        held = json.loads(json.dumps(truth))
        for each in held["annotations"]:
            each.setdefault("iscrowd", 0)
            each["area"] = each.get("area") or int(coco.area(COCO.annToRLE(_Sizes(held), each)))
        judge.dataset = held
        judge.createIndex()
        evaluation = COCOeval(judge, judge.loadRes(results), kind)
        evaluation.params.useCats = 0
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(STATS, (None if value == -1 else float(value) for value in evaluation.stats), strict=True))


class _Sizes:
    """What `COCO.annToRLE` looks sizes up in."""

    def __init__(self, held: dict[str, Any]) -> None:
        self.imgs = {image["id"]: image for image in held["images"]}


def test_figures_are_those_of_cocoeval_on_the_exported_instances(home: Path, tmp_path: Path) -> None:
    operations.export(str(home / "out"), str(tmp_path / "coco"), format="coco")
    found = json.loads((tmp_path / "coco/instances.json").read_text())
    truth = json.loads((home / "truth.json").read_text())
    result = score(home / "out", "--truth", home / "truth.json", into=tmp_path)
    metrics = result["metrics"]
    assert (result["kind"], metrics["protocol"], metrics["images_scored"]) == ("detection", "detection", 4)
    for kind, name in (("segm", "mask"), ("bbox", "box")):
        expected = judged(truth, found, kind)
        assert {key: metrics[f"{name}_{key}"] for key in STATS} == pytest.approx(expected, abs=1e-12)
    assert 0 < metrics["mask_ap"] < 1
    # the crowd is no object; one image has none at all
    assert (metrics["objects_found"], metrics["objects_true"], metrics["images_without_object"]) == (6, 4, 1)
    # the surest box of the first image is on its red thing, that of the second, 8..78 x 4..80, on 16..90 x 16..90, and
    # that of the third elsewhere
    assert 62 * 64 / (70 * 76 + 74 * 74 - 62 * 64) > 0.5
    assert metrics["corloc"] == 2 / 3


def test_a_run_scored_by_what_it_exported_is_right_everywhere(home: Path, tmp_path: Path) -> None:
    operations.export(str(home / "out"), str(tmp_path / "coco"), format="coco")
    metrics = score(home / "out", "--truth", tmp_path / "coco/instances.json", into=tmp_path)["metrics"]
    assert (metrics["mask_ap"], metrics["box_ap"], metrics["mask_ar_100"], metrics["corloc"]) == pytest.approx((1,) * 4)
    # Two of the three images with objects have several, of which one detection is one: 3 of 6.
    assert metrics["mask_ar_1"] == pytest.approx(3 / 6)


def test_the_result_is_kept_beside_the_others_of_the_run(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["score", str(home / "out"), "--truth", str(home / "truth.json")]) == 0
    printed = capsys.readouterr().out
    held = json.loads((home / "out/results/score-segment-detection.json").read_text())
    assert f"  mask_ap50              {held['metrics']['mask_ap50']:.4f}\n" in printed
    assert "  mask_ap_large          -\n" in printed
    assert held["truth"] == str(home / "truth.json")


def test_numbers_of_instances_with_vocs_border_count_as_objects(home: Path, tmp_path: Path) -> None:
    found = objects_by_hand()
    for number, name in enumerate(["0", "images/1", "2", "3"]):
        values = np.zeros((HEIGHT, WIDTH), np.uint8)
        # the third object lies over the second, which a map cannot hold: it is the last guess, and a wrong one
        for place, (mask, _) in enumerate(found[number][:2]):
            values[mask] = 3 + place
        # what lies on the border counts neither for nor against anybody
        values[:, 30:34] = 255
        picture = Image.fromarray(values, mode="P")
        picture.putpalette(np.random.default_rng(0).integers(0, 256, 768).astype(np.uint8).tobytes())
        (tmp_path / "ids" / name).parent.mkdir(parents=True, exist_ok=True)
        picture.save(tmp_path / "ids" / f"{name}.png")
    metrics = score(home / "out", "--truth", tmp_path / "ids", "--protocol", "detection", into=tmp_path)["metrics"]
    assert metrics["objects_true"] == 5
    assert (metrics["mask_ap"], metrics["mask_ar_100"]) == pytest.approx((1.0, 1.0))
    # Of grey values each is a number, unless it is said not to count.
    for path in (tmp_path / "ids").rglob("*.png"):
        values = np.asarray(Image.open(path)).astype(np.uint16)
        values[0, 0] = 300
        Image.fromarray(values).save(path)
    arguments = [home / "out", "--truth", tmp_path / "ids", "--protocol", "detection", "--ignore-label", 255]
    assert score(*arguments, into=tmp_path)["metrics"]["objects_true"] == 5 + 4


def test_masks_are_one_object_each_whether_true_or_found(home: Path, tmp_path: Path) -> None:
    red = rectangle(16, 16, 64, 48)
    for folder, values in (("truth", red), ("masks", rectangle(16, 16, 64, 40))):
        for name in ("0", "images/1", "2", "3"):
            (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(255 * values.astype(np.uint8)).save(tmp_path / folder / f"{name}.png")
    arguments = ["--truth", tmp_path / "truth", "--protocol", "detection"]
    of_masks = score(tmp_path / "masks", *arguments, into=tmp_path)["metrics"]
    # 24 of 32 rows: an IoU of .75 is enough for six of the ten thresholds, .5 to .75
    assert of_masks["mask_ap"] == of_masks["mask_ar_1"] == pytest.approx(6 / 10)
    of_run = score(home / "out", *arguments, into=tmp_path)["metrics"]
    # 4 true objects of which the first and the third image have one each, first of 2 and last of 3
    assert (of_run["mask_ar_1"], of_run["mask_ar_10"]) == pytest.approx((1 / 4, 2 / 4))


def test_boxes_alone_are_compared_as_boxes(home: Path, tmp_path: Path) -> None:
    arguments = [home / "out", "--boxes", home / "truth.json"]
    metrics = score(*arguments, "--protocol", "detection", into=tmp_path)["metrics"]
    assert "mask_ap" not in metrics
    assert metrics["objects_true"] == 4
    assert metrics["box_ap50"] > 0
    assert score(*arguments, into=tmp_path)["kind"] == "corloc"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--protocol", "semantic"], "detection alone compares"),
        (["--classes", "3"], "no effect where objects are scored"),
        (["--ignore-label", "255"], "ignore_label: no effect where objects are scored"),
        (["--center-crop"], "no effect where objects are scored"),
    ],
)
def test_what_does_not_go_with_instances_is_refused(
    home: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert run(["score", str(home / "out"), "--truth", str(home / "truth.json"), *arguments]) == 1
    assert words in capsys.readouterr().err


def test_instances_that_do_not_fit_their_image_are_named_and_left_out(home: Path, tmp_path: Path) -> None:
    truth = json.loads((home / "truth.json").read_text())
    truth["images"][0]["width"] += 1
    truth["annotations"][2]["segmentation"] = {"size": [1, 1], "counts": [1]}
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    result = score(home / "out", "--truth", tmp_path / "truth.json", into=tmp_path)
    assert (result["truth_errors"], result["metrics"]["images_scored"]) == (2, 2)
    assert "129x96" in result["notes"][0]


def test_an_annotation_without_an_outline_stops_the_score(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = json.loads((home / "truth.json").read_text())
    truth["annotations"][1]["segmentation"] = []
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    assert run(["score", str(home / "out"), "--truth", str(tmp_path / "truth.json")]) == 1
    assert "annotation 2 has no outline" in capsys.readouterr().err


def test_the_column_holds_what_the_documents_say() -> None:
    held = column_of(objects_by_hand()[0])[0]
    assert set(held) == {"mask_rle", "bbox_xyxy", "area_fraction", "score"}
    assert (held["bbox_xyxy"], held["area_fraction"]) == ([16, 16, 64, 48], 48 * 32 / (96 * 128))


def test_every_figure_is_described(home: Path, tmp_path: Path) -> None:
    text = (Path(__file__).parents[1] / "docs/output.md").read_text(encoding="utf-8")
    table = text.split("| metric of objects | type | meaning |")[1].split("\n\n")[0]
    described = {
        name for cell in re.findall(r"^\| (`[^|]+) \|", table, re.MULTILINE) for name in re.findall(r"`(\w+)`", cell)
    }
    found = score(home / "out", "--truth", home / "truth.json", into=tmp_path)["metrics"]
    of_boxes = {name for name in found if name.startswith("box_")}
    assert of_boxes == {name.replace("mask_", "box_") for name in found if name.startswith("mask_")}
    assert described - {"box_ap"} == set(found) - of_boxes
