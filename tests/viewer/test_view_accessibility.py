"""Every screen in a real browser, narrow and wide, light and dark: read by axe-core, measured, and listened to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING
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
    "cosine": ("live", "image/1?stage=features&layer=cosine&patch=20&other=2"),
    "labels": ("maps", "image/1?stage=semantic&layer=labels"),
    "tree": ("maps", "image/1?stage=hierarchy&layer=tree&depth=2"),
    "clusters": ("maps", "clusters/semantic"),
    "a cluster": ("maps", "clusters/semantic/1"),
    "clusters of nodes": ("maps", "clusters/hierarchy?sort=share&desc=1"),
    "a cluster of nodes": ("maps", "clusters/hierarchy/1?order=largest"),
    "compare": ("both", "compare?stage=segment"),
    "compare within a range": ("both", "compare?stage=segment&metric=iou&difference=..0&sort=agreement"),
    "compare with a wrong filter": ("both", "compare?stage=segment&q=confidense%3E5"),
    "one image of both": ("both", "compare/1?stage=segment&metric=iou"),
    "compare with itself alone": ("out", "compare"),
    "pairs": ("pairs", "pairs?stage=matches"),
    "pairs by a filter": ("pairs", "pairs?sort=pck&q=pck%3A..1"),
    "a pair": ("pairs", "pairs/0?stage=matches&point=1"),
    "restyled": ("styled", "browse?stage=stylize"),
    "before and after": ("styled", "image/0?stage=stylize&layer=mask"),
    "before beside after": ("styled", "image/1?stage=stylize&swipe=0&picture=2"),
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


@dataclass
class Shown:
    """One page of the browser that goes from screen to screen, as a person does.

    Attributes:
        page: of the browser.
        complaints: whatever the browser has complained of since the screen was asked for.
    """

    page: Page
    complaints: list[str]
    bases: set[str]

    def go(self, client: Client, address: str) -> None:
        """Show a screen, wide and light, and wait until it is still and complete."""
        self.page.set_viewport_size({"width": 1280, "height": 900})
        self.page.emulate_media(color_scheme="light", forced_colors="none", reduced_motion="reduce")
        if client.base not in self.bases:
            self.page.goto(client.link)
            self.bases.add(client.base)
        self.complaints.clear()
        self.page.goto(f"{client.base}#/{address}")
        # the last screen has another run, or is this very one
        self.page.reload()
        self.settle()

    def settle(self) -> None:
        """Wait until nothing is loading any more."""
        self.page.wait_for_load_state("networkidle")
        self.page.wait_for_function("() => document.querySelector('h1') && !document.querySelector('[aria-busy=true]')")


@pytest.fixture(scope="module")
def shown(browser: Browser) -> Iterator[Shown]:
    """The page; nothing that it asks for may be elsewhere."""
    context = browser.new_context()
    page, complaints, bases = context.new_page(), list[str](), set[str]()
    page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: (complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    page.on("request", lambda request: complaints.extend(_elsewhere(request.url, bases)))
    yield Shown(page, complaints, bases)
    context.close()


@pytest.fixture
def opened(shown: Shown, served: Callable[..., Client], whole_run: Whole) -> Callable[[str], Shown]:
    """Opens a screen by its name in `SCREENS`."""

    def open_screen(name: str) -> Shown:
        which, address = SCREENS[name]
        clients = {
            "both": lambda: served(whole_run.out, whole_run.other),
            "live": lambda: served(whole_run.pairs, live=True, device="cpu"),
        }
        shown.go(clients.get(which, lambda: served(getattr(whole_run, which)))(), address)
        return shown

    return open_screen


def _elsewhere(url: str, bases: set[str]) -> list[str]:
    asked, ours = urlsplit(url), {urlsplit(base).netloc for base in bases}
    return [] if not bases or asked.scheme in ("blob", "data") or asked.netloc in ours else [f"elsewhere: {url}"]


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
def test_a_screen_is_read_by_all_fits_a_telephone_and_complains_of_nothing(
    name: str, opened: Callable[[str], Shown]
) -> None:
    screen = opened(name)
    page = screen.page
    assert page.locator("h1").count() == 1
    assert seen_by_axe(page) == []
    assert page.evaluate(_SMALL_TARGETS, LEAST_TARGET) == []
    page.set_viewport_size({"width": 320, "height": 640})
    page.emulate_media(color_scheme="dark")
    screen.settle()
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 320, page.evaluate(_BEYOND)
    assert page.evaluate(_BEYOND) == []
    assert seen_by_axe(page) == []
    ground = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    assert sum(map(float, ground.partition("(")[2].rstrip(")").split(",")[:3])) < 150
    # a refusal that the screen puts into words is one of the network's too
    expected = "the server responded with a status of 4"
    assert [each for each in screen.complaints if expected not in each or name not in _REFUSED] == []


_REFUSED = ("a wrong filter", "compare with a wrong filter", "compare with itself alone")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["browse", "image"])
def test_with_the_colours_of_the_system_what_is_chosen_is_still_seen(name: str, opened: Callable[[str], Shown]) -> None:
    screen = opened(name)
    screen.page.emulate_media(forced_colors="active")
    chosen = screen.page.locator("[aria-current], [aria-pressed=true]")
    assert chosen.count() > 0
    borders = chosen.evaluate_all("each => each.map(one => parseFloat(getComputedStyle(one).borderTopWidth))")
    assert max(borders) >= 2
