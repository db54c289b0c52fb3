"""Two runs compared in the browser: the image that lost most is found, swiped and flagged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
    page.goto(client.link)
    page.goto(f"{client.base}#/{address}")


def _lost_most(whole_run: Whole) -> str:
    a, b = (
        pd.DataFrame(rows_of(out, "segment")).set_index("image_id")["iou"] for out in (whole_run.out, whole_run.other)
    )
    return str((b - a).idxmin())


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
    clip = page.locator(".twice.over .layer-view").nth(1).evaluate("each => getComputedStyle(each).clipPath")
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
