"""``simsam hierarchy`` on real processes: trees that hold together, true scores, every engine, interruptions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from process_groups import killed_after
from tree_runs import INLINE, SETTINGS, command, inline, result_of, rows_of

from simsam_batch.cli import run


def test_children_tile_their_parent_and_every_patch_has_a_superpixel(finished: Path) -> None:
    for row in rows_of(finished):
        nodes = row["nodes"]
        assert len(row["superpixel_map"]) == row["grid_h"] * row["grid_w"]
        assert set(row["superpixel_map"]) == set(range(row["superpixel_count"]))
        assert (nodes[0]["parent"], nodes[0]["lo"], nodes[0]["hi"]) == (-1, 0, row["superpixel_count"])
        assert nodes[0]["bbox_xyxy"] == [0, 0, row["width"], row["height"]]
        assert nodes[0]["patches"] == row["grid_h"] * row["grid_w"]
        for number, node in enumerate(nodes):
            children = [child for child in nodes if child["parent"] == number]
            assert len(children) != 1
            if children:
                assert [child["lo"] for child in children] == [node["lo"], *(c["hi"] for c in children[:-1])]
                assert children[-1]["hi"] == node["hi"]
                assert sum(child["patches"] for child in children) == node["patches"]
                assert all(child["depth"] == node["depth"] + 1 for child in children)
        with np.load(finished / row["arrays_path"], allow_pickle=False) as arrays:
            prototypes = arrays[f"{row['arrays_member']}.prototypes"].astype(np.float64)
        assert len(prototypes) == len(nodes)
        assert np.linalg.norm(prototypes, axis=1) == pytest.approx(np.ones(len(nodes)), abs=2e-3)


def test_the_covering_in_the_row_is_that_of_masks_made_from_it(pictures: Path, finished: Path) -> None:
    """The best IoU of each labelled region with any node but the root, from boolean masks of full size."""
    for row in rows_of(finished):
        truth = np.asarray(Image.open(pictures / "truth" / row["image_id"]))
        patches = np.array(row["superpixel_map"]).reshape(row["grid_h"], row["grid_w"])
        owner = np.kron(patches, np.ones((row["patch"], row["patch"]), int))
        assert owner.shape == truth.shape
        masks = [(owner >= node["lo"]) & (owner < node["hi"]) for node in row["nodes"][1:]]
        best = [max((m & (truth == v)).sum() / (m | (truth == v)).sum() for m in masks) for v in np.unique(truth)]
        assert row["nmcovering"] == pytest.approx(np.mean(best), rel=1e-12)
    metrics = result_of(finished)["metrics"]
    assert metrics["nmcovering"] == pytest.approx(np.mean([row["nmcovering"] for row in rows_of(finished)]))
    # Three squares on grey: a 3x3 median of the descriptors takes their corners, the tree some of their borders.
    assert metrics["nmcovering"] > 0.7
    assert metrics["images_scored"] == 6


def test_groups_of_labels_are_scored_by_the_hierarchy_named(pictures: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.yaml"
    labels.write_text("title: squares\nbackground: 0\nregions:\n  warm:\n    red: 1\n  cold: {green: 2, blue: 3}\n")
    out = tmp_path / "out"
    assert run(inline(pictures, out, "--label-hierarchy", str(labels), "--limit", "2")) == 0
    metrics = result_of(out)["metrics"]
    assert set(metrics["iou_by_region"]) == {"warm", "warm/red", "cold", "cold/green", "cold/blue", "background"}
    assert len(metrics["levels"]) == 2
    assert metrics["nhcovering"] <= metrics["nmcovering"]


def test_upstreams_numbering_takes_patches_from_the_first_leaves(
    pictures: Path, finished: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert run(inline(pictures, out, "--numbering", "upstream")) == 0
    assert result_of(out)["metrics"]["nmcovering"] < result_of(finished)["metrics"]["nmcovering"]
    assert all(min(node["patches"] for node in row["nodes"]) == 0 for row in rows_of(out))


@pytest.mark.slow
def test_an_interrupted_run_goes_on_and_ends_alike(pictures: Path, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(command(pictures, out, "--workers", "2")[3:]) == 0
    assert result_of(out)["content_digest"] == result_of(finished)["content_digest"]
    kept = {path.name: path.read_bytes() for path in (out / "hierarchy/manifests").iterdir()}
    (out / "hierarchy/manifests/0000001.0.json").unlink()
    (out / "results/hierarchy.json").unlink()
    assert run(inline(pictures, out)) == 0
    assert result_of(out)["content_digest"] == result_of(finished)["content_digest"]
    assert all((out / "hierarchy/manifests" / n).read_bytes() == body for n, body in kept.items() if n[6] != "1")


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_stopped(pictures: Path, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    launch = command(pictures, out, "--workers", "1")
    killed_after(1, out, "hierarchy", launch)
    manifests = out / "hierarchy" / "manifests"
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in manifests.glob("*.json")}
    assert run([*launch[3:], *INLINE]) == 0
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in before} == before
    assert result_of(out)["content_digest"] == result_of(finished)["content_digest"]


def test_bad_images_are_explained_and_cost_no_other(pictures: Path, finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    good = (pictures / "images" / "0.png").read_bytes()
    (folder / "0.png").write_bytes(good)
    (folder / "truncated.png").write_bytes(good[:1000])
    (folder / "words.jpg").write_text("no picture")
    Image.new("RGB", (1, 1)).save(folder / "dot.png")
    Image.open(pictures / "images" / "1.png").convert("RGBA").save(folder / "clear.png")
    assert run(["hierarchy", str(folder), str(tmp_path / "out"), *SETTINGS, *INLINE]) == 3
    rows = {row["image_id"]: row for row in rows_of(tmp_path / "out")}
    assert {name: row["error_type"] for name, row in rows.items()} == {
        "0.png": None,
        "clear.png": None,
        "dot.png": "too_small",
        "truncated.png": "truncated",
        "words.jpg": "not_an_image",
    }
    alone = next(row for row in rows_of(finished) if row["image_id"] == "0.png")
    assert rows["0.png"]["nodes"] == alone["nodes"]
    assert rows["0.png"]["superpixel_map"] == alone["superpixel_map"]


def test_wrong_truth_and_wrong_hierarchies_are_named(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = tmp_path / "labels.yaml"
    labels.write_text("regions:\n  square: [1, 2]\nbackground: 0\n")
    out = tmp_path / "out"
    assert run(inline(pictures, out, "--label-hierarchy", str(labels), "--limit", "2")) == 0
    assert all("nothing is said of its label 3" in row["truth_error"] for row in rows_of(out))
    assert result_of(out)["metrics"]["truth_errors"] == 2
    assert run(inline(pictures, tmp_path / "other", "--label-hierarchy", "voc2010")) == 1
    assert "voc2010" in capsys.readouterr().err


def test_settings_that_cannot_be_are_refused_before_anything_is_written(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    far = tmp_path / "far.yaml"
    far.write_text("regions:\n  near: 1\n  far: 900000000\n")
    for more, said in (
        (["--form", "low-rank", "--adjacency", "exp"], "form: 'low-rank' needs the adjacency 'minmax'"),
        (["--label-hierarchy", str(far)], "label_hierarchy: "),
    ):
        assert run(inline(pictures, out, *more)) == 1
        assert said in capsys.readouterr().err
        assert not out.exists()


def test_a_label_that_a_hierarchy_names_can_be_left_out(pictures: Path, tmp_path: Path) -> None:
    labels = tmp_path / "labels.yaml"
    labels.write_text("background: 0\nregions: {red: 1, green: 2, blue: 3}\n")
    out = tmp_path / "out"
    more = ["--label-hierarchy", str(labels), "--ignore-label", "3", "--limit", "2"]
    assert run(inline(pictures, out, *more)) == 0
    metrics = result_of(out)["metrics"]
    assert set(metrics["iou_by_region"]) == {"red", "green", "background"}
    # two squares of 96 x 96 pixels
    assert metrics["ignored_pixels"] == 2 * 96 * 96


def test_images_with_nothing_to_split_have_a_root_alone(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (96, 64), "red").save(tmp_path / "images" / "one colour.png")
    Image.new("RGB", (64, 64), "blue").save(tmp_path / "images" / "another.png")
    out = tmp_path / "out"
    assert run(["hierarchy", str(tmp_path / "images"), str(out), *SETTINGS, *INLINE]) == 0
    assert [len(row["nodes"]) for row in rows_of(out)] == [1, 1]
    assert result_of(out)["metrics"]["root_only"] == 2
