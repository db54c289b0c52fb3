"""Labels that the nodes of all trees of a set share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tree_runs import INLINE, command, inline, result_of, rows_of

from simsam_batch.cli import run
from simsam_batch.stages.clusters.stage import NodeClustersStage, codebooks
from simsam_batch.storage import Folder


@pytest.fixture(scope="module")
def labelled(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("labelled") / "out"
    assert run(inline(pictures, out, "--clusters", "5")) == 0
    return out


def test_a_node_has_the_label_of_the_nearest_cluster(labelled: Path) -> None:
    (book,) = codebooks(Folder(str(labelled)), NodeClustersStage.name)
    centers = book.centers.astype(np.float64)
    assert len(centers) == 5
    counted: Counter[int] = Counter()
    for row, labels in zip(rows_of(labelled), rows_of(labelled, "labels"), strict=True):
        assert row["image_id"] == labels["image_id"]
        with np.load(labelled / row["arrays_path"], allow_pickle=False) as arrays:
            prototypes = arrays[f"{row['arrays_member']}.prototypes"].astype(np.float64)
        prototypes /= np.linalg.norm(prototypes, axis=1, keepdims=True)
        distances = np.linalg.norm(prototypes[:, None] - centers, axis=2)
        assert labels["labels"] == (distances.argmin(axis=1) + 1).tolist()
        counted.update(labels["labels"])
    metrics = result_of(labelled, "labels")["metrics"]
    assert metrics == {"nodes": counted.total(), "nodes_by_label": {str(k): counted[k] for k in sorted(counted)}}


def test_squares_of_one_colour_share_a_label_in_nearly_all_images(pictures: Path, labelled: Path) -> None:
    of_colour: dict[int, Counter[int]] = {}
    for row, labels in zip(rows_of(labelled), rows_of(labelled, "labels"), strict=True):
        truth = np.asarray(Image.open(pictures / "truth" / row["image_id"]))
        patches = np.array(row["superpixel_map"]).reshape(row["grid_h"], row["grid_w"])
        owner = np.kron(patches, np.ones((row["patch"], row["patch"]), int))
        for colour in (1, 2, 3):
            ious = [
                ((owner >= n["lo"]) & (owner < n["hi"]) & (truth == colour)).sum()
                / (((owner >= n["lo"]) & (owner < n["hi"])) | (truth == colour)).sum()
                for n in row["nodes"]
            ]
            of_colour.setdefault(colour, Counter())[labels["labels"][int(np.argmax(ious))]] += 1
    commonest = {colour: labels.most_common(1)[0] for colour, labels in of_colour.items()}
    assert len({label for label, _ in commonest.values()}) == 3, of_colour
    # of 3 squares in 6 images
    assert sum(images for _, images in commonest.values()) >= 15, of_colour


def test_labels_are_added_to_a_finished_run_and_its_trees_stay(pictures: Path, labelled: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(inline(pictures, out)) == 0
    kept = {path.name: path.read_bytes() for path in (out / "hierarchy/manifests").iterdir()}
    assert not (out / "labels").exists()
    assert run(inline(pictures, out, "--clusters", "5")) == 0
    assert {path.name: path.read_bytes() for path in (out / "hierarchy/manifests").iterdir()} == kept
    assert result_of(out, "labels")["content_digest"] == result_of(labelled, "labels")["content_digest"]


def test_a_run_has_one_set_of_labels(pictures: Path, labelled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(inline(pictures, labelled, "--clusters", "6")) == 1
    assert "clusters: the run in OUT has 5, this command has 6" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    "engine", ["local", *(pytest.param(name, marks=pytest.mark.soak) for name in ("ray", "torchrun"))]
)
def test_other_engines_grow_the_same_trees_and_give_the_same_labels(
    pictures: Path, tmp_path: Path, labelled: Path, run_on: Callable[[str, list[str]], None], engine: str
) -> None:
    out = tmp_path / "out"
    run_on(engine, command(pictures, out, "--clusters", "5"))
    for stage in ("hierarchy", "labels"):
        assert result_of(out, stage)["content_digest"] == result_of(labelled, stage)["content_digest"]
        assert result_of(out, stage)["metrics"] == result_of(labelled, stage)["metrics"]


def test_status_verify_and_retry_know_the_labels(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for path in (pictures / "images").iterdir():
        (images / path.name).write_bytes(path.read_bytes())
    whole = (images / "3.png").read_bytes()
    (images / "3.png").write_bytes(whole[:200])
    out = tmp_path / "out"
    settings = inline(pictures, out, "--clusters", "5", "--allow-failed", "0.5")[2:]
    assert run(["hierarchy", str(images), *settings]) == 0
    assert [row["status"] for row in rows_of(out, "labels")].count("failed") == 1
    assert run(["verify", str(out)]) == 0
    assert run(["status", str(out)]) == 0
    assert "labels" in capsys.readouterr().out
    (images / "3.png").write_bytes(whole)
    fitted = result_of(out, "node-clusters")["content_digest"]
    assert run(["retry", str(out), *INLINE]) == 0
    assert result_of(out, "node-clusters")["content_digest"] == fitted
    assert len(list((out / "node-clusters/manifests").iterdir())) == 1, "the fit is not tried again"
    rows = rows_of(out, "labels")
    assert all(row["status"] == "ok" and row["labels"] for row in rows)
    assert run(["verify", str(out)]) == 0
