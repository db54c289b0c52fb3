"""Truth of every kind, and the baselines that are scored beside the trees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tree_runs import INLINE, SETTINGS, inline, result_of, rows_of

from simsam_batch.cli import run


def covering_of_masks(row: dict[str, Any], partition: np.ndarray) -> float:
    """The mean over the regions of a partition of the best IoU with any node but the root, from masks of full size."""
    patches = np.array(row["superpixel_map"]).reshape(row["grid_h"], row["grid_w"])
    owner = np.kron(patches, np.ones((row["patch"], row["patch"]), int))
    masks = [(owner >= node["lo"]) & (owner < node["hi"]) for node in row["nodes"][1:]]
    regions = [partition == value for value in np.unique(partition)]
    return float(np.mean([max((m & r).sum() / (m | r).sum() for m in masks) for r in regions]))


@pytest.fixture(scope="module")
def partitions(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two partitions of each picture: the squares, and the halves left and right."""
    folder = tmp_path_factory.mktemp("partitions")
    for path in sorted((pictures / "truth").iterdir()):
        squares = np.asarray(Image.open(path)).astype(np.uint16)
        halves = np.indices(squares.shape)[1] // 120
        np.savez(folder / f"{path.stem}.npz", halves=halves.astype(np.uint16), squares=squares)
    return folder


def test_an_image_scores_the_mean_over_its_partitions(pictures: Path, partitions: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    settings = ["--truth", str(partitions), *SETTINGS, *INLINE]
    assert run(["hierarchy", f"{pictures}/images", str(out), *settings]) == 0
    for row in rows_of(out):
        with np.load(partitions / f"{Path(row['image_id']).stem}.npz") as held:
            expected = np.mean([covering_of_masks(row, held[name]) for name in ("halves", "squares")])
        assert row["nmcovering"] == pytest.approx(expected, rel=1e-12)
    metrics = result_of(out)["metrics"]
    assert (metrics["protocol"], metrics["partitions"], metrics["images_scored"]) == ("covering-partitions", 12, 6)


def test_baselines_are_scored_as_the_trees_are(pictures: Path, finished: Path, tmp_path: Path) -> None:
    """The covering of a grid cut in quarters, made here from coordinates; and what unions of parts must keep to."""
    out = tmp_path / "out"
    assert run(inline(pictures, out, "--baselines")) == 0
    metrics, plain = result_of(out)["metrics"], result_of(finished)["metrics"]
    assert metrics["nmcovering"] == plain["nmcovering"]
    coverings = []
    for row in rows_of(out):
        truth = np.asarray(Image.open(pictures / "truth" / row["image_id"]))
        y, x = (place // row["patch"] for place in np.indices(truth.shape))
        best = []
        for value in np.unique(truth):
            region, ious = truth == value, []
            # 12 superpixels are asked for: 4 quarters are too few, their 16 quarters enough.
            for cells in (2, 4):
                cell = (y * cells // row["grid_h"]) * cells + x * cells // row["grid_w"]
                ious += [(region & (cell == c)).sum() / (region | (cell == c)).sum() for c in range(cells**2)]
            best.append(max(ious))
        coverings.append(np.mean(best))
    found = metrics["baselines"]
    assert found["grid"] == pytest.approx(np.mean(coverings), rel=1e-12)
    assert list(found) == ["grid", "kmeans_2", "kmeans_4", "kmeans_8", "kmeans", "kmeans_all"]
    assert set(metrics["baselines_ci"]) == set(found)
    assert max(found[f"kmeans_{k}"] for k in (2, 4, 8)) <= found["kmeans_all"]
    assert found["kmeans_2"] <= found["kmeans"] <= found["kmeans_all"]
    # Four regions of four colours: k-means with four parts finds them nearly as the tree does.
    assert found["kmeans_4"] > 0.6 > found["grid"]


def test_masks_of_a_dataset_are_an_object_and_its_background(pictures: Path, tmp_path: Path) -> None:
    root = tmp_path / "ECSSD"
    (root / "images").mkdir(parents=True)
    (root / "ground_truth_mask").mkdir()
    for i in range(2):
        Image.open(pictures / f"images/{i}.png").save(root / f"images/{i}.jpg", quality=95)
        mask = np.asarray(Image.open(pictures / f"truth/{i}.png")) == 1
        Image.fromarray(mask.astype(np.uint8) * 255).save(root / f"ground_truth_mask/{i}.png")
    out = tmp_path / "out"
    assert run(["hierarchy", f"ecssd:{root}", str(out), *SETTINGS, *INLINE]) == 0
    metrics = result_of(out)["metrics"]
    assert set(metrics["iou_by_region"]) == {"object", "background"}
    assert metrics["iou_by_region"]["object"] > 0.7


def test_the_central_square_alone_is_scored_if_that_is_asked_for(pictures: Path, tmp_path: Path) -> None:
    """The left third of each truth is of a label that the centre does not have."""
    for folder in ("images", "truth"):
        (tmp_path / folder).mkdir()
    for i in range(2):
        photo = np.asarray(Image.open(pictures / f"images/{i}.png"))
        truth = np.asarray(Image.open(pictures / f"truth/{i}.png"))
        Image.fromarray(np.hstack([photo, photo])).save(tmp_path / f"images/{i}.png")
        wide = np.hstack([truth, truth])
        wide[:, :120] = 9
        Image.fromarray(wide).save(tmp_path / f"truth/{i}.png")
    out = tmp_path / "out"
    more = ["--truth", f"{tmp_path}/truth", "--truth-crop", "center", "--baselines", *SETTINGS, *INLINE]
    assert run(["hierarchy", f"{tmp_path}/images", str(out), *more]) == 0
    metrics = result_of(out)["metrics"]
    assert "9" not in metrics["iou_by_region"]
    for row in rows_of(out):
        patches = np.array(row["superpixel_map"]).reshape(row["grid_h"], row["grid_w"])
        owner = np.kron(patches, np.ones((row["patch"], row["patch"]), int))[:, 120:360]
        truth = np.asarray(Image.open(tmp_path / "truth" / row["image_id"]))[:, 120:360]
        nodes = [(owner >= node["lo"]) & (owner < node["hi"]) for node in row["nodes"][1:]]
        best = [max((m & (truth == v)).sum() / (m | (truth == v)).sum() for m in nodes) for v in np.unique(truth)]
        assert row["nmcovering"] == pytest.approx(np.mean(best), rel=1e-12)
    assert 0 < metrics["baselines"]["grid"] < 1


def test_scores_are_the_same_to_the_bit_in_batches_of_any_size(pictures: Path, tmp_path: Path) -> None:
    """Of two sizes in turn, so that batches end in another order than that of the images."""
    for folder in ("images", "truth"):
        (tmp_path / folder).mkdir()
        for i in range(6):
            image = Image.open(pictures / folder / f"{i}.png")
            image.crop((0, 0, 240 - 48 * (i % 2), 240)).save(tmp_path / folder / f"{i}.png")
    found = []
    for size in ("1", "2"):
        out = tmp_path / f"out{size}"
        more = [
            "--truth",
            f"{tmp_path}/truth",
            *SETTINGS,
            *INLINE,
            "--shard-size",
            "6",
            "--batch-size",
            size,
            "--baselines",
        ]
        assert run(["hierarchy", f"{tmp_path}/images", str(out), *more, "--batch-size", size]) == 0
        found.append(result_of(out)["metrics"])
    assert found[0] == found[1]


def test_labels_that_masks_cannot_have_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "ECSSD"
    for folder in ("images", "ground_truth_mask"):
        (root / folder).mkdir(parents=True)
    Image.new("RGB", (64, 64)).save(root / "images/0.jpg")
    Image.new("L", (64, 64)).save(root / "ground_truth_mask/0.png")
    assert run(["hierarchy", f"ecssd:{root}", str(tmp_path / "out"), *SETTINGS, "--label-hierarchy", "voc2012"]) == 1
    assert "label_hierarchy: the truth is one of object masks, which have no labels" in capsys.readouterr().err


def test_another_hierarchy_of_labels_is_refused_in_a_few_lines(
    pictures: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(inline(pictures, finished, "--label-hierarchy", "pascal-part")) == 1
    said = capsys.readouterr().err
    assert "truth.title: the run in OUT has" in said
    assert "more" in said
    assert len(said) < 4000


def test_labels_that_partitions_cannot_have_are_refused(
    pictures: Path, partitions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["hierarchy", f"{pictures}/images", str(tmp_path / "out"), "--truth", str(partitions), *SETTINGS]
    assert run([*arguments, "--label-hierarchy", "voc2012"]) == 1
    assert "label_hierarchy: the truth is one of partitions, which have no labels" in capsys.readouterr().err


def test_other_commands_say_that_partitions_do_not_score_them(
    pictures: Path, partitions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["--truth", str(partitions), "--backbone", "descriptors", "--limit", "2", *INLINE]
    assert run(["segment", f"{pictures}/images", str(tmp_path / "masks"), *settings]) == 0
    assert "masks are not scored" in capsys.readouterr().err
    assert result_of(tmp_path / "masks", "segment")["metrics"] == {}
