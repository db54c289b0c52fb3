"""``simsam transfer`` on real files: planted labels come back, wrong input is named, engines agree."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from probe_runs import CLASSES, VOID, make_collection, name_of
from result_rows import rows_of

from simsam_batch import open_run
from simsam_batch.cli import run as simsam
from simsam_batch.correspondence.descriptors import unit
from simsam_batch.correspondence.voting import votes

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight images of shapes, their class ids, and as ``masks`` where there is a shape."""
    home = tmp_path_factory.mktemp("transfer")
    make_collection(home, images=8)
    (home / "masks").mkdir()
    for path in (home / "truth").glob("*.png"):
        with Image.open(path) as image:
            ids = np.asarray(image)
        Image.fromarray(np.where((ids > 0) & (ids != VOID), 255, 0).astype(np.uint8)).save(home / "masks" / path.name)
    return home


def arguments(home: Path, out: Path | str, *more: str, truth: str = "truth", exemplar: int = 1) -> list[str]:
    command = ["transfer", str(home / "photos"), str(out), "--truth", str(home / truth), "--backbone", "descriptors"]
    given = ["--exemplars", f"{name_of(exemplar)}.png", "--threads", "1", "--shard-size", "3", "--quiet"]
    classes = ["--truth-is", "classes", "--class-names", str(home / "names.txt"), "--ignore-label", str(VOID)]
    return [*command, *given, *(classes if truth == "truth" else []), "--context", "none", *more]


def result_of(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "results/transfer.json").read_text())
    return found


@pytest.fixture(scope="module")
def classes_run(home: Path) -> Path:
    out = home / "classes"
    assert simsam(arguments(home, out, "--engine", "inline", "--resize", "128x192")) == 0
    return out


def test_colours_of_one_image_find_the_shapes_of_all_others(home: Path, classes_run: Path) -> None:
    metrics = result_of(classes_run)["metrics"]
    assert metrics["images_scored"] == 7
    assert metrics["classes"] == list(CLASSES)
    assert metrics["miou"] > 0.7
    rows = {row["image_id"]: row for row in rows_of(classes_run, "transfer")}
    assert [name for name, row in rows.items() if row["exemplar"]] == [f"{name_of(1)}.png"]
    assert all(0.5 < row["similarity"] <= 1.0001 for row in rows.values())
    # one score by hand: the confusion of all others, of which void pixels are no part
    table = np.zeros((3, 3), np.int64)
    run = open_run(str(classes_run))
    for name, row in rows.items():
        found = run.mask(name, "transfer")
        with Image.open(home / "truth" / name) as image:
            truth = np.asarray(image)
        counts = (truth != VOID) & (not row["exemplar"])
        np.add.at(table, (found[counts], truth[counts]), 1)
    ious = np.diag(table) / (table.sum(axis=0) + table.sum(axis=1) - np.diag(table))
    assert metrics["miou"] == pytest.approx(ious.mean())
    assert metrics["iou_by_class"] == pytest.approx(dict(zip(CLASSES, ious.tolist(), strict=True)))
    assert simsam(["score", str(classes_run)]) == 0
    (scores,) = (classes_run / "results").glob("score-transfer-*.json")
    assert json.loads(scores.read_text())["metrics"]["miou_over_classes"] == pytest.approx(ious.mean())


def test_classes_that_were_carried_over_are_compared_by_their_maps(
    classes_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert simsam(["compare", str(classes_run), str(classes_run), "--format", "json", "--to", str(tmp_path)]) == 0
    record = json.loads(capsys.readouterr().out)
    of_set = record["metrics"][0]
    own = result_of(classes_run)["metrics"]
    assert [each["metric"] for each in record["metrics"]] == ["miou_over_classes", "miou", "pixel_accuracy"]
    assert of_set["runs"][1]["mean"] == pytest.approx(own["miou"])
    assert of_set["runs"][1]["difference_ci"] == [0, 0]
    # exemplars are in no score
    assert record["images"] == own["images_scored"]
    assert "every image has the same score" in (tmp_path / "index.html").read_text()


def test_an_exemplar_without_a_class_that_counts_is_named(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "void").mkdir()
    Image.new("L", (96, 64), VOID).save(tmp_path / "void" / f"{name_of(1)}.png")
    command = arguments(home, tmp_path / "out", "--engine", "inline")
    command[command.index("--truth") + 1] = str(tmp_path / "void")
    assert simsam(command) == 1
    assert f"no patch of {name_of(1)}.png has a class that counts" in capsys.readouterr().err


def test_masks_are_carried_over_and_scored_image_by_image(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert simsam(arguments(home, out, "--engine", "inline", "--resize", "128x192", truth="masks")) == 0
    metrics, rows = result_of(out)["metrics"], rows_of(out, "transfer")
    scored = [row["iou"] for row in rows if not row["exemplar"]]
    assert metrics["iou_per_image_mean"] == pytest.approx(np.mean(scored))
    assert metrics["iou_per_image_mean"] > 0.7
    low, high = metrics["iou_per_image_mean_ci"]
    assert low < metrics["iou_per_image_mean"] < high
    row = next(row for row in rows if not row["exemplar"])
    found = open_run(str(out)).mask(row["image_id"], "transfer") == 1
    with Image.open(home / "masks" / row["image_id"]) as image:
        truth = np.asarray(image) > 127
    assert row["iou"] == pytest.approx((found & truth).sum() / (found | truth).sum())
    assert simsam(["score", str(out), "--json", str(tmp_path / "again.json")]) == 0
    again = json.loads((tmp_path / "again.json").read_text())
    assert (again["kind"], again["stage"]) == ("object", "transfer")
    assert again["metrics"]["images_scored"] == 7
    assert again["metrics"]["iou_per_image_mean"] == pytest.approx(metrics["iou_per_image_mean"])
    assert simsam(["verify", str(out)]) == 0
    assert simsam(["report", str(out)]) == 0
    page = (out / "report/index.html").read_text(encoding="utf-8")
    assert page.count("transfer-0000") >= 8
    assert simsam(["export", str(out), "--to", str(tmp_path / "png"), "--format", "png"]) == 0


def test_what_is_missing_is_named_before_anything_is_computed(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = arguments(home, out, "--engine", "inline")
    none = [word for word in command if word not in ("--exemplars", f"{name_of(1)}.png")]
    assert simsam(none) == 1
    assert "exemplars: none is given" in capsys.readouterr().err
    assert not out.exists()
    assert simsam([*none, "--exemplars", "other.png"]) == 1
    assert "has no image 'other.png'" in capsys.readouterr().err
    unnamed = [word for word in command if word not in ("--class-names", str(home / "names.txt"))]
    assert simsam([*unnamed[:2], str(tmp_path / "b"), *unnamed[3:]]) == 1
    assert "how many classes there are is not known" in capsys.readouterr().err
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / f"{name_of(0)}.png").symlink_to(home / "masks" / f"{name_of(0)}.png")
    lacking = arguments(home, tmp_path / "c", "--engine", "inline", truth="masks")
    lacking[lacking.index("--truth") + 1] = str(tmp_path / "some")
    assert simsam(lacking) == 1
    assert "has no truth" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["local"])
def test_every_engine_computes_the_same_bits(
    engine: str, home: Path, classes_run: Path, tmp_path: Path, run_on: Callable[[str, list[str]], None]
) -> None:
    out = tmp_path / "out"
    run_on(engine, [sys.executable, "-m", "simsam_batch", *arguments(home, out, "--resize", "128x192")])
    assert result_of(out)["content_digest"] == result_of(classes_run)["content_digest"]


def test_votes_are_a_softmax_of_the_nearest_and_the_same_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    queries, bank = (unit(torch.from_numpy(rng.standard_normal((n, 8)).astype(np.float32))) for n in (50, 20))
    shares = torch.from_numpy(rng.dirichlet(np.ones(3), 20).astype(np.float32))
    found, nearest = votes(queries, bank, shares, neighbours=4, temperature=0.1)
    cosines: NDArray[np.float64] = queries.numpy().astype(np.float64) @ bank.numpy().astype(np.float64).T
    for i, row in enumerate(cosines):
        best = np.argsort(-row)[:4]
        weights = np.exp(row[best] / 0.1)
        expected = weights / weights.sum() @ shares.numpy().astype(np.float64)[best]
        assert found[i].numpy() == pytest.approx(expected, abs=1e-5)
        assert float(nearest[i]) == pytest.approx(row.max(), abs=1e-6)
    monkeypatch.setattr("simsam_batch.correspondence.voting._AT_ONCE", 100)
    again, _ = votes(queries, bank, shares, neighbours=4, temperature=0.1)
    assert again.numpy() == pytest.approx(found.numpy(), abs=1e-6)
    # a bank of fewer patches than neighbours: all of them vote
    few, _ = votes(queries, bank[:2], shares[:2], neighbours=5, temperature=0.1)
    assert few.sum(dim=1).numpy() == pytest.approx(np.ones(50), abs=1e-5)
