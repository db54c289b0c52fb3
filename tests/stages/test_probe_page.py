"""What people see of probes: the chapter of the report, and label maps handed on with their classes' names."""

from __future__ import annotations

import html
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from probe_runs import CLASSES, arguments, make_collection
from result_rows import rows_of

from simsam_batch import open_run
from simsam_batch.cli import run as simsam
from simsam_batch.errors import RunError

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("probe-page")
    make_collection(home, images=8)
    few = ["--facets", "norm-token,key", "--probes", "linear,kmeans", "--fractions", ".3,1", "--seeds", "2"]
    assert simsam(arguments(home, home / "out", *few, "--engine", "inline")) == 0
    return home


@pytest.fixture(scope="module")
def page(home: Path) -> str:
    assert simsam(["report", str(home / "out")]) == 0
    return (home / "out" / "report" / "index.html").read_text(encoding="utf-8")


def table_of(home: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((home / "out" / "results" / "probe-table.json").read_text())["metrics"]
    return found


def texts(page: str, pattern: str) -> list[str]:
    return [html.unescape(re.sub(r"<[^>]+>", " ", each)).strip() for each in re.findall(pattern, page, re.DOTALL)]


def test_the_table_has_every_number_with_its_deviation_and_interval(home: Path, page: str) -> None:
    table = table_of(home)["table"]
    (first, *_) = re.findall(r'<table class="probes">.*?</table>', page, re.DOTALL)
    assert texts(first, r'<th scope="col" class="number">(.*?)</th>') == ["30 %", "100 %"]
    lines = re.findall(r"<tr><th scope=\"row\">(.*?)</tr>", first, re.DOTALL)
    assert len(lines) == len(table["lines"]) + len(table["references"])
    highest = [max(line["miou"][i] for line in table["lines"]) for i in range(2)]
    for text, line in zip(lines, table["lines"], strict=False):
        clusters = f" {line['clusters']} clusters" if line["clusters"] else ""
        assert f"{line['probe']} {line['features']}{clusters}" in text
        cells = re.findall(r'<td class="number( best)?">(.*?)</td>', text, re.DOTALL)
        for i, (best, cell) in enumerate(cells):
            deviation = line["miou_deviation"][i]
            expected = f"{line['miou'][i]:.3f}" + ("" if deviation is None else f" ± {deviation:.3f}")
            low, high = line["miou_ci"][i]
            assert cell == f'{expected}<span class="about">{low:.3f} to {high:.3f}</span>'
            assert bool(best) == (line["miou"][i] == highest[i])
    assert f"{table['references']['floor']['miou']:.3f}" in first


def test_the_chapter_has_curves_differences_classes_and_pictures(home: Path, page: str) -> None:
    chapter = page[page.index('<section id="probe"') :]
    assert page.count('<section id="probe"') == page.count('<section id="features"') == 1
    assert "Scores over 4 images, 3 classes" in chapter
    assert chapter.count('<polygon class="band') == 4
    keys = texts(chapter, r'<ul class="keys">(.*?)</ul>')
    assert sum("norm-token-5" in each and "key-5" in each for each in keys) == 2
    assert any(all(name in each for name in CLASSES) for each in keys)
    assert "linear key-5 less norm-token-5" in chapter
    assert all(f"<bdi>{name}</bdi>" in chapter for name in CLASSES)
    pictures = sorted((home / "out" / "report").rglob("probe-maps-*-small-*.jpg"))
    assert len(pictures) == 4
    with Image.open(pictures[0]) as picture:
        # the photograph, the truth and two label maps, three abreast
        assert picture.width == 3 * 213 + 2 * 6


def test_a_run_in_progress_shows_what_is_there(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for gone, there in ((("probe-table",), "probe-maps"), (("probe-maps", "probe-fits"), "subsets")):
        if not out.exists():
            shutil.copytree(home / "out", out, ignore=shutil.ignore_patterns("report"))
        for stage in gone:
            shutil.rmtree(out / stage)
            shutil.rmtree(out / "results" / stage)
            (out / "results" / f"{stage}.json").unlink()
        assert simsam(["report", str(out)]) == 0
        page = (out / "report" / "index.html").read_text(encoding="utf-8")
        assert f"Stage <code>{there}</code>" in page
        assert 'table class="probes"' not in page


def test_label_maps_are_read_with_class_0_as_a_class_and_train_has_none(home: Path) -> None:
    run = open_run(str(home / "out"))
    sides = {row["image_id"]: row["side"] for row in rows_of(home / "out", "probe-maps")}
    masks = dict(run.masks("probe-maps"))
    assert {*masks} == {name for name, side in sides.items() if side == "val"}
    for name, mask in masks.items():
        assert np.array_equal(mask, run.mask(name, "probe-maps"))
        assert mask.shape == (64, 96)
        assert set(np.unique(mask).tolist()) <= {0, 1, 2}
    train = next(name for name, side in sides.items() if side == "train")
    with pytest.raises(RunError, match="is of train, which probes are fitted on"):
        run.mask(train, "probe-maps")


def test_exports_name_the_classes_and_leave_out_what_has_no_map(home: Path, tmp_path: Path) -> None:
    out = str(home / "out")
    assert simsam(["export", out, "--to", str(tmp_path / "coco"), "--format", "coco"]) == 0
    found = json.loads((tmp_path / "coco" / "instances.json").read_text())
    assert [(each["id"], each["name"]) for each in found["categories"]] == list(enumerate(CLASSES))
    areas: dict[int, int] = {}
    for each in found["annotations"]:
        areas[each["image_id"]] = areas.get(each["image_id"], 0) + each["area"]
    # class 0 is one as any other, so that every pixel is of an annotation
    assert set(areas.values()) == {64 * 96}
    assert len(areas) == 4
    assert simsam(["export", out, "--to", str(tmp_path / "png"), "--format", "png"]) == 0
    assert len(list((tmp_path / "png").rglob("*.png"))) == 4


def test_a_probe_run_is_scored_again_as_it_was(home: Path, tmp_path: Path) -> None:
    scores = tmp_path / "scores.json"
    assert simsam(["score", str(home / "out"), "--stage", "probe-maps", "--json", str(scores)]) == 0
    metrics = json.loads(scores.read_text())["metrics"]
    shown = next(row["shown"] for row in rows_of(home / "out", "probe-maps") if row["shown"])
    cell = next(row for row in rows_of(home / "out", "probe-table") if row["cell"] == shown)
    assert metrics["miou_over_classes"] == pytest.approx(cell["miou"])
    assert metrics["ignored_pixels"] > 0
