"""Exports as others read them: with their own readers, pixel by pixel against the rows of the run."""

from __future__ import annotations

import csv
import io
import json
import re
import resource
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps
from pycocotools.coco import COCO
from result_rows import pixels_of, rows_of

from simsam_batch import operations
from simsam_batch.cli import run
from simsam_batch.errors import SettingsError
from simsam_batch.images import ImageLimits, load_mask
from simsam_batch.report.exports import formats, hugging_face, label_pngs, web_dataset
from simsam_batch.results import label_maps
from simsam_batch.runs.reading import StageRows
from simsam_batch.storage import Folder

IDS = ["a/b.png", "a/b.jpg", "../../evil.jpg", "/abs/words", "a/b.png/c: d.webp", "=dot.ted.tif"]
FILES = ["0.png", "1.jpg", "2.jpg", "3.jpg", "4.webp", "5.tif"]
STEMS = ["a/b%2Epng", "a/b%2Ejpg", "%2E%2E/%2E%2E/evil", "", "a/b%2Epng/c%3A d", "=dot.ted"]
"""File names of masks: the first two share a stem, and the folder a/b.png is not to be taken for a mask."""

ON_ITS_SIDE, WORDS = 1, 3
OK = [number for number in range(len(IDS)) if number != WORDS]

COMMON = ["--backbone", "descriptors", "--resize", "native", "--shard-size", "4", "--engine", "inline", "--quiet"]
COMMANDS = {
    "segment": ["--head", "none"],
    "semantic": ["--head", "none", "--regions", "3", "--clusters", "3"],
    "hierarchy": [
        "--superpixels",
        "8",
        "--tree",
        "split",
        "--max-ncut",
        "0",
        "--max-perturbation",
        "0",
        "--clusters",
        "3",
    ],
}


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of six images under names of all kinds; one lies on its side, one is a text. Truth has classes 0 to 2."""
    home = tmp_path_factory.mktemp("photographs")
    truth = np.zeros((96, 128), np.uint8)
    truth[16:48, 16:64], truth[48:90, 80:112] = 1, 2
    Image.fromarray(truth).save(home / "truth.png")
    for number, name in enumerate(FILES):
        pixels = np.random.default_rng(number).integers(90, 140, (96, 128, 3)).astype(np.uint8)
        pixels[truth == 1], pixels[truth == 2] = (200, 40, 40), (40, 60, 200)
        picture, exif = Image.fromarray(pixels), Image.Exif()
        if number == ON_ITS_SIDE:
            exif[0x0112] = 6
        picture.save(home / name, exif=exif)
    (home / FILES[WORDS]).write_text("no picture " * 20)
    uris = [str(home / name) for name in FILES]
    truths = [None if number == ON_ITS_SIDE else str(home / "truth.png") for number in range(len(IDS))]
    table = pa.table({"image_id": IDS, "uri": uris, "truth_uri": pa.array(truths, pa.string())})
    pq.write_table(table, home / "images.parquet")
    (home / "classes.txt").write_text("ground\nred thing\nblue thing\n")
    return home / "images.parquet"


@pytest.fixture(scope="module")
def runs(catalog: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of each command, by its stage."""
    home = tmp_path_factory.mktemp("runs")
    return {command: made(command, catalog, home / command) for command in COMMANDS}


def made(command: str, catalog: Path, out: Path, *more: str) -> Path:
    named = ["--class-names", str(catalog.parent / "classes.txt")] if command == "semantic" else []
    assert run([command, str(catalog), str(out), *COMMON, *COMMANDS[command], *named, *more]) == 3
    return out


def expected(row: dict[str, Any]) -> NDArray[np.int64]:
    """The map of a row, from its masks; of trees from the superpixels, repeated, for these are of whole patches."""
    if "mask_rle" in row:
        return pixels_of(row["mask_rle"]).astype(np.int64)
    labels = np.zeros((row["height"], row["width"]), np.int64)
    if "segments" in row:
        for segment in row["segments"]:
            labels[pixels_of(segment["mask_rle"])] = segment["label"]
        return labels
    superpixels = np.array(row["superpixel_map"]).reshape(row["grid_h"], row["grid_w"])
    pixels = np.kron(superpixels, np.ones((row["patch"], row["patch"]), int))
    parents = {node["parent"] for node in row["nodes"]}
    for number, node in enumerate(row["nodes"]):
        if number not in parents:
            labels[(pixels >= node["lo"]) & (pixels < node["hi"])] = number + 1
    return labels


def files_below(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def exported(out: Path, to: Path, form: str, **more: Any) -> dict[str, Any]:
    before = files_below(to.parent)
    record = operations.export(str(out), str(to), format=form, **more)
    assert all(name.startswith(f"{to.name}/") for name in files_below(to.parent).keys() - before.keys())
    return record


@pytest.mark.parametrize("stage", COMMANDS)
def test_png(runs: dict[str, Path], tmp_path: Path, stage: str) -> None:
    record = exported(runs[stage], tmp_path / "to", "png")
    assert [record[key] for key in ("stage", "images", "ok", "failed", "unreadable")] == [stage, 6, 5, 1, 0]
    with (tmp_path / "to/index.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    names = [f"masks/{stem}.png" if stem else "" for stem in STEMS]
    # no spreadsheet is to compute the last one
    cells = [*IDS[:-1], f"'{IDS[-1]}"]
    assert [(row["row"], row["image_id"], row["file"]) for row in table] == [
        (str(number), *pair) for number, pair in enumerate(zip(cells, names, strict=True))
    ]
    written = files_below(tmp_path / "to").keys() - {"index.csv", "export.json", "labels.txt"}
    assert written == {*names} - {""}
    rows = rows_of(runs[stage], stage)
    for number in OK:
        with Image.open(tmp_path / "to" / names[number]) as image:
            assert image.mode == "P"
            assert (np.asarray(image) == expected(rows[number])).all()
            colors = np.asarray(image.convert("RGB")).reshape(-1, 3)
        # nothing but 0 is black, and no two labels have one colour
        held = np.unique(expected(rows[number]))
        assert len(np.unique(colors, axis=0)) == len(held)
        assert (colors.sum(axis=1) == 0).any() == (0 in held)


def test_a_first_part_and_then_all_give_the_same_files(runs: dict[str, Path], tmp_path: Path) -> None:
    """Of a/b.png and a/b.jpg the first alone could be called a/b."""
    exported(runs["segment"], tmp_path / "to", "png", limit=1)
    exported(runs["segment"], tmp_path / "to", "png")
    exported(runs["segment"], tmp_path / "at once", "png")
    assert files_below(tmp_path / "to") == files_below(tmp_path / "at once")


def test_the_palette_is_that_of_voc() -> None:
    """Its label maps have aeroplane maroon, bicycle green, and white-ish for the border that does not count."""
    colors = np.frombuffer(label_pngs.PALETTE, np.uint8).reshape(256, 3).tolist()
    assert colors[:5] == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0], [0, 0, 128]]
    assert (colors[20], colors[255]) == ([0, 64, 128], [224, 224, 192])
    assert len({tuple(color) for color in colors}) == 256


def test_labels_have_the_names_of_the_classes_that_were_matched(runs: dict[str, Path], tmp_path: Path) -> None:
    exported(runs["segment"], tmp_path / "objects", "png")
    assert (tmp_path / "objects/labels.txt").read_text() == "background\nobject\n"
    exported(runs["semantic"], tmp_path / "labels", "png")
    names = (tmp_path / "labels/labels.txt").read_text().splitlines()
    matched = json.loads((runs["semantic"] / "results/semantic.json").read_text())["metrics"]["class_of_cluster"]
    assert len(names) == len(matched) == 4
    assert {"red thing", "blue thing"} & set(names)
    for label in range(1, 4):
        assert names[label] == (matched[label] or f"cluster {label}")
    # a run that is not published knows no classes yet
    copied = Path(shutil.copytree(runs["semantic"], tmp_path / "copied"))
    shutil.rmtree(copied / "results")
    exported(copied, tmp_path / "other", "png")
    assert (tmp_path / "other/labels.txt").read_text() == "background\ncluster 1\ncluster 2\ncluster 3\n"


@pytest.mark.parametrize(
    ("matched", "names"),
    [
        (["cat", "dog", "cat"], ["background", "cat 1", "dog", "cat 3"]),
        (["background", "cat", None], ["background", "background 1", "cat", "cluster 3"]),
        # of which a name and a number would be the third one's
        (["cat", "cat", "cat 2"], ["background", "cat 1", "cat 2", "cat 2 3"]),
        (["cluster 3", "dog", None], ["background", "cluster 3 1", "dog 2", "cluster 3"]),
    ],
)
def test_no_two_labels_have_one_name(
    runs: dict[str, Path], tmp_path: Path, matched: list[str | None], names: list[str]
) -> None:
    copied = Path(shutil.copytree(runs["semantic"], tmp_path / "copied"))
    result = json.loads((copied / "results/semantic.json").read_text())
    result["metrics"]["class_of_cluster"] = [None, *matched]
    (copied / "results/semantic.json").write_text(json.dumps(result))
    assert label_maps.label_names(StageRows(Folder(str(copied)), "semantic")) == names


# what each command's own columns leave free, under names that other stages give to what they make
KEPT = {
    "semantic": {
        "mask_rle": [{"size": [96, 128], "counts": "PP6"}] * len(IDS),
        "area_fraction": [0.5] * len(IDS),
        "nodes": [[1]] * len(IDS),
        "superpixel_map": [[1]] * len(IDS),
        "confidence": [float("nan")] * len(IDS),
        "iou": [date(2026, 1, 2)] * len(IDS),
    },
    "hierarchy": {"segments": [[1]] * len(IDS), "mask_rle": ["x"] * len(IDS), "area_fraction": [1.0] * len(IDS)},
}


@pytest.mark.usefixtures("_quiet")
@pytest.mark.parametrize("stage", KEPT)
def test_columns_that_a_run_keeps_of_its_input_are_no_part_of_an_export(
    runs: dict[str, Path], catalog: Path, tmp_path: Path, stage: str
) -> None:
    table = pq.read_table(catalog)
    for name, values in KEPT[stage].items():
        table = table.append_column(name, pa.array(values))
    pq.write_table(table, tmp_path / "kept.parquet")
    shutil.copy(catalog.parent / "classes.txt", tmp_path)
    keeping = [word for name in KEPT[stage] for word in ("--keep-columns", name)]
    out = made(stage, tmp_path / "kept.parquet", tmp_path / "out", *keeping)
    forms = ("png", "coco", "webdataset", "hf")
    for form in forms:
        exported(out, tmp_path / "kept" / form, form)
        exported(runs[stage], tmp_path / "plain" / form, form)
    with_kept, without = (files_below(tmp_path / name) for name in ("kept", "plain"))
    # what an export says about itself holds the digests of the run
    own = {"coco/instances.json", "hf/README.md", *(f"{form}/export.json" for form in forms)}
    assert with_kept.keys() == without.keys() > own
    assert all(with_kept[name] == without[name] for name in with_kept.keys() - own)
    documents = [json.loads(each["coco/instances.json"]) for each in (with_kept, without)]
    assert documents[0]["annotations"] == documents[1]["annotations"]


def test_more_than_255_labels_take_16_bits() -> None:
    labels = np.arange(300, dtype=np.int32).reshape(10, 30)
    for most, mode in ((299, "I;16"), (256, "I;16")):
        with Image.open(io.BytesIO(label_pngs.png(labels % (most + 1), most, palette=True))) as image:
            assert image.mode == mode
            assert (np.asarray(image) == labels % (most + 1)).all()
    with Image.open(io.BytesIO(label_pngs.png(labels % 256, 255, palette=True))) as image:
        assert image.mode == "P"
        assert (np.asarray(image) == labels % 256).all()


def test_what_is_written_as_png_scores_as_the_run_does(runs: dict[str, Path], catalog: Path, tmp_path: Path) -> None:
    """`simsam score` reads it as the label maps of any tool."""
    exported(runs["semantic"], tmp_path / "to", "png")
    truth = tmp_path / "truth"
    for number in OK:
        if number != ON_ITS_SIDE:
            target = truth / f"{STEMS[number]}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(catalog.parent / "truth.png", target)
    names = str(catalog.parent / "classes.txt")
    arguments = ["--kind", "semantic", "--truth", str(truth), "--classes", names, "--matching", "hungarian"]
    arguments += ["--clusters", "4"]  # ids from 1 to 3, 0 being of none
    assert run(["score", str(tmp_path / "to/masks"), *arguments, "--json", str(tmp_path / "score.json")]) == 0
    found = json.loads((tmp_path / "score.json").read_text())["metrics"]
    held = json.loads((runs["semantic"] / "results/semantic.json").read_text())["metrics"]
    assert found["images_scored"] == held["images_scored"] == 4
    assert found["iou_by_class"] == held["iou_by_class"]
    exported(runs["segment"], tmp_path / "objects", "png")
    mask = load_mask(str(tmp_path / f"objects/masks/{STEMS[0]}.png"), ImageLimits())
    assert (mask == expected(rows_of(runs["segment"], "segment")[0])).all()


@pytest.fixture
def _quiet(capsys: pytest.CaptureFixture[str]) -> Iterator[None]:
    """COCO prints what it does."""
    yield
    capsys.readouterr()


@pytest.mark.usefixtures("_quiet")
@pytest.mark.parametrize("stage", COMMANDS)
def test_coco(runs: dict[str, Path], tmp_path: Path, stage: str) -> None:
    exported(runs[stage], tmp_path / "to", "coco")
    assert files_below(tmp_path / "to").keys() == {"instances.json", "export.json"}
    read = COCO(tmp_path / "to/instances.json")
    rows = rows_of(runs[stage], stage)
    assert sorted(read.imgs) == OK
    assert 0 not in read.anns
    for number, image in read.imgs.items():
        row = rows[number]
        assert (image["image_id"], image["height"], image["width"]) == (row["image_id"], row["height"], row["width"])
        held = expected(row)
        annotations = read.loadAnns(read.getAnnIds(imgIds=number))
        assert len(annotations) == len(set(np.unique(held)) - {0})
        for found in annotations:
            label = found["node"] + 1 if stage == "hierarchy" else found["category_id"]
            mask = read.annToMask(found).astype(bool)
            assert (mask == (held == label)).all()
            down, across = np.nonzero(mask)
            box = [across.min(), down.min(), np.ptp(across) + 1, np.ptp(down) + 1]
            assert (found["area"], found["bbox"], found["iscrowd"]) == (mask.sum(), box, 0)
            assert found["category_id"] in read.cats
    assert read.imgs[4]["file_name"] == IDS[4]
    assert read.imgs[2]["file_name"] == "%2E%2E/%2E%2E/evil.jpg"
    names = [category["name"] for category in read.cats.values()]
    if stage == "segment":
        assert names == ["object"]
    if stage == "semantic":
        assert len(names) == 3
        assert {"red thing", "blue thing"} & {*names}


@pytest.mark.usefixtures("_quiet")
def test_nodes_of_trees_are_annotations_of_their_cluster(runs: dict[str, Path], tmp_path: Path) -> None:
    record = exported(runs["hierarchy"], tmp_path / "to", "coco", nodes="all")
    assert record["nodes"] == "all"
    read = COCO(tmp_path / "to/instances.json")
    labels = rows_of(runs["hierarchy"], "labels")
    assert [category["name"] for category in read.cats.values()] == ["cluster 1", "cluster 2", "cluster 3", "region"]
    for number, row in enumerate(rows_of(runs["hierarchy"], "hierarchy")):
        found = read.loadAnns(read.getAnnIds(imgIds=number))
        assert [each["category_id"] for each in found] == (labels[number]["labels"] or [])
        assert [(each["parent"], each["depth"]) for each in found] == [
            (node["parent"], node["depth"]) for node in row["nodes"] or []
        ]
        if found:
            assert read.annToMask(found[0]).all()
    with pytest.raises(SettingsError, match=r"an export of something else \(nodes differ\)"):
        exported(runs["hierarchy"], tmp_path / "to", "coco")
    # before the nodes are labelled they are regions
    copied = Path(shutil.copytree(runs["hierarchy"], tmp_path / "copied"))
    for folder in ("labels", "results/labels", "node-clusters"):
        shutil.rmtree(copied / folder)
    (copied / "results/labels.json").unlink()
    exported(copied, tmp_path / "plain", "coco")
    plain = COCO(tmp_path / "plain/instances.json")
    assert plain.dataset["categories"] == [{"id": 1, "name": "region", "supercategory": "hierarchy"}]
    assert {each["category_id"] for each in plain.anns.values()} == {1}


@pytest.mark.usefixtures("_quiet")
def test_a_mask_of_nothing_is_no_annotation(tmp_path: Path) -> None:
    (tmp_path / "photographs").mkdir()
    Image.new("RGB", (64, 64), "red").save(tmp_path / "photographs/red.png")
    out = tmp_path / "out"
    assert run(["segment", str(tmp_path / "photographs"), str(out), *COMMON, *COMMANDS["segment"]]) == 0
    exported(out, tmp_path / "to", "coco")
    read = COCO(tmp_path / "to/instances.json")
    assert (len(read.imgs), len(read.anns)) == (1, 0)


def test_pth(runs: dict[str, Path], tmp_path: Path) -> None:
    import torch

    exported(runs["segment"], tmp_path / "to", "pth")
    names = {f"eigs/{STEMS[number]}.pth" for number in OK}
    # of two names with one stem the suffix stays; the folder a/b.png is no matter here
    names = {name.replace("a/b%2Epng/c", "a/b.png/c") for name in names}
    assert files_below(tmp_path / "to").keys() == {*names, "index.csv", "export.json"}
    for number, row in enumerate(rows_of(runs["segment"], "segment")):
        if number in OK:
            stem = STEMS[number].replace("a/b%2Epng/c", "a/b.png/c")
            found = torch.load(tmp_path / "to/eigs" / f"{stem}.pth", weights_only=True)
            with np.load(runs["segment"] / row["arrays_path"]) as arrays:
                vectors = arrays[f"{row['arrays_member']}.eigenvectors"]
            assert (found["eigenvectors"].dtype, found["eigenvalues"].dtype) == (torch.float32, torch.float32)
            assert (found["eigenvectors"].numpy() == vectors).all()
            assert found["eigenvectors"].shape == (len(row["eigenvalues"]), row["grid_h"] * row["grid_w"])
            assert found["eigenvalues"].tolist() == pytest.approx(row["eigenvalues"], rel=1e-7)
            assert (found["file"], found["id"], found["patch_size"]) == (row["image_id"], stem, row["patch"])
            assert found["shape"] == (1, 3, row["height"], row["width"])


def test_without_eigenvectors_there_are_no_files_of_them(catalog: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = [*COMMON, *COMMANDS["segment"], "--eigenvectors", "none", "--limit", "1"]
    assert run(["segment", str(catalog), str(out), *arguments]) == 0
    with pytest.raises(SettingsError, match=r"computed with --eigenvectors none\. To mend it"):
        exported(out, tmp_path / "to", "pth")


@pytest.mark.parametrize("stage", COMMANDS)
def test_webdataset(
    runs: dict[str, Path], catalog: Path, tmp_path: Path, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import webdataset as wds

    monkeypatch.setattr(web_dataset, "SHARD_IMAGES", 3)
    exported(runs[stage], tmp_path / "to", "webdataset")
    shards = sorted(str(path) for path in (tmp_path / "to").glob("*.tar"))
    assert [Path(shard).name for shard in shards] == ["samples-000000.tar", "samples-000001.tar"]
    samples = list(wds.WebDataset(shards, shardshuffle=False, empty_check=False))
    rows = rows_of(runs[stage], stage)
    assert [sample["__key__"] for sample in samples] == [f"{number:09d}" for number in OK]
    for number, sample in zip(OK, samples, strict=True):
        row, source = rows[number], (catalog.parent / FILES[number]).read_bytes()
        facts = json.loads(sample["json"])
        assert (facts["row"], facts["image_id"]) == (number, IDS[number])
        mask = np.asarray(Image.open(io.BytesIO(sample["mask.png"])))
        assert (mask == expected(row)).all()
        # upright as it is: nothing is left to be turned
        kinds = {0: "png", 2: "jpg"}
        image = Image.open(io.BytesIO(sample[kinds.get(number, "png")]))
        assert image.getexif().get(0x0112, 1) == 1
        with Image.open(io.BytesIO(source)) as original:
            turned = ImageOps.exif_transpose(original).convert("RGB")
        assert (np.asarray(image.convert("RGB")) == np.asarray(turned)).all()
        assert image.size == mask.shape[::-1]
        assert facts["as_read"] == (number in kinds)
        if number in kinds:
            assert sample[kinds[number]] == source
        if stage == "hierarchy":
            assert len(facts["nodes"]) == len(row["nodes"])
    # with the library's own decoding of images and JSON
    decoded = wds.WebDataset(shards, shardshuffle=False, empty_check=False).decode("pill").to_tuple("mask.png", "json")
    for (mask, facts), number in zip(decoded, OK, strict=True):
        assert (np.asarray(mask) == expected(rows[number])).all()
        assert facts["width"] == rows[number]["width"]


@pytest.mark.parametrize("stage", COMMANDS)
def test_hugging_face(
    runs: dict[str, Path], catalog: Path, tmp_path: Path, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import datasets

    monkeypatch.setattr(hugging_face, "FILE_IMAGES", 3)
    monkeypatch.setattr(hugging_face, "GROUP_IMAGES", 2)
    exported(runs[stage], tmp_path / "to", "hf")
    assert len(list((tmp_path / "to/data").iterdir())) == 2
    cache = str(tmp_path / "cache")
    read = datasets.load_dataset(str(tmp_path / "to"), split="train", cache_dir=cache)
    assert isinstance(read.features["image"], datasets.Image)
    assert isinstance(read.features["mask"], datasets.Image)
    rows = rows_of(runs[stage], stage)
    assert read["image_id"] == [IDS[number] for number in OK]
    for number, sample in zip(OK, read, strict=True):
        row = rows[number]
        assert (np.asarray(sample["mask"]) == expected(row)).all()
        # datasets turns images by their EXIF orientation
        assert sample["image"].size == sample["mask"].size == (row["width"], row["height"])
        for name in ("confidence", "area_fraction", "bbox_xyxy", "degenerate", "iou"):
            assert stage != "segment" or sample[name] == row[name]
        if stage == "hierarchy":
            assert [node["ncut"] for node in sample["nodes"]] == [node["ncut"] for node in row["nodes"]]
    if stage == "semantic":
        names = read.features["labels"].feature.names
        assert read[0]["labels"] == rows[0]["labels"]
        assert names[0] == "background"
        assert len(names) == 4
    raw = read.cast_column("image", datasets.Image(decode=False))
    for number, sample in zip(OK, raw, strict=True):
        assert sample["image"]["bytes"] == (catalog.parent / FILES[number]).read_bytes()


def test_the_dataset_card_says_where_all_came_from(runs: dict[str, Path], tmp_path: Path) -> None:
    import yaml

    exported(runs["semantic"], tmp_path / "to", "hf")
    _, head, text = (tmp_path / "to/README.md").read_text().split("---\n", 2)
    card = yaml.safe_load(head)
    assert card["license"] == "unknown"
    assert card["configs"][0]["data_files"] == [{"split": "train", "path": "data/train-*.parquet"}]
    assert "5 images" in text
    assert "Left out: 1 failed." in text
    assert "To fill in: who made the images" in text
    record = json.loads(text.split("~~~json\n")[1].split("~~~")[0])
    held = json.loads((runs["semantic"] / "results/semantic.json").read_text())
    assert all(record[key] == held[key] for key in ("settings", "resolved", "plan", "content_digest"))
    assert "| 0 | background |" in text


@pytest.mark.parametrize("form", ["hf", "webdataset"])
def test_images_that_have_gone_or_changed_are_left_out_and_counted(
    catalog: Path, tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Path(shutil.copytree(catalog.parent, tmp_path / "photographs"))
    (home / "images.parquet").unlink()
    out = tmp_path / "out"
    assert run(["semantic", str(home), str(out), *COMMON, *COMMANDS["semantic"]]) == 3
    monkeypatch.setattr(hugging_face, "FILE_IMAGES", 1)
    monkeypatch.setattr(web_dataset, "SHARD_IMAGES", 1)
    record = exported(out, tmp_path / "to", form)
    # truth.png is an image here
    assert [record[key] for key in ("images", "ok", "failed", "unreadable")] == [7, 6, 1, 0]
    whole = files_below(tmp_path / "to")
    (home / FILES[0]).unlink()
    Image.new("RGB", (128, 96), "green").save(home / FILES[2])
    record = exported(out, tmp_path / "to", form)
    assert [record[key] for key in ("images", "ok", "failed", "unreadable")] == [7, 4, 1, 2]
    # nothing of the earlier, longer export is left
    suffix = {"hf": ".parquet", "webdataset": ".tar"}[form]
    shards = [[name for name in each if name.endswith(suffix)] for each in (whole, files_below(tmp_path / "to"))]
    assert [len(each) for each in shards] == [6, 4]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "form", "wants_photographs"),
    [
        ("segment", "hf", True),
        ("semantic", "webdataset", True),
        ("hierarchy", "pictures", True),
        ("segment", "coco", False),
        ("semantic", "png", False),
        ("segment", "pth", False),
        ("hierarchy", "json", False),
    ],
)
def test_an_export_says_what_is_missing_and_ends_with_three(
    runs: dict[str, Path],
    catalog: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    stage: str,
    form: str,
    wants_photographs: bool,
) -> None:
    """Once the photographs have been moved away."""
    out = Path(shutil.copytree(runs[stage], tmp_path / "out"))
    home, away = catalog.parent, tmp_path / "away"
    command = ["export", str(out), "--to", str(tmp_path / "to"), "--format", form]
    away.mkdir()
    for name in FILES:
        shutil.move(home / name, away / name)
    try:
        code = run(command)
    finally:
        for name in FILES:
            shutil.move(away / name, home / name)
    said = capsys.readouterr()
    record = json.loads((tmp_path / "to/export.json").read_text())
    if wants_photographs:
        assert code == 3
        assert (record["ok"], record["failed"], record["unreadable"], record["complete"]) == (0, 1, 5, False)
        assert said.out.startswith(f"0 images of the stage {stage} in {tmp_path / 'to'}\n")
        assert f"  5 of 6 gone or changed since the run read them: {IDS[0]!r}, {IDS[1]!r}" in said.out
        assert said.err.startswith("simsam: no image could be exported whole. To mend it: put the files back")
        gone = [each["image_id"] for each in record["missing"] if each["outcome"] == "unreadable"]
        assert gone == [IDS[number] for number in OK]
    else:
        assert code == 0
        assert (record["ok"], record["failed"], record["unreadable"], record["complete"]) == (5, 1, 0, True)
        assert said.out.startswith(f"5 images of the stage {stage} in {tmp_path / 'to'}\n")
        assert said.err == ""
    assert f"  1 of 6 failed in the run: {IDS[WORDS]!r}" in said.out
    assert run(command) == 0, "the photographs are back"
    assert json.loads((tmp_path / "to/export.json").read_text())["ok"] == 5


def test_an_export_some_of_whose_images_are_gone_is_not_complete(
    runs: dict[str, Path], catalog: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    moved = catalog.parent / FILES[0]
    moved.rename(tmp_path / "away")
    try:
        assert run(["export", str(runs["segment"]), "--to", str(tmp_path / "to"), "--format", "hf"]) == 3
    finally:
        (tmp_path / "away").rename(moved)
    said = capsys.readouterr()
    assert said.out.startswith("4 images of the stage segment in ")
    assert said.err.startswith("simsam: the export is not complete. To mend it: put the files back")


@pytest.mark.parametrize("form", ["coco", "png", "hf", "webdataset", "pth"])
def test_an_export_of_failed_images_alone_ends_with_three(
    catalog: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    (tmp_path / "words").mkdir()
    shutil.copy(catalog.parent / FILES[WORDS], tmp_path / "words/words.png")
    out = tmp_path / "out"
    assert run(["segment", str(tmp_path / "words"), str(out), *COMMON, *COMMANDS["segment"]]) == 3
    capsys.readouterr()
    assert run(["export", str(out), "--to", str(tmp_path / "to"), "--format", form]) == 3
    said = capsys.readouterr()
    assert said.out.splitlines()[1] == "  1 of 1 failed in the run: 'words.png'"
    assert said.err == (
        "simsam: no image could be exported whole. To mend it: simsam retry tries failed images again; then run the "
        "same command again\n"
    )


def test_images_that_a_second_try_rescued_under_wider_limits_are_taken_along(catalog: Path, tmp_path: Path) -> None:
    """The stage's own record goes on naming the limits that the run began with."""
    out = tmp_path / "out"
    narrow = ["--max-pixels", "10000", "--max-bytes", "100"]
    assert (
        run(["hierarchy", str(catalog), str(out), *COMMON, *COMMANDS["hierarchy"][:6], *narrow, "--shard-size", "9"])
        == 3
    )
    wide = ["--max-pixels", "20000", "--max-bytes", "1000000", "--engine", "inline", "--quiet"]
    assert run(["retry", str(out), *wide]) == 3
    for form in ("hf", "webdataset"):
        record = exported(out, tmp_path / form, form)
        assert [record[key] for key in ("ok", "failed", "unreadable")] == [5, 1, 0]
    exported(out, tmp_path / "pictures", "pictures", limit=1)
    with Image.open(tmp_path / "pictures/0000000.png") as page:
        # of the photograph, which is no grey ground
        assert len(set(page.convert("RGB").crop((40, 100, 140, 200)).getdata())) > 100


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "form"),
    [("semantic", "png"), ("hierarchy", "coco"), ("segment", "pth"), ("segment", "hf"), ("hierarchy", "webdataset")],
)
def test_the_same_run_gives_the_same_bytes_on_any_storage(
    runs: dict[str, Path], tmp_path: Path, s3_url: str, stage: str, form: str
) -> None:
    exported(runs[stage], tmp_path / "to", form)
    first = files_below(tmp_path / "to")
    # the run itself on object storage as well
    for path in runs[stage].rglob("*"):
        if path.is_file():
            Folder(f"{s3_url}/run").replace(path.relative_to(runs[stage]).as_posix(), path.read_bytes())
    operations.export(f"{s3_url}/run", f"{s3_url}/to", format=form)
    there = Folder(f"{s3_url}/to")
    assert {info.name: there.read(info.name) for info in there.list()} == first


def test_the_documents_snippets_and_keys_are_those_of_the_exports(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    forms = dict.fromkeys(("png", "coco", "hf", "webdataset"), "semantic")
    forms |= {"pth": "segment", "yolo": "segment", "json": "hierarchy"}
    for form, stage in forms.items():
        record = exported(runs[stage], tmp_path / form, form)
    text = (Path(__file__).parent.parent / "docs/export.md").read_text(encoding="utf-8")
    keys = re.findall(r"^\| `(\w+)` \|", text.split("| key | type |")[1].split("\n\n")[0], re.MULTILINE)
    assert {*keys} == record.keys()
    assert sorted(re.findall(r"^\| \[`([\w-]+)`\]", text, re.MULTILINE)) == sorted(formats.FORMATS)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    snippets = re.findall(r"^```python\n(.*?)^```", text.partition("## Restyled images")[0], re.MULTILINE | re.DOTALL)
    assert len(snippets) == 1 + len(forms)
    held = expected(rows_of(runs["semantic"], "semantic")[0])
    for snippet in snippets:
        exec(compile(snippet, "docs/export.md", "exec"), names)
        if "COCO(" in snippet:
            assert (np.sum(names["masks"], axis=0) == (held > 0)).all()
        elif 'f"png/' in snippet:
            assert (names["labels"] == held).all()
        elif "load_dataset" in snippet:
            assert (np.asarray(names["mask"]) == held).all()
            assert names["image"].size == held.shape[::-1]
        elif "wds." in snippet:
            assert names["facts"]["image_id"] == IDS[-1]
            last = expected(rows_of(runs["semantic"], "semantic")[-1])
            assert (names["mask"] == last).all()
            assert names["image"].size == last.shape[::-1]
        elif "yaml.safe_load" in snippet:
            left, top, right, bottom = rows_of(runs["segment"], "segment")[OK[-1]]["bbox_xyxy"]
            assert names["classes"] == {0: "object"}
            held_file = tmp_path / "yolo/labels" / f"{STEMS[OK[-1]]}.txt"
            values = np.array(held_file.read_text().split()[1:], float).reshape(-1, 2) * [128, 96]
            assert values.min(axis=0) == pytest.approx([left, top], abs=1e-3)
            assert values.max(axis=0) == pytest.approx([right, bottom], abs=1e-3)
        elif "torch.load" in snippet:
            row = rows_of(runs["segment"], "segment")[0]
            assert names["fiedler"].shape == (row["grid_h"], row["grid_w"])
        elif "json.loads" in snippet:
            assert names["pixels"].all()
    assert names["files"][IDS[-1]] == f"masks/{STEMS[-1]}.png"
    capsys.readouterr()


def test_an_export_that_fails_leaves_no_half_file(runs: dict[str, Path], tmp_path: Path) -> None:
    copied = Path(shutil.copytree(runs["segment"], tmp_path / "copied"))
    for arrays in (copied / "segment/data").glob("*.npz"):
        arrays.write_bytes(b"")
    with pytest.raises(Exception, match=r"the arrays of 'a/b\.png' cannot be read"):
        operations.export(str(copied), str(tmp_path / "to"), format="pth")
    assert files_below(tmp_path / "to").keys() == {"export.json"}
    assert json.loads((tmp_path / "to/export.json").read_text())["complete"] is False


@pytest.mark.parametrize("form", ["coco", "webdataset"])
def test_a_folder_for_temporary_files_that_has_gone_or_is_full_is_named(
    runs: dict[str, Path],
    tmp_path: Path,
    form: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["export", str(runs["segment"]), "--to", str(tmp_path / "to"), "--format", form]
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    assert run(arguments) == 1
    said = capsys.readouterr().err
    assert f"cannot write to the folder for temporary files ({tmp_path}/gone)" in said
    assert "set TMPDIR to a folder that has room" in said
    # the system's limit on files refuses what a full disk would
    (tmp_path / "full").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "full"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        assert run(arguments) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    said = capsys.readouterr().err
    assert f"cannot write to the folder for temporary files ({tmp_path}/full)" in said
    assert "defect" not in said
    assert files_below(tmp_path / "to").keys() <= {"export.json", "labels.txt"}
    assert list((tmp_path / "full").iterdir()) == []


def test_tar_members_have_no_time_and_no_owner(runs: dict[str, Path], tmp_path: Path) -> None:
    exported(runs["segment"], tmp_path / "to", "webdataset")
    with tarfile.open(tmp_path / "to/samples-000000.tar") as tar:
        assert {(member.mtime, member.uid, member.uname, member.mode) for member in tar} == {(0, 0, "", 0o644)}
