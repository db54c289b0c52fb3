"""The system's Chromium, and whether what it shows can be read."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

LEAST_CONTRAST, LEAST_CONTRAST_LARGE = 4.5, 3.0
"""Of WCAG 2.1, level AA: text, and text of 24 pixels or 18.66 bold."""

TEXTS = """() => {
  const seen = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT)
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement
    if (!walker.currentNode.textContent.trim() || !element.checkVisibility()) continue
    if (element.closest('title, desc, .skip')) continue
    const style = getComputedStyle(element)
    let behind = element
    while (behind && /, 0\\)$|transparent/.test(getComputedStyle(behind).backgroundColor)) behind = behind.parentElement
    seen.push({text: walker.currentNode.textContent.trim().slice(0, 40), size: parseFloat(style.fontSize),
      bold: parseInt(style.fontWeight) >= 700, color: element.closest('svg') ? style.fill : style.color,
      ground: behind ? getComputedStyle(behind).backgroundColor : 'rgb(255, 255, 255)'})
  }
  return seen
}"""
"""Every text on the page with the colour it has and the nearest ground behind it."""


def luminance(color: str) -> float:
    """Relative luminance of ``rgb(r, g, b)`` or ``color(srgb r g b)``, as WCAG 2.1 defines it."""
    inside = color.partition("(")[2].rstrip(")").replace(",", " ").split()
    if inside[0] == "srgb":
        channels = [float(value) for value in inside[1:4]]
    else:
        assert len(inside) == 3 or float(inside[3]) == 1, f"{color} lets the ground through"
        channels = [float(value) / 255 for value in inside[:3]]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """Contrast of two colours, 1 to 21."""
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


def too_faint(page: Page) -> list[dict[str, Any]]:
    """The texts on a page that have less contrast than level AA asks for."""
    faint = []
    for text in page.evaluate(TEXTS):
        large = text["size"] >= 24 or (text["bold"] and text["size"] >= 18.66)
        if contrast(text["color"], text["ground"]) < (LEAST_CONTRAST_LARGE if large else LEAST_CONTRAST):
            faint.append(text)
    return faint


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser, headless; a test that needs it is skipped where there is none."""
    from playwright.sync_api import sync_playwright

    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no chromium on this machine: apt-get install chromium, for the page in a real browser")
    # as root Chromium starts only without its sandbox
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=found, args=arguments)
        yield started
        started.close()
