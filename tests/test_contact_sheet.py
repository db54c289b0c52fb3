"""The contact sheet of a real run over three tiny images, one of which is no image."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image

from simsam_batch.drawing.overlays import contact_sheet
from simsam_batch.errors import RunError, SettingsError
from simsam_batch.operations import segment
from simsam_batch.stages.segment.settings import SegmentSettings
from simsam_batch.telling.console import reporter

GREY, RED = (200, 200, 200), (200, 40, 30)
# Column 0 starts at the margin of 24; a column is 240 wide and 14 from the next.
V1, MASK = 24 + 1 * 254, 24 + 4 * 254


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A landscape and a portrait picture with a red block of whole patches, and a text file called an image."""
    folder = tmp_path_factory.mktemp("contact-sheet")
    (folder / "photos").mkdir()
    (folder / "truth").mkdir()
    block = Image.new("RGB", (192, 128), GREY)
    block.paste(RED, (64, 32, 128, 96))
    block.save(folder / "photos" / "1 landscape.png")
    block.rotate(90, expand=True).save(folder / "photos" / "2 portrait.png")
    (folder / "photos" / "3 not\nan image.jpg").write_text("this is text, whatever its name says. " * 9)
    truth = Image.new("L", (192, 128))
    truth.paste(255, (24, 8, 168, 120))
    truth.save(folder / "truth" / "1 landscape.png")
    settings = SegmentSettings(
        backbone="descriptors", resize="native", workers=1, truth=str(folder / "truth"), quiet=True
    )
    with reporter("json", quiet=True) as report:
        result = segment(str(folder / "photos"), str(folder / "run"), settings, report)
    assert result is not None
    assert (result["ok"], result["failed"]) == (2, 1)
    return folder / "run"


def pixels(png: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def test_a_row_is_as_high_as_its_thumbnail_and_captions(run: Path) -> None:
    # 192x128 becomes 240x160, its portrait 160x240, and what cannot be read a strip of 80; captions take 66 a row.
    height = 104 + (160 + 66) + (240 + 66) + (80 + 66) + 24
    width = 24 + 5 * 240 + 4 * 14 + 24
    assert pixels(contact_sheet(str(run))).shape == (height, width, 3)


def test_the_object_is_tinted_and_the_rest_pale_grey(run: Path) -> None:
    sheet = pixels(contact_sheet(str(run)))
    # Red (200, 40, 30) with two fifths of (0, 140, 220).
    assert np.abs(sheet[104 + 80, MASK + 120].astype(int) - (120, 80, 106)).max() <= 1
    # Grey 200 with 35 % of white: 0.65 * 200 + 0.35 * 255 = 219.25.
    assert np.abs(sheet[104 + 5, MASK + 5].astype(int) - 219).max() <= 1


def test_the_truth_is_outlined_where_it_ends(run: Path) -> None:
    sheet = pixels(contact_sheet(str(run)))
    # The truth's left edge at 24 of 192 pixels is 30 of 240; the line is 2 wide inside and has a dark rim outside.
    yellow, rim = [245, 225, 40], [20, 20, 20]
    assert sheet[104 + 80, MASK + 30].tolist() == sheet[104 + 80, MASK + 31].tolist() == yellow
    assert sheet[104 + 80, MASK + 29].tolist() == rim
    assert sheet[104 + 80, MASK + 33].tolist() not in (yellow, rim)


def test_an_eigenvector_is_orange_where_positive_and_blue_where_negative(run: Path) -> None:
    sheet = pixels(contact_sheet(str(run)))
    row = pq.read_table(run / "results" / "segment").to_pylist()[0]
    assert (row["grid_h"], row["grid_w"]) == (8, 12)
    with np.load(run / row["arrays_path"]) as arrays:
        v1 = arrays[f"{row['arrays_member']}.eigenvectors"][1].reshape(8, 12)
    assert v1[4, 6] * v1[0, 0] < 0
    # A patch is 20 thumbnail pixels wide: the middle of patch (4, 6) lies at (90, 130), that of (0, 0) at (10, 10).
    for value, (y, x) in ((v1[4, 6], (90, 130)), (v1[0, 0], (10, 10))):
        red, _, blue = sheet[104 + y, V1 + x].astype(int)
        assert (red > blue) == (value > 0)


def test_a_failed_image_keeps_its_place_and_says_why(run: Path) -> None:
    failed = pixels(contact_sheet(str(run)))[-(146 + 24) :]
    reason = failed[:20, V1 : V1 + 400].reshape(-1, 3).astype(int)
    assert ((reason[:, 0] > 150) & (reason[:, 1] < 90)).any()
    assert (failed[:80, MASK + 100 : MASK + 240] == 255).all()


def test_fewer_rows_are_spread_from_the_first_to_the_last(run: Path) -> None:
    assert pixels(contact_sheet(str(run), count=2)).shape[0] == 104 + (160 + 66) + (80 + 66) + 24
    assert pixels(contact_sheet(str(run), count=1)).shape[0] == 104 + (160 + 66) + 24


def test_the_same_run_gives_the_same_bytes(run: Path) -> None:
    assert contact_sheet(str(run)) == contact_sheet(str(run))


def test_a_picture_that_has_gone_leaves_its_results_on_the_sheet(run: Path) -> None:
    picture = run.parent / "photos" / "1 landscape.png"
    before = pixels(contact_sheet(str(run), count=1))
    held = picture.read_bytes()
    picture.unlink()
    try:
        after = pixels(contact_sheet(str(run), count=1))
    finally:
        picture.write_bytes(held)
    assert after.shape == before.shape
    assert (after[110:260, V1 : V1 + 240] == before[110:260, V1 : V1 + 240]).all()
    assert after[110, 30].tolist() == [236, 238, 240]


def test_damaged_arrays_are_named(run: Path) -> None:
    arrays = run / pq.read_table(run / "results" / "segment").to_pylist()[0]["arrays_path"]
    held = arrays.read_bytes()
    arrays.write_bytes(held[: len(held) // 2])
    try:
        with pytest.raises(RunError, match=f"{arrays.name}.*1 landscape.png"):
            contact_sheet(str(run), count=1)
    finally:
        arrays.write_bytes(held)


@pytest.mark.parametrize("count", [0, 201])
def test_an_unusable_number_of_rows_is_refused(run: Path, count: int) -> None:
    with pytest.raises(SettingsError, match="1 to 200"):
        contact_sheet(str(run), count=count)


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="holds no results of 'segment'"):
        contact_sheet(str(tmp_path))
