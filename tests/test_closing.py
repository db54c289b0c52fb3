"""The last lines of a command say what was made, how sure it is, and commands that work as they stand."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from simsam_batch.cli import run, simsam

SMALL = ["--backbone", "descriptors", "--resize", "native", "--engine", "inline"]


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """``my photos`` in the working folder, one of them broken."""
    monkeypatch.chdir(tmp_path)
    folder = Path("my photos")
    folder.mkdir()
    for i in range(3):
        pixels = np.random.default_rng(i).integers(80, 120, (64, 80, 3)).astype(np.uint8)
        pixels[16:48, 16 + i : 40] = (210, 40, 40)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    (folder / "broken.png").write_text("words")
    return folder


@pytest.mark.parametrize(
    ("command", "made", "handed_on"),
    [
        ("segment", "made: 3 object masks, their edges by a guided filter", "cutout"),
        ("segment --objects 2 --least-score 0", "made: 6 objects in 3 images, their edges by a guided", "cutout"),
        ("semantic --clusters 2", "made: 3 label maps, as coarse as patches", "overlay"),
        ("hierarchy", "made: 3 region trees, as coarse as patches", "overlay"),
        ("features", "", ""),
    ],
)
def test_a_command_ends_with_what_it_made_and_commands_that_work(
    photos: Path, capsys: pytest.CaptureFixture[str], command: str, made: str, handed_on: str
) -> None:
    out = "my run"
    assert run([*shlex.split(command)[:1], str(photos), out, *SMALL, *shlex.split(command)[1:]]) == 3
    said = capsys.readouterr().out
    assert made in said
    assert ("how sure: confidence 0." in said) is command.startswith("segment")
    typed = [shlex.split(line.strip(), comments=True) for line in said.splitlines() if line.startswith("  simsam ")]
    names = [words[1] for words in typed]
    assert names == ["view", "report", *["export"] * bool(handed_on), "retry"]
    for words in typed:
        if words[1] == "view":
            # it would not end: its command line is read
            view = simsam.get_command(None, "view")  # type: ignore[arg-type]
            assert view is not None
            view.make_context("view", words[2:])
        else:
            assert run(words[1:]) in (0, 3)
    if handed_on:
        assert len(list(Path(f"{out}-{handed_on}").iterdir())) >= 3
    assert "in a notebook: import simsam_batch; run = simsam_batch.open_run('my run'); run  # then" in said
    assert re.search("try the 1 failed one again", said)


def test_a_score_stands_in_place_of_confidence_and_quiet_says_nothing(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "broken.png").unlink()
    truth = Path("truth")
    truth.mkdir()
    for path in photos.iterdir():
        mask = np.zeros((64, 80), np.uint8)
        mask[16:48, 16:40] = 255
        Image.fromarray(mask).save(truth / path.name)
    command = ["segment", str(photos), "run", *SMALL, "--truth", str(truth)]
    assert run(command) == 0
    said = capsys.readouterr().out
    assert re.search(r"how good: mean IoU 0\.\d\d, 95 % interval 0\.\d\d to 0\.\d\d", said)
    assert "retry" not in said
    assert run([*command, "--quiet"]) == 0
    assert run([*command, "--log-format", "json"]) == 0
    assert capsys.readouterr().out == ""


def test_an_export_goes_to_the_folder_that_holds_the_same_and_else_to_one_that_is_free(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "broken.png").unlink()
    command = ["segment", str(photos), "run", *SMALL]

    def export_named() -> list[str]:
        (line,) = [each for each in capsys.readouterr().out.splitlines() if each.startswith("  simsam export")]
        return shlex.split(line, comments=True)[1:]

    Path("run-cutout").mkdir()
    assert run(command) == 0
    first = export_named()
    assert first[-1] == "run-cutout"
    assert run(first) == 0
    assert run(command) == 0
    assert export_named() == first
    Image.new("RGB", (80, 64)).save(photos / "new.png")
    assert run([*command, "--extend"]) == 0
    second = export_named()
    assert second[-1] == "run-cutout-2"
    assert run(second) == 0
    (Path("run-cutout-2") / "export.json").write_text("words")
    assert run(command) == 0
    assert export_named()[-1] == "run-cutout-3"
    # one that was asked for otherwise, and a file, are in the way too
    assert run(["export", "run", "--format", "cutout", "--crop", "--to", "run-cutout-3"]) == 0
    Path("run-cutout-4").write_text("mine")
    assert run(command) == 0
    last = export_named()
    assert last[-1] == "run-cutout-5"
    assert run(last) == 0


def test_images_that_are_gone_are_not_counted(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (photos / "broken.png").unlink()
    command = ["segment", str(photos), "run", *SMALL, "--objects", "2", "--least-score", "0"]
    assert run(command) == 0
    assert "made: 6 objects in 3 images" in capsys.readouterr().out
    (photos / "1.png").unlink()
    assert run([*command, "--prune"]) == 0
    assert "made: 4 objects in 2 images" in capsys.readouterr().out
