"""Raw arrays of one image, against what the run has stored; and what is told of the image itself."""

from __future__ import annotations

import gzip
import io
import json
import runpy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image
from viewing import Answer, Client, Small

from simsam_batch import open_run
from simsam_batch.cli import run
from simsam_batch.regions.run_lengths import decode
from simsam_batch.results.label_maps import map_rows
from simsam_batch.runs.reading import StageRows
from simsam_batch.storage import Folder

Served = Callable[..., Client]
SMALL = ["--backbone", "descriptors", "--engine", "inline", "--quiet"]


def array(answer: Answer) -> NDArray[Any]:
    """What the page makes of an answer, by its headers alone."""
    assert answer.status == 200, answer.text
    packed = answer.headers.get("content-encoding") == "gzip"
    body = gzip.decompress(answer.body) if packed else answer.body
    shape = [int(length) for length in answer.headers["x-shape"].split(",")]
    return np.frombuffer(body, np.dtype(answer.headers["x-dtype"]).newbyteorder("<")).reshape(shape)


def spread(layer: NDArray[Any], answer: Answer, size: tuple[int, int]) -> NDArray[Any]:
    """A layer over all pixels of an image of a size (height, width), as the page lays it out; the last cell goes on."""
    cover = [float(share) for share in answer.headers["x-cover"].split(",")]
    rows, columns = (
        np.minimum((np.arange(full) + 0.5) / full / share * cells, cells - 1).astype(int)
        for full, share, cells in zip(size, cover, layer.shape, strict=True)
    )
    return layer[np.ix_(rows, columns)]


def published(out: Path, stage: str) -> list[dict[str, Any]]:
    return pq.read_table(out / "results" / stage).to_pylist()


def test_eigenvectors_are_the_stored_ones_on_their_grid(small_run: Small, served: Served) -> None:
    client = served(small_run.out)
    values, vectors = open_run(str(small_run.out)).eigenvectors(small_run.names[1])
    answer = client.get("layers/segment/1/eigenvectors")
    assert answer.headers["x-dtype"] == "float16"
    assert np.array_equal(array(answer).astype(np.float32), vectors)
    assert answer.headers["x-cover"] == "1,1"
    told = client.get("api/images/1").json()
    assert np.allclose(told["columns"]["eigenvalues"], values)


def test_patches_outside_the_graph_are_as_many_as_are_counted(small_run: Small, served: Served) -> None:
    client = served(small_run.out)
    for number, row in enumerate(published(small_run.out, "segment")):
        if row["status"] == "ok":
            outside = array(client.get(f"layers/segment/{number}/outside"))
            assert outside.shape == (row["grid_h"], row["grid_w"])
            assert outside.sum() == row["outlier_tokens"] + row["island_patches"]


def test_a_mask_is_that_of_the_row(small_run: Small, served: Served) -> None:
    answer = served(small_run.out).get("layers/segment/1/mask")
    mask = array(answer)
    expected = decode(published(small_run.out, "segment")[1]["mask_rle"])
    assert np.array_equal(spread(mask, answer, expected.shape) == 1, expected)


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Masks of whole patches over pictures whose sizes no patch divides, one larger than a layer may be."""
    root = tmp_path_factory.mktemp("odd")
    (root / "photos").mkdir()
    for name, (height, width) in {"a": (150, 203), "b": (1500, 1100)}.items():
        pixels = np.full((height, width, 3), 170, np.uint8)
        pixels += np.random.default_rng(1).integers(0, 30, pixels.shape).astype(np.uint8)
        pixels[height // 4 : height // 2, width // 4 : width // 2] = (200, 40, 30)
        Image.fromarray(pixels).save(root / "photos" / f"{name}.png")
    command = ["segment", str(root / "photos"), str(root / "out"), "--resize", "short:128", *SMALL]
    command += ["--refine", "none"]
    assert run([*command, "--cut", "fixed", "--island-share", "0"]) == 0
    assert run([*command[:2], str(root / "fine"), *command[3:]]) == 0
    return root


@pytest.mark.parametrize("row", [0, 1])
def test_a_mask_of_whole_patches_comes_on_the_patch_grid_and_covers_what_that_does(
    odd: Path, served: Served, row: int
) -> None:
    answer = served(odd / "out").get(f"layers/segment/{row}/mask")
    held = published(odd / "out", "segment")[row]
    mask, expected = array(answer), decode(held["mask_rle"])
    assert mask.shape == (held["grid_h"], held["grid_w"])
    assert expected.any()
    assert np.array_equal(spread(mask, answer, expected.shape) == 1, expected)


def test_a_finer_mask_comes_in_pixels_and_never_larger_than_1280_a_side(odd: Path, served: Served) -> None:
    answer = served(odd / "fine").get("layers/segment/1/mask")
    expected = decode(published(odd / "fine", "segment")[1]["mask_rle"])
    mask = array(answer)
    assert mask.shape == (1280, round(1280 * 1100 / 1500))
    assert answer.headers["x-cover"] == "1,1"
    rows, columns = ((np.arange(n) * 2 + 1) * full // (2 * n) for n, full in zip(mask.shape, (1500, 1100), strict=True))
    assert np.array_equal(mask == 1, expected[np.ix_(rows, columns)])


def test_truth_is_what_the_stage_compared_with(small_run: Small, served: Served) -> None:
    client = served(small_run.out)
    answer = client.get("layers/segment/1/truth")
    path = small_run.photos.parent / "truth" / small_run.names[1]
    assert np.array_equal(array(answer), np.asarray(Image.open(path)) > 0)
    assert answer.headers["x-ignore"] == "255"


def test_class_ids_come_with_the_id_that_does_not_count(whole_run: Any, served: Served) -> None:
    client = served(whole_run.maps)
    row = published(whole_run.maps, "semantic")[0]
    answer = client.get("layers/semantic/0/truth")
    assert np.array_equal(array(answer), np.asarray(Image.open(whole_run.photos.parent / "ids" / row["image_id"])))
    # all ids count in this run
    assert answer.headers["x-ignore"] == "-1"


def test_labels_regions_and_nodes_are_those_of_the_rows(whole_run: Any, served: Served) -> None:
    client = served(whole_run.maps)
    for number, row in map_rows(StageRows(Folder(str(whole_run.maps)), "semantic")):
        size = row["height"], row["width"]
        expected = np.zeros(size, int)
        for segment in row["segments"]:
            expected[decode(segment["mask_rle"])] = segment["label"]
        answer = client.get(f"layers/semantic/{number}/labels")
        assert np.array_equal(spread(array(answer), answer, size), expected)
    regions = published(whole_run.maps, "regions")[0]
    for stage in ("regions", "semantic"):
        found = array(client.get(f"layers/{stage}/0/regions"))
        assert found.ravel().tolist() == regions["region_map"]
        assert found.dtype == np.int16
    trees = published(whole_run.maps, "hierarchy")[0]
    answer = client.get("layers/hierarchy/0/nodes")
    nodes = array(answer)
    # a patch ends in the leaf that holds its superpixel
    leaves = [place for place, node in enumerate(trees["nodes"]) if all(n["parent"] != place for n in trees["nodes"])]
    for leaf in leaves:
        node = trees["nodes"][leaf]
        held = np.isin(trees["superpixel_map"], np.arange(node["lo"], node["hi"]))
        assert (nodes.ravel() == leaf).tolist() == held.tolist()


def test_the_tree_has_its_nodes_in_order_with_labels_ends_and_colours(whole_run: Any, served: Served) -> None:
    told = served(whole_run.maps).get("api/trees/1").json()
    row = published(whole_run.maps, "hierarchy")[1]
    labels = published(whole_run.maps, "labels")[1]["labels"]
    assert [node["parent"] for node in told["nodes"]] == [node["parent"] for node in row["nodes"]]
    assert [node["label"] for node in told["nodes"]] == labels
    assert told["deepest"] == max(node["depth"] for node in row["nodes"]) == row["depth"]
    for place, node in enumerate(told["nodes"]):
        below = [n for n in range(len(labels)) if row["nodes"][n]["lo"] >= row["nodes"][place]["lo"]]
        inside = [n for n in below if row["nodes"][n]["hi"] <= row["nodes"][place]["hi"] and n >= place]
        assert list(range(place, node["end"])) == inside
        assert len(node["color"]) == 7
        assert node["color"].startswith("#")


def test_an_image_tells_its_columns_without_masks_and_which_layers_it_has(small_run: Small, served: Served) -> None:
    client = served(small_run.out)
    answer = client.get("api/images/1", stage="segment")
    told, row = answer.json(), published(small_run.out, "segment")[1]
    assert (told["row"], told["id"], told["size"]) == (1, small_run.names[1], [192, 128])
    assert (told["grid"], told["patch"], told["error"]) == ([8, 12], 16, None)
    assert told["columns"]["confidence"] == pytest.approx(row["confidence"])
    assert (told["columns"]["camera"], told["columns"]["year"]) == (row["camera"], row["year"])
    assert not {"mask_rle", "objects", "arrays_path"} & told["columns"].keys()
    assert '"counts"' not in answer.text
    there = {layer["name"]: layer["there"] for layer in told["layers"]}
    assert there == {
        "mask": True,
        "truth": True,
        "labels": False,
        "regions": False,
        "nodes": False,
        "eigenvectors": True,
        "outside": True,
    }
    assert all(layer["why"] for layer in told["layers"] if not layer["there"])


def test_columns_are_explained_in_the_words_of_the_documents(small_run: Small, served: Served) -> None:
    """After a change of the tables in docs: python docs/write_column_words.py."""
    script = runpy.run_path(str(Path(__file__).parents[2] / "docs" / "write_column_words.py"))
    assert script["WORDS"].read_text(encoding="utf-8") == script["written"]()
    told = served(small_run.out).get("api/images/1").json()
    assert told["docs"]["bbox_xyxy"].startswith("tight box")
    own = set(pq.read_schema(small_run.out / "results" / "segment" / "part-00000.parquet").names)
    assert told["columns"].keys() & own - told["docs"].keys() == {"camera", "year", "weight", "indoors"}


def test_the_layers_that_are_told_are_those_that_are_answered(whole_run: Any, small_run: Small, served: Served) -> None:
    for out in (small_run.out, whole_run.maps, whole_run.out):
        client = served(out)
        run_of = client.session.run()
        for stage in run_of.of_images:
            for row in (0, 4):
                for layer in client.get(f"api/images/{row}", stage=stage).json()["layers"]:
                    answer = client.get(f"layers/{stage}/{row}/{layer['name']}")
                    assert (answer.status == 200) is layer["there"], (stage, row, layer, answer.body[:200])
                    assert answer.status in (200, 404, 409)


def test_a_failed_image_says_why_and_has_no_layers_but_its_truth(small_run: Small, served: Served) -> None:
    client = served(small_run.out)
    told = client.get(f"api/images/{small_run.failed}").json()
    assert (told["status"], told["error"]["type"], told["size"]) == ("failed", "not_an_image", None)
    assert not any(layer["there"] for layer in told["layers"])
    for layer in ("mask", "eigenvectors", "truth"):
        answer = client.get(f"layers/segment/{small_run.failed}/{layer}")
        assert answer.status == 409
        assert "not_an_image" in answer.json()["error"]


def test_a_run_without_eigenvectors_and_truth_says_so(odd: Path, served: Served, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = ["segment", str(odd / "photos"), str(out), "--resize", "short:64", *SMALL, "--eigenvectors", "none"]
    assert run(command) == 0
    client = served(out)
    for layer, word in (("eigenvectors", "--eigenvectors none"), ("truth", "--truth"), ("outside", "--eigenvectors")):
        answer = client.get(f"layers/segment/0/{layer}")
        assert answer.status == 404
        assert word in answer.json()["error"]


@pytest.mark.parametrize("path", ["layers/segment/0/everything", "layers/nothing/0/mask", "layers/segment/x/mask"])
def test_what_nobody_knows_is_refused(small_run: Small, served: Served, path: str) -> None:
    answer = served(small_run.out).get(path)
    assert answer.status in (400, 404)
    assert answer.json()["error"]


def test_labels_of_other_nodes_are_a_conflict(whole_run: Any, served: Served, tmp_path: Path) -> None:
    """Of the same images, by a second run with fewer leaves, whose stage is put in the place of the first one's."""
    mine, other = Path(shutil.copytree(whole_run.maps, tmp_path / "mine")), tmp_path / "other"
    command = ["hierarchy", str(whole_run.photos), str(other), "--leaves", "4", "--clusters", "2", "--resize", "native"]
    assert run([*command, *SMALL]) == 0
    for stage in ("labels", "node-clusters"):
        shutil.rmtree(mine / stage)
        shutil.copytree(other / stage, mine / stage)
    record = json.loads((mine / "labels" / "stage.json").read_text())
    record["plan"] = json.loads((mine / "hierarchy" / "stage.json").read_text())["plan"]
    (mine / "labels" / "stage.json").write_text(json.dumps(record))
    answer = served(mine).get("api/trees/0")
    assert answer.status == 409
    assert "label the nodes again" in answer.json()["error"]


def test_of_true_classes_what_no_segment_covers_is_class_0_and_painted(
    small_run: Small, served: Served, tmp_path: Path
) -> None:
    truth, exemplar = small_run.photos.parent / "truth", "val/z.png"
    photos = str(small_run.photos)
    arguments = ["transfer", photos, str(tmp_path / "out"), "--truth", str(truth), "--exemplars", exemplar, *SMALL]
    assert run([*arguments, "--resize", "native", "--allow-failed", "1"]) == 0
    of_run = open_run(str(tmp_path / "out"))
    (stage,) = (name for name in of_run.stages if name != "features")
    image_id = next(name for name, mask in of_run.masks(stage) if len(np.unique(mask)) == 2 and name != exemplar)
    (row,) = of_run.numbers([image_id])
    client = served(tmp_path / "out")
    answer = client.get(f"layers/{stage}/{row}/labels")
    expected = of_run.mask(image_id, stage)
    assert np.array_equal(spread(array(answer), answer, expected.shape), expected)
    assert answer.headers["x-ignore"] == "-1"
    shown = {
        over: np.asarray(
            Image.open(io.BytesIO(client.get(f"images/{row}.jpg", stage=stage, side=256, overlay=over).body))
        )
        for over in ("none", "labels")
    }
    far = np.abs(shown["labels"].astype(int) - shown["none"]).max(axis=-1)
    # both classes have a colour: hardly a pixel is as it was
    assert (far[expected == 0] > 20).mean() > 0.8
    assert (far[expected == 1] > 20).mean() > 0.8
