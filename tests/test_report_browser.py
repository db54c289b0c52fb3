"""The report page in a real browser: Chromium, headless, driven by the DevTools protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from browsing import LEAST_CONTRAST, LEAST_CONTRAST_LARGE, TEXTS, contrast, luminance
from PIL import Image

from simsam_batch import operations
from simsam_batch.cli import run

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

HOSTILE = ["<img src=x onerror=alert(1)>.png", '"><script>alert(2)<', "' onfocus=alert(3) autofocus '.png"]
LONG = "a" * 180 + ".png"


def test_contrast_is_that_of_the_standard() -> None:
    assert contrast("rgb(0, 0, 0)", "rgb(255, 255, 255)") == pytest.approx(21)
    # the grey that is known as the lightest with enough contrast on white
    assert contrast("rgb(118, 118, 118)", "color(srgb 1 1 1)") == pytest.approx(4.54, abs=0.01)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run over photographs whose names would run a script or burst the layout, with filled card."""
    root = tmp_path_factory.mktemp("browser")
    rng = np.random.default_rng(0)
    for name in [HOSTILE[0], f"{HOSTILE[1]}/script>.png", HOSTILE[2], LONG, "plain.png"]:
        pixels = rng.integers(150, 190, (128, 192, 3)).astype(np.uint8)
        pixels[32:96, 64:128] = (200, 40, 30)
        truth = np.zeros((128, 192), np.uint8)
        truth[32:96, 64:128] = 255
        for folder, content in (("photos", pixels), ("truth", truth)):
            path = root / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(content).save(path)
    (root / "photos" / "<script>alert(4)<!--.png").write_text("no image at all, of some length. " * 9)
    arguments = ["segment", f"{root}/photos", f"{root}/out", "--truth", f"{root}/truth", "--backbone", "descriptors"]
    assert run([*arguments, "--resize", "native", "--engine", "inline", "--quiet", "--allow-failed", "1"]) == 0
    (root / "out" / "report").mkdir()
    (root / "out" / "report" / "card.yaml").write_text("title: </dd><script>alert(5)</script>\nlicence: CC0\n")
    return Path(operations.report(str(root / "out")))


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of label maps with a confusion of many classes."""
    root = tmp_path_factory.mktemp("browser-maps")
    for seed in range(4):
        rng = np.random.default_rng(seed)
        pixels = rng.integers(90, 140, (240, 240, 3)).astype(np.uint8)
        pixels[16:112, 16:112], pixels[128:224, 128:224] = (200, 40, 40), (50, 60, 200)
        truth = np.repeat(np.repeat(np.arange(25, dtype=np.uint8).reshape(5, 5), 48, 0), 48, 1)
        for folder, content in (("photos", pixels), ("truth", truth)):
            path = root / folder / f"{seed}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(content).save(path)
    (root / "classes.txt").write_text("\n".join(f"class number {i}" for i in range(25)))
    arguments = ["semantic", f"{root}/photos", f"{root}/out", "--truth", f"{root}/truth", "--backbone", "descriptors"]
    arguments += ["--resize", "native", "--head", "none", "--region-feature", "patches", "--regions", "4"]
    arguments += ["--clusters", "3", "--class-names", f"{root}/classes.txt", "--engine", "inline", "--quiet"]
    assert run(arguments) == 0
    return Path(operations.report(str(root / "out")))


@pytest.fixture
def opened(browser: Browser) -> Iterator[Callable[..., tuple[Page, list[str]]]]:
    """Opens a page with all its pictures; whatever the browser complains of goes to the list."""
    contexts: list[Any] = []

    def open_page(path: Path, **options: Any) -> tuple[Page, list[str]]:
        contexts.append(browser.new_context(**options))
        page, complaints = contexts[-1].new_page(), []
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("requestfailed", lambda request: complaints.append(f"not loaded: {request.url}"))
        page.on("dialog", lambda dialog: (complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.goto(path.as_uri())
        page.evaluate("() => { for (const image of document.images) image.loading = 'eager' }")
        page.wait_for_load_state("networkidle")
        return page, complaints

    yield open_page
    for context in contexts:
        context.close()


@pytest.mark.slow
@pytest.mark.parametrize("which", ["report", "maps"])
def test_every_picture_loads_and_the_browser_has_nothing_to_complain_of(
    which: str, request: pytest.FixtureRequest, opened: Callable[..., tuple[Page, list[str]]]
) -> None:
    page, complaints = opened(request.getfixturevalue(which))
    widths = page.evaluate("() => [...document.images].map(image => image.naturalWidth)")
    assert len(widths) >= 4
    assert min(widths) > 0
    assert complaints == []
    # the style is in force although all but this very text is forbidden
    assert page.evaluate("() => getComputedStyle(document.body).maxWidth") == f"{76 * 16}px"


def test_names_that_hold_code_are_read_and_not_run(report: Path, opened: Callable[..., tuple[Page, list[str]]]) -> None:
    page, complaints = opened(report)
    shown = page.inner_text("body")
    for name in (*HOSTILE, "<script>alert(4)<!--.png", "</dd><script>alert(5)</script>"):
        assert name in shown
    assert page.evaluate("() => document.scripts.length") == 0
    assert page.evaluate("() => document.querySelectorAll('img[src=x], [onerror], [onfocus], [autofocus]').length") == 0
    page.keyboard.press("Tab")
    assert complaints == []


def test_what_the_policy_forbids_does_not_run_even_if_it_were_there(
    report: Path, tmp_path: Path, opened: Callable[..., tuple[Page, list[str]]]
) -> None:
    planted = tmp_path / "index.html"
    script = "<script>document.title = 'taken over'</script><p style='max-width: 1px' id=styled>x</p>"
    planted.write_text(report.read_text().replace("</main>", f"{script}</main>"))
    page, complaints = opened(planted)
    assert "taken over" not in page.title()
    assert page.evaluate("() => getComputedStyle(document.getElementById('styled')).maxWidth") != "1px"
    assert any("Content Security Policy" in complaint for complaint in complaints)


@pytest.mark.slow
@pytest.mark.parametrize("which", ["report", "maps"])
@pytest.mark.parametrize("width", [320, 768])
def test_nothing_is_cut_off_or_needs_scrolling_sideways(
    which: str, width: int, request: pytest.FixtureRequest, opened: Callable[..., tuple[Page, list[str]]]
) -> None:
    page, _ = opened(request.getfixturevalue(which), viewport={"width": width, "height": 740})
    page.evaluate("() => { for (const fold of document.querySelectorAll('details')) fold.open = true }")
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    # what is wider than the page scrolls in its own place, which the keyboard reaches
    beyond = """() => [...document.querySelectorAll('main *')].filter(each =>
      each.getBoundingClientRect().right > innerWidth + 1 && !each.closest('[tabindex="0"]')).length"""
    assert page.evaluate(beyond) == 0


@pytest.mark.slow
@pytest.mark.parametrize("which", ["report", "maps"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_the_contrast_of_level_aa(
    which: str, scheme: str, request: pytest.FixtureRequest, opened: Callable[..., tuple[Page, list[str]]]
) -> None:
    page, _ = opened(request.getfixturevalue(which), color_scheme=scheme)
    page.evaluate("() => { for (const fold of document.querySelectorAll('details')) fold.open = true }")
    ground = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    assert (luminance(ground) < 0.1) == (scheme == "dark")
    texts = page.evaluate(TEXTS)
    assert len(texts) > 100
    for text in texts:
        large = text["size"] >= 24 or (text["bold"] and text["size"] >= 18.66)
        least = LEAST_CONTRAST_LARGE if large else LEAST_CONTRAST
        assert contrast(text["color"], text["ground"]) >= least, text


def test_the_keyboard_reaches_links_and_folds_and_shows_where_it_is(
    report: Path, opened: Callable[..., tuple[Page, list[str]]]
) -> None:
    page, _ = opened(report)
    seen = []
    for _ in range(60):
        page.keyboard.press("Tab")
        where = page.evaluate(
            """() => { const element = document.activeElement, style = getComputedStyle(element)
            return {tag: element.tagName, outline: style.outlineStyle, width: parseFloat(style.outlineWidth)} }"""
        )
        if where["tag"] == "BODY":
            break
        seen.append(where["tag"])
        assert where["outline"] != "none"
        assert where["width"] >= 2
    assert {"A", "SUMMARY", "DIV"} <= set(seen)
    # the first stop skips the list of contents
    page.reload()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_url(lambda url: url.endswith("#main"))


def test_a_picture_leads_to_a_larger_one(report: Path, opened: Callable[..., tuple[Page, list[str]]]) -> None:
    page, complaints = opened(report)
    small = page.evaluate("() => document.querySelector('.card img').naturalWidth")
    page.click(".card a")
    assert page.evaluate("() => document.images[0].naturalWidth") > 2 * small
    assert complaints == []


@pytest.mark.slow
def test_on_paper_the_page_is_black_on_white_and_folds_are_open(
    report: Path, opened: Callable[..., tuple[Page, list[str]]]
) -> None:
    page, _ = opened(report, color_scheme="dark")
    # that of the dataset card is open, for it is filled in
    unfolded = """() => [...document.querySelectorAll('details:not([open]) > :not(summary)')]
        .map(each => each.checkVisibility())"""
    assert not any(page.evaluate(unfolded))
    page.emulate_media(media="print", color_scheme="dark")
    assert all(page.evaluate(unfolded))
    assert page.evaluate("() => getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("() => getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    assert not page.is_visible("nav")
    assert page.pdf(format="A4").startswith(b"%PDF")


def test_the_page_of_a_comparison_shows_hostile_names_and_runs_nothing(
    report: Path, opened: Callable[..., tuple[Page, list[str]]], tmp_path: Path
) -> None:
    from simsam_batch.results.comparing import CompareOptions
    from simsam_batch.telling.console import reporter

    root = report.parent.parent.parent
    arguments = ["segment", f"{root}/photos", f"{root}/other", "--truth", f"{root}/truth", "--backbone", "descriptors"]
    arguments += ["--engine", "inline", "--quiet", "--allow-failed", "1", "--resize", "short:96"]
    assert run(arguments) == 0
    hostile = "</h1><script>alert(6)</script>"
    options = CompareOptions(names=("plain", hostile), differing=5)
    with reporter("text", quiet=True) as telling:
        record = operations.compare([f"{root}/out", f"{root}/other"], options, telling, str(tmp_path / "cmp"))
    shown = [image["image_id"] for image in record["differing"][0]["images"]]
    assert {*HOSTILE[::2]} & {*shown}
    page, complaints = opened(tmp_path / "cmp" / "index.html", viewport={"width": 1100, "height": 900})
    assert complaints == []
    assert page.locator("script").count() == 0
    text = page.locator("body").inner_text()
    assert hostile in text
    for name in shown:
        assert name in text
    pictures = page.locator("img")
    assert pictures.count() == len(shown) > 0
    assert page.evaluate("() => [...document.images].every(image => image.naturalWidth > 100)")
    for text in page.evaluate(TEXTS):
        large = text["size"] >= 24 or (text["size"] >= 18.66 and text["bold"])
        assert contrast(text["color"], text["ground"]) >= (LEAST_CONTRAST_LARGE if large else LEAST_CONTRAST), text
