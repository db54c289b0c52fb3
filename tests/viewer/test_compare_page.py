"""Two runs compared in the browser: the image that lost most is found, swiped and flagged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.resources import files
from typing import TYPE_CHECKING

import pandas as pd
import pytest
from browsing import chromium
from result_rows import rows_of
from viewing import Client
from whole import Whole

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    yield context.new_page()
    context.close()


def _opened(page: Page, client: Client, address: str) -> None:
    page.goto(client.at(address))


def _differences(whole_run: Whole) -> pd.Series:
    a, b = (
        pd.DataFrame(rows_of(out, "segment")).set_index("image_id")["iou"] for out in (whole_run.out, whole_run.other)
    )
    return b - a


def _lost_most(whole_run: Whole) -> str:
    return str(_differences(whole_run).idxmin())


def test_the_image_that_lost_most_is_found_swiped_and_flagged_by_mouse(
    page: Page, served: Callable[..., Client], whole_run: Whole
) -> None:
    client = served(whole_run.out, whole_run.other)
    _opened(page, client, "compare?stage=segment&metric=iou")
    first = page.locator(".both li a").first
    assert first.inner_text().strip() == _lost_most(whole_run)
    first.click()
    page.get_by_role("button", name="Swipe").click()
    slider = page.locator("#swipe")
    slider.fill("20")
    clip = page.locator(".twice.over canvas").nth(1).evaluate("each => getComputedStyle(each).clipPath")
    assert "20%" in clip
    page.locator(".flagbar").get_by_role("button", name="bad").first.click()
    page.locator(".flagbar button[aria-pressed=true]", has_text="bad").wait_for()
    page.reload()
    page.locator(".twice.over").wait_for()
    assert page.locator("h2 bdi").inner_text() == _lost_most(whole_run)
    page.go_back()
    page.locator(".both li").first.wait_for()


def test_the_same_by_keyboard_alone(page: Page, served: Callable[..., Client], whole_run: Whole) -> None:
    client = served(whole_run.out, whole_run.other)
    _opened(page, client, "compare?stage=segment&metric=iou")
    page.locator(".both li a").first.focus()
    page.keyboard.press("Enter")
    page.locator(".flagbar").wait_for()
    page.keyboard.press("s")
    page.keyboard.press("ArrowLeft")
    assert page.locator("#swipe").input_value() == "45"
    page.keyboard.press("g")
    page.locator(".flagbar button[aria-pressed=true]", has_text="good").wait_for()
    page.keyboard.press("n")
    page.get_by_text("2 of 6").wait_for()
    page.keyboard.press("Escape")
    page.locator(".both li").first.wait_for()


def _ids(page: Page) -> list[str]:
    return page.locator(".both li bdi").all_inner_texts()


@pytest.mark.slow
def test_a_bar_of_the_differences_lists_its_images_and_its_words_are_taken_away_again(
    page: Page, served: Callable[..., Client], whole_run: Whole
) -> None:
    _opened(page, served(whole_run.out, whole_run.other), "compare?stage=segment&metric=iou")
    bars = page.locator("#spread-difference .histogram")
    box = bars.bounding_box()
    assert box is not None
    # the lowest bar ends with 1 of the bins that the drawing has
    wide = float((bars.get_attribute("viewBox") or "").split()[2])
    page.mouse.click(box["x"] + box["width"] / wide / 2, box["y"] + box["height"] / 2)
    words = page.get_by_role("button", name="take away")
    assert "B \N{MINUS SIGN} A of iou below" in (words.get_attribute("aria-label") or "")
    differences = _differences(whole_run)
    high = float(page.url.partition("difference=..")[2].partition("&")[0])
    listed = sorted(differences[differences < high].index)
    assert 0 < len(listed) < 6
    assert sorted(_ids(page)) == listed
    page.reload()
    words.wait_for()
    assert sorted(_ids(page)) == listed
    words.focus()
    page.keyboard.press("Enter")
    words.wait_for(state="detached")
    assert len(_ids(page)) == len(differences)
    page.go_back()
    words.wait_for()
    # by keyboard a range is typed below the bars, and the focus stays there
    field = page.locator("#spread-difference input").first
    field.focus()
    field.fill(str(high))
    page.keyboard.press("Tab")
    page.wait_for_function("location.hash.includes('difference=')")
    page.get_by_text("No image is in both and in the filter").wait_for()
    assert page.evaluate("document.activeElement.closest('section')?.id") == "spread-difference"


def test_when_the_agreement_of_all_is_found_the_lowest_can_be_looked_at_first(
    page: Page, served: Callable[..., Client], whole_run: Whole
) -> None:
    client = served(whole_run.out, whole_run.other)
    client.post("api/reopen")
    _opened(page, client, "compare?stage=segment&metric=iou")
    page.get_by_role("button", name="Agreement of all 6").focus()
    page.keyboard.press("Enter")
    lowest = page.get_by_role("link", name="Lowest first")
    lowest.wait_for()
    page.keyboard.press("Enter")
    page.wait_for_function("location.hash.includes('sort=agreement')")
    page.locator("#compare-sort option[value=agreement]:checked").wait_for(state="attached")
    shown = [float(each) for each in page.locator(".both dl dd:last-child").all_inner_texts()]
    assert len(shown) == 6
    assert shown == sorted(shown)
    assert page.locator("#agreement .histogram").count() == 1


def test_a_filter_that_cannot_be_read_is_told_at_its_line_and_mended_there(
    page: Page, served: Callable[..., Client], whole_run: Whole
) -> None:
    _opened(page, served(whole_run.out, whole_run.other), "compare?stage=segment&q=confidense%3E0")
    page.locator("#filter-fault", has_text="there is no column 'confidense'").wait_for()
    page.locator("#filter").fill("confidence>=0")
    page.keyboard.press("Enter")
    page.locator(".both li").first.wait_for()
    assert page.locator("#filter-fault").is_hidden()


def test_the_settings_that_differ_are_told_with_the_names_of_both_runs(
    page: Page, served: Callable[..., Client], whole_run: Whole
) -> None:
    _opened(page, served(whole_run.out, whole_run.other), "compare?stage=segment")
    heads = page.locator(".settings thead th")
    heads.last.wait_for()
    assert heads.all_inner_texts() == ["setting", "A: out", "B: other"]
    rows = [page.locator(".settings tbody tr").nth(0).locator("th, td").all_inner_texts()]
    assert rows == [["cut", "chosen", "fixed"]]
    assert page.locator(".settings tbody tr").count() == 1


@pytest.mark.slow
def test_one_comes_back_to_the_page_of_the_list_that_the_image_is_on(
    page: Page, served: Callable[..., Client], whole_run: Whole
) -> None:
    # the six images are three pages of two
    script = (files("simsam_batch.viewer") / "page" / "compare.js").read_text(encoding="utf-8")
    assert "const PAGE = 60\n" in script
    small = script.replace("const PAGE = 60\n", "const PAGE = 2\n")
    page.route("**/compare.js", lambda route: route.fulfill(body=small, content_type="text/javascript"))
    _opened(page, served(whole_run.out, whole_run.other), "compare?stage=segment&metric=iou")
    order = list(_differences(whole_run).sort_values().index)
    page.locator(".pages").get_by_role("link", name="Page 2").click()
    page.locator("a[aria-current=page]", has_text="2").wait_for()
    assert _ids(page) == order[2:4]
    page.locator(".both a").last.click()
    page.get_by_text("4 of 6").wait_for()
    page.keyboard.press("n")
    page.get_by_text("5 of 6").wait_for()
    page.keyboard.press("Escape")
    page.locator("a[aria-current=page]", has_text="3").wait_for()
    assert _ids(page) == order[4:6]
    page.wait_for_function("id => document.activeElement?.textContent === id", arg=order[4])


def test_one_run_and_runs_of_different_commands_are_told_in_words(
    page: Page, served: Callable[..., Client], whole_run: Whole
) -> None:
    _opened(page, served(whole_run.out), "compare")
    page.get_by_text("One run is open").wait_for()
    _opened(page, served(whole_run.out, whole_run.maps), "compare")
    page.get_by_text("different commands").wait_for()


@pytest.mark.parametrize("row", ["", "/0"])
def test_nothing_is_wider_than_a_narrow_screen(
    page: Page, served: Callable[..., Client], whole_run: Whole, row: str
) -> None:
    page.set_viewport_size({"width": 320, "height": 700})
    _opened(page, served(whole_run.out, whole_run.other), f"compare{row}?stage=segment&metric=iou")
    page.locator(".both li, .twice canvas").first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
