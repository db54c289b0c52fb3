"""Runs in the browser that are damaged while they are looked at, hold what must not be decoded, or have few stages."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image
from viewing import Client, Small, photograph, serving
from whole import Whole

from simsam_batch.cli import run

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

_SMALL = ["--backbone", "descriptors", "--resize", "native", "--engine", "inline", "--quiet"]
_REFUSED = "the server responded with a status of 4"
"""What the browser writes of an answer that the screen puts into words."""


@dataclass
class Watched:
    """A page of the browser, and what it has complained of but for refusals."""

    page: Page
    complaints: list[str]

    def open(self, client: Client, address: str) -> Page:
        """Show a screen until it is still."""
        inside = self.page.url.startswith(client.base)
        self.page.goto(f"{client.base}#/{address}" if inside else client.at(address))
        self.page.wait_for_load_state("networkidle")
        self.page.wait_for_function("() => document.querySelector('h1') && !document.querySelector('[aria-busy=true]')")
        return self.page


@pytest.fixture
def watched(browser: Browser) -> Iterator[Watched]:
    context = browser.new_context(viewport={"width": 1280, "height": 2400})
    page, complaints = context.new_page(), list[str]()
    page.set_default_timeout(15_000)
    # the last of these comes where the server of a test has ended before its page
    known = (_REFUSED, "ERR_CONNECTION_REFUSED")
    page.on("console", lambda said: None if any(each in said.text for each in known) else complaints.append(said.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    yield Watched(page, complaints)
    context.close()
    assert complaints == []


def _nothing_inside_out(page: Page, out: Path) -> None:
    text = page.locator("#main").inner_text()
    assert "Traceback" not in text
    assert "defect of simsam view" not in text
    assert str(out / "segment") not in text


@pytest.mark.slow
def test_a_shard_that_is_damaged_while_one_looks_is_told_and_the_other_images_go_on(
    watched: Watched, small_run: Small, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(small_run.out, tmp_path / "out"))
    with serving(out) as client:
        page = watched.open(client, "browse?stage=segment&show=none")
        page.wait_for_function("() => document.querySelectorAll('.card img').length === 11")
        (file,) = (out / "segment" / "data").glob("0000001*.parquet")
        file.write_bytes(file.read_bytes()[:-9] + b"123456789")
        # what has been drawn is in memory, but no mask has been drawn yet
        assert client.post("api/reopen").status == 200
        page = watched.open(client, "image/6?stage=segment")
        page.get_by_text("not what was committed").first.wait_for()
        _nothing_inside_out(page, out)
        page = watched.open(client, "image/11?stage=segment&layer=mask")
        page.locator("canvas.layers").first.wait_for()
        assert page.locator("main").get_by_text("not what was committed").count() == 0
        page = watched.open(client, "browse?stage=segment&show=mask&sort=id")
        page.wait_for_function("() => document.querySelectorAll('.card .why').length === 6")
        # five of the shard, and the one that has failed
        assert page.locator(".card .why", has_text="not what was committed").count() == 5
        drawn = "() => [...document.querySelectorAll('.card img')].filter(each => each.naturalWidth > 0).length === 6"
        page.wait_for_function(drawn)
        _nothing_inside_out(page, out)


@pytest.mark.slow
def test_a_decompression_bomb_is_told_in_words_on_its_card_and_its_screen(watched: Watched, tmp_path: Path) -> None:
    bomb = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(bomb, "PNG")
    # pictures are kept by their content: these are those of no other test
    for seed, name in enumerate(("a.png", "c.png", "d.png"), 700):
        path = tmp_path / "photos" / name
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(photograph(seed)[0]).save(path)
    (tmp_path / "photos" / "b.png").write_bytes(bomb.getvalue())
    out = tmp_path / "out"
    assert run(["segment", str(tmp_path / "photos"), str(out), "--allow-failed", "1", *_SMALL]) == 0
    # another takes the place of an image when the run has read it
    (tmp_path / "photos" / "d.png").write_bytes(bomb.getvalue())
    with serving(out) as client:
        page = watched.open(client, "browse?stage=segment")
        page.locator("[data-row='3'] .why").wait_for()
        assert "30000x30000 pixels" in page.locator("[data-row='1'] .why").inner_text()
        assert "changed" in page.locator("[data-row='3'] .why").inner_text()
        page.wait_for_function("() => document.querySelectorAll('.card img').length === 2")
        for row, words in ((1, "30000x30000 pixels"), (3, "changed")):
            page = watched.open(client, f"image/{row}?stage=segment")
            page.locator("#main").get_by_text(words).first.wait_for()
            _nothing_inside_out(page, out)


@pytest.fixture(scope="module")
def few(whole_run: Whole, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs of one stage each: features, labels carried over, regions that got no further, trees without labels."""
    root, photos = tmp_path_factory.mktemp("few"), str(whole_run.photos)
    truth = str(whole_run.photos.parent / "truth")
    assert run(["features", photos, str(root / "features"), *_SMALL]) == 0
    carried = ["transfer", photos, str(root / "transfer"), "--truth", truth, "--exemplars", "val/0.png", *_SMALL]
    assert run(carried) == 0
    for name in ("regions", "hierarchy"):
        for part in ("plan", "run.json", name, f"results/{name}", f"results/{name}.json"):
            source, target = whole_run.maps / part, root / name / part
            target.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
    return {name: root / name for name in ("features", "transfer", "regions", "hierarchy")}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "overlay", "metric"),
    [
        ("features", None, "patches"),
        ("transfer", "labels", "iou_per_image_mean"),
        ("regions", None, "images_without_regions"),
    ],
)
def test_a_run_of_few_stages_says_what_it_has_and_what_would_make_the_rest(
    watched: Watched,
    served: Callable[..., Client],
    few: dict[str, Path],
    name: str,
    overlay: str | None,
    metric: str,
) -> None:
    client = served(few[name])
    page = watched.open(client, "browse")
    assert page.locator(".card").count() == 6
    page.wait_for_function("() => [...document.querySelectorAll('.card img')].every(each => each.naturalWidth > 0)")
    assert page.locator(".card .why").count() == 0
    choices = page.locator("#browse-overlay option").all_inner_texts()
    assert choices == ([overlay, "none"] if overlay else [])
    page = watched.open(client, f"image/0?stage={name}")
    page.locator("canvas.layers").first.wait_for()
    page.locator(".missing summary").click()
    page.locator(".missing li", has_text="simsam segment IMAGES OUT --eigenvectors fp16").first.wait_for()
    page.locator(".facts summary", has_text=f"What {name} says of it").wait_for()
    page = watched.open(client, "run")
    page.get_by_role("row", name=metric).first.wait_for()
    # what it has not is told with the command that makes it
    watched.open(client, "pairs").get_by_text("simsam correspond PAIRS OUT").wait_for()
    watched.open(client, "compare").get_by_text("simsam view OUT OTHER").wait_for()
    if name != "transfer":
        watched.open(client, f"clusters/{name}").get_by_text("simsam semantic IMAGES OUT").wait_for()


@pytest.mark.slow
def test_trees_without_labels_are_not_counted_by_them(
    watched: Watched, served: Callable[..., Client], few: dict[str, Path]
) -> None:
    page = watched.open(served(few["hierarchy"]), "browse?stage=hierarchy")
    page.locator(".facet", has_text="ok").first.wait_for()
    assert page.locator("#browse-overlay option").all_inner_texts() == ["tree", "none"]
    assert page.get_by_text("cannot be shown").count() == 0
