"""The Image screen of ``simsam view --live`` in a real browser: cosines of any patch, and its place in others."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray
from result_rows import rows_of
from viewing import Client, Opener
from whole import Whole

from simsam_batch.results.run import open_run

if TYPE_CHECKING:
    from playwright.sync_api import Page

ROW, PATCH = 1, 20


@pytest.fixture
def client(served: Callable[..., Client], whole_run: Whole) -> Client:
    """Over features that the run has stored."""
    return served(whole_run.pairs, live=True, device="cpu")


def units(whole_run: Whole, row: int) -> NDArray[np.float64]:
    """(Hp, Wp, D) stored features of an image, every patch of unit length."""
    image = rows_of(whole_run.pairs, "features")[row]["image_id"]
    (stored,) = (each for each in open_run(str(whole_run.pairs)).features(image).values() if each.ndim == 3)
    found = stored.astype(np.float64)
    return np.asarray(found / np.linalg.norm(found, axis=-1, keepdims=True))


def told(page: Page, words: str) -> float:
    """The value that the text twin tells, once it has these words."""
    page.wait_for_function("words => document.querySelector('.twin').textContent.includes(words)", arg=words)
    return float(page.locator(".twin").first.get_attribute("data-value") or "nan")


def test_the_cosine_under_the_pointer_is_that_of_the_stored_features(
    opened: Opener, client: Client, whole_run: Whole
) -> None:
    page, complaints = opened(client, f"image/{ROW}?stage=features&layer=cosine&patch={PATCH}")
    features = units(whole_run, ROW)
    down, across, _ = features.shape
    expected = features.reshape(down * across, -1) @ features.reshape(down * across, -1)[PATCH]
    assert told(page, f"to patch {PATCH}, pinned") == pytest.approx(1, abs=2e-3)
    box = page.locator("canvas.layers").bounding_box()
    assert box is not None
    for cell in (0, down * across // 2, down * across - 1):
        at = ((cell % across + 0.5) / across * box["width"], (cell // across + 0.5) / down * box["height"])
        page.locator("canvas.layers").hover(position={"x": at[0], "y": at[1]})
        assert told(page, f"patch {cell} ") == pytest.approx(expected[cell], abs=2e-3)
    assert complaints == []


def test_a_patch_asked_before_is_shown_without_a_question(opened: Opener, client: Client) -> None:
    page, _ = opened(client, f"image/{ROW}?stage=features&layer=cosine&patch={PATCH}")
    told(page, f"to patch {PATCH}, pinned")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "api/live" in request.url else None)
    page.locator("canvas.layers").focus()
    page.keyboard.press("ArrowRight")
    told(page, f"to patch {PATCH + 1}, pinned")
    page.keyboard.press("ArrowLeft")
    told(page, f"to patch {PATCH}, pinned")
    assert len(asked) == 1
    page.wait_for_function("patch => location.hash.includes(`patch=${patch}`)", arg=PATCH)


def test_a_patch_is_found_where_the_other_image_is_most_like_it(
    opened: Opener, client: Client, whole_run: Whole
) -> None:
    page, complaints = opened(client, f"image/{ROW}?stage=features&layer=cosine&patch={PATCH}")
    page.keyboard.press("o")
    words = page.locator(".finding .twin")
    page.wait_for_function("() => document.querySelector('.finding .twin').textContent.includes('is found at')")
    one, other = units(whole_run, ROW), units(whole_run, ROW + 1)
    similar = other @ one.reshape(-1, one.shape[-1])[PATCH]
    assert float(words.get_attribute("data-similarity") or "nan") == pytest.approx(similar.max(), abs=5e-3)
    # the place is the mean of those at most two patches from the best
    x, y = (int(each) for each in re.findall(r"\b[xy] (\d+)", words.inner_text()))
    patch = rows_of(whole_run.pairs, "features")[ROW]["patch"]
    best = np.unravel_index(similar.argmax(), similar.shape)
    assert abs(y / patch - best[0] - 0.5) <= 2
    assert abs(x / patch - best[1] - 0.5) <= 2
    page.wait_for_function("row => location.hash.includes(`other=${row}`)", arg=ROW + 1)
    page.reload()
    page.wait_for_function("() => document.querySelector('.finding .twin')?.textContent.includes('is found at')")
    assert complaints == []


def test_the_other_image_is_named_by_its_id(opened: Opener, client: Client, whole_run: Whole) -> None:
    page, _ = opened(client, f"image/{ROW}?stage=features&layer=cosine&patch={PATCH}")
    page.fill("#other", rows_of(whole_run.pairs, "features")[ROW]["image_id"])
    page.keyboard.press("Enter")
    # in the very same image it is where it is
    page.wait_for_function("() => document.querySelector('.finding .twin').textContent.includes(', mutual')")
    assert float(page.locator(".finding .twin").get_attribute("data-similarity") or "nan") == pytest.approx(1, abs=0.01)
    page.fill("#other", "no such image")
    page.keyboard.press("Enter")
    page.get_by_text("there is no 'no such image'").wait_for()


def test_without_live_it_is_told_how_to_have_it(
    opened: Opener, served: Callable[..., Client], whole_run: Whole
) -> None:
    page, complaints = opened(served(whole_run.out), f"image/{ROW}?stage=segment&layer=mask,cosine")
    choice = page.locator("[data-key=cosine]")
    assert choice.is_disabled()
    assert choice.get_attribute("aria-pressed") == "false"
    page.locator(".missing summary").click()
    assert "start it with --live" in page.locator(".missing").inner_text()
    assert page.locator(".finding").count() == 0
    page.keyboard.press("o")
    assert "start it with --live" in page.locator("#said").inner_text()
    assert complaints == []
