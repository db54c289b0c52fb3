"""Browse in a real Chromium, over the real server and a real run: by mouse, by keyboard, narrow, light, dark."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pyarrow.parquet as pq
import pytest
from browsing import luminance, too_faint
from PIL import Image
from viewing import BROKEN, Client, Small, photograph

from simsam_batch.cli import run

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page

SETTLED = (
    "() => !document.querySelector('[aria-busy]') && document.querySelectorAll('.card, .body > .state').length > 0"
)
IDS = "() => [...document.querySelectorAll('.card')].map(card => Number(card.dataset.row))"


@dataclass
class Opened:
    """A page that has been opened by its link.

    Attributes:
        page: in the browser.
        base: its address without screen and token.
        complaints: whatever the browser complains of.
        asked: every address that was asked for.
    """

    page: Page
    base: str
    complaints: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def go(self, hash_: str) -> None:
        self.page.goto(f"{self.base}{hash_}")
        self.settle()

    def settle(self) -> None:
        self.page.wait_for_function(SETTLED)

    def rows(self) -> list[int]:
        found: list[int] = self.page.evaluate(IDS)
        return found

    def total(self, text: str) -> None:
        self.page.wait_for_function("text => document.querySelector('.total')?.textContent === text", arg=text)
        self.settle()

    def heard(self, message: ConsoleMessage) -> None:
        """Keep what the console says, but for the refusal of a filter that was wrong, or asked for half typed."""
        if not ("400" in message.text and "q=" in message.location["url"]):
            self.complaints.append(message.text)

    def query(self) -> dict[str, str]:
        return {name: value[0] for name, value in parse_qs(urlsplit(self.page.url).fragment.partition("?")[2]).items()}

    def focus(self) -> Any:
        return self.page.evaluate(
            "() => document.activeElement.closest('.card')?.dataset.row ?? document.activeElement.id"
        )


@pytest.fixture(scope="module")
def client(small_run: Small, served: Callable[..., Client], tmp_path_factory: pytest.TempPathFactory) -> Client:
    """A server whose flags go to a file of this module."""
    return served(small_run.out, flags=str(tmp_path_factory.mktemp("flags") / "flags.jsonl"), reviewer="tester")


@pytest.fixture
def opened(browser: Browser, client: Client) -> Iterator[Callable[..., Opened]]:
    """Opens Browse; at the end the browser has had nothing to complain of and asked nobody else."""
    contexts, pages = [], []

    def open_page(hash_: str = "", **options: Any) -> Opened:
        contexts.append(browser.new_context(**{"viewport": {"width": 1280, "height": 900}} | options))
        page = contexts[-1].new_page()
        page.set_default_timeout(10_000)
        found = Opened(page, client.base)
        pages.append(found)
        page.on("console", found.heard)
        page.on("pageerror", lambda error: found.complaints.append(str(error)))
        page.on("dialog", lambda dialog: (found.complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: found.asked.append(request.url))
        page.goto(client.link)
        found.settle()
        if hash_:
            found.go(hash_)
        return found

    yield open_page
    for found in pages:
        assert found.complaints == []
        assert all(url.startswith((client.base, "blob:")) for url in found.asked)
    for context in contexts:
        context.close()


def ious(small_run: Small) -> dict[int, float]:
    """IoU by row, as Parquet has it; without the image that failed."""
    (part,) = sorted((small_run.out / "results" / "segment").glob("*.parquet"))
    table = pq.read_table(part, columns=["image_id", "iou"]).to_pydict()
    values = dict(zip(table["image_id"], table["iou"], strict=True))
    return {row: values[name] for row, name in enumerate(small_run.names) if values[name] is not None}


def test_the_worst_images_are_found_by_mouse(opened: Callable[..., Opened], small_run: Small) -> None:
    screen = opened()
    worst_first = sorted(ious(small_run), key=lambda row: (ious(small_run)[row], row))
    screen.page.select_option("#browse-sort", "iou")
    # the image that failed has no value and comes last
    screen.page.wait_for_function(
        "rows => [...document.querySelectorAll('.card')].map(card => Number(card.dataset.row)).join() === rows.join()",
        arg=[*worst_first, small_run.failed],
    )
    screen.page.click(".facet button.term:has-text('failed')")
    screen.total("1 of 12 images")
    assert screen.query() == {"q": "status:failed", "sort": "iou"}
    assert screen.page.input_value("#filter") == "status:failed"
    # the same again takes it out
    screen.page.click(".facet button.term:has-text('failed')")
    screen.total("12 images")


def test_the_worst_images_are_found_by_keyboard_alone(opened: Callable[..., Opened], small_run: Small) -> None:
    screen = opened()
    keys = screen.page.keyboard
    keys.press("/")
    assert screen.focus() == "filter"
    keys.type("io")
    screen.page.wait_for_selector("[role=option]")
    keys.press("ArrowDown")
    assert screen.page.get_attribute("#filter", "aria-activedescendant") == "offer-0"
    keys.press("Enter")
    screen.page.wait_for_function("() => document.getElementById('filter').value === 'iou'")
    limit = sorted(ious(small_run).values())[3]
    keys.type(f"<{limit + 1e-4:.5f}")
    keys.press("Enter")
    expected = [row for row, value in ious(small_run).items() if value < float(f"{limit + 1e-4:.5f}")]
    screen.total(f"{len(expected)} of 12 images")
    assert screen.rows() == expected
    keys.press("Escape")
    keys.press("ArrowRight")
    assert screen.focus() == str(expected[0])
    keys.press("l")
    assert screen.focus() == str(expected[1])
    keys.press("h")
    href = screen.page.get_attribute(f".card[data-row='{expected[0]}'] a", "href")
    assert href is not None
    assert href.startswith(f"#/image/{expected[0]}?stage=segment&q=iou")
    keys.press("Enter")
    screen.page.wait_for_url(lambda url: f"#/image/{expected[0]}" in url)


def test_typing_is_one_step_for_back_and_reload_shows_the_same(opened: Callable[..., Opened]) -> None:
    screen = opened("#/browse?sort=iou&desc=1")
    before = screen.rows()
    length = screen.page.evaluate("() => history.length")
    screen.page.focus("#filter")
    # the last term so slowly that it is asked for half typed
    screen.page.keyboard.type("status:ok ", delay=60)
    screen.page.keyboard.type("camera:left", delay=300)
    screen.page.keyboard.press("Enter")
    screen.page.wait_for_function("() => /of 12/.test(document.querySelector('.total').textContent)")
    screen.page.wait_for_function("() => document.querySelectorAll('.card').length < 6")
    there, shown = screen.page.url, screen.rows()
    assert screen.page.evaluate("() => history.length") == length + 1
    screen.page.reload()
    screen.settle()
    assert (screen.page.url, screen.rows()) == (there, shown)
    assert screen.page.input_value("#filter") == "status:ok camera:left"
    screen.page.go_back()
    screen.total("12 images")
    assert screen.rows() == before


def test_a_fault_of_the_filter_is_shown_at_its_place(opened: Callable[..., Opened]) -> None:
    screen = opened()
    screen.page.fill("#filter", "status:ok iuo<1")
    screen.page.wait_for_selector("#filter-fault mark")
    assert screen.page.text_content("#filter-fault mark") == "i"
    assert "iuo" in (screen.page.text_content("#filter-fault") or "")
    assert screen.page.get_attribute("#filter", "aria-invalid") == "true"
    screen.page.fill("#filter", "status:ok")
    screen.total("11 of 12 images")
    assert screen.page.is_hidden("#filter-fault")


def test_a_range_is_dragged_in_a_histogram_or_typed(opened: Callable[..., Opened], small_run: Small) -> None:
    screen = opened()
    facet = screen.page.locator(
        ".facets > details", has=screen.page.locator("summary bdi", has_text=re.compile("^iou$"))
    )
    facet.locator("svg").wait_for()
    box = facet.locator("svg").bounding_box()
    assert box is not None
    middle = box["y"] + box["height"] / 2
    screen.page.mouse.move(box["x"] + box["width"] - 2, middle)
    screen.page.mouse.down()
    screen.page.mouse.move(box["x"] + box["width"] / 2 + 1, middle, steps=3)
    screen.page.mouse.up()
    screen.page.wait_for_url(lambda url: "iou" in url)
    low = float(re.fullmatch(r"iou:([\d.e-]+)\.\.", screen.query()["q"])[1])  # type: ignore[index]
    values = ious(small_run)
    assert low == pytest.approx((min(values.values()) + max(values.values())) / 2, rel=0.1)
    expected = [row for row, value in values.items() if value >= low]
    screen.total(f"{len(expected)} of 12 images")
    assert screen.rows() == expected
    facet.locator("input").nth(1).fill("0")
    facet.locator("input").nth(1).press("Enter")
    screen.total("0 of 12 images")
    assert "No image is like that" in screen.page.inner_text(".body")


def test_images_are_flagged_by_keys_and_the_list_is_handed_on(opened: Callable[..., Opened], small_run: Small) -> None:
    screen = opened()
    keys = screen.page.keyboard
    good, bad, other = [row for row in range(4) if row != small_run.failed][:3]
    keys.press("ArrowRight")
    keys.press("g")
    screen.page.wait_for_selector(f".card[data-row='{good}'] .badge:has-text('good')")
    keys.press("ArrowRight")
    keys.press("2")
    screen.page.wait_for_selector(f".card[data-row='{bad}'] .badge:has-text('bad: background')")
    keys.press("ArrowRight")
    keys.press("x")
    screen.page.wait_for_selector(f".card[data-row='{other}'] .badge:has-text('bad')")
    keys.press("u")
    screen.page.wait_for_selector(f".card[data-row='{other}'] .badge", state="detached")
    screen.page.wait_for_function("() => /Undone/.test(document.getElementById('said').textContent)")
    keys.press("/")
    keys.type("flag:bad")
    keys.press("Enter")
    screen.total("1 of 12 images")
    assert screen.rows() == [bad]
    with screen.page.expect_download() as download:
        screen.page.click(".lists a:has-text('text')")
    assert Path(download.value.path()).read_text().splitlines() == [str(small_run.photos / small_run.names[bad])]


def test_several_images_are_flagged_at_once(opened: Callable[..., Opened], client: Client) -> None:
    screen = opened("#/browse?q=id~val/")
    rows = screen.rows()
    keys = screen.page.keyboard
    keys.press("ArrowRight")
    keys.press("Space")
    keys.press("ArrowRight")
    keys.press("ArrowRight")
    keys.press("Shift+Space")
    screen.page.wait_for_selector(".chosenbar strong:has-text('3')")
    screen.page.click(".chosenbar button:has-text('unsure')")
    screen.page.wait_for_function("() => document.querySelectorAll('.card .badge').length === 3")
    told = client.get("api/flags", stage="segment").json()["flags"]
    assert {each["row"] for each in told if each["verdict"] == "unsure"} == set(rows[:3])
    screen.page.click(".chosenbar button:has-text('take back')")
    screen.page.wait_for_function("() => document.querySelectorAll('.card .badge').length === 0")
    screen.page.click(".chosenbar button:has-text('Choose none')")
    assert screen.page.is_hidden(".chosenbar")


def test_names_that_hold_code_are_read_and_not_run(opened: Callable[..., Opened], small_run: Small) -> None:
    screen = opened()
    shown = screen.page.inner_text(".cards")
    for name in (BROKEN, *(each for each in small_run.names if "onerror" in each or "onfocus" in each)):
        assert name in shown
    assert (
        screen.page.evaluate("() => document.querySelectorAll('img[src=x], [onerror], [onfocus], [autofocus]').length")
        == 0
    )
    assert screen.page.evaluate("() => document.scripts.length") == 1


def test_an_image_that_failed_says_why(opened: Callable[..., Opened], small_run: Small) -> None:
    screen = opened("#/browse?q=status:failed")
    text = screen.page.inner_text(".card .picture")
    (part,) = sorted((small_run.out / "results" / "segment").glob("*.parquet"))
    table = pq.read_table(part, columns=["error_type", "status"]).to_pylist()
    (kind,) = [each["error_type"] for each in table if each["status"] == "failed"]
    assert kind in text
    assert not any("images/" in url and f"/{small_run.failed}.jpg" in url for url in screen.asked)


def test_an_image_that_has_changed_says_so_in_its_card(
    browser: Browser, served: Callable[..., Client], tmp_path: Path
) -> None:
    photo = tmp_path / "photos" / "one.png"
    photo.parent.mkdir()
    Image.fromarray(photograph(99)[0]).save(photo)
    arguments = ["segment", str(photo.parent), str(tmp_path / "out"), "--backbone", "descriptors", "--resize", "native"]
    assert run([*arguments, "--engine", "inline", "--quiet"]) == 0
    Image.fromarray(photograph(98)[0]).save(photo)
    page = browser.new_page()
    page.goto(served(tmp_path / "out", flags=str(tmp_path / "flags.jsonl")).link)
    page.wait_for_selector(".card .why")
    assert "changed" in page.inner_text(".card .why")
    page.context.close()


@pytest.mark.slow
def test_pages_are_turned_by_keys_and_links_and_a_row_is_gone_to(
    browser: Browser, served: Callable[..., Client], tmp_path: Path
) -> None:
    names = [f"{i:03d}.png" for i in range(130)]
    (tmp_path / "photos").mkdir()
    for name in names:
        Image.fromarray(photograph(0, 64, 64)[0]).save(tmp_path / "photos" / name)
    arguments = ["segment", str(tmp_path / "photos"), str(tmp_path / "out"), "--backbone", "descriptors"]
    assert run([*arguments, "--resize", "native", "--engine", "inline", "--quiet"]) == 0
    page = browser.new_page()
    client = served(tmp_path / "out", flags=str(tmp_path / "flags.jsonl"))
    page.goto(client.link)
    page.wait_for_selector(".card")
    assert page.evaluate(IDS) == list(range(60))
    page.keyboard.press("PageDown")
    page.wait_for_function("() => document.activeElement.closest('.card')?.dataset.row === '60'")
    assert page.evaluate(IDS) == list(range(60, 120))
    page.click(".foot .pages a:has-text('Next')")
    page.wait_for_function("() => document.querySelectorAll('.card').length === 10")
    assert page.url.endswith("#/browse?page=3")
    page.go_back()
    page.wait_for_function("() => document.querySelector('.card')?.dataset.row === '60'")
    page.keyboard.press("PageUp")
    page.wait_for_function("() => document.querySelector('.card')?.dataset.row === '0'")
    page.fill(".goto input", "nothing.png")
    page.press(".goto input", "Enter")
    page.wait_for_selector(".goto .fault:has-text('nothing.png')")
    page.fill(".goto input", "125.png")
    page.press(".goto input", "Enter")
    page.wait_for_url(lambda url: "#/image/125?" in url)
    page.context.close()


@pytest.mark.parametrize("width", [320, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_and_needs_no_scrolling_sideways(opened: Callable[..., Opened], width: int, scheme: str) -> None:
    screen = opened("#/browse?sort=iou", viewport={"width": width, "height": 740}, color_scheme=scheme)
    screen.page.evaluate("() => { for (const fold of document.querySelectorAll('.side')) fold.open = true }")
    screen.page.keyboard.press("ArrowRight")
    screen.page.keyboard.press("Space")
    screen.page.wait_for_selector(".histogram")
    screen.settle()
    ground = screen.page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    assert (luminance(ground) < 0.1) == (scheme == "dark")
    assert too_faint(screen.page) == []
    assert screen.page.evaluate("() => document.documentElement.scrollWidth") <= width
    small = """() => [...document.querySelectorAll('main :is(a, button, input, select, summary)')]
      .filter(each => each.checkVisibility()).map(each => [each.getBoundingClientRect(), each.outerHTML.slice(0, 80)])
      .filter(([box]) => box.width < 24 || box.height < 24).map(([, of]) => of)"""
    assert screen.page.evaluate(small) == []


def test_no_serious_finding_of_axe(opened: Callable[..., Opened]) -> None:
    from axe_playwright_python.sync_playwright import Axe

    screen = opened()
    screen.page.keyboard.press("ArrowRight")
    screen.page.keyboard.press("Space")
    screen.page.wait_for_selector(".histogram")
    screen.settle()
    found = Axe().run(screen.page).response["violations"]
    serious = [each for each in found if each["impact"] in ("serious", "critical")]
    assert json.dumps(serious, indent=1) == "[]"
