"""Write docs/report.png, a part of the report page of `simsam demo`: python docs/write_report_picture.py.

Needs Chromium. The photographs are those of the demo, which may be shown.
"""

from __future__ import annotations

import io
import os
import shutil
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from simsam_batch.demo import run_demo

PICTURE = Path(__file__).with_name("report.png")
WIDTH = 900
"""Of the window, and of the picture; pixels."""

# the folder it was made in says nothing to others, and plots of six images little
_LEFT_OUT = "nav, .where, .plots, .plots ~ .note, h3[id$='-distributions'] { display: none }"


def photographed(page: Path) -> bytes:
    """PNG of the page's scores and pictures."""
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=arguments)
        view = browser.new_page(viewport={"width": WIDTH, "height": 900}, color_scheme="light", bypass_csp=True)
        view.goto(page.as_uri())
        view.add_style_tag(content=_LEFT_OUT)
        view.evaluate("() => { for (const image of document.images) image.loading = 'eager' }")
        view.wait_for_load_state("networkidle")
        end = view.evaluate("() => document.getElementById('segment-time').getBoundingClientRect().top")
        content = view.screenshot(full_page=True, clip={"x": 0, "y": 0, "width": WIDTH, "height": end - 24})
        browser.close()
    return content


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        run_demo(folder)
        content = photographed(Path(folder) / "run" / "report" / "index.html")
    # 256 colours are enough for it and take a quarter of the room
    Image.open(io.BytesIO(content)).convert("RGB").quantize(256).save(PICTURE, optimize=True)
