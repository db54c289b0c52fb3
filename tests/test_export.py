"""``simsam export``: masks that hold together, pages that can be looked at, and nothing written over other files."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco

from simsam_batch import operations
from simsam_batch.cli import run
from simsam_batch.errors import RunError, SettingsError
from simsam_batch.report.exports import json_lines
from simsam_batch.storage import Folder

SETTINGS = ["--backbone", "descriptors", "--superpixels", "12", "--shard-size", "2", "--engine", "inline", "--quiet"]
DIVIDED = ["--tree", "split", "--max-ncut", "0", "--max-perturbation", "0"]
"""No division is refused, so that trees are deep."""

NAMES = ["0.png", '1 "odd", name.png', "2.png", "3 words.png", "4.png"]
SIZES = [(96, 128), (96, 128), (131, 97), (0, 0), (100, 150)]
"""Height and width; the third and the last are no whole patches, and 3 is a text."""

WORDS = 3


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Squares of red and blue on grey noise."""
    folder = tmp_path_factory.mktemp("photographs")
    for number, (name, (height, width)) in enumerate(zip(NAMES, SIZES, strict=True)):
        if number == WORDS:
            (folder / name).write_text("no picture " * 20)
            continue
        pixels = np.random.default_rng(number).integers(90, 140, (height, width, 3)).astype(np.uint8)
        pixels[16:48, 16 : 64 + number] = (200, 40, 40)
        pixels[48:90, 48:80] = (40, 60, 200)
        Image.fromarray(pixels).save(folder / name)
    return folder


def grown(pictures: Path, out: Path, *more: str) -> Path:
    assert run(["hierarchy", str(pictures), str(out), "--resize", "native", *SETTINGS, *DIVIDED, *more]) == 3
    return out


@pytest.fixture(scope="module")
def finished(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return grown(pictures, tmp_path_factory.mktemp("run") / "out")


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """A copy of the run that a test may change."""
    return Path(shutil.copytree(finished, tmp_path / "copied"))


def exported(out: Path, to: Path, **more: Any) -> list[dict[str, Any]]:
    operations.export(str(out), str(to), format="json", **more)
    lines = b"".join(path.read_bytes() for path in sorted(to.glob("*.jsonl"))).decode().split("\n")
    assert lines.pop() == ""
    return [json.loads(line) for line in lines]


def rows_of(out: Path, stage: str = "hierarchy") -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(out / "results" / stage).to_pylist()
    return rows


def decoded(node: dict[str, Any]) -> NDArray[np.bool_]:
    mask = node["mask"]
    return np.asarray(coco.decode({"size": mask["size"], "counts": mask["counts"].encode()})).astype(bool)


def flat(node: dict[str, Any]) -> list[dict[str, Any]]:
    return [node, *(below for child in node["children"] for below in flat(child))]


def holds_together(tree: dict[str, Any], height: int, width: int) -> None:
    """Every node against masks that are decoded and counted pixel by pixel."""
    nodes = flat(tree)
    assert [node["node"] for node in nodes] == list(range(len(nodes)))
    assert decoded(tree).all()
    leaves = [decoded(node) for node in nodes if not node["children"]]
    assert (np.sum(leaves, axis=0) == 1).all()
    for node in nodes:
        mask = decoded(node)
        assert mask.shape == (height, width)
        assert node["area"] == mask.sum()
        rows, columns = np.nonzero(mask.any(axis=1))[0], np.nonzero(mask.any(axis=0))[0]
        assert node["bbox_xyxy"] == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
        if node["children"]:
            assert len(node["children"]) > 1
            assert (np.sum([decoded(child) for child in node["children"]], axis=0) == mask).all()
            assert all(child["depth"] == node["depth"] + 1 for child in node["children"])


def test_masks_tile_the_image_and_children_their_parent(finished: Path, tmp_path: Path) -> None:
    found = exported(finished, tmp_path / "to")
    assert [image["image_id"] for image in found] == NAMES
    assert found[WORDS].keys() == {"image_id", "status", "error_type", "error"}
    assert (found[WORDS]["status"], found[WORDS]["error_type"]) == ("failed", "not_an_image")
    for image, (height, width) in zip(found, SIZES, strict=True):
        if "tree" in image:
            assert image.keys() == {"image_id", "uri", "width", "height", "tree"}
            assert (image["height"], image["width"]) == (height, width)
            holds_together(image["tree"], height, width)


def test_a_node_has_the_superpixels_and_the_values_of_its_row(finished: Path, tmp_path: Path) -> None:
    """Where patches fill the image, its pixels are their superpixels repeated."""
    for image, row in zip(exported(finished, tmp_path / "to", limit=2), rows_of(finished), strict=False):
        superpixels = np.array(row["superpixel_map"]).reshape(row["grid_h"], row["grid_w"])
        pixels = np.kron(superpixels, np.ones((row["patch"], row["patch"]), int))
        nodes = flat(image["tree"])
        assert len(nodes) == len(row["nodes"]) > 10
        for node, held in zip(nodes, row["nodes"], strict=True):
            assert (decoded(node) == ((pixels >= held["lo"]) & (pixels < held["hi"]))).all()
            assert (node["depth"], node["ncut"]) == (held["depth"], held["ncut"])
            assert node.get("parts") == (held["parts"] if held["outcome"] == "split" else None)
            assert "label" not in node


def test_upstreams_numbering_leaves_nodes_with_what_it_gives_them(pictures: Path, tmp_path: Path) -> None:
    out = grown(pictures, tmp_path / "out", "--numbering", "upstream")
    row, image = rows_of(out)[0], exported(out, tmp_path / "to", limit=1)[0]
    superpixels = np.array(row["superpixel_map"]).reshape(row["grid_h"], row["grid_w"])
    pixels = np.kron(superpixels, np.ones((row["patch"], row["patch"]), int))
    empty = 0
    for node, held in zip(flat(image["tree"]), row["nodes"], strict=True):
        assert (decoded(node) == ((pixels >= held["lo"]) & (pixels < held["hi"]))).all()
        empty += node["bbox_xyxy"] is None and node["area"] == 0
    assert empty > 0
    operations.export(str(out), str(tmp_path / "pages"), format="pictures", limit=1)
    # each pixel is in the annotation of the deepest node that holds it
    operations.export(str(out), str(tmp_path / "coco"), format="coco", limit=1)
    annotations = json.loads((tmp_path / "coco/instances.json").read_text())["annotations"]
    deepest = np.full(pixels.shape, -1)
    for number, held in enumerate(row["nodes"]):
        deepest[(pixels >= held["lo"]) & (pixels < held["hi"])] = number
    assert [each["node"] for each in annotations] == np.unique(deepest).tolist()
    for each in annotations:
        assert (decoded({"mask": each["segmentation"]}) == (deepest == each["node"])).all()
        assert each["area"] == (deepest == each["node"]).sum()


def changed(out: Path, column: pa.Field, values: list[Any]) -> None:
    part = out / "results/hierarchy/part-00000.parquet"
    table = pq.read_table(part)
    table = table.append_column(column, pa.array(values, column.type))
    pq.write_table(table, part)


LEAF_MASKS = pa.field(
    "leaf_masks",
    pa.list_(
        pa.struct(
            [
                ("node", pa.int32()),
                ("mask_rle", pa.struct([("size", pa.list_(pa.int32())), ("counts", pa.string())])),
            ]
        )
    ),
)


def refined(image: dict[str, Any]) -> list[dict[str, Any]]:
    """The masks of an image's leaves moved by five pixels across and three down, around the edges."""
    masks = []
    for node in flat(image["tree"]):
        if not node["children"]:
            moved = np.asfortranarray(np.roll(decoded(node), (3, 5), axis=(0, 1)).astype(np.uint8))
            encoded = coco.encode(moved)
            rle = {"size": encoded["size"], "counts": encoded["counts"].decode()}
            masks.append({"node": node["node"], "mask_rle": rle})
    return masks


def test_refined_masks_of_leaves_take_the_place_of_patches(copied: Path, tmp_path: Path) -> None:
    before = exported(copied, tmp_path / "before")
    changed(copied, LEAF_MASKS, [refined(before[0]), None, None, None, refined(before[4])])
    after = exported(copied, tmp_path / "after")
    for number in (0, 4):
        holds_together(after[number]["tree"], *SIZES[number])
        for old, new in zip(flat(before[number]["tree"]), flat(after[number]["tree"]), strict=True):
            assert (decoded(new) == np.roll(decoded(old), (3, 5), axis=(0, 1))).all()
    assert after[1:4] == before[1:4]
    operations.export(str(copied), str(tmp_path / "pages"), format="pictures")


def with_labels(out: Path, labels: list[list[int] | None]) -> None:
    """A stage of labels as another command publishes it, in two parts."""
    schema = pa.schema([("image_id", pa.string()), ("status", pa.string()), ("labels", pa.list_(pa.int32()))])
    plan = json.loads((out / "run.json").read_bytes())["plan"]
    about = {"settings": "{}", "resolved": "{}", "plan": plan, "stage": "labels", "schema_version": "1"}
    status = ["ok" if each else "failed" for each in labels]
    table = pa.table([NAMES, status, labels], schema=schema).replace_schema_metadata(about)
    (out / "results/labels").mkdir()
    pq.write_table(table.slice(0, 3), out / "results/labels/part-00000.parquet")
    pq.write_table(table.slice(3), out / "results/labels/part-00001.parquet")
    result = {"schema_version": 1, "images": len(NAMES), "metrics": {}, "content_digest": "y"}
    (out / "results/labels.json").write_text(json.dumps(result))


def test_nodes_carry_the_labels_of_the_run_where_it_has_some(copied: Path, tmp_path: Path) -> None:
    labels = [[(7 * i) % 5 for i in range(len(row["nodes"]))] if row["nodes"] else None for row in rows_of(copied)]
    plain, labelled = tmp_path / "plain", tmp_path / "labelled"
    operations.export(str(copied), str(plain), format="pictures")
    with_labels(copied, labels)
    for image, expected in zip(exported(copied, tmp_path / "to"), labels, strict=True):
        if expected is not None:
            assert [node["label"] for node in flat(image["tree"])] == expected
    operations.export(str(copied), str(labelled), format="pictures")
    # captions of labels take a line
    sizes = [Image.open(folder / "0000000.png").size for folder in (plain, labelled)]
    assert sizes[1][1] > sizes[0][1]


def test_nodes_that_no_cluster_took_are_annotated_as_regions(copied: Path, tmp_path: Path) -> None:
    operations.export(str(copied), str(tmp_path / "without"), format="coco")
    with_labels(copied, [[0] * len(row["nodes"]) if row["nodes"] else None for row in rows_of(copied)])
    operations.export(str(copied), str(tmp_path / "with"), format="coco")
    without, labelled = (json.loads((tmp_path / name / "instances.json").read_text()) for name in ("without", "with"))
    assert [category["name"] for category in labelled["categories"]] == ["region"]
    assert labelled["annotations"] == without["annotations"]
    assert {number for number, row in enumerate(rows_of(copied)) if row["nodes"]} == {
        each["image_id"] for each in labelled["annotations"]
    }


def test_labels_that_the_run_gave_its_nodes_are_theirs(pictures: Path, tmp_path: Path) -> None:
    out = grown(pictures, tmp_path / "out", "--clusters", "3")
    found = exported(out, tmp_path / "to")
    for image, row in zip(found, rows_of(out, "labels"), strict=True):
        labels = None if "tree" not in image else [node["label"] for node in flat(image["tree"])]
        assert labels == row["labels"]
    assert {node["label"] for node in flat(found[0]["tree"])} <= {0, 1, 2, 3}
    # before the labels are published too
    shutil.rmtree(out / "results/labels")
    (out / "results/labels.json").unlink()
    assert exported(out, tmp_path / "again") == found


def test_labels_of_other_trees_are_refused(copied: Path, tmp_path: Path) -> None:
    with_labels(copied, [[1, 2], [1], [1], None, [1]])
    with pytest.raises(RunError, match=r"the stage labels has 2 labels for the \d+ nodes of '0\.png'"):
        exported(copied, tmp_path / "to")


def test_the_same_run_gives_the_same_bytes_wherever_it_goes(finished: Path, out_url: str, tmp_path: Path) -> None:
    record = operations.export(str(finished), out_url, format="json")
    digest = json.loads((finished / "results/hierarchy.json").read_text())["content_digest"]
    assert record["content_digest"] == digest
    assert [record[key] for key in ("images", "ok", "failed", "unreadable", "complete")] == [5, 4, 1, 0, True]
    first = {info.name: Folder(out_url).read(info.name) for info in Folder(out_url).list()}
    assert first.keys() == {"export.json", "regions-00000.jsonl"}
    assert json.loads(first["export.json"]) == record
    # an export may be written again
    operations.export(str(finished), out_url, format="json")
    exported(finished, tmp_path / "other")
    for name, body in first.items():
        assert Folder(out_url).read(name) == body == (tmp_path / "other" / name).read_bytes()


def test_a_file_ends_with_so_many_images_or_so_many_bytes(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = exported(finished, tmp_path / "whole")
    for name, bound, files in (("FILE_IMAGES", 2, 3), ("FILE_BYTES", 1, 5)):
        with monkeypatch.context() as patch:
            patch.setattr(json_lines, name, bound)
            assert exported(finished, tmp_path / name) == whole
        assert len(list((tmp_path / name).glob("*.jsonl"))) == files


def test_a_run_in_progress_hands_on_what_is_committed_under_the_same_row_numbers(copied: Path, tmp_path: Path) -> None:
    whole = exported(copied, tmp_path / "whole")
    pages = tmp_path / "pages"
    operations.export(str(copied), str(pages), format="pictures")
    shutil.rmtree(copied / "results")
    assert exported(copied, tmp_path / "committed") == whole
    (copied / "hierarchy/manifests/0000001.0.json").unlink()
    assert exported(copied, tmp_path / "part") == [whole[0], whole[1], whole[4]]
    some = tmp_path / "some"
    operations.export(str(copied), str(some), format="pictures")
    assert {path.name for path in some.glob("*.png")} == {f"000000{row}.png" for row in (0, 1, 4)}
    assert all(path.read_bytes() == (pages / path.name).read_bytes() for path in some.glob("*.png"))


def test_every_image_has_a_page_within_bounds_and_the_index_says_whose(finished: Path, tmp_path: Path) -> None:
    operations.export(str(finished), str(tmp_path / "to"), format="pictures")
    table = list(csv.DictReader(io.StringIO((tmp_path / "to/index.csv").read_text())))
    files = ["0000000.png", "0000001.png", "0000002.png", "", "0000004.png"]
    assert [(row["row"], row["image_id"], row["file"]) for row in table] == [
        (str(number), name, file) for number, (name, file) in enumerate(zip(NAMES, files, strict=True))
    ]
    assert {path.name for path in (tmp_path / "to").iterdir()} == {*files, "index.csv", "export.json"} - {""}
    for file in filter(None, files):
        with Image.open(tmp_path / "to" / file) as page:
            assert page.format == "PNG"
            assert 640 <= page.width <= 1800
            assert 300 <= page.height <= 3000


def test_a_photograph_that_has_gone_or_changed_leaves_its_tree(pictures: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(pictures, tmp_path / "photographs"))
    out = grown(folder, tmp_path / "out")
    operations.export(str(out), str(tmp_path / "before"), format="pictures", limit=3)
    (folder / NAMES[0]).unlink()
    Image.new("RGB", SIZES[1][::-1], "green").save(folder / NAMES[1])
    operations.export(str(out), str(tmp_path / "after"), format="pictures", limit=3)

    def pixels(folder: str, row: int) -> NDArray[np.uint8]:
        return np.asarray(Image.open(tmp_path / folder / f"000000{row}.png").convert("RGB"))

    for row in (0, 1):
        before, after = pixels("before", row), pixels("after", row)
        assert before.shape == after.shape
        # the first tile is a grey ground, in the place of either
        assert (after[100:200, 40:140] == (236, 238, 240)).all()
        assert (before[100:200, 40:140].reshape(-1, 3) != (236, 238, 240)).any()
        reason = after[47:65, 24:700].reshape(-1, 3).astype(int)
        assert ((reason[:, 0] > 150) & (reason[:, 1] < 90)).any()
    assert (pixels("before", 2) == pixels("after", 2)).all()


@pytest.fixture(scope="module")
def masks_run(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("masks") / "out"
    arguments = ["segment", str(pictures), str(out), "--resize", "native", "--head", "none", *SETTINGS[:2]]
    assert run([*arguments, "--engine", "inline", "--quiet"]) == 3
    return out


def test_the_command_says_what_it_wrote(finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (broken,) = [row["image_id"] for row in rows_of(finished, "hierarchy") if row["status"] == "failed"]
    to = tmp_path / "to"
    assert run(["export", str(finished), "--to", str(to), "--format", "json", "--limit", "2"]) == 0
    assert capsys.readouterr().out == f"2 images of the stage hierarchy in {to}\n"
    assert run(["export", str(finished), "--to", str(to), "--format", "json", "--stage", "hierarchy"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said == [f"4 images of the stage hierarchy in {to}", f"  1 of 5 failed in the run: {broken!r}"]
    assert len((to / "regions-00000.jsonl").read_bytes().splitlines()) == 5
    assert run(["export", "--help-all"]) == 0
    said = capsys.readouterr().out
    assert "region trees as JSON Lines" in said
    assert "Exit codes: 0 done" in said


@pytest.mark.parametrize(
    ("prepare", "arguments", "said"),
    [
        (
            None,
            ["--format", "voc"],
            "'voc' is not one of 'coco', 'contact-sheet', 'csv', 'cutout', 'hf', 'json'",
        ),
        (None, ["--nodes", "all"], "only a stage with region trees as coco has nodes to choose from"),
        (None, ["--stage", "regions"], "has no stage 'regions'; it has hierarchy"),
        (None, ["--limit", "0"], "--limit"),
        (lambda to: (to / "letter.txt").write_text("dear"), [], "is not empty. To mend it: name a new folder"),
        (
            lambda to: (to / "export.json").write_text('{"schema_version": 1}'),
            [],
            "export.json is damaged (without format, stage, nodes, plan, content_digest, images)",
        ),
    ],
)
def test_what_cannot_be_exported_is_said_and_nothing_is_written(
    finished: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    prepare: Callable[[Path], Any] | None,
    arguments: list[str],
    said: str,
) -> None:
    to = tmp_path / "to"
    to.mkdir()
    if prepare is not None:
        prepare(to)
    there = {path.name: path.read_bytes() for path in to.iterdir()}
    assert run(["export", str(finished), "--to", str(to), "--format", "json", *arguments]) == 1
    assert said in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in to.iterdir()} == there


def test_a_format_is_refused_where_no_stage_has_it(masks_run: Path, tmp_path: Path) -> None:
    for stage, said in (
        (None, r"json is made of the stage hierarchy or matches or attention, which .* has not; it has segment"),
        ("segment", r"not of segment\. To mend it: another --format: coco \| contact-sheet \| cutout \| hf"),
    ):
        with pytest.raises(SettingsError, match=said):
            operations.export(str(masks_run), str(tmp_path / "to"), format="json", stage=stage)
    with pytest.raises(SettingsError, match=r"'voc' is not allowed; it is coco \| contact-sheet \| csv \| cutout"):
        operations.export(str(masks_run), str(tmp_path / "to"), format="voc")
    assert not (tmp_path / "to").exists()


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="holds no run"):
        operations.export(str(tmp_path), str(tmp_path / "to"), format="json")


def test_an_export_is_not_written_into_the_run_nor_over_another_one(copied: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="lies in the run itself"):
        operations.export(str(copied), str(copied / "export"), format="json")
    exported(copied, tmp_path / "to", limit=3)
    with pytest.raises(SettingsError, match=r"an export of something else \(format differ\)"):
        operations.export(str(copied), str(tmp_path / "to"), format="pictures")
    with pytest.raises(SettingsError, match="an export of 3 images, of which 2 would be written again"):
        exported(copied, tmp_path / "to", limit=2)
    shutil.rmtree(copied / "results")
    (copied / "hierarchy/manifests/0000002.0.json").unlink()
    with pytest.raises(SettingsError, match=r"an export of something else \(content_digest differ\)"):
        exported(copied, tmp_path / "to")


def test_a_run_without_a_committed_image_has_nothing_to_export(copied: Path, tmp_path: Path) -> None:
    shutil.rmtree(copied / "results")
    shutil.rmtree(copied / "hierarchy/manifests")
    with pytest.raises(SettingsError, match="no image of the stage hierarchy is committed yet"):
        exported(copied, tmp_path / "to")
