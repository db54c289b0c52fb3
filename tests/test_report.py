"""The report page of small real runs of all kinds, read back as HTML: what it says, what it never does."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
from collections.abc import Callable
from functools import cache
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from simsam_batch import operations
from simsam_batch.cli import run
from simsam_batch.errors import SettingsError
from simsam_batch.report.page import chapters, scalars
from simsam_batch.report.page.choice import by_label, highest, lowest, middle, sample
from simsam_batch.report.page.plots import histogram, scatter
from simsam_batch.report.page.settings import settings_of
from simsam_batch.report.page.work import BINS, pace, work_of
from simsam_batch.results.confusions import confusion_of
from simsam_batch.results.shuffling import shuffled
from simsam_batch.runs.ledger import Ledger
from simsam_batch.stages import registry
from simsam_batch.storage import Folder

SCRIPT, BREAKOUT = "<img src=x onerror=alert(1)>.png", '"><script>alert(2)<'
BROKEN = "'onmouseover='alert(3)<!--.jpg"
CLASSES = ["ground", "<b onclick=alert(4)>red", "green & yellow", "</style><script>alert(5)</script>"]
COLORS = [(200, 40, 40), (40, 170, 60), (50, 60, 200)]
PLACES = [(16, 16), (16, 128), (128, 16), (128, 128)]
VOID = {"meta", "img", "link", "br", "hr", "input"}


class Page(HTMLParser):
    """A page's elements with their attributes, and what is written below each heading.

    Attributes:
        elements: tag and attributes, in order.
        text: all that is written, without the style.
    """

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source = source
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.headings: list[tuple[int, str]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(source)
        self.close()
        assert not self._open, "elements are left open"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in VOID:
            return
        self._open.append(tag)
        if tag in ("h1", "h2", "h3", "h4", "h5", "h6"):
            self.headings.append((int(tag[1]), ""))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            return
        self.text += data
        if self.headings and any(tag[0] == "h" and tag[1:].isdigit() for tag in self._open):
            level, text = self.headings[-1]
            self.headings[-1] = level, text + data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def gallery(self, title: str) -> list[str]:
        """The names below the pictures of a gallery."""
        part = self.source.split(f">{title}</h4>", 1)[1].split("</section>", 1)[0]
        return self._names(part)

    def lead(self) -> list[str]:
        """The names below the pictures that the page begins with."""
        return self._names(self.source.split('<div class="cards lead', 1)[1].split("</div>", 1)[0])

    def _names(self, part: str) -> list[str]:
        return [each.split("</bdi>", 1)[0] for each in part.split('<bdi class="id">')[1:]]


def save(path: Path, pixels: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def block(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A red block of 4x4 patches on grey noise, and a truth that is a little larger for a higher seed."""
    pixels = np.random.default_rng(seed).integers(150, 190, (128, 192, 3)).astype(np.uint8)
    pixels[32:96, 64:128] = (200, 40, 30)
    truth = np.zeros((128, 192), np.uint8)
    truth[32 - 4 * seed : 96, 64 - 4 * seed : 128] = 255
    return pixels, truth


def squares(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A red, a green and a blue square of 6x6 patches on grey noise, in varying places; and their class ids 1 to 3."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(90, 140, (240, 240, 3)).astype(np.uint8)
    truth = np.zeros((240, 240), np.uint8)
    for number, place in enumerate(rng.permutation(4)[:3]):
        top, left = PLACES[place]
        pixels[top : top + 96, left : left + 96], truth[top : top + 96, left : left + 96] = COLORS[number], number + 1
    return pixels, truth


@pytest.fixture(scope="module")
def masks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """OUT of a finished run over five photographs, two of them with names that would run a script, and a text file."""
    root = tmp_path_factory.mktemp("masks")
    for seed, name in enumerate(["0.png", SCRIPT, f"{BREAKOUT}/script>.png", "3.png", "4.png"]):
        pixels, truth = block(seed)
        save(root / "photos" / name, pixels)
        save(root / "truth" / name, truth)
    save(root / "photos" / "flat.png", np.full((128, 192, 3), 90, np.uint8))
    (root / "photos" / BROKEN).write_text("this is text, whatever its name says. " * 9)
    arguments = ["segment", f"{root}/photos", f"{root}/out", "--truth", f"{root}/truth", "--backbone", "descriptors"]
    assert run([*arguments, "--resize", "native", "--shard-size", "2", "--engine", "inline", "--quiet"]) == 3
    return root / "out"


def photographs_of_squares(root: Path, count: int) -> Path:
    """The folder, with ``photos`` and their ``truth``."""
    for seed in range(count):
        pixels, truth = squares(seed)
        save(root / "photos" / f"{seed}.png", pixels)
        save(root / "truth" / f"{seed}.png", truth)
    return root


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """OUT of finished label maps of eight photographs, with class names that would run a script."""
    root = photographs_of_squares(tmp_path_factory.mktemp("maps"), 8)
    (root / "classes.txt").write_text("\n".join(CLASSES))
    arguments = ["semantic", f"{root}/photos", f"{root}/out", "--truth", f"{root}/truth", "--backbone", "descriptors"]
    arguments += ["--resize", "native", "--head", "none", "--shift", "zero", "--k", "5", "--region-feature", "patches"]
    arguments += ["--regions", "4", "--clusters", "3", "--class-names", f"{root}/classes.txt", "--shard-size", "2"]
    assert run([*arguments, "--engine", "inline", "--quiet"]) == 0
    return root / "out"


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """OUT of finished region trees of four photographs, their nodes labelled, with baselines."""
    root = photographs_of_squares(tmp_path_factory.mktemp("trees"), 4)
    arguments = ["hierarchy", f"{root}/photos", f"{root}/out", "--truth", f"{root}/truth", "--backbone", "descriptors"]
    arguments += ["--resize", "native", "--facet", "key", "--clusters", "3", "--baselines", "--shard-size", "2"]
    assert run([*arguments, "--engine", "inline", "--quiet"]) == 0
    return root / "out"


def page_of(out: Path, **options: Any) -> Page:
    return Page(Path(operations.report(str(out), **options)).read_text(encoding="utf-8"))


@cache
def finished_page(out: Path, **options: Any) -> Page:
    """The page of a run that no test changes, written once."""
    return page_of(out, **options)


def rows_of(out: Path, stage: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table(out / "results" / stage).to_pylist()
    return rows


def metrics_of(out: Path, stage: str) -> dict[str, Any]:
    metrics: dict[str, Any] = json.loads((out / "results" / f"{stage}.json").read_text())["metrics"]
    return metrics


@pytest.fixture(params=["masks", "maps", "trees"])
def out(request: pytest.FixtureRequest) -> Path:
    """Each of the runs in turn."""
    found: Path = request.getfixturevalue(request.param)
    return found


@pytest.mark.slow
def test_a_page_is_static_and_needs_nothing_but_its_own_pictures(out: Path) -> None:
    page = finished_page(out)
    assert not page.all("script")
    for tag, attributes in page.elements:
        assert tag not in ("iframe", "object", "embed", "form", "link", "base")
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
        for name in ("src", "href"):
            if (target := attributes.get(name)) is not None and not target.startswith("#"):
                assert (out / "report" / target).is_file()
    assert "http://" not in page.source
    assert "https://" not in page.source


def test_a_page_forbids_what_it_does_not_need_and_allows_its_own_style_alone(out: Path) -> None:
    page = finished_page(out)
    [policy] = [meta["content"] for meta in page.all("meta") if "http-equiv" in meta]
    assert policy is not None
    style = page.source.split("<style>")[1].split("</style>")[0]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'; ")
    assert f"style-src 'sha256-{digest}'" in policy
    assert "script-src" not in policy
    assert "unsafe" not in policy


def test_headings_come_in_order_and_pictures_have_a_text(out: Path) -> None:
    page = finished_page(out)
    levels = [level for level, _ in page.headings]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in pairwise(levels))
    assert page.all("img")
    assert all((image["alt"] or "").strip() for image in page.all("img"))
    named = {element["id"] for _, element in page.elements if "id" in element}
    assert len(named) == sum("id" in element for _, element in page.elements)
    for drawing in page.all("svg"):
        assert drawing.get("aria-hidden") == "true" or set((drawing["aria-labelledby"] or "").split()) <= named


def test_pictures_are_small_and_their_size_is_stated(out: Path) -> None:
    for image in finished_page(out).all("img"):
        with Image.open(out / "report" / str(image["src"])) as picture:
            assert picture.format == "JPEG"
            assert picture.size == (int(image["width"] or 0), int(image["height"] or 0))
            assert max(picture.size) <= 640


@pytest.mark.slow
def test_the_page_of_a_finished_run_is_the_same_each_time(out: Path) -> None:
    first = {file.name: file.read_bytes() for file in _files(out, page_of(out))}
    assert {file.name: file.read_bytes() for file in _files(out, page_of(out))} == first


def _files(out: Path, page: Page) -> list[Path]:
    return [out / "report" / "index.html", *(out / "report" / str(image["src"]) for image in page.all("img"))]


def test_what_came_from_a_list_of_images_is_text(masks: Path) -> None:
    page = finished_page(masks)
    for name in (SCRIPT, f"{BREAKOUT}/script>.png", BROKEN):
        assert name in page.text
        assert name not in page.source
    assert sum((image["alt"] or "").startswith(SCRIPT) for image in page.all("img")) >= 1


def test_class_names_are_text_in_tables_and_pictures(maps: Path) -> None:
    page = finished_page(maps)
    assert page.text.count(CLASSES[1]) >= 3
    assert CLASSES[3] in page.text
    assert not page.all("b")
    assert any(CLASSES[1] in (image["alt"] or "") for image in page.all("img"))


def test_scores_stand_with_their_intervals_as_in_the_result_file(masks: Path, trees: Path) -> None:
    for out, stage, name in ((masks, "segment", "iou_per_image_mean"), (trees, "hierarchy", "nmcovering")):
        metrics, page = metrics_of(out, stage), finished_page(out)
        low, high = metrics[f"{name}_ci"]
        line = page.source.split(f"<bdi>{name}</bdi>", 1)[1].split("</tr>", 1)[0]
        assert f">{metrics[name]:.4f}<" in line
        assert f"{low:.4f} to {high:.4f}" in line


@pytest.mark.parametrize("lead", [0, 2])
def test_galleries_show_the_best_and_the_worst_of_what_the_page_does_not_begin_with(
    masks: Path, lead: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chapters, "LEAD", lead)
    page = page_of(masks, samples=2)
    first = [Page(f"<p>{name}</p>").text for name in page.lead()] if lead else []
    assert len(first) == lead
    scored = sorted((row for row in rows_of(masks, "segment") if row["iou"] is not None), key=lambda row: row["iou"])
    best = [row["image_id"] for row in scored[::-1][:2] if row["image_id"] not in first]
    worst = [row["image_id"] for row in scored[:2] if row["image_id"] not in first]
    assert [Page(f"<p>{name}</p>").text for name in page.gallery("Best")] == best
    assert [Page(f"<p>{name}</p>").text for name in page.gallery("Worst")] == worst
    assert "flat.png" in first or page.gallery("Degenerate") == ["flat.png"]


@pytest.mark.slow
@pytest.mark.parametrize("samples", [2, 100])
def test_no_image_is_shown_twice(out: Path, samples: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chapters, "LEAD", 2)
    page = page_of(out, samples=samples)
    names = re.findall(r'<figure class="card">.*?<bdi class="id">(.*?)</bdi>', page.source, re.DOTALL)
    assert len(names) == len(set(names)) > 2


def test_a_page_begins_with_six_pictures_and_what_was_made_and_how_good(masks: Path, maps: Path, trees: Path) -> None:
    for out, images, said in (
        (masks, 6, r"Object masks of 6 images: a mean overlap with the truth of 0\.\d\d \(IoU\)\."),
        (maps, 6, r"Label maps of 8 images, with 3 labels in all: a mean overlap with the true classes of [01]\.\d\d"),
        (trees, 4, r"Region trees of 4 images, with \d+ leaves in the median: their nodes cover the truth to 0\.\d\d"),
    ):
        page = finished_page(out)
        assert len(page.lead()) == images
        before, _, after = page.source.partition('<div class="cards lead')
        assert re.search(said, before)
        assert "<table" not in before
        assert "<table" in after
    score = re.search(r"truth of (0\.\d\d)", finished_page(masks).source)
    assert score is not None
    assert score[1] == f"{metrics_of(masks, 'segment')['iou_per_image_mean']:.2f}"


def test_colours_are_explained_by_swatches(masks: Path, maps: Path) -> None:
    for out, names in ((masks, ["mask", "outline of the truth"]), (maps, ["label 1", "label 2", "label 3"])):
        keys = re.findall(r'<rect [^>]*fill="rgb\(([\d ]+)\)"/></svg><bdi>(.*?)</bdi>', finished_page(out).source)
        assert all(any(name in said for _, said in keys) for name in names)
        assert len({color for color, _ in keys}) == len(keys)


def test_all_images_stand_on_pages_beside_the_report(masks: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(masks, tmp_path / "out"))
    page = page_of(copy, thumbnails=True)
    assert {"href": "all-segment.html"} in page.all("a")
    every = Page((copy / "report/all-segment.html").read_text(encoding="utf-8"))
    assert len(every.all("figure")) == 7
    [failed] = (row for row in rows_of(masks, "segment") if row["status"] == "failed")
    assert f"failed: {failed['error_type']}" in every.text
    pictures = every.all("img")
    assert len(pictures) == 6
    assert all(image["loading"] == "lazy" for image in pictures)
    for link in every.all("a"):
        target = str(link["href"])
        assert target.startswith("#") or (copy / "report" / target).is_file()
    for image in pictures:
        with Image.open(copy / "report" / str(image["src"])) as shown:
            assert shown.size == (int(image["width"] or 0), int(image["height"] or 0))
    assert not every.all("script")
    assert not finished_page(masks).source.count("all-segment.html")


def test_failures_are_counted_by_cause_and_named(masks: Path) -> None:
    page = finished_page(masks)
    [row] = [row for row in rows_of(masks, "segment") if row["status"] == "failed"]
    part = page.text.split("Failures", 2)[2]
    assert row["error_type"] in part
    assert row["error"] in part


def test_a_histogram_counts_every_image(masks: Path) -> None:
    page = finished_page(masks)
    plot = page.source.split(">Overlap with the truth</figcaption>")[1].split("</figure>")[0]
    counts = [int(each.split("</title>")[0].rpartition(": ")[2]) for each in plot.split("<rect")[1:]]
    assert sum(counts) == metrics_of(masks, "segment")["images_scored"] == 5


def test_trees_are_shown_with_the_settings_of_their_own_clusters(trees: Path) -> None:
    """They were looked for where label maps have theirs."""
    command = registry.command("hierarchy")
    works = {stage: work_of(Ledger(Folder(str(trees)), stage).manifests(), "image_id") for stage in command.stages}
    shown = settings_of(Folder(str(trees)), command, works)
    assert ("clusters", "3", "0") in shown.changed
    assert "cluster_method" in dict(shown.same)
    assert "matching" not in dict(shown.same), "a setting of label maps alone"


def test_settings_that_differ_come_first_with_their_default(masks: Path) -> None:
    part = finished_page(masks).text.split("Settings that differ from the defaults")[1].split("All other settings")[0]
    for name, value, default in (("backbone", "descriptors", "dino_vits16"), ("resize", "native", "short:384")):
        line = part.split(f"{name}\n" if f"{name}\n" in part else name, 1)[1]
        assert line.startswith(f"{value}{default}")
    assert "kappa" not in part


def test_labels_show_their_images_class_and_confusion(maps: Path) -> None:
    page, metrics = finished_page(maps, samples=3), metrics_of(maps, "semantic")
    for label, name in enumerate(metrics["class_of_cluster"][1:], 1):
        heading = f"Label {label}" if name is None else f"Label {label}: {name}"
        assert heading in [text for _, text in page.headings]
        images = sum(label in row["labels"] for row in rows_of(maps, "semantic"))
        part = page.source.split(f'id="semantic-c{label}"', 1)[1].split("</section>", 1)[0]
        assert f"In {images} images" in part
        assert part.count("<img") == min(images, 3)
    assert "Which label where which class is true" in page.text


def test_trees_show_covering_by_depth_baselines_and_labels(trees: Path) -> None:
    page, metrics = finished_page(trees), metrics_of(trees, "hierarchy")
    by_depth = metrics["nfcovering_by_depth"]
    assert f"{by_depth[0]:.3f} at depth 1, at best {max(by_depth):.3f} at depth" in page.text
    for name, value in metrics["baselines"].items():
        assert f"<bdi>{name}</bdi>" in page.source
        assert f"{value:.4f}" in page.text
    nodes = metrics_of(trees, "labels")["nodes_by_label"]
    for label, count in nodes.items():
        assert f"{count} nodes of " in page.source.split(f'id="hierarchy-c{label}"', 1)[1].split("</section>", 1)[0]


def test_a_stage_can_be_asked_for_alone(maps: Path) -> None:
    assert "Label maps" in finished_page(maps, stage="regions").text
    with pytest.raises(SettingsError, match="has no stage 'segment'; it has regions, clusters, semantic"):
        operations.report(str(maps), stage="segment")


def test_nothing_on_the_page_is_empty_or_said_twice(out: Path) -> None:
    page = finished_page(out)
    for part in page.source.split("<details>")[1:]:
        summary, _, rest = part.split("</details>", 1)[0].partition("</summary>")
        assert summary.removeprefix("<summary>").strip()
        assert re.search(r"<t[dh][ >]|<dd>|<li>", rest), summary
    for table in re.findall(r"<table class=\"scores\">.*?</table>", page.source, re.DOTALL):
        names = re.findall(r'<th scope="row"><bdi>(.*?)</bdi>', table)
        assert names
        assert len(set(names)) == len(names)
    titles = [text for level, text in page.headings if level == 4]
    assert all(titles)
    # what has only a number for a name says what it is
    assert not re.search(r'<th scope="row"><bdi>\d+</bdi>', page.source)
    # of 256 labels that nobody has named, each would be a line
    assert page.text.count("region_of_label") <= 1
    assert "levels 0" not in page.text
    said = re.findall(r"<(?:p class=\"note\"|span class=\"fact\"|li|dd)>(.*?)</", page.source)
    assert not [text for text in said if re.search(r"(?<![\d.])1 (images|shards|labels|leaves|regions|nodes)\b", text)]
    covering = re.findall(r"<bdi>(n[mh]covering\w*)</bdi>", page.source)
    assert covering == (["nmcovering"] if "hierarchy" in page.source else covering)


def test_a_card_is_made_once_and_shown_as_text(masks: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(masks, tmp_path / "out"))
    shutil.rmtree(copy / "report", ignore_errors=True)
    assert "0 of 13 fields filled in" in (empty := page_of(copy)).text
    assert [fold for fold in empty.all("details") if "open" in fold] == []
    card = copy / "report" / "card.yaml"
    filled = 'licence: "<script>alert(6)</script> CC0"\nsource: |\n  two\n  lines\nof my own: yes\n'
    card.write_text(filled)
    page = page_of(copy)
    assert card.read_text() == filled
    assert "<script>alert(6)</script> CC0" in page.text
    assert "two\nlines" in page.text
    assert "of my own" in page.text
    assert "3 of 14 fields filled in" in page.text
    assert len([fold for fold in page.all("details") if "open" in fold]) == 1


@pytest.mark.parametrize("text", ["- a\n- list", "a: [b", "a: {b: c}", "a: &x b\nc: *x", "a: b\na: c", b"\xff\xfe"])
def test_an_unusable_card_is_named_with_the_mend(masks: Path, tmp_path: Path, text: str | bytes) -> None:
    copy = Path(shutil.copytree(masks, tmp_path / "out"))
    (copy / "report").mkdir(exist_ok=True)
    (copy / "report" / "card.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SettingsError, match=r"card\.yaml .*To mend it"):
        operations.report(str(copy))


def in_progress(finished: Path, copy: Path, stage: str, *, without: list[int]) -> Path:
    """A run as storage holds it before some shards of a stage are committed."""
    shutil.copytree(finished, copy)
    shutil.rmtree(copy / "report", ignore_errors=True)
    shutil.rmtree(copy / "results" / stage)
    (copy / "results" / f"{stage}.json").unlink()
    for shard in without:
        (copy / stage / "manifests" / f"{shard:07d}.0.json").unlink()
    return copy


def test_a_run_in_progress_shows_what_is_committed(masks: Path, tmp_path: Path) -> None:
    finished = rows_of(masks, "segment")
    page = page_of(in_progress(masks, tmp_path / "out", "segment", without=[1, 3]))
    there = [row for number, row in enumerate(finished) if number // 2 not in (1, 3)]
    assert "in progress" in page.text
    assert f"This page shows the {len(there)} images" in page.text
    mean = np.mean([row["iou"] for row in there if row["iou"] is not None])
    line = page.source.split("<bdi>iou_per_image_mean</bdi>", 1)[1].split("</tr>", 1)[0]
    assert f">{mean:.4f}<" in line
    fine = {row["image_id"] for row in there if row["status"] == "ok"}
    assert {Page(f"<p>{name}</p>").text for name in page.lead()} == fine


def test_of_a_run_with_nothing_committed_there_is_a_page(masks: Path, tmp_path: Path) -> None:
    page = page_of(in_progress(masks, tmp_path / "out", "segment", without=[0, 1, 2, 3]))
    assert "Nothing has been committed yet" in page.text
    assert not page.all("img")


def test_label_maps_that_have_just_begun_show_their_regions(maps: Path, tmp_path: Path) -> None:
    page = page_of(in_progress(maps, tmp_path / "out", "semantic", without=[0, 1, 2, 3]))
    assert (len(page.lead()), len(page.gallery("At random"))) == (6, 2)
    assert not [text for _, text in page.headings if text.startswith("Label ") and text[6:7].isdigit()]


def test_trees_whose_labels_are_under_way_show_those_that_are_there(trees: Path, tmp_path: Path) -> None:
    page = page_of(in_progress(trees, tmp_path / "out", "labels", without=[1]))
    assert len(page.lead()) == 4
    assert "images; the largest one of each" in page.text


def test_of_a_long_run_in_progress_the_page_says_that_it_counts_a_sample(
    masks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scalars, "MOST_SHARDS", 2)
    page = page_of(in_progress(masks, tmp_path / "out", "segment", without=[1]))
    # shards 0, 2 and 3 of 2, 2 and 1 images: the first and the last stand for all
    assert "Counted over a sample of 3 of the 5 rows so far." in page.text


def test_a_photograph_that_is_gone_leaves_a_placeholder_that_says_so(masks: Path) -> None:
    photo = masks.parent / "photos" / "3.png"
    held = photo.read_bytes()
    photo.unlink()
    try:
        page = page_of(masks)
    finally:
        photo.write_bytes(held)
    card = page.source.split('<bdi class="id">3.png</bdi>', 1)[1].split("</figcaption>", 1)[0]
    assert "cannot be read any more" in card
    assert "cannot be read any more" not in page_of(masks).text


def test_no_credential_reaches_the_page(masks: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(masks, tmp_path / "out"))
    record = json.loads((copy / "run.json").read_text())
    record["source"]["images"] = "s3://anna:hush1@bucket/photos?token=hush2"
    (copy / "run.json").write_text(json.dumps(record))
    page = page_of(copy)
    assert "s3://bucket/photos?token=***" in page.text
    assert "hush" not in page.source


def test_a_run_on_object_storage_gets_its_page_there(masks: Path, s3_url: str) -> None:
    url = f"{s3_url}/run"
    arguments = ["segment", f"{masks.parent}/photos", url, "--backbone", "descriptors", "--resize", "native"]
    assert run([*arguments, "--engine", "inline", "--quiet", "--allow-failed", "1"]) == 0
    assert operations.report(url, samples=2) == f"{url}/report/index.html"
    folder = Folder(url)
    page = Page(folder.read("report/index.html").decode())
    names = {info.name for info in folder.list("report")}
    assert page.all("img")
    assert {f"report/{image['src']}" for image in page.all("img")} < names
    assert "report/card.yaml" in names
    # nothing was scored
    assert ">Best</h4>" not in page.source


def test_the_command_prints_where_the_page_is(masks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["report", str(masks), "--samples", "1"]) == 0
    assert capsys.readouterr().out.strip() == f"{masks}/report/index.html"
    assert run(["report", str(masks.parent)]) == 1
    assert "holds no run" in capsys.readouterr().err


def test_the_number_of_samples_is_bounded(masks: Path) -> None:
    for count in (0, 101):
        with pytest.raises(SettingsError, match="1 to 100"):
            operations.report(str(masks), samples=count)


# --- choosing and counting --------------------------------------------------------------------------------------------


def test_the_pace_counts_images_of_shards_that_overlap_and_leaves_pauses_out() -> None:
    # two workers: 60 images in 0-10 s and 60 in 5-15 s; then a pause; then 30 in 100-105 s. 20 s of work in all
    seconds, rates = pace([(5.0, 15.0, 60), (0.0, 10.0, 60), (100.0, 105.0, 30)])
    assert seconds == 20
    expected = [6.0] * (BINS // 4) + [12.0] * (BINS // 4) + [6.0] * (BINS // 2)
    np.testing.assert_allclose(rates, expected)
    assert rates.mean() * seconds == pytest.approx(150)


def test_nothing_committed_has_no_pace() -> None:
    assert pace([])[0] == 0
    assert pace([(3.0, 3.0, 5)])[0] == 0


@pytest.mark.parametrize("choose", [lowest, highest])
def test_the_lowest_and_highest_are_those_of_a_sort(choose: Callable[..., list[int]]) -> None:
    values = np.random.default_rng(0).integers(0, 9, 40).astype(np.float32)
    values[[3, 17]] = np.nan
    numbers = np.arange(100, 140)
    sign = 1 if choose is lowest else -1
    ranked = sorted((sign * value, number) for number, value in zip(numbers, values, strict=True) if value == value)
    assert choose(numbers, values, 7) == [number for _, number in ranked[:7]]


def test_the_middle_lies_around_the_median() -> None:
    values = np.array([5, 1, np.nan, 4, 2, 3], np.float32)
    assert middle(np.arange(6), values, 3) == [4, 5, 3]
    assert middle(np.arange(6), values, 50) == [1, 4, 5, 3, 0]


def test_a_sample_is_fair_and_the_same_whatever_else_there_is() -> None:
    numbers = np.arange(100_000)
    held = np.array(sample(numbers, 10_000))
    assert len(set(held.tolist())) == 10_000
    # each tenth of the numbers has its share, within five standard deviations of a hypergeometric count
    shares = np.bincount(held // 10_000, minlength=10)
    assert np.abs(shares - 1000).max() < 5 * np.sqrt(1000 * 0.9 * 0.9)
    among_fewer = numbers[::3]
    assert set(sample(among_fewer, 100_000)) & set(held.tolist()) == set(among_fewer.tolist()) & set(held.tolist())
    assert len(np.unique(shuffled(numbers))) == len(numbers)


def test_samples_by_label_are_those_of_the_images_that_have_it() -> None:
    rng = np.random.default_rng(1)
    rows = [None if i % 7 == 0 else rng.integers(1, 5, rng.integers(0, 6)).tolist() for i in range(300)]
    tables = [
        (np.arange(first, first + 50), pa.table({"labels": pa.array(rows[first : first + 50], pa.list_(pa.int32()))}))
        for first in range(0, 300, 50)
    ]
    found = by_label(tables, 6)
    assert list(found) == [1, 2, 3, 4]
    for label, (images, chosen) in found.items():
        those = np.array([i for i, labels in enumerate(rows) if labels and label in labels])
        assert images == len(those)
        assert sorted(chosen) == sample(those, 6)


def test_a_confusion_is_in_percent_of_the_pixels_of_a_class() -> None:
    # class 0: 30 of 40 pixels have label 1; class 2: all have label 2; class 1 has no pixel
    columns = {0: np.array([10, 30, 0]), 1: np.array([0, 0, 0]), 2: np.array([0, 0, 5])}
    found = confusion_of(columns, ["a", "b", "c"], [None, "a", "c"])
    assert found is not None
    assert found.classes == ["a", "c"]
    assert [(label, name, [text for text, _ in cells]) for label, name, cells in found.lines] == [
        (0, "", ["25", ""]),
        (1, "a", ["75", ""]),
        (2, "c", ["", "100"]),
    ]


def test_quarters_and_bars_of_a_histogram_are_those_of_the_values() -> None:
    plot = histogram("t", "n", np.array([0, 1, 1, 2, 2, 2, np.nan], np.float32))
    assert "Of 6 images half lie between 1 and 2, the median is 1.5." in plot.about
    named = {bar[4]: bar for bar in plot.bars}
    assert [named[name][4] for name in ("0: 1", "1: 2", "2: 3")]
    # heights are proportional to the counts, from the same ground
    assert named["2: 3"][3] == pytest.approx(3 * named["0: 1"][3], rel=0.01)
    assert len({round(bar[1] + bar[3], 1) for bar in plot.bars}) == 1


def test_rank_correlation_is_that_of_an_independent_implementation() -> None:
    from scipy.stats import spearmanr

    rng = np.random.default_rng(2)
    x, y = rng.integers(0, 12, 80).astype(np.float32), rng.random(80).astype(np.float32)
    y += x / 20
    y /= y.max()
    plot = scatter("t", "x", "y", x, y, np.ones(80, bool))
    assert plot is not None
    assert f"correlate by {spearmanr(x, y).statistic:.2f} over 80 images" in plot.about
    assert scatter("t", "x", "y", x[:1], y[:1], np.ones(1, bool)) is None


def test_a_run_that_failed_on_every_image_says_nothing_of_truth(tmp_path: Path) -> None:
    for folder in ("photos", "truth"):
        (tmp_path / folder).mkdir()
    (tmp_path / "photos/a.jpg").write_bytes(b"no picture")
    save(tmp_path / "truth/a.png", block(0)[1])
    arguments = ["segment", f"{tmp_path}/photos", f"{tmp_path}/out", "--truth", f"{tmp_path}/truth", "--quiet"]
    assert run([*arguments, "--backbone", "descriptors", "--engine", "inline"]) == 3
    assert run(["report", f"{tmp_path}/out"]) == 0
    page = (tmp_path / "out/report/index.html").read_text(encoding="utf-8")
    assert '<p class="sentence">Object masks of 0 images.</p>' in page
