"""simsam score, over a real run and over folders of masks: the same numbers, and clear words where there are none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco
from sklearn.metrics import jaccard_score

from simsam_batch.cli import run
from simsam_batch.regions.pixel_index import nearest
from simsam_batch.results.predictions import RunPredictions
from simsam_batch.results.scoring import largest_box
from simsam_batch.storage import Folder
from simsam_batch.telling.metrics import metric_lines

SETTINGS = ["--backbone", "descriptors", "--resize", "native", "--epochs", "1", "--k", "3"]
SETTINGS += ["--engine", "inline", "--quiet"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run ``out`` over five images in sub-folders, of which one is no image, and its masks exported as PNG."""
    home = tmp_path_factory.mktemp("scored")
    rng = np.random.default_rng(0)
    for i in range(4):
        pixels = rng.integers(80, 120, (96 + 16 * i, 128, 3)).astype(np.uint8)
        truth = np.zeros(pixels.shape[:2], np.uint8)
        pixels[30:70, 40 + 5 * i : 90], truth[30:70, 40 + 5 * i : 90] = (210, 40, 40), 255
        for folder, values, suffix in (("photos", pixels, "png"), ("truth", truth, "png")):
            path = home / folder / "ab"[i % 2] / f"{i}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values).save(path)
    (home / "photos" / "a" / "words.jpg").write_text("no picture")
    Image.new("L", (8, 8)).save(home / "truth" / "a" / "words.png")
    arguments = ["segment", str(home / "photos"), str(home / "out"), "--truth", str(home / "truth")]
    assert run([*arguments, *SETTINGS]) == 3
    for row in pq.read_table(home / "out" / "results" / "segment").to_pylist():
        if row["mask_rle"] is not None:
            path = (home / "masks" / row["image_id"]).with_suffix(".png")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(255 * coco.decode(row["mask_rle"])).save(path)
    return home


def score(*arguments: object, into: Path) -> dict[str, Any]:
    assert run(["score", *map(str, arguments), "--json", str(into / "score.json")]) == 0
    result: dict[str, Any] = json.loads((into / "score.json").read_text())
    return result


def save(folder: Path, **maps: Any) -> Path:
    for name, values in maps.items():
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray(values, np.uint8)).save(folder / f"{name}.png")
    return folder


def test_a_run_its_exported_masks_and_its_own_result_have_the_same_scores(home: Path, tmp_path: Path) -> None:
    of_run = score(home / "out", "--truth", home / "truth", into=tmp_path)
    of_masks = score(home / "masks", "--truth", home / "truth", into=tmp_path)
    assert of_run["metrics"] == of_masks["metrics"]
    assert of_run["metrics"]["images_scored"] == 4
    own = json.loads((home / "out" / "results" / "segment.json").read_text())["metrics"]
    for name, value in of_run["metrics"].items():
        assert value == (own[name] if isinstance(value, str) else pytest.approx(own[name], abs=1e-12)), name
    assert {name for name in own if name not in of_run["metrics"]} == {"curve", "f_beta_max", "f_beta_threshold"}
    # The failed image has a truth and no mask: unscored in both, and told in the words that fit.
    assert (of_run["images"], of_run["images_without_prediction"]) == (5, 1)
    assert of_masks["notes"] == ["1 truth files belong to no image: 'a/words.png'"]


def test_a_run_is_scored_with_its_own_truth_and_keeps_the_result(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["score", str(home / "out")]) == 0
    printed = capsys.readouterr().out
    held = json.loads((home / "out" / "results" / "score-segment-dsm-object.json").read_text())
    metrics = held["metrics"]
    assert (held["stage"], held["kind"], held["truth"], held["schema_version"]) == ("segment", "object", None, 2)
    mean, (low, high) = metrics["iou_per_image_mean"], metrics["iou_per_image_mean_ci"]
    assert f"  iou_per_image_mean     {mean:.4f}  95 %: {low:.4f} to {high:.4f}\n" in printed
    assert "  protocol               dsm-object\n" in printed
    assert "_ci" not in printed


def test_scores_are_those_of_scikit_learn(home: Path, tmp_path: Path) -> None:
    expected = []
    for path in sorted((home / "masks").rglob("*.png")):
        truth = np.asarray(Image.open(home / "truth" / path.relative_to(home / "masks"))) > 127
        expected.append(jaccard_score(truth.ravel(), np.asarray(Image.open(path)).ravel() > 127))
    found = score(home / "masks", "--truth", home / "truth", into=tmp_path)["metrics"]
    assert found["iou_per_image_mean"] == pytest.approx(np.mean(expected))


def test_masks_are_joined_by_sub_folder_and_stem_and_never_by_position(tmp_path: Path) -> None:
    left, right = [[1, 0], [1, 0]], [[0, 1], [0, 1]]
    # By position every pair would agree.
    save(tmp_path / "masks", a=left, c=right, d=left)
    save(tmp_path / "truth", b=left, c=right, d=right)
    found = score(tmp_path / "masks", "--truth", tmp_path / "truth", into=tmp_path)
    assert found["metrics"]["images_scored"] == 2
    assert found["metrics"]["iou_per_image_mean"] == 1 / 2
    assert found["images_without_truth"] == 1
    assert [note for note in found["notes"] if "'a.png'" in note]
    assert [note for note in found["notes"] if "'b.png'" in note]


@pytest.mark.parametrize("one", [1, 255])
def test_masks_of_one_value_are_masks(tmp_path: Path, one: int) -> None:
    # Published code stops at an all-foreground mask, or takes all 255 for 256 classes. Truth: 2 of 4 pixels.
    save(tmp_path / "truth", full=[[255, 0], [255, 0]], empty=[[255, 0], [255, 0]], half=[[255, 0], [255, 0]])
    save(tmp_path / "masks", full=[[one, one], [one, one]], empty=np.zeros((2, 2)), half=[[one, 0], [0, 0]])
    found = score(tmp_path / "masks", "--truth", tmp_path / "truth", into=tmp_path)["metrics"]
    assert found["iou_per_image_mean"] == pytest.approx((2 / 4 + 0 + 1 / 2) / 3)
    # 2, 2 and 3 of 4 pixels agree.
    assert found["accuracy"] == pytest.approx((2 + 2 + 3) / 12)
    # Of masks so small all is border.
    assert found["boundary_iou"] == found["iou_per_image_mean"]


def test_empty_truth_and_an_empty_mask_agree_but_do_not_overlap(tmp_path: Path) -> None:
    save(tmp_path / "truth", a=np.zeros((2, 2)))
    save(tmp_path / "masks", a=np.zeros((2, 2)))
    found = score(tmp_path / "masks", "--truth", tmp_path / "truth", into=tmp_path)["metrics"]
    assert (found["iou_per_image_mean"], found["accuracy"]) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([[0, 128], [255, 0]], "0 and 1 or 0 and 255 alone"),
        ([[0, 1], [2, 3]], "--kind semantic"),
        ([[7, 7], [7, 7]], "run from 7 to 7"),
        ([[0, 0, 1], [0, 0, 1]], "--resize-prediction nearest"),
    ],
)
def test_a_prediction_that_is_no_mask_of_its_truth_stops_the_score_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], values: list[list[int]], words: str
) -> None:
    save(tmp_path / "truth", odd=[[255, 0], [255, 0]])
    save(tmp_path / "masks", odd=values)
    assert run(["score", str(tmp_path / "masks"), "--truth", str(tmp_path / "truth")]) == 1
    text = capsys.readouterr().err
    assert "prediction" in text
    assert "odd.png" in text
    assert words in text


def test_truth_that_cannot_be_used_is_counted_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "truth", a=[[255, 0]], b=[[3, 9]])
    save(tmp_path / "masks", a=[[1, 0]], b=[[1, 0]])
    found = score(tmp_path / "masks", "--truth", tmp_path / "truth", into=tmp_path)
    assert (found["truth_errors"], found["metrics"]["images_scored"]) == (1, 1)
    assert "b.png" in found["notes"][0]
    assert "b.png" in capsys.readouterr().err
    (tmp_path / "masks" / "a.png").unlink()
    assert run(["score", str(tmp_path / "masks"), "--truth", str(tmp_path / "truth")]) == 1
    assert "nothing could be scored" in capsys.readouterr().err


def test_a_patch_map_is_brought_to_the_truths_size(tmp_path: Path) -> None:
    # 2 x 2 patches over 4 x 6 pixels: the left half is 3 columns wide.
    save(tmp_path / "truth", a=np.repeat([[255, 255, 255, 0, 0, 0]], 4, axis=0))
    save(tmp_path / "masks", a=[[1, 0], [1, 0]])
    found = score(tmp_path / "masks", "--truth", tmp_path / "truth", "--resize-prediction", "nearest", into=tmp_path)
    assert found["metrics"]["iou_per_image_mean"] == 1.0
    # Centres of 3 pixels over 2 cells: 1/3, 1, 5/3 of a cell; the middle one lies on the border and goes on.
    assert nearest(np.array([[5, 6]]), (1, 3)).tolist() == [[5, 6, 6]]
    assert nearest(np.array([[1, 2, 3, 4]]), (1, 2)).tolist() == [[2, 4]]


def test_central_squares_are_scored_on_request(tmp_path: Path) -> None:
    # Outside of the middle 2 x 2 the mask is wrong.
    save(tmp_path / "truth", a=[[0, 255, 0, 0], [0, 255, 0, 0]])
    save(tmp_path / "masks", a=[[1, 1, 0, 1], [1, 1, 0, 1]])
    whole = score(tmp_path / "masks", "--truth", tmp_path / "truth", into=tmp_path)["metrics"]
    square = score(tmp_path / "masks", "--truth", tmp_path / "truth", "--center-crop", into=tmp_path)["metrics"]
    assert (whole["iou_per_image_mean"], square["iou_per_image_mean"]) == (2 / 6, 1.0)


CLUSTERS = [[0, 0, 1, 1], [0, 2, 2, 1], [0, 2, 2, 1], [0, 0, 0, 0]]
CLASSES = [[0, 0, 0, 255], [0, 1, 1, 255], [0, 1, 1, 0], [0, 0, 0, 255]]


def test_label_maps_of_clusters_are_matched_and_scored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Worked out in tests/scores/test_semantic.py: background 7 / 9, cat 4 / 4; two labels more than classes.
    save(tmp_path / "maps", a=CLUSTERS)
    save(tmp_path / "truth", a=CLASSES)
    (tmp_path / "names.txt").write_text("background\ncat\n")
    arguments = [tmp_path / "maps", "--kind", "semantic", "--truth", tmp_path / "truth", "--clusters", 3]
    arguments += ["--classes", tmp_path / "names.txt", "--ignore-label", 255]
    found = score(*arguments, "--matching", "hungarian", into=tmp_path)["metrics"]
    assert found["iou_by_class"] == {"background": 7 / 9, "cat": 1.0}
    assert found["class_of_cluster"] == ["background", None, "cat", None]
    printed = capsys.readouterr().out
    assert "  miou_over_classes      0.8889\n" in printed
    assert "    background           0.7778\n" in printed
    assert "    label 1              -\n" in printed
    assert score(*arguments, into=tmp_path)["metrics"]["matching"] == "majority"
    assert "iou_per_image_mean" not in found


def test_as_many_labels_as_classes_are_matched_one_to_one(tmp_path: Path) -> None:
    # Label 1 overlaps class 0 most, and so does label 0: one to one, label 0 gets class 0 and label 1 the other.
    save(tmp_path / "maps", a=[[0, 0, 0, 1, 1, 1]])
    save(tmp_path / "truth", a=[[0, 0, 0, 0, 0, 1]])
    arguments = [tmp_path / "maps", "--kind", "semantic", "--truth", tmp_path / "truth", "--classes", 2]
    found = score(*arguments, "--clusters", 1, into=tmp_path)["metrics"]
    assert (found["matching"], found["class_of_cluster"]) == ("hungarian", ["0", "1"])
    assert found["iou_by_class"] == {"0": 3 / 5, "1": 1 / 3}
    assert score(*arguments, "--clusters", 2, into=tmp_path)["metrics"]["matching"] == "majority"


def test_the_highest_label_of_a_run_is_looked_for_in_every_part(tmp_path: Path) -> None:
    parts = []
    for number, labels in enumerate([[[1], [2, 5]], [[3]], [[], None]]):
        parts.append(f"part-{number:05d}.parquet")
        pq.write_table(pa.table({"labels": pa.array(labels, pa.list_(pa.int32()))}), tmp_path / parts[-1])
    found = RunPredictions(Folder(str(tmp_path)), "semantic", tuple(parts), pa.table({}), "semantic", {}, {})
    assert found.most_clusters() == 5


def test_classes_are_written_and_printed_in_the_order_of_their_ids(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = [[11, 10, 9, 2, 1, 0]]
    save(tmp_path / "maps", a=ids)
    save(tmp_path / "truth", a=ids)
    arguments = [tmp_path / "maps", "--kind", "semantic", "--truth", tmp_path / "truth", "--classes", 12]
    found = score(*arguments, into=tmp_path)["metrics"]["iou_by_class"]
    assert list(found) == ["0", "1", "2", "9", "10", "11"]
    printed = [line.split()[:2] for line in capsys.readouterr().out.splitlines() if line.startswith("    ")]
    assert printed == [["class", each] for each in ("0", "1", "2", "9", "10", "11")]


def test_a_semantic_run_and_its_exported_label_maps_have_the_same_scores(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["semantic", str(home / "photos"), str(out), "--backbone", "descriptors", "--region-feature", "patches"]
    arguments += [
        "--resize",
        "native",
        "--clusters",
        "2",
        "--engine",
        "inline",
        "--quiet",
        "--truth",
        str(tmp_path / "ids"),
    ]
    for path in (home / "truth").rglob("[0-9].png"):
        ids = (np.asarray(Image.open(path)) > 0).astype(np.uint8)
        ids[:3] = 9
        target = tmp_path / "ids" / path.relative_to(home / "truth")
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(ids).save(target)
    assert run([*arguments, "--ignore-label", "9"]) == 3
    for row in pq.read_table(out / "results" / "semantic").to_pylist():
        if row["status"] == "ok":
            labels = np.zeros((row["height"], row["width"]), np.uint8)
            for segment in row["segments"]:
                labels[coco.decode(segment["mask_rle"]) > 0] = segment["label"]
            save((tmp_path / "maps" / row["image_id"]).parent, **{Path(row["image_id"]).stem: labels})
    own = json.loads((out / "results" / "semantic.json").read_text())["metrics"]
    of_run = score(out, "--stage", "semantic", into=tmp_path)["metrics"]
    assert of_run == own
    options = ["--kind", "semantic", "--truth", tmp_path / "ids", "--ignore-label", 9, "--classes", 256]
    options += ["--clusters", 2, "--matching", "hungarian"]
    assert score(tmp_path / "maps", *options, into=tmp_path)["metrics"] == own
    assert own["ignored_pixels"] == 3 * 128 * 4
    # Another protocol brings its own classes and ignored label, of which the truth here has none.
    voc = score(out, "--stage", "semantic", "--protocol", "voc-semantic", into=tmp_path)["metrics"]
    assert (len(voc["iou_by_class"]), voc["ignored_pixels"]) == (21, 0)


def test_vocs_palettes_and_border_label_are_understood(tmp_path: Path) -> None:
    for folder, values in (("maps", [[0, 8, 8, 15]]), ("truth", [[0, 8, 255, 8]])):
        (tmp_path / folder).mkdir()
        picture = Image.fromarray(np.array(values, np.uint8), mode="P")
        picture.putpalette(np.random.default_rng(0).integers(0, 256, 768).astype(np.uint8).tobytes())
        picture.save(tmp_path / folder / "a.png")
    arguments = [tmp_path / "maps", "--kind", "semantic", "--truth", tmp_path / "truth", "--protocol", "voc-semantic"]
    found = score(*arguments, into=tmp_path)["metrics"]
    # Background 1 / 1, cat 1 / 2, person 0 / 1, and 18 classes that nobody saw.
    assert found["miou_over_classes"] == pytest.approx((1 + 1 / 2) / 21)
    assert (found["iou_by_class"]["cat"], found["ignored_pixels"], found["matching"]) == (1 / 2, 1, "none")


def test_a_label_out_of_range_stops_the_score_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(tmp_path / "maps", a=[[0, 9]])
    save(tmp_path / "truth", a=[[0, 1]])
    arguments = ["score", str(tmp_path / "maps"), "--kind", "semantic", "--truth", str(tmp_path / "truth")]
    assert run([*arguments, "--classes", "2"]) == 1
    assert "a.png: the prediction has the id 9; ids run from 0 to 1" in capsys.readouterr().err
    assert run(arguments) == 1
    assert "--classes" in capsys.readouterr().err
    Image.fromarray(np.zeros((1, 2), np.uint8)).save(tmp_path / "maps" / "a.jpg")
    (tmp_path / "maps" / "a.png").unlink()
    assert run([*arguments, "--classes", "2"]) == 1
    assert "JPEG changes ids" in capsys.readouterr().err


def xml(*boxes: tuple[int, int, int, int]) -> str:
    corners = ("xmin", "ymin", "xmax", "ymax")
    objects = "".join(
        f"<object><bndbox>{''.join(f'<{c}>{v}</{c}>' for c, v in zip(corners, box, strict=True))}</bndbox></object>"
        for box in boxes
    )
    return f"<annotation>{objects}</annotation>"


def test_corloc_with_annotations_of_voc_and_of_coco(tmp_path: Path) -> None:
    mask = np.zeros((10, 10), np.uint8)
    # The largest part is 4 x 4 at (2, 2), joined by a corner to a pixel: its box is (2, 2, 7, 7). One pixel is apart.
    mask[2:6, 2:6] = mask[6, 6] = mask[0, 9] = 1
    assert largest_box(mask.astype(bool)) == (2, 2, 7, 7)
    save(tmp_path / "masks", hit=mask, missed=mask, nothing=np.zeros((10, 10)), unknown=mask)
    (tmp_path / "xml").mkdir()
    # VOC counts from 1 and includes the last pixel: (3, 3, 7, 7) is the box itself. (3, 3, 7, 5) has 5 x 3 = 15 of 25.
    (tmp_path / "xml" / "hit.xml").write_text(xml((1, 1, 1, 1), (3, 3, 7, 5)))
    (tmp_path / "xml" / "missed.xml").write_text(xml((3, 3, 7, 4)))
    # An empty mask stands for the whole image: 60 of 100.
    (tmp_path / "xml" / "nothing.xml").write_text(xml((1, 1, 10, 6)))
    found = score(tmp_path / "masks", "--boxes", tmp_path / "xml", into=tmp_path)
    assert found["metrics"]["corloc"] == 2 / 3
    assert (found["metrics"]["images_scored"], found["metrics"]["images_without_annotation"]) == (3, 1)
    assert "unknown.png" in found["notes"][0]

    pictures = [{"id": i, "file_name": f"{name}.jpg"} for i, name in enumerate(["hit", "missed", "nothing", "unknown"])]
    boxes = [(0, [2, 2, 5, 3], 0), (1, [2, 2, 5, 2], 0), (1, [2, 2, 5, 5], 1), (2, [0, 0, 10, 6], 0)]
    annotations = [{"image_id": i, "bbox": box, "iscrowd": crowd} for i, box, crowd in boxes]
    (tmp_path / "instances.json").write_text(json.dumps({"images": pictures, "annotations": annotations}))
    again = score(tmp_path / "masks", "--boxes", tmp_path / "instances.json", into=tmp_path)
    assert again["metrics"] == found["metrics"]
    assert again["kind"] == "corloc"


def test_a_run_has_a_corloc_too(home: Path, tmp_path: Path) -> None:
    for path in (home / "truth").rglob("[0-9].png"):
        rows, columns = np.nonzero(np.asarray(Image.open(path)))
        target = tmp_path / "xml" / path.relative_to(home / "truth").with_suffix(".xml")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(xml((columns.min() + 1, rows.min() + 1, columns.max() + 1, rows.max() + 1)))
    of_run = score(home / "out", "--boxes", tmp_path / "xml", into=tmp_path)
    assert of_run["metrics"]["images_scored"] == 4
    assert of_run["metrics"] == score(home / "masks", "--boxes", tmp_path / "xml", into=tmp_path)["metrics"]


def test_rows_in_another_order_than_the_plan_are_not_scored_by_their_position(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(home / "out", tmp_path / "out")
    (part,) = (tmp_path / "out" / "results" / "segment").iterdir()
    table = pq.read_table(part)
    pq.write_table(table.take(list(range(table.num_rows))[::-1]), part)
    assert run(["score", str(tmp_path / "out")]) == 1
    assert "the results have 'b/3.png' where the plan has 'a/0.png'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{home}/masks"], "give --truth FOLDER"),
        (["{home}/masks", "--truth", "{home}/masks"], "compared with itself"),
        (["{home}/masks", "--truth", "{home}/truth", "--boxes", "x.json"], "--truth or --boxes"),
        (["{home}/masks", "--boxes", "{home}/truth"], "no XML file"),
        (["{home}/masks", "--boxes", "{home}/none.json"], "is not COCO's"),
        (["{home}/out", "--stage", "semantic"], "without results/semantic"),
        (["{home}/out", "--kind", "semantic"], "has object predictions"),
        (["{home}/out", "--resize-prediction", "nearest"], "the size of their images"),
        (["{home}/nowhere", "--truth", "{home}/truth"], "no such folder"),
        (["{home}/out/plan", "--truth", "{home}/truth"], "neither a run nor a folder with image files"),
        (["{home}/masks/a", "--truth", "{home}/truth"], "has the sub-folder and stem of any image"),
    ],
)
def test_what_cannot_be_scored_is_said_in_a_sentence(
    home: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert run(["score", *(a.format(home=home) for a in arguments)]) == 1
    text = capsys.readouterr().err
    assert words in text
    assert "defect" not in text


def test_masks_with_their_truth_in_a_sub_folder_are_told_apart(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "masks", tmp_path / "all")
    shutil.copytree(home / "truth", tmp_path / "all" / "truth")
    found = score(tmp_path / "all", "--truth", tmp_path / "all" / "truth", into=tmp_path)
    alone = score(home / "masks", "--truth", home / "truth", into=tmp_path)
    assert [found[key] for key in ("metrics", "images", "notes")] == [
        alone[key] for key in ("metrics", "images", "notes")
    ]


def test_metrics_are_printed_with_their_intervals_and_without_curves() -> None:
    metrics = {"mean": 0.5, "mean_ci": [0.4, 0.61], "curve": {"precision": 256 * [0.1]}, "images": 3, "none": None}
    assert metric_lines(metrics) == [
        "  mean                   0.5000  95 %: 0.4000 to 0.6100",
        "  images                 3",
        "  none                   -",
    ]


def brute_force_parts(mask: NDArray[np.bool_]) -> list[set[tuple[int, int]]]:
    left, parts = set(zip(*np.nonzero(mask), strict=True)), []
    while left:
        part, reached = set(), {left.pop()}
        while reached:
            y, x = reached.pop()
            part.add((y, x))
            around = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= around
            reached |= around
        parts.append(part)
    return parts


@pytest.mark.parametrize("seed", range(8))
def test_the_largest_part_is_that_of_a_flood_fill(seed: int) -> None:
    mask = np.random.default_rng(seed).random((9, 11)) < 0.25
    parts = brute_force_parts(mask)
    most = max(map(len, parts))
    boxes = []
    for part in parts:
        if len(part) == most:
            rows, columns = zip(*part, strict=True)
            boxes.append((min(columns), min(rows), max(columns) + 1, max(rows) + 1))
    assert largest_box(mask) in boxes


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (
            ["--truth", "{truth}", "--clusters", "3", "--matching", "majority"],
            "clusters, matching: no effect where object",
        ),
        (["--boxes", "{boxes}", "--classes", "3"], "classes: no effect where boxes are scored"),
        (["--boxes", "{boxes}", "--center-crop"], "center_crop: no effect where boxes are scored"),
        (["--truth", "{truth}", "--stage", "segment"], "stage: a folder of files has no stages"),
    ],
)
def test_an_option_that_does_nothing_is_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], named: str
) -> None:
    save(tmp_path / "masks", a=[[255, 0], [255, 0]])
    save(tmp_path / "truth", a=[[255, 0], [255, 0]])
    (tmp_path / "boxes").mkdir()
    (tmp_path / "boxes" / "a.xml").write_text(xml((1, 1, 2, 2)))
    places = {"truth": tmp_path / "truth", "boxes": tmp_path / "boxes"}
    assert run(["score", str(tmp_path / "masks"), *(each.format(**places) for each in more)]) == 1
    assert named in capsys.readouterr().err


def test_boxes_that_two_images_or_two_files_claim_are_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path / "masks", a=[[255, 0], [255, 0]])
    (tmp_path / "xml").mkdir()
    (tmp_path / "xml" / "a.xml").write_text(xml((1, 1, 2, 2)))
    shutil.copy(tmp_path / "masks" / "a.png", tmp_path / "masks" / "a.bmp")
    command = ["score", str(tmp_path / "masks"), "--boxes", str(tmp_path / "xml")]
    assert run(command) == 1
    assert "more than one image would get the same boxes: 'a'" in capsys.readouterr().err
    (tmp_path / "masks" / "a.bmp").unlink()
    (tmp_path / "xml" / "a.XML").write_text(xml((1, 1, 1, 1)))
    assert run(command) == 1
    assert "has more than one file for 'a'" in capsys.readouterr().err
