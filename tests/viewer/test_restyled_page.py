"""Restyled images in the viewer: before and after, by mouse and by keyboard, and what is not there in words."""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from viewing import Client, Opener, serving, write_photographs
from whole import make_styled_run

from simsam_batch import operations
from simsam_batch.cli import run
from simsam_batch.runs.reading import StageRows
from simsam_batch.runs.schema import File
from simsam_batch.storage import Folder

if TYPE_CHECKING:
    from playwright.sync_api import Page

GOOD, FLAT, WORDS = 0, 1, 2
"""Rows: both are restyled in two pictures; nothing is restyled; it is no image."""


@pytest.fixture(scope="module")
def styled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("styled")
    write_photographs(root, ["a.png"])
    Image.new("RGB", (64, 48), (90, 90, 90)).save(root / "photos/flat.png")
    (root / "photos/words.png").write_bytes(b"no picture")
    return make_styled_run(root, root / "photos")


@pytest.fixture(scope="module")
def client(styled: Path, served: Callable[..., Client]) -> Client:
    return served(styled)


def pixels(data: bytes) -> NDArray[np.int16]:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(np.int16)


def attached(out: Path, row: int) -> dict[str, bytes]:
    rows = StageRows(Folder(str(out)), "stylize")
    held = rows.attachments(dict(rows.each())[row])
    return {name: file.data for name, file in held.items() if isinstance(file, File)}


def styled_picture(client: Client, row: int, **query: Any) -> Any:
    return client.get(f"images/{row}.jpg", stage="stylize", overlay="styled", side=256, **query)


def test_restyled_images_are_exported_as_contact_sheets(styled: Path, tmp_path: Path) -> None:
    record = operations.export(str(styled), str(tmp_path / "to"), format="contact-sheet")
    assert (record["ok"], record["failed"], record["not_restyled"]) == (1, 1, 1)
    page = (tmp_path / "to/index.html").read_text(encoding="utf-8")
    assert re.findall(r'class="id">(.*?)</bdi>', page) == ["a.png", "flat.png", "words.png"]
    assert page.count('src="thumbs/') == 2
    assert page.count("nothing was restyled") == 1
    with Image.open(tmp_path / f"to/large/{GOOD:07d}.jpg") as shown:
        found = np.asarray(shown).astype(np.int16)
    first, second = (pixels(data) for data in attached(styled, GOOD).values())
    height, width = first.shape[:2]
    for shown, own, other in ((found[:height, :width], first, second), (found[:height, -width:], second, first)):
        # but for what JPEG does to noise
        assert np.abs(shown - own).mean() < min(10, np.abs(shown - other).mean())


def test_each_picture_is_the_attachment_encoded_anew(client: Client, styled: Path) -> None:
    for number, data in enumerate(attached(styled, GOOD).values()):
        answer = styled_picture(client, GOOD, of=number)
        assert (answer.status, answer.headers["content-type"]) == (200, "image/jpeg")
        target = io.BytesIO()
        Image.open(io.BytesIO(data)).save(target, "JPEG", quality=85)
        assert np.array_equal(pixels(answer.body), pixels(target.getvalue()))
        photo = client.get(f"images/{GOOD}.jpg", stage="stylize", side=256)
        assert not np.array_equal(pixels(answer.body), pixels(photo.body))


@pytest.mark.parametrize(
    ("row", "query", "status"),
    [
        (GOOD, {"of": 2}, 404),
        (GOOD, {"of": -1}, 400),
        (GOOD, {"of": 10**6}, 400),
        (GOOD, {"of": "../x"}, 400),
        (GOOD, {"box": "0,0,1000,10"}, 400),
        (WORDS, {}, 409),
        (99, {}, 404),
    ],
)
def test_what_is_no_picture_of_the_run_is_refused(client: Client, row: int, query: dict[str, Any], status: int) -> None:
    assert styled_picture(client, row, **query).status == status


def test_a_stage_that_restyles_nothing_has_no_such_picture(client: Client) -> None:
    assert client.get(f"images/{GOOD}.jpg", stage="segment", overlay="styled").status == 404


def test_before_and_after_are_swiped_and_chosen_by_keyboard_alone(client: Client, opened: Opener) -> None:
    page, complaints = opened(client, f"image/{GOOD}?stage=stylize")
    clip = "each => getComputedStyle(each).clipPath"
    after = page.locator(".twice canvas").nth(1)
    assert "50%" in after.evaluate(clip)
    page.keyboard.press("ArrowRight")
    assert "55%" in after.evaluate(clip)
    page.keyboard.press("s")
    assert after.evaluate(clip) == "none"
    words = page.locator(".restyled-words")
    assert words.locator("h2").inner_text() == "object: fire, background: snow"
    page.keyboard.press("]")
    page.wait_for_function("() => document.querySelector('.restyled-words h2').textContent === 'a knitted toy'")
    assert page.locator(".twin").inner_text() == "After: object: a knitted toy"
    page.keyboard.press("m")
    page.wait_for_function("() => location.hash.includes('picture=2') && location.hash.includes('layer=mask')")
    page.keyboard.press("?")
    said = page.locator("#keys").inner_text()
    assert "next picture" in said
    assert "swipe, or side by side" in said
    assert complaints == []


def test_the_region_under_the_pointer_is_said_with_its_words(client: Client, opened: Opener, styled: Path) -> None:
    page, _ = opened(client, f"image/{GOOD}?stage=stylize&swipe=0")
    row = dict(StageRows(Folder(str(styled)), "segment").each())[GOOD]
    left, top, right, bottom = row["bbox_xyxy"]
    box = page.locator(".twice canvas").first.bounding_box()
    assert box is not None
    at = (left + right) / 2 / row["width"], (top + bottom) / 2 / row["height"]
    page.mouse.move(box["x"] + at[0] * box["width"], box["y"] + at[1] * box["height"])
    page.wait_for_function("() => document.querySelector('.twin').textContent.includes('in the object: fire')")
    page.mouse.move(box["x"] + 2, box["y"] + 2)
    page.wait_for_function("() => document.querySelector('.twin').textContent.includes('in the background: snow')")


def test_what_was_left_as_it_is_or_failed_is_said(client: Client, opened: Opener) -> None:
    page, _ = opened(client, f"image/{FLAT}?stage=stylize")
    text = page.locator("main").inner_text()
    assert "Nothing was restyled" in text
    assert "left as it is: " in text
    page, _ = opened(client, f"image/{WORDS}?stage=stylize")
    assert "stylize failed on this image" in page.locator("main").inner_text()


def test_a_damaged_picture_is_said_and_the_photograph_stays(styled: Path, tmp_path: Path, opened: Opener) -> None:
    out = Path(shutil.copytree(styled, tmp_path / "out"))
    for archive in out.glob("stylize/data/*.npz"):
        archive.write_bytes(archive.read_bytes()[:200])
    with serving(out) as client:
        assert styled_picture(client, GOOD).status >= 400
        page, _ = opened(client, f"image/{GOOD}?stage=stylize")
        page.get_by_text("The restyled picture cannot be shown").wait_for()
        assert page.get_by_text("The photograph cannot be shown").count() == 0
        assert page.get_by_role("button", name="Try again").count() == 1


def test_pictures_of_the_same_words_say_whose_network_made_them(styled: Path, tmp_path: Path, opened: Opener) -> None:
    out = shutil.copytree(styled, tmp_path / "out", ignore=lambda _, names: {name for name in names if "styl" in name})
    root, small = styled.parent, ["--side", "32", "--crops", "4", "--steps", "1", "--engine", "inline", "--quiet"]
    weights = ["--clip", f"{root}/tiny-clip.json", "--clip-weights", f"{root}/tiny-clip.safetensors"]
    of_run = ["--fit", "run", "--run-steps", "1", "--run-side", "32", "--run-crops", "4", "--beside", "3"]
    words = ["--object", "fire", "--vgg-weights", f"{root}/vgg19.safetensors"]
    assert run(["stylize", str(out), *weights, *words, *of_run, *small]) in (0, 3)
    with serving(out) as client:
        page, _ = opened(client, f"image/{GOOD}?stage=stylize")
        buttons = page.get_by_role("group", name="Which picture").get_by_role("button")
        assert buttons.all_inner_texts() == ["fire, by the network of the run", "fire, by one of its own"]


def test_cards_show_what_was_made(client: Client, opened: Opener) -> None:
    page, complaints = opened(client, "browse")
    assert page.locator("#browse-overlay").input_value() == "styled"
    page.wait_for_function("() => document.querySelector('.card img')?.naturalWidth > 0")
    assert _sources(page)[0].count("overlay=styled") == 1
    assert complaints == []


def _sources(page: Page) -> list[str]:
    found: list[str] = page.locator(".card img").evaluate_all("each => each.map(one => one.src)")
    return found
