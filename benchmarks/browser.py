"""``simsam view`` as a person meets it: the command, a real Chromium, a million rows of real photographs.

``python -m benchmarks.browser MINUTES`` looks at such a run for so long.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.material import photographs
from benchmarks.measure import Row, Setup
from benchmarks.view_run import write_run
from simsam_batch.cli import run
from simsam_batch.storage import Folder

if TYPE_CHECKING:
    from playwright.sync_api import Page

GROUP = "browser"

_CARDS = "count => document.querySelectorAll('.card').length === count && !document.querySelector('[aria-busy=true]')"
_PICTURES = "() => [...document.querySelectorAll('.card img')].every((each) => each.complete && each.naturalWidth)"
_IN_SIGHT = """() => [...document.querySelectorAll('.card img')].every(
  (each) => each.getBoundingClientRect().top > innerHeight || each.complete)"""
_MARK = "() => { window.before = document.querySelector('.card') }"
_OTHERS = "() => { const now = document.querySelector('.card'); return now && now !== window.before }"
_SEEN = """seen => !document.querySelector('[aria-busy=true]')
  && [...document.querySelectorAll(seen)].some(
    (each) => each.complete !== false && each.getBoundingClientRect().width)"""
_IMAGE = "() => document.querySelector('.twin') && !document.querySelector('[aria-busy=true]')"
_SEGMENT = ["--backbone", "descriptors", "--resize", "short:384", "--head", "none", "--engine", "inline", "--quiet"]


def rows(setup: Setup) -> Iterator[Row]:
    """From the command to cards; pages; thumbnails; an image; memory after many of them."""
    program = _browser()
    if program is None:
        yield Row(GROUP, "all of it", "simsam view", "", note="skipped: no Chromium, or no playwright, on this machine")
        return
    images, rounds, uses = setup.pick(cpu=(10**6, 9, 60), cuda=(10**6, 9, 60), smoke=(2_000, 1, 2))
    with tempfile.TemporaryDirectory(prefix="simsam-bench-") as folder:
        write_run(Folder(f"{folder}/many"), images, photographs().files[:60])
        count = _photographs(Path(folder), setup.pick(cpu=60, cuda=60, smoke=2))
        with _page(program) as page:
            many = _of_many(page, f"{folder}/many", rounds, uses)
            few = _of_photographs(page, f"{folder}/photographs", count, rounds)
    rows_, source = f"{images:,} rows", f"{count} photographs, {photographs().source}"
    yield _row(f"from the command to the link, s, {rows_}", many, "link_s", 2.0)
    yield _row("from the link to the first 60 cards, s", many, "cards_s", 1.0)
    for when, key in (("once all pictures are there", "calm"), ("while pictures still come", "hurried")):
        yield _row(f"another page, by its key, {when}, ms", many, f"{key}_page_ms", 150.0)
        yield _row(f"a filter and a sort, first 60, {when}, ms", many, f"{key}_filter_ms", 150.0)
    yield _row(f"memory of the server after {3 * uses} pages, filters and facets, MB", many, "memory_mb", 700.0)
    yield _row(f"all thumbnails of a page, s, {source}", few, "thumbnails_s", 1.5)
    yield _row("an image with its eigenvectors, ms", few, "image_ms", 300.0)


def _browser() -> str | None:
    """The program, if there is one and what drives it."""
    if find_spec("playwright") is None:
        return None
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def _row(what: str, found: dict[str, list[float]], name: str, target: float) -> Row:
    samples = found[name]
    note = "the whole way, Chromium on the same cores"
    return Row(GROUP, what, f"{median(samples):.3g}", "", samples, target=target, at_most=True, note=note)


def _photographs(folder: Path, count: int) -> int:
    """A run of ``segment`` over photographs; how many there are."""
    files = photographs().files[:count]
    (folder / "images").mkdir()
    for file in files:
        shutil.copy(file, folder / "images")
    assert run(["segment", str(folder / "images"), str(folder / "photographs"), *_SEGMENT]) == 0
    return len(files)


@contextmanager
def _page(program: str) -> Iterator[Page]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        # as root Chromium starts only without its sandbox
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox"] if os.geteuid() == 0 else [])
        yield browser.new_page(viewport={"width": 1280, "height": 900})
        browser.close()


@contextmanager
def _viewing(out: str) -> Iterator[tuple[str, int, float]]:
    """The link of a server over a run, its process, and how many seconds it took to say the link."""
    began = time.perf_counter()
    command = [sys.executable, "-u", "-m", "simsam_batch", "view", out]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            found = next(filter(None, (re.search(r"http://\S+", line) for line in process.stdout)))
            yield found[0], process.pid, time.perf_counter() - began
        finally:
            process.terminate()


def _seconds(action: Callable[[], Any]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def _of_many(page: Page, out: str, rounds: int, uses: int) -> dict[str, list[float]]:
    with _viewing(out) as (link, process, link_s):

        def first() -> None:
            page.goto(link)
            page.wait_for_function(_CARDS, arg=60)

        cards_s = _seconds(first)
        base = page.url.partition("#")[0]
        page.wait_for_selector(".facet", state="attached")
        page.wait_for_load_state("networkidle")

        def page_down() -> None:
            page.evaluate(_MARK)
            page.keyboard.press("PageDown")
            page.wait_for_function(_OTHERS)

        def rest(calm: bool) -> None:
            if calm:
                page.wait_for_function(_IN_SIGHT)
                page.wait_for_timeout(500)

        def ask(least: float, by: str) -> None:
            page.evaluate(_MARK)
            page.evaluate("hash => { location.hash = hash }", f"#/browse?q=area_fraction%3E{least}&sort={by}&desc=1")
            page.wait_for_function(_OTHERS)

        columns = ("spectral_gap", "confidence")
        times: dict[str, list[float]] = {}
        for key, least in (("calm", 0.1), ("hurried", 0.15)):
            pages, filters = [], []
            for turn in range(rounds):
                page.focus(".card a")
                rest(key == "calm")
                pages.append(1e3 * _seconds(page_down))
                rest(key == "calm")
                filters.append(1e3 * _seconds(lambda of=least + turn / 1000, by=columns[turn % 2]: ask(of, by)))
            times |= {f"{key}_page_ms": pages, f"{key}_filter_ms": filters}
        for turn in range(uses):
            ask(0.2 + turn / 2000, columns[turn % 2])
            page.focus(".card a")
            page_down()
            page.goto(f"{base}#/run")
            page.goto(f"{base}#/browse?q=confidence%3E{turn / 2000}")
            page.wait_for_function(_CARDS, arg=60)
        memory_mb = _resident_mb(process)
    return {"link_s": [link_s], "cards_s": [cards_s], "memory_mb": [memory_mb], **times}


def _of_photographs(page: Page, out: str, count: int, rounds: int) -> dict[str, list[float]]:
    with _viewing(out) as (link, _, _):

        def thumbnails() -> None:
            page.goto(link)
            page.wait_for_function(_CARDS, arg=count)
            page.wait_for_function(_PICTURES)

        def image(row: int) -> None:
            page.evaluate("hash => { location.hash = hash }", f"#/image/{row}?layer=eigenvector&k=1")
            page.wait_for_url(f"**/*#/image/{row}*")
            page.wait_for_function(_IMAGE)

        # pictures below the window are fetched when they come into it
        page.set_viewport_size({"width": 1280, "height": 8000})
        first = _seconds(thumbnails)
        page.set_viewport_size({"width": 1280, "height": 900})
        page.wait_for_load_state("networkidle")
        images = [1e3 * _seconds(lambda n=n: image(n % count)) for n in range(rounds)]
    return {"thumbnails_s": [first], "image_ms": images}


def look(minutes: float, images: int = 10**6, pause_s: float = 1.0) -> dict[str, Any]:
    """Look at a run for long: filters with sorts, pages, images, facets and the run, over and over.

    Args:
        minutes: for how long.
        images: of the run.
        pause_s: for which each screen is looked at, in seconds.

    Returns:
        How many ``screens`` were seen, ``memory_mb`` of the server at each tenth of the time, the slowest screen of
        each in ``slowest_s``, and ``complaints``: what the console said, and what was raised in the page.

    Raises:
        RuntimeError: no Chromium, or no playwright, on this machine.
    """
    program = _browser()
    if program is None:
        raise RuntimeError("no Chromium, or no playwright, on this machine")
    screens, complaints = 0, list[str]()
    memory, slowest = list[float](), list[float]()
    with tempfile.TemporaryDirectory(prefix="simsam-bench-") as folder:
        write_run(Folder(f"{folder}/many"), images, photographs().files[:60])
        with _page(program) as page, _viewing(f"{folder}/many") as (link, process, _):
            page.on("console", lambda said: complaints.append(said.text) if _is_complaint(said) else None)
            page.on("pageerror", lambda raised: complaints.append(str(raised)))
            page.goto(link)
            page.wait_for_function(_CARDS, arg=60)
            base = page.url.partition("#")[0]
            began = time.monotonic()
            for turn in itertools.count():
                longest = 0.0
                for route, seen in _screens(turn, images):
                    longest = max(longest, _seconds(lambda to=route, until=seen: _go(page, base + to, until)))
                    screens += 1
                    page.wait_for_timeout(1e3 * pause_s)
                tenth = int(10 * (time.monotonic() - began) / (60 * minutes))
                if tenth > len(memory):
                    memory.append(round(_resident_mb(process), 1))
                    slowest.append(0.0)
                if slowest:
                    slowest[-1] = max(slowest[-1], round(longest, 2))
                if tenth >= 10:
                    break
    return {"screens": screens, "memory_mb": memory, "slowest_s": slowest, "complaints": complaints}


def _is_complaint(said: Any) -> bool:
    """Whether the console says that something is wrong, but for the eigenvectors that this run has not."""
    return said.type in ("error", "warning") and "404" not in said.text


def _screens(turn: int, images: int) -> Iterator[tuple[str, str]]:
    """Routes, and what is to be seen there; other ones each turn."""
    column = ("spectral_gap", "confidence", "area_fraction")[turn % 3]
    listed = f"#/browse?q={column}%3E{turn % 800 / 1000}&sort={column}&desc={turn % 2}"
    yield listed, ".card img"
    for page in (1, 2):
        yield f"{listed}&page={page}", ".card img"
    for step in range(3):
        yield f"#/image/{(turn * 7919 + step * 104729) % images}", "main canvas, main .state"
    yield "#/run", "main table"


def _go(page: Page, url: str, seen: str) -> None:
    page.goto(url)
    page.wait_for_function(_SEEN, arg=seen)


def _resident_mb(process: int) -> float:
    """Linux, proc(5): what a process holds in memory."""
    found = re.search(r"^VmRSS:\s+(\d+) kB$", Path(f"/proc/{process}/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) / 1000


if __name__ == "__main__":
    print(json.dumps(look(*map(float, sys.argv[1:2])), indent=1))
