"""``simsam semantic`` on real processes: three steps in a row, every engine, interruptions, wrong input."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from process_groups import killed_after
from pycocotools import mask as coco

from simsam_batch.cli import run
from simsam_batch.errors import RunError
from simsam_batch.plain_text import counted
from simsam_batch.regions.codebook import Codebook
from simsam_batch.runs.committed import CommittedShard
from simsam_batch.runs.ledger import Ledger
from simsam_batch.runs.schema import Shard
from simsam_batch.settings import resolve
from simsam_batch.stages.clusters.stage import ClustersStage, codebooks
from simsam_batch.stages.semantic.settings import SemanticSettings
from simsam_batch.stages.semantic.stage import SemanticStage, SemanticWorker
from simsam_batch.storage import Folder

SETTINGS = ["--backbone", "descriptors", "--resize", "native", "--head", "none", "--shift", "zero", "--k", "5"]
SETTINGS += ["--region-feature", "patches", "--regions", "4", "--clusters", "3"]
SETTINGS += ["--region-source", "eigenvectors", "--background"]
INLINE = ["--engine", "inline"]
COLOURS = [(200, 40, 40), (40, 170, 60), (50, 60, 200)]
PLACES = [(16, 16), (16, 128), (128, 16), (128, 128)]
IMAGES = 24
STAGES = ("regions", "clusters", "semantic")


def picture(i: int) -> tuple[np.ndarray, np.ndarray]:
    """A red, a green and a blue square of 6x6 patches on grey noise, in varying places; and their class ids 1 to 3."""
    rng = np.random.default_rng(i)
    pixels = rng.integers(90, 140, (240, 240, 3)).astype(np.uint8)
    truth = np.zeros((240, 240), np.uint8)
    for number, place in enumerate(rng.permutation(4)[:3]):
        top, left = PLACES[place]
        square = slice(top, top + 96), slice(left, left + 96)
        pixels[square], truth[square] = COLOURS[number], number + 1
    return pixels, truth


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs in ``images/``, class ids in ``truth/``."""
    root = tmp_path_factory.mktemp("photographs")
    for i in range(IMAGES):
        pixels, truth = picture(i)
        save(root / "images" / f"{i:02d}.png", pixels)
        save(root / "truth" / f"{i:02d}.png", truth)
    return root


def command(pictures: Path, out: Path, *more: str) -> list[str]:
    base = [sys.executable, "-m", "simsam_batch", "semantic", f"{pictures}/images", str(out)]
    return [*base, "--truth", f"{pictures}/truth", "--shard-size", "1", *SETTINGS, *more]


def inline(pictures: Path, out: Path, *more: str) -> list[str]:
    """The same without the interpreter, in the process that runs it."""
    return [*command(pictures, out, *more)[3:], *INLINE]


@pytest.fixture(scope="module")
def finished(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """OUT of an undisturbed run in this process."""
    out = tmp_path_factory.mktemp("finished") / "out"
    assert run(inline(pictures, out)) == 0
    return out


def before_step(stage: str, finished: Path, out: Path) -> None:
    """A copy of the finished run as it was when this step had not begun; of the first one nothing at all."""
    later = STAGES[STAGES.index(stage) :]
    if later == STAGES:
        return
    shutil.copytree(finished, out)
    for name in later:
        shutil.rmtree(out / name)
        (out / "results" / f"{name}.json").unlink()
        shutil.rmtree(out / "results" / name, ignore_errors=True)


def result_of(out: Path, stage: str = "semantic") -> dict[str, Any]:
    result: dict[str, Any] = json.loads((out / "results" / f"{stage}.json").read_text())
    return result


def rows_of(out: Path, stage: str = "semantic") -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(out / "results" / stage).to_pylist()
    return rows


def codebooks_of(out: Path) -> list[Codebook]:
    return codebooks(Folder(str(out)), ClustersStage.name)


def digests(out: Path) -> tuple[Any, ...]:
    """What each of the three steps came to."""
    return tuple(result_of(out, stage)["content_digest"] for stage in STAGES)


def label_map(row: dict[str, Any]) -> np.ndarray:
    """Labels of all pixels; what no segment covers is background."""
    labels = np.zeros((row["height"], row["width"]), np.int64)
    for segment in row["segments"]:
        rle = segment["mask_rle"]
        mask = coco.decode({"size": rle["size"], "counts": rle["counts"].encode()}).astype(bool)
        assert not labels[mask].any(), "segments overlap"
        labels[mask] = segment["label"]
    return labels


def test_clusters_are_the_classes_and_the_scores_are_those_of_the_label_maps(pictures: Path, finished: Path) -> None:
    """A 3x3 median of the descriptors takes the corner patches of each square: 32 of 36 remain, an IoU of .89."""
    result, rows = result_of(finished), rows_of(finished)
    metrics = result["metrics"]
    assert (result["images"], result["ok"], result["failed"]) == (IMAGES, IMAGES, 0)
    assert [row["image_id"] for row in rows] == [f"{i:02d}.png" for i in range(IMAGES)]
    assert metrics["miou_over_classes"] > 0.8
    assert metrics["class_of_cluster"][0] == "0"
    assert sorted(metrics["class_of_cluster"]) == ["0", "1", "2", "3"]
    assert metrics["matching_fitted_on"] == "the scored images themselves"

    confusion = np.zeros((4, 4), np.int64)
    class_of = np.array(metrics["class_of_cluster"], int)
    for row in rows:
        labels = label_map(row)
        truth = np.array(Image.open(pictures / "truth" / row["image_id"]))
        np.add.at(confusion, (class_of[labels].ravel(), truth.ravel()), 1)
        assert row["labels"] == sorted(set(np.unique(labels).tolist()) - {0})
        for segment in row["segments"]:
            mask = labels == segment["label"]
            ys, xs = np.nonzero(mask)
            assert segment["bbox_xyxy"] == [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
            assert segment["area_fraction"] == pytest.approx(mask.mean())
    both = np.diagonal(confusion)
    ious = both / (confusion.sum(0) + confusion.sum(1) - both)
    assert list(metrics["iou_by_class"].values()) == pytest.approx(ious)
    assert metrics["miou_over_classes"] == pytest.approx(ious.mean())
    assert metrics["pixel_accuracy"] == pytest.approx(both.sum() / confusion.sum())
    assert metrics["images_scored"] == IMAGES


def test_every_region_has_the_label_of_its_nearest_centre(finished: Path) -> None:
    (book,) = codebooks_of(finished)
    centers = book.centers
    labelled = {row["image_id"]: label_map(row) for row in rows_of(finished)}
    for row in rows_of(finished, "regions"):
        for region in row["regions"]:
            feature = np.array(region["feature"]) / np.linalg.norm(region["feature"])
            label = np.square(centers - feature).sum(1).argmin() + 1
            patches = np.array(row["region_map"]).reshape(15, 15) == region["region"]
            pixels = patches.repeat(16, 0).repeat(16, 1)
            assert (labelled[row["image_id"]][pixels] == label).all()


def test_results_depend_on_neither_workers_nor_shards(pictures: Path, tmp_path: Path, finished: Path) -> None:
    out = tmp_path / "out"
    arguments = inline(pictures, out, "--shard-size", "5")
    assert run(arguments) == 0
    # the bits of the fit and of the rows; digests of results are over shards, and these are others here
    assert result_of(out, "clusters")["content_digest"] == result_of(finished, "clusters")["content_digest"]
    assert rows_of(out) == rows_of(finished)
    assert rows_of(out, "regions") == rows_of(finished, "regions")
    assert result_of(out)["metrics"] == result_of(finished)["metrics"]


def test_a_finished_run_is_published_again_from_what_is_committed(
    pictures: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = committed(finished)
    assert run(inline(pictures, finished, "--quiet")) == 0
    assert capsys.readouterr().err == ""
    assert committed(finished) == before


def test_clusters_are_fitted_with_the_workers_number_of_threads(
    tmp_path: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sums over many regions change in their last bits with the number, which torchrun and a shell set differently."""
    import torch
    from threadpoolctl import threadpool_info, threadpool_limits

    from simsam_batch.regions import codebook

    seen: list[set[int]] = []
    fit = codebook.fit

    def watched(*arguments: Any, **more: Any) -> Any:
        seen.append({torch.get_num_threads(), *(pool["num_threads"] for pool in threadpool_info())})
        return fit(*arguments, **more)

    monkeypatch.setattr(codebook, "fit", watched)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        options = resolve(SemanticSettings, {"clusters": 3, "threads": 1})
        stage = ClustersStage.of(options, Folder(str(finished)))
        shard = Shard(0, pa.table({"repeat": ["0"]}))
        with threadpool_limits(2):
            (output,) = stage.make_worker(lambda: None).run(iter([shard]))
    finally:
        torch.set_num_threads(before)
    assert seen == [{1}]
    assert output.rows["inertia"].to_pylist() == [codebooks_of(finished)[0].inertia]


SMOOTHED = ["--region-source", "smoothed", "--no-background", "--regions", "8", "--baselines"]


@pytest.fixture(scope="module")
def compared(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """OUT of a run with regions of smoothed descriptors, and with baselines."""
    out = tmp_path_factory.mktemp("compared") / "out"
    assert run(inline(pictures, out, *SMOOTHED)) == 0
    return out


def test_baselines_are_those_of_an_independent_computation(pictures: Path, compared: Path) -> None:
    """Scikit-learn's k-means of all patches, each cluster named by the class of the best IoU one to one."""
    from scipy.optimize import linear_sum_assignment
    from sklearn.cluster import KMeans

    folder = Folder(str(compared))
    shards = [CommittedShard(folder, manifest) for manifest in Ledger(folder, "regions").manifests()]
    ids = [name for shard in shards for name in shard.rows(["image_id"])["image_id"].to_pylist()]
    rows = np.concatenate([held["descriptors"] for shard in shards for held in shard.attachments()]).astype(float)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    labels = KMeans(3, n_init=10, random_state=0).fit_predict(rows).reshape(IMAGES, 15, 15)
    confusion = np.zeros((3, 4))
    for name, patches in zip(ids, labels, strict=True):
        truth = np.array(Image.open(pictures / "truth" / name))
        np.add.at(confusion, (patches.repeat(16, 0).repeat(16, 1).ravel(), truth.ravel()), 1)
    ious = confusion / (confusion.sum(1)[:, None] + confusion.sum(0) - confusion)
    metrics = result_of(compared)["metrics"]
    best = ious[linear_sum_assignment(-ious)]
    assert metrics["baselines"]["patch_kmeans"] == pytest.approx(best.sum() / 4, abs=2e-3)
    # three squares of 96 x 96 pixels stand on a ground of the rest, which is one class of four
    ground = 1 - 3 * 96 * 96 / (240 * 240)
    assert metrics["baselines"]["majority_class"] == pytest.approx(ground / 4)
    assert metrics["baselines_pixel_accuracy"]["majority_class"] == pytest.approx(ground)


def test_baselines_change_neither_labels_nor_regions(pictures: Path, tmp_path: Path, compared: Path) -> None:
    assert run(inline(pictures, tmp_path / "out", *SMOOTHED[:-1], "--shard-size", "5")) == 0
    assert rows_of(tmp_path / "out") == rows_of(compared)
    columns = ("image_id", "region_map", "regions")
    alone, beside = rows_of(tmp_path / "out", "regions"), rows_of(compared, "regions")
    assert [[row[name] for name in columns] for row in alone] == [[row[name] for name in columns] for row in beside]
    assert "baselines" not in result_of(tmp_path / "out")["metrics"]


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["local", "ray", "torchrun"])
def test_every_engine_computes_the_same_bits_in_all_steps_and_tells_of_them_once(
    pictures: Path,
    tmp_path: Path,
    finished: Path,
    request: pytest.FixtureRequest,
    run_on: Callable[[str, list[str]], None],
    monkeypatch: pytest.MonkeyPatch,
    engine: str,
) -> None:
    # baselines are one step more; where a step takes longest to start they are left out
    with_baselines = engine != "ray"
    alone: Path = request.getfixturevalue("compared") if with_baselines else finished
    stages = ["regions", "clusters", "patch-clusters", "semantic"] if with_baselines else list(STAGES)
    out = tmp_path / "out"
    fitted_here: list[ClustersStage] = []
    monkeypatch.setattr(ClustersStage, "make_worker", lambda stage, beat: fitted_here.append(stage))
    run_on(engine, command(pictures, out, *(SMOOTHED if with_baselines else ())))
    # the head of a cluster has no GPU: a device that only workers have must not be asked of it
    assert fitted_here == []
    for stage in stages:
        assert result_of(out, stage)["content_digest"] == result_of(alone, stage)["content_digest"]
    assert result_of(out)["metrics"] == result_of(alone)["metrics"]
    # of several ranks one writes
    (driver,) = (out / "events").iterdir()
    told = [json.loads(line) for path in sorted(driver.iterdir()) for line in path.read_text().splitlines()]
    assert [event["stage"] for event in told if event["event"] == "stage"] == stages
    fits = len(stages) - 2
    assert sum(event["shards"] for event in told if event["event"] == "shards") == 2 * IMAGES + fits


def committed(out: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of everything that commits."""
    patterns = ("*/manifests/*.json", "*/stage.json", "run.json")
    paths = [path for pattern in patterns for path in out.glob(pattern)]
    return {path.relative_to(out).as_posix(): (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}


def manifests(out: Path, stage: str) -> int:
    return len(list((out / stage / "manifests").glob("*.json")))


KILLS = {"inside regions": ("regions", 2), "between the stages": ("clusters", 0), "inside semantic": ("semantic", 1)}


@pytest.mark.slow
@pytest.mark.parametrize("where", KILLS)
def test_a_killed_run_goes_on_at_the_step_it_was_in(
    pictures: Path, tmp_path: Path, finished: Path, where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out, (stage, commits) = tmp_path / "out", KILLS[where]
    before_step(stage, finished, out)
    launch = command(pictures, out, "--workers", "1")
    killed_after(commits, out, stage, launch)
    later = STAGES[STAGES.index(stage) :]
    assert {path.stem for path in out.glob("results/*.json")} == {*STAGES} - {*later}
    before = committed(out)
    done = {stage: manifests(out, stage) for stage in ("regions", "semantic")}

    assert run([*launch[3:], *INLINE]) == 0
    text = capsys.readouterr().err
    after = committed(out)
    assert {name: after[name] for name in before} == before
    assert digests(out) == digests(finished)
    for stage, count in done.items():
        going_on = f"{stage}: {IMAGES} images in {IMAGES} shards; going on, {counted(count, 'shard')} done before"
        assert (going_on in text) == (count > 0)
    # what was committed before was not computed again
    starts = [len(list((out / stage / "attempts").iterdir())) for stage in ("regions", "semantic")]
    assert all(started <= IMAGES + 4 for started in starts)


@pytest.fixture(scope="module")
def mixed(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over good and bad images, and truth that cannot be used."""
    root = tmp_path_factory.mktemp("mixed")
    for i in range(4):
        pixels, truth = picture(i)
        save(root / "images" / f"good{i}.png", pixels)
        save(root / "truth" / f"good{i}.png", truth)
    pixels, truth = picture(4)
    for name, other in {
        "other ids": np.where(truth == 3, 7, truth).astype(np.uint8),
        "other size": truth[:200],
        "colours": np.dstack([truth, truth * 2, truth * 3]),
        "nothing true": np.full_like(truth, 255),
    }.items():
        save(root / "images" / f"{name}.png", pixels)
        save(root / "truth" / f"{name}.png", other)
    save(root / "images" / "flat.png", np.full((240, 240, 3), 90, np.uint8))
    save(root / "truth" / "flat.png", np.full((240, 240), 2, np.uint8))
    save(root / "images" / "without truth.png", pixels)
    (root / "images" / "words.jpg").write_text("no picture")
    (root / "names.txt").write_text("ground\nred\ngreen\nblue\n")
    arguments = inline(root, root / "out", "--class-names", f"{root}/names.txt", "--ignore-label", "255")
    assert run([*arguments, "--shard-size", "6"]) == 3
    return root


def test_truth_that_cannot_be_used_is_explained_and_its_image_labelled(mixed: Path) -> None:
    rows = {row["image_id"].rpartition(".")[0]: row for row in rows_of(mixed / "out")}
    told = {name: row["truth_error"] for name, row in rows.items() if row["truth_error"]}
    assert sorted(told) == ["colours", "other ids", "other size"]
    assert "its grey values hold 7, and class ids run from 0 to 3" in told["other ids"]
    assert "it is 240x200 pixels (width x height), its image 240x240" in told["other size"]
    assert "colours" in told["colours"]
    assert all(rows[name]["status"] == "ok" and len(rows[name]["labels"]) == 3 for name in told)
    metrics = result_of(mixed / "out")["metrics"]
    assert metrics["truth_errors"] == 3
    # four good ones, the flat one, and the one whose truth is all to be ignored
    assert metrics["images_scored"] == 6
    assert metrics["ignored_pixels"] == 240 * 240


def test_classes_go_by_their_names(mixed: Path) -> None:
    metrics = result_of(mixed / "out")["metrics"]
    assert set(metrics["iou_by_class"]) == {"ground", "red", "green", "blue"}
    assert metrics["class_of_cluster"][0] == "ground"
    assert set(metrics["class_of_cluster"]) == {"ground", "red", "green", "blue"}
    # the flat image is background throughout, and green in truth: 57600 pixels that are missed, of 4 * 9216 + 57600
    assert metrics["iou_by_class"]["green"] <= 4 * 9216 / (4 * 9216 + 57600)
    assert metrics["iou_by_class"]["red"] > 0.6


def test_a_bad_image_is_one_failed_row_of_each_step_and_told_once(mixed: Path) -> None:
    for stage in ("regions", "semantic"):
        rows = rows_of(mixed / "out", stage)
        assert [row["image_id"] for row in rows if row["status"] == "failed"] == ["words.jpg"]
        (row,) = (row for row in rows if row["status"] == "failed")
        assert (row["error_type"], row["failed_step"]) == ("not_an_image", "decode")
        assert result_of(mixed / "out", stage)["failed"] == 1
    semantic = next(row for row in rows_of(mixed / "out") if row["status"] == "failed")
    assert all(value is None for name, value in semantic.items() if name in ("labels", "segments", "truth_error"))


def test_an_image_without_any_region_is_background_throughout(mixed: Path) -> None:
    (row,) = (row for row in rows_of(mixed / "out") if row["image_id"] == "flat.png")
    assert (row["status"], row["labels"], row["segments"], row["degenerate"]) == ("ok", [], [], True)
    assert result_of(mixed / "out", "regions")["metrics"]["images_without_regions"] == 1


def few(root: Path, folder: Path, n: int = 2) -> list[str]:
    """Arguments for the first images, without truth."""
    for i in range(n):
        save(folder / f"{i}.png", picture(i)[0])
    return ["semantic", str(folder), str(root / "out"), *SETTINGS, *INLINE, "--quiet"]


def test_more_clusters_than_regions_are_refused_with_the_number_there_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = few(tmp_path, tmp_path / "images")
    assert run([*arguments, "--clusters", "7"]) == 1
    assert "6 regions do not make 7 clusters; ask for at most 6" in capsys.readouterr().err
    assert not (tmp_path / "out" / "clusters").exists()
    before = committed(tmp_path / "out")
    assert run([*arguments, "--clusters", "6"]) == 0, "the regions are used again"
    assert before.items() <= committed(tmp_path / "out").items()


def test_a_set_without_any_region_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(2):
        save(tmp_path / "images" / f"{i}.png", np.full((96, 96, 3), 40 * i, np.uint8))
    arguments = few(tmp_path, tmp_path / "images", 0)
    assert run(arguments) == 1
    text = capsys.readouterr().err
    assert "nothing to cluster" in text
    assert "defect" not in text


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (["--regions", "3"], "regions: "),
        (["--seed", "1"], "seed: "),
        (["--clusters", "2"], "clusters: the run in OUT has 3, this command has 2"),
        (["--pca-dim", "4"], "pca_dim: the run in OUT has 0, this command has 4"),
        (["--repeats", "2"], "repeats: the run in OUT has 1, this command has 2"),
        (["--matching", "majority"], "matching: "),
        (["--ignore-label", "3"], "ignore_label: "),
        (["--limit", "3"], "limit: "),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_other_settings_on_an_existing_run_are_refused_by_name(
    pictures: Path, finished: Path, capsys: pytest.CaptureFixture[str], change: list[str], named: str
) -> None:
    before = committed(finished)
    assert run([*inline(pictures, finished, "--quiet"), *change]) == 1
    text = capsys.readouterr().err
    assert named in text
    assert "another OUT" in text
    assert committed(finished) == before


@pytest.mark.slow
def test_label_ids_over_255_survive(pictures: Path, tmp_path: Path) -> None:
    """H35: upstream writes label maps as 8-bit images, which end at 255."""
    folder = tmp_path / "images"
    rng = np.random.default_rng(0)
    for i in range(40):
        # eight bars of colours of their own, on black: more than 300 different regions in all
        pixels = rng.integers(0, 30, (160, 320, 3)).astype(np.uint8)
        for bar in range(8):
            pixels[16:144, 40 * bar + 8 : 40 * bar + 40] = rng.integers(60, 256, 3)
        save(folder / f"{i:02d}.png", pixels)
        save(tmp_path / "truth" / f"{i:02d}.png", np.full((160, 320), i % 5, np.uint8))
    arguments = ["semantic", str(folder), str(tmp_path / "out"), "--truth", str(tmp_path / "truth"), *SETTINGS]
    arguments += [*INLINE, "--regions", "10", "--k", "10", "--clusters", "300", "--matching", "majority", "--quiet"]
    assert run(arguments) == 0
    rows = rows_of(tmp_path / "out")
    labels = {label for row in rows for label in row["labels"]}
    assert max(labels) == 300
    assert min(labels) == 1
    assert len(labels) == 300
    assert all(set(np.unique(label_map(row))) - {0} == set(row["labels"]) for row in rows)
    assert len(result_of(tmp_path / "out")["metrics"]["class_of_cluster"]) == 301


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read as text"),
        (b"\xff\xfe\x00", "cannot be read as text"),
        (b"\n \n", "holds no name"),
        (b"sky\nroad\nsky\n", "holds sky more than once"),
        (b"sky\n\nroad\n", "has a line without a name"),
    ],
    ids=["missing", "no text", "empty", "a name twice", "a gap"],
)
def test_class_names_that_cannot_be_used_are_explained(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes | None, message: str
) -> None:
    names = tmp_path / "names.txt"
    if content is not None:
        names.write_bytes(content)
    assert run([*inline(pictures, tmp_path / "out", "--quiet"), "--class-names", str(names)]) == 1
    text = capsys.readouterr().err
    assert "class_names: " in text
    assert message in text
    assert not (tmp_path / "out" / "regions").exists(), "found before any work"


def test_a_crop_that_does_not_divide_into_patches_is_refused_with_sizes_that_do(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*inline(pictures, tmp_path / "out", "--quiet"), "--region-feature", "mean-token"]
    assert run([*arguments, "--crop-size", "100"]) == 1
    assert "crop_size: 100 is no multiple of the patch size 16; 96 and 112 are" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def majority_miou(labels: np.ndarray, truth: np.ndarray) -> float:
    """Each label counts as the class it has the best IoU with; the mean IoU of the classes then."""

    def iou(a: np.ndarray, b: np.ndarray) -> float:
        return float((a & b).sum() / (a | b).sum())

    class_of = [int(np.argmax([iou(labels == k, truth == c) for c in range(4)])) for k in range(labels.max() + 1)]
    named = np.array(class_of)[labels]
    return float(np.mean([iou(named == c, truth == c) for c in range(4)]))


@pytest.mark.slow
def test_repeats_report_mean_and_deviation_and_label_maps_of_the_first(pictures: Path, tmp_path: Path) -> None:
    """Twelve clusters for three kinds of regions: where the others fall depends on the seed."""
    out = tmp_path / "out"
    arguments = [*inline(pictures, out, "--quiet", "--shard-size", "12"), "--clusters", "12"]
    assert run([*arguments, "--repeats", "3", "--matching", "majority"]) == 0
    books = codebooks_of(out)
    assert len({book.digest for book in books}) == len(books) == 3
    regions = rows_of(out, "regions")
    truth = np.stack([np.array(Image.open(pictures / "truth" / row["image_id"])) for row in regions])
    each, label_maps = [], []
    for book in books:
        centers = book.centers
        maps = []
        for row in regions:
            label_of = np.zeros(4, int)
            for region in row["regions"]:
                feature = np.array(region["feature"]) / np.linalg.norm(region["feature"])
                label_of[region["region"]] = np.square(centers - feature).sum(1).argmin() + 1
            maps.append(label_of[np.array(row["region_map"])].reshape(15, 15).repeat(16, 0).repeat(16, 1))
        label_maps.append(np.stack(maps))
        each.append(majority_miou(label_maps[-1], truth))
    assert (np.stack([label_map(row) for row in rows_of(out)]) == label_maps[0]).all()
    assert not all((other == label_maps[0]).all() for other in label_maps[1:]), "seeds make no difference here"
    metrics = result_of(out)["metrics"]
    assert metrics["repeats"] == 3
    assert metrics["miou_over_classes"] == pytest.approx(each[0])
    spread = metrics["over_repeats"]
    assert spread["miou_over_classes"]["mean"] == pytest.approx(np.mean(each))
    assert spread["miou_over_classes"]["std"] == pytest.approx(np.std(each, ddof=1))
    assert list(spread) == ["miou_over_classes", "pixel_accuracy"]


@pytest.mark.slow
def test_images_alone_in_quarantine_get_the_same_labels(mixed: Path, tmp_path: Path) -> None:
    """A shard that was started before without a commit is run image by image, in the last step as well."""
    out = tmp_path / "out"
    shutil.copytree(mixed / "out", out)
    shutil.rmtree(out / "results")
    (out / "semantic" / "manifests" / "0000001.0.json").unlink()
    again = ["--class-names", f"{mixed}/names.txt", "--ignore-label", "255", "--shard-size", "6"]
    assert run(inline(mixed, out, *again, "--starts-before-quarantine", "1")) == 3
    manifest = json.loads((out / "semantic" / "manifests" / "0000001.0.json").read_text())
    assert manifest["facts"]["quarantine"]
    assert manifest["images"] > 1
    assert rows_of(out) == rows_of(mixed / "out")
    assert digests(out) == digests(mixed / "out")


def test_kept_columns_pass_through_and_the_central_square_alone_is_scored(tmp_path: Path) -> None:
    uris, truths = [], []
    for i in range(2):
        pixels, truth = picture(i)
        sides = np.full((240, 40), 9, np.uint8)
        wide = np.dstack([np.pad(pixels[..., c], ((0, 0), (40, 40)), mode="symmetric") for c in range(3)])
        uris.append(str(save(tmp_path / f"{i}.png", wide)))
        truths.append(str(save(tmp_path / f"truth{i}.png", np.hstack([sides, truth, sides]))))
    table = pa.table({"uri": uris, "truth_uri": truths, "place": ["north", None], "unused": [1, 2]})
    pq.write_table(table, tmp_path / "table.parquet")
    arguments = ["semantic", str(tmp_path / "table.parquet"), str(tmp_path / "out"), *SETTINGS, *INLINE, "--quiet"]
    assert run([*arguments, "--keep-columns", "place", "--truth-crop", "center"]) == 0
    rows = rows_of(tmp_path / "out")
    assert [row["place"] for row in rows] == ["north", None]
    assert "unused" not in rows[0]
    # class 9 stands at the sides alone
    assert set(result_of(tmp_path / "out")["metrics"]["iou_by_class"]) == {"0", "1", "2", "3"}


@pytest.mark.parametrize("column", ["labels", "patch", "solver"])
def test_a_kept_column_of_the_results_own_name_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], column: str
) -> None:
    uri = str(save(tmp_path / "0.png", picture(0)[0]))
    pq.write_table(pa.table({"uri": [uri], column: [1]}), tmp_path / "table.parquet")
    arguments = ["semantic", str(tmp_path / "table.parquet"), str(tmp_path / "out"), *SETTINGS, *INLINE, "--quiet"]
    assert run([*arguments, "--keep-columns", column]) == 1
    assert f"keep_columns: {column}" in capsys.readouterr().err


def test_each_step_names_the_one_it_read(finished: Path) -> None:
    digest = result_of(finished, "regions")["content_digest"]
    fitted = result_of(finished, "clusters")["content_digest"]
    read = {stage: json.loads((finished / stage / "stage.json").read_text())["reads"] for stage in STAGES}
    assert read == {"regions": {}, "clusters": {"regions": digest}, "semantic": {"regions": digest, "clusters": fitted}}


def test_classes_without_names_and_those_that_do_not_occur_take_no_room(finished: Path) -> None:
    assert result_of(finished)["resolved"]["truth"]["classes"] is None
    stage = json.loads((finished / "semantic" / "stage.json").read_text())
    assert stage["resolved"]["truth"]["classes"] is None
    manifests = [json.loads(path.read_text()) for path in (finished / "semantic" / "manifests").iterdir()]
    held = [state for manifest in manifests for state in manifest["statistics"]["repeats"]]
    # Each picture holds grey and three colours, and each label is one of 0 to 3.
    assert len(held) == IMAGES
    for state in held:
        assert sorted(state["confusion"]) == ["0", "1", "2", "3"]
        assert sum(map(sum, state["confusion"].values())) == 240 * 240
        assert {len(column) for column in state["confusion"].values()} == {4}


def worker_on(out: Path) -> SemanticWorker:
    """A worker of the last step, on the regions and clusters of a run."""
    settings = resolve(SemanticSettings, {"clusters": 3, "resize": "native"})
    plan = Ledger(Folder(str(out)), SemanticStage.name).plan()
    return SemanticStage(settings, result_of(out)["resolved"], plan).make_worker(lambda: None)


def test_regions_that_are_not_of_the_image_stop_the_shard_by_its_name(finished: Path) -> None:
    """Published code opens a debugger there, and an unattended run stands still."""
    names = ["00.png", "elsewhere.png"]
    records = pa.table({"image_id": names, "uri": names, "truth_uri": pa.nulls(2, pa.string())})
    with pytest.raises(RunError, match=r"shard 0 of the stage regions lacks .*'elsewhere\.png'"):
        list(worker_on(finished).run(iter([Shard(0, records)])))


def test_a_pixel_has_the_label_of_the_patch_that_covers_it_whatever_its_size(finished: Path) -> None:
    feature = rows_of(finished, "regions")[0]["regions"][0]["feature"]
    # 4 x 6 patches of 8 pixels; every other column of them is of one region.
    found = {"height": 32, "width": 48, "grid_h": 4, "grid_w": 6, "patch": 8, "region_map": 12 * [0, 1]}
    found["regions"] = [{"region": 1, "feature": feature}]
    (labels,), index = worker_on(finished)._labelled("", found)
    pixels = labels[np.ix_(*index)]
    assert pixels.shape == (32, 48)
    assert (pixels > 0).tolist() == 32 * [3 * (8 * [False] + 8 * [True])]


def test_an_out_with_other_files_is_used_without_a_question_and_nothing_is_written_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Published code asks on the terminal, and glues names to OUT that become folders beside it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    for i in range(2):
        save(tmp_path / "images" / f"{i}.png", picture(i)[0])
    assert run(["semantic", "images", "out", *SETTINGS, *INLINE, "--quiet"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "out"]
    assert sorted(path.name for path in (tmp_path / "images").iterdir()) == ["0.png", "1.png"]
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"


def test_another_protocol_brings_its_own_classes(finished: Path, pictures: Path, tmp_path: Path) -> None:
    scores = tmp_path / "scores.json"
    arguments = ["score", str(finished), "--stage", "semantic", "--truth", str(pictures / "truth")]
    assert run([*arguments, "--protocol", "voc-semantic", "--json", str(scores)]) == 0
    metrics = json.loads(scores.read_text())["metrics"]
    assert metrics["protocol"] == "voc-semantic"
    assert len(metrics["iou_by_class"]) == 21


def test_an_image_that_changed_since_its_regions_were_found_is_not_refined(tmp_path: Path) -> None:
    pytest.importorskip("pydensecrf.densecrf")
    for i in range(3):
        save(tmp_path / "images" / f"{i}.png", picture(i)[0])
    arguments = ["semantic", str(tmp_path / "images"), str(tmp_path / "out"), *SETTINGS, *INLINE, "--quiet"]
    arguments += ["--refine", "crf"]
    assert run(arguments) == 0
    for step in ("semantic", "results"):
        shutil.rmtree(tmp_path / "out" / step)
    save(tmp_path / "images" / "1.png", picture(7)[0])
    assert run(arguments) == 3
    assert [row["error_type"] for row in rows_of(tmp_path / "out")] == [None, "changed", None]


@pytest.mark.parametrize(("content", "words"), [(b"other bytes", "is not what was committed"), (None, "is missing")])
def test_damaged_clusters_are_named_and_nothing_is_computed_with_them(
    pictures: Path,
    tmp_path: Path,
    finished: Path,
    capsys: pytest.CaptureFixture[str],
    content: bytes | None,
    words: str,
) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    shutil.rmtree(out / "semantic")
    name = "clusters/data/0000000.1.npz"
    (out / name).unlink()
    if content is not None:
        (out / name).write_bytes(content)
    assert run(inline(pictures, out, "--quiet")) == 1
    text = capsys.readouterr().err
    assert name in text
    assert words in text
