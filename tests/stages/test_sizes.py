"""What is said of the sizes of images before they are computed."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from PIL import Image

from simsam_batch.cli import run
from simsam_batch.errors import SettingsError
from simsam_batch.runs.plan import Plan, make_plan
from simsam_batch.stages.segment.settings import SegmentSettings
from simsam_batch.stages.sizes import check_grid, mean_patches, too_large_note
from simsam_batch.storage import Folder
from simsam_batch.workers.images import ImageWorker


def plan_of(tmp_path: Path, sizes: list[tuple[int, int]], shard_size: int) -> Plan:
    """A plan of images of these widths and heights."""
    uris = []
    for number, size in enumerate(sizes):
        Image.new("RGB", size).save(tmp_path / f"{number}.png")
        uris.append(str(tmp_path / f"{number}.png"))
    return make_plan(
        Folder(str(tmp_path / "out")), pa.table({"image_id": uris, "uri": uris}), shard_size=shard_size, source={}
    )


def test_images_that_would_be_too_large_are_counted_and_the_flag_named(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, [(320, 160), (1600, 1600), (1600, 1616)], shard_size=8)
    settings = SegmentSettings(resize="native", max_patches=10_000)
    # 1600 / 16 = 100 patches along each side are 10,000, and 101 rows of them 10,100
    note = too_large_note(plan, settings, 16)
    assert note is not None
    assert note.startswith(
        "1 of 3 images looked at will fail as too_large; one has 1600x1616 pixels in 101x100 patches, more than "
        "--max-patches 10000. "
    )
    assert "--resize short:384 caps it" in note
    # at 384 pixels for the shorter side they are 24 x 24 patches, and 48 x 24
    assert too_large_note(plan, SegmentSettings(max_patches=1152), 16) is None
    assert mean_patches(plan, SegmentSettings(), 16) == (24 * 48 + 24 * 24 + 24 * 24) / 3
    assert "A smaller --resize than short:384" in str(too_large_note(plan, SegmentSettings(max_patches=1000), 16))


def test_files_over_a_limit_count_and_those_that_cannot_be_read_do_not(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, [(64, 64), (300, 300), (64, 64)], shard_size=8)
    (tmp_path / "0.png").write_text("words")
    (tmp_path / "2.png").unlink()
    note = too_large_note(plan, SegmentSettings(max_pixels=80_000), 16)
    assert note is not None
    assert note.startswith("1 of 1 images looked at will fail as too_large; one has 300x300 pixels")


def test_eight_images_are_looked_at_however_many_there_are(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, [(64, 64)] * 40, shard_size=2)
    assert "8 of 8 images" in str(too_large_note(plan, SegmentSettings(max_patches=10), 8))


@pytest.mark.parametrize(
    ("resize", "message"),
    [
        # 2000 / 16 = 125 patches along each side
        ("short:2000", "every image at least 2000x2000 pixels in 125x125 patches, more than --max-patches 8192"),
        ("bucket:2000", "every image at least 2000x2000 pixels in 125x125 patches"),
        ("1600x1600", "every image 1600x1600 pixels in 100x100 patches"),
    ],
)
def test_a_resize_under_which_every_image_is_too_large_is_refused(resize: str, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        check_grid(SegmentSettings(resize=resize), 16)


@pytest.mark.parametrize("resize", ["native", "short:1440", "bucket:1440", "1440x1440", "short:384"])
def test_other_resizes_are_left_alone(resize: str) -> None:
    check_grid(SegmentSettings(resize=resize), 16)


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Twelve photographs of more patches than there may be."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(12):
        Image.new("RGB", (2000, 1500), (10 * number, 90, 90)).save(folder / f"{number:02}.jpg")
    return folder


DSM = ["--preset", "dsm", "--backbone", "descriptors", "--engine", "inline"]


def test_a_preset_says_before_the_start_what_will_fail_and_stops_after_one_shard(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    loading, stopped = ImageWorker.load, threading.Event()

    def load(self: Any, item: Any) -> Any:
        # the next shard is in hand by then, and would be put out or not by chance
        if item.shard.number:
            stopped.wait(60)
        return loading(self, item)

    monkeypatch.setattr(ImageWorker, "load", load)
    command = ["segment", str(photographs), str(tmp_path / "out"), *DSM]
    assert run([*command, "--shard-size", "3"]) == 1
    said = capsys.readouterr().err
    # 2000 / 16 and 1500 / 16, rounded down
    before, _, after = said.partition("segment: 12 images in 4 shards")
    assert "8 of 8 images looked at will fail as too_large; one has 2000x1500 pixels in 93x125 patches" in before
    assert "--resize short:384" in before
    assert "all 3 images of the first shard failed for a limit" in after
    assert len(list((tmp_path / "out/segment/manifests").iterdir())) == 1
    stopped.set()


def test_a_run_of_one_shard_has_a_row_for_every_image(photographs: Path, tmp_path: Path) -> None:
    for path in sorted(photographs.iterdir())[2:]:
        path.unlink()
    assert run(["segment", str(photographs), str(tmp_path / "out"), *DSM, "--quiet"]) == 3
    assert (tmp_path / "out/results/segment.json").exists()


def test_the_flag_that_was_named_is_the_mend(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in sorted(photographs.iterdir())[2:]:
        path.unlink()
    command = ["segment", str(photographs), str(tmp_path / "out"), *DSM, "--resize", "short:384"]
    assert run(command) == 0
    assert "too_large" not in capsys.readouterr().err


def test_retry_says_why_a_setting_cannot_be_changed(
    photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in sorted(photographs.iterdir())[2:]:
        path.unlink()
    out = str(tmp_path / "out")
    assert run(["segment", str(photographs), out, *DSM, "--quiet"]) == 3
    capsys.readouterr()
    assert run(["retry", out, "--resize", "short:384"]) == 1
    said = capsys.readouterr().err
    assert "resize: cannot be changed in a run that has begun: it changes the numbers" in said
    assert "--max-patches" in said
    assert run(["retry", out, "--limit", "3"]) == 1
    assert "limit: cannot be changed in a run that has begun: it says what the run is about" in capsys.readouterr().err
    assert run(["retry", "--help-all"]) == 0
    assert "--resize" not in capsys.readouterr().out
