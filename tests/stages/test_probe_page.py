"""What people see of probes: the chapter of the report, and label maps handed on with their classes' names."""

from __future__ import annotations

import csv
import html
import io
import json
import re
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from probe_runs import CLASSES, HEIGHT, WIDTH, arguments, make_collection
from result_rows import rows_of

from simsam_batch import open_run
from simsam_batch.cli import run as simsam
from simsam_batch.drawing.text import LINE
from simsam_batch.errors import RunError
from simsam_batch.report.page.plots import Plot, over_shares

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("probe-page")
    make_collection(home, images=8)
    few = ["--facets", "norm-token,key", "--probes", "linear,kmeans", "--fractions", ".3,1", "--seeds", "4"]
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
        # the photograph, the truth and two label maps, three abreast, each with a line that says what it is
        assert picture.width == 3 * 213 + 2 * 6
        high = round(HEIGHT * 213 / WIDTH) + LINE
        assert picture.height == 2 * high + 6
        assert np.asarray(picture.convert("L"))[high - LINE : high, :213].min() < 128


def test_a_stage_of_two_commands_is_in_one_chapter(home: Path, page: str, tmp_path: Path) -> None:
    assert page.count("<h3>Stage <code>features</code>") == 1
    assert page.index("<h3>Stage <code>features</code>") < page.index('<section id="probe"')
    out = shutil.copytree(home / "out", tmp_path / "out")
    assert simsam(["report", str(out), "--stage", "features"]) == 0
    alone = (out / "report" / "index.html").read_text(encoding="utf-8")
    assert '<section id="features"' in alone
    assert '<section id="probe"' not in alone


def test_what_is_done_is_called_by_what_it_is(page: str) -> None:
    chapter = page[page.index('<section id="probe"') :]
    assert "Fits a second: probe-fits" in chapter
    assert "Images a second: probe-maps" in chapter
    assert "Images a second: probe-fits" not in chapter


def test_classes_that_a_share_lacks_are_named(home: Path, page: str) -> None:
    rows = [row for row in rows_of(home / "out", "subsets") if row["class_pixels"]]
    train = next(row for row in rows if row["subset"] == "train")["class_pixels"]
    lacking = {
        f"{row['subset']}, {row['images']} image{'s' if row['images'] > 1 else ''}": ", ".join(
            name for name, here, of_all in zip(CLASSES, row["class_pixels"], train, strict=True) if of_all and not here
        )
        for row in rows
    }
    expected = {subset: names for subset, names in lacking.items() if names}
    assert expected, "this collection has a share without a disc"
    found = page[page.index('id="probe-lacking"') :]
    found = found[: found.index("</dl>")]
    pairs = zip(texts(found, "<dt>(.*?)</dt>"), texts(found, "<dd>(.*?)</dd>"), strict=True)
    assert dict(pairs) == expected


def test_the_confusion_is_of_the_best_cell_shown_in_percent_of_each_class(home: Path, page: str) -> None:
    confusions = json.loads((home / "out" / "results" / "probe-maps.json").read_text())["metrics"]["confusions"]
    scores = {row["cell"]: row["miou"] for row in rows_of(home / "out", "probe-table") if row["features"]}
    best = max((cell for cell in confusions if cell in scores), key=lambda cell: scores[cell])
    section = page[page.index('id="probe-confusion"') :]
    section = section[: section.index("</table>")]
    assert f"Of the best of the label maps shown: {best}." in section
    pixels = [[confusions[best].get(str(3 * predicted + true), 0) for true in range(3)] for predicted in range(3)]
    totals = [sum(line[true] for line in pixels) for true in range(3)]
    shares = [[100 * count / total for count, total in zip(line, totals, strict=True)] for line in pixels if any(line)]
    expected = [[f"{share:.0f}" if share >= 0.5 else "" for share in line] for line in shares]
    lines = re.findall(r"<tr><th scope=\"row\">.*?</tr>", section, re.DOTALL)
    assert [texts(line, r"<td.*?>(.*?)</td>") for line in lines] == expected


def test_scores_found_again_stand_beside_those_of_the_run(home: Path, tmp_path: Path) -> None:
    out = shutil.copytree(home / "out", tmp_path / "out")
    assert simsam(["score", str(out), "--stage", "probe-maps"]) == 0
    assert simsam(["report", str(out)]) == 0
    found = (out / "report" / "index.html").read_text(encoding="utf-8")
    assert found.count("<summary><bdi>results/score-probe-maps") == 1


@pytest.fixture(scope="module")
def applied_run(home: Path) -> Path:
    out = home / "applied"
    command = ["probe", "apply", str(home / "out"), str(home / "photos"), str(out), "--truth", str(home / "truth")]
    assert simsam([*command, "--engine", "inline", "--quiet"]) == 0
    assert simsam(["report", str(out)]) == 0
    return out


def test_the_chapter_of_an_applied_probe_has_its_label_maps(applied_run: Path) -> None:
    page = (applied_run / "report" / "index.html").read_text(encoding="utf-8")
    chapter = page[page.index('<section id="probe-apply"') :]
    assert all(any(name in each for each in texts(chapter, r'<ul class="keys">(.*?)</ul>')) for name in CLASSES)
    assert len(re.findall(r"probe-apply-\d+-small-\w+\.jpg", chapter)) == 8
    small = min((applied_run / "report").rglob("probe-apply-*-small-*.jpg"))
    with Image.open(small) as picture:
        # the photograph, the truth and the label map, whose square is of another colour than the ground
        assert picture.size == (3 * 213 + 2 * 6, round(HEIGHT * 213 / WIDTH) + LINE)
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    truth, mapped = (pixels[: -LINE - 2, left : left + 213] for left in (219, 438))
    # most of the pixels that count have the colour of their true class
    same = np.abs(truth - mapped).max(axis=2) < 40
    counts = truth.min(axis=2) < 245
    assert same[counts].mean() > 0.7


def test_the_ids_of_the_page_hold_no_space(page: str, applied_run: Path) -> None:
    applied = (applied_run / "report" / "index.html").read_text(encoding="utf-8")
    for text in (page, applied):
        ids = re.findall(r' id="([^"]*)"', text)
        assert not [each for each in ids if not each or re.search(r"\s", each)]
        assert len(ids) == len(set(ids))
        assert {*re.findall(r'href="#([^"]*)"', text)} <= {*ids}


def inside(plot: Plot) -> bool:
    places = [place for line in (*plot.lines, *plot.bands) for place in line]
    return all(plot.left <= x <= plot.right and plot.top <= y <= plot.bottom for x, y in places)


@pytest.mark.parametrize("value", [0.0, 0.3, 0.35, 1.0])
def test_curves_that_are_level_have_a_plot(value: float) -> None:
    plot = over_shares("knn", "mIoU", [0.01, 0.1, 1], {"key-5": [value] * 3}, {"key-5": [[value, value]] * 3})
    assert inside(plot)
    assert len({y for _, y in plot.lines[0]}) == 1
    # each share is as far from the next as its logarithm
    xs = [x for x, _ in plot.lines[0]]
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.02)


def test_a_share_without_a_figure_is_left_out_of_its_curve() -> None:
    values = {"key-5": [None, 0.4, 0.5], "value-5": [None, None, None]}
    plot = over_shares("knn", "mIoU", [0.01, 0.1, 1], values, {name: [None] * 3 for name in values})
    assert [len(line) for line in plot.lines] == [2, 0]
    assert inside(plot)
    nothing = over_shares("knn", "mIoU", [0.1, 1], {"key-5": [None, None]}, {"key-5": [None, None]})
    assert [len(line) for line in nothing.lines] == [0]


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


def test_formats_with_images_name_every_class_that_is_there(home: Path, tmp_path: Path) -> None:
    out = home / "out"
    masks = dict(open_run(str(out)).masks("probe-maps"))
    there = {name: np.unique(mask).tolist() for name, mask in masks.items()}
    assert any(0 in labels for labels in there.values())
    for kind in ("hf", "webdataset"):
        assert simsam(["export", str(out), "--to", str(tmp_path / kind), "--format", kind]) == 0
        record = json.loads((tmp_path / kind / "export.json").read_text())
        assert [record[key] for key in ("images", "ok", "failed", "unreadable", "without_map")] == [8, 4, 0, 0, 4]
        assert record["complete"]
        assert {each["outcome"] for each in record["missing"]} == {"without_map"}
    table = pq.read_table(tmp_path / "hf" / "data")
    features = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]
    assert features["labels"] == [{"names": [*CLASSES], "_type": "ClassLabel"}]
    assert {row["image_id"]: row["labels"] for row in table.to_pylist()} == there
    assert "fitted on other images" in (tmp_path / "hf" / "README.md").read_text()
    with tarfile.open(tmp_path / "webdataset" / "samples-000000.tar") as tar:
        members = {member.name: tar.extractfile(member) for member in tar}
        content = {name: file.read() for name, file in members.items() if file is not None}
    facts = [json.loads(data) for name, data in content.items() if name.endswith(".json")]
    assert {each["image_id"]: each["labels"] for each in facts} == there
    for each in facts:
        with Image.open(io.BytesIO(content[f"{each['row']:09d}.mask.png"])) as mask:
            assert np.array_equal(np.asarray(mask), masks[each["image_id"]])
    assert (tmp_path / "webdataset" / "labels.txt").read_text().splitlines() == [*CLASSES]


def test_the_index_has_a_line_without_a_file_for_images_that_were_fitted_on(home: Path, tmp_path: Path) -> None:
    assert simsam(["export", str(home / "out"), "--to", str(tmp_path), "--format", "png"]) == 0
    sides = {row["image_id"]: row["side"] for row in rows_of(home / "out", "probe-maps")}
    with (tmp_path / "index.csv").open(newline="") as file:
        files = {row["image_id"]: row["file"] for row in csv.DictReader(file)}
    assert {name: bool(path) for name, path in files.items()} == {name: side == "val" for name, side in sides.items()}


@pytest.mark.parametrize("more", [["--clusters", "2"], ["--matching", "majority"]])
def test_there_is_nothing_to_match_where_labels_are_classes(
    home: Path, more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert simsam(["score", str(home / "out"), "--stage", "probe-maps", *more]) == 1
    assert "whose labels are classes" in capsys.readouterr().err


def test_a_probe_run_is_scored_again_as_it_was(home: Path, tmp_path: Path) -> None:
    scores = tmp_path / "scores.json"
    assert simsam(["score", str(home / "out"), "--stage", "probe-maps", "--json", str(scores)]) == 0
    metrics = json.loads(scores.read_text())["metrics"]
    shown = next(row["shown"] for row in rows_of(home / "out", "probe-maps") if row["shown"])
    cell = next(row for row in rows_of(home / "out", "probe-table") if row["cell"] == shown)
    assert metrics["miou_over_classes"] == pytest.approx(cell["miou"])
    assert metrics["ignored_pixels"] > 0
