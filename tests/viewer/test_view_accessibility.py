"""Every screen in a real browser, narrow and wide, light and dark: read by axe-core, measured, and listened to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.resources import files
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from viewing import Client
from whole import Whole

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

AXE = (files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")
LEAST_TARGET = 24
"""Pixels of what is clicked, by WCAG 2.2, level AA."""

SCREENS = {
    "browse": ("out", "browse?stage=segment&sort=confidence&show=mask"),
    "nothing found": ("out", "browse?stage=segment&q=confidence%3E5"),
    "a wrong filter": ("out", "browse?stage=segment&q=confidense%3E5"),
    "image": ("out", "image/1?stage=segment&layer=mask"),
    "eigenvector": ("out", "image/1?stage=segment&layer=eigenvector&k=1"),
    "affinity": ("out", "image/1?stage=segment&layer=affinity&t=4&patch=20"),
    "labels": ("maps", "image/1?stage=semantic&layer=labels"),
    "tree": ("maps", "image/1?stage=hierarchy&layer=tree&depth=2"),
    "clusters": ("maps", "clusters/semantic"),
    "a cluster": ("maps", "clusters/semantic/1"),
    "clusters of nodes": ("maps", "clusters/hierarchy?sort=share&desc=1"),
    "a cluster of nodes": ("maps", "clusters/hierarchy/1?order=largest"),
    "compare": ("both", "compare?stage=segment"),
    "compare with itself alone": ("out", "compare"),
    "pairs": ("pairs", "pairs?stage=matches"),
    "a pair": ("pairs", "pairs/0?stage=matches&point=1"),
    "run": ("maps", "run"),
    "run of pairs": ("pairs", "run"),
    "no such screen": ("out", "nowhere"),
}

_SMALL_TARGETS = """least => [...document.querySelectorAll(
    'a[href], button, input:not([type=hidden]), select, textarea, summary, [role=treeitem], [role=option]')]
  .filter(each => each.checkVisibility({visibilityProperty: true}) && !each.closest('p, td, li.inline, .note'))
  .map(each => [each, each.getBoundingClientRect()])
  .filter(([each, box]) => box.width > 0 && box.right > 0 && (box.width < least - .5 || box.height < least - .5))
  .map(([each, box]) => `${each.outerHTML.slice(0, 120)} ${box.width.toFixed(1)} x ${box.height.toFixed(1)}`)"""

_BEYOND = """() => [...document.querySelectorAll('body *')].filter(each => {
  const box = each.getBoundingClientRect()
  if (box.width === 0 || box.right <= innerWidth + 1 || !each.checkVisibility()) return false
  for (let up = each.parentElement; up; up = up.parentElement)
    if (['auto', 'scroll', 'hidden', 'clip'].includes(getComputedStyle(up).overflowX)) return false
  return true
}).map(each => each.outerHTML.slice(0, 120))"""


@pytest.fixture
def opened(
    browser: Browser, served: Callable[..., Client], whole_run: Whole
) -> Iterator[Callable[..., tuple[Page, list[str]]]]:
    """Opens a screen, still and complete; whatever the browser complains of goes to the list."""
    contexts: list[Any] = []

    def open_screen(name: str, **options: Any) -> tuple[Page, list[str]]:
        which, address = SCREENS[name]
        client = (
            served(whole_run.out, whole_run.other) if which == "both" else served(getattr(whole_run, _FOLDER[which]))
        )
        contexts.append(browser.new_context(reduced_motion="reduce", **options))
        page, complaints = contexts[-1].new_page(), []
        page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("dialog", lambda dialog: (complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: complaints.extend(_elsewhere(request.url, client)))
        page.goto(client.link)
        page.goto(f"{client.base}#/{address}")
        page.wait_for_load_state("networkidle")
        page.wait_for_function("() => !document.querySelector('[aria-busy=true]')")
        return page, complaints

    yield open_screen
    for context in contexts:
        context.close()


_FOLDER = {"out": "out", "maps": "maps", "pairs": "pairs"}


def _elsewhere(url: str, client: Client) -> list[str]:
    asked, ours = urlsplit(url), urlsplit(client.base)
    return [] if asked.scheme in ("blob", "data") or asked.netloc == ours.netloc else [f"elsewhere: {url}"]


def seen_by_axe(page: Page) -> list[str]:
    """What axe-core finds that is serious or worse."""
    page.evaluate(AXE)
    found = page.evaluate("() => axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{each['id']}: {each['help']}: {node['html'][:200]}"
        for each in found["violations"]
        if each["impact"] in ("serious", "critical")
        for node in each["nodes"]
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", SCREENS)
def test_a_screen_is_read_by_all_and_complains_of_nothing(
    name: str, opened: Callable[..., tuple[Page, list[str]]]
) -> None:
    page, complaints = opened(name, viewport={"width": 1280, "height": 900}, color_scheme="light")
    assert page.locator("h1").count() == 1
    assert seen_by_axe(page) == []
    assert page.evaluate(_SMALL_TARGETS, LEAST_TARGET) == []
    # a refusal that the screen puts into words is one of the network's too
    expected = "the server responded with a status of 4"
    assert [each for each in complaints if expected not in each or name not in _REFUSED] == []


_REFUSED = ("a wrong filter", "compare with itself alone")


@pytest.mark.slow
@pytest.mark.parametrize("name", SCREENS)
def test_a_screen_fits_a_telephone_and_is_read_in_the_dark(
    name: str, opened: Callable[..., tuple[Page, list[str]]]
) -> None:
    page, _ = opened(name, viewport={"width": 320, "height": 640}, color_scheme="dark")
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 320, page.evaluate(_BEYOND)
    assert page.evaluate(_BEYOND) == []
    assert seen_by_axe(page) == []
    ground = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    assert sum(map(float, ground.partition("(")[2].rstrip(")").split(",")[:3])) < 150


@pytest.mark.slow
@pytest.mark.parametrize("name", ["browse", "image", "compare"])
def test_with_the_colours_of_the_system_what_is_chosen_is_still_seen(
    name: str, opened: Callable[..., tuple[Page, list[str]]]
) -> None:
    page, _ = opened(name, viewport={"width": 1280, "height": 900}, forced_colors="active")
    chosen = page.locator("[aria-current], [aria-pressed=true]")
    assert chosen.count() > 0
    borders = chosen.evaluate_all("each => each.map(one => parseFloat(getComputedStyle(one).borderTopWidth))")
    assert max(borders) >= 2
