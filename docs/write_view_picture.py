"""Write docs/view.png, a screen of `simsam view` over the run of `simsam demo`: python docs/write_view_picture.py.

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

from simsam_batch import open_run
from simsam_batch.demo import run_demo

PICTURE = Path(__file__).with_name("view.png")
SIZE = 1280, 800
"""Width and height of the window, and of the picture; pixels."""

IMAGE, PATCH = "chelsea", 205
"""The photograph that is shown, and the patch that the pointer is on."""


def photographed(out: str) -> bytes:
    """PNG of the screen: one image, the affinity of one patch, its eigenvectors."""
    run = open_run(out)
    rows = {row["image_id"].partition(".")[0]: number for number, row in run.rows("segment").each(["image_id"])}
    view = run.view()
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=arguments)
        page = browser.new_page(viewport={"width": SIZE[0], "height": SIZE[1]}, color_scheme="light")
        page.goto(view.url)
        at = f"#/image/{rows[IMAGE]}?stage=segment&layer=affinity,mask&t=2&patch={PATCH}&smooth=1"
        page.goto(view.url.partition("open?")[0] + at)
        page.wait_for_load_state("networkidle")
        page.wait_for_function("() => !document.querySelector('[aria-busy=true]')")
        # the folder it was made in says nothing to others
        page.evaluate("() => { document.getElementById('where').textContent = 'out' }")
        content = page.screenshot()
        browser.close()
    view.close()
    return content


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        run_demo(folder)
        content = photographed(str(Path(folder) / "run"))
    # 256 colours are enough for it and take a quarter of the room
    Image.open(io.BytesIO(content)).convert("RGB").quantize(256).save(PICTURE, optimize=True)
