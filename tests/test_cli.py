"""The command line: quick help, one-line errors that name the thing and the mend, exit codes."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from simsam_batch.cli import run


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(3):
        pixels = np.random.default_rng(i).integers(80, 120, (96, 128, 3)).astype(np.uint8)
        pixels[32:64, 48:96] = (210, 40, 40)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


def test_help_answers_in_under_0_3_seconds() -> None:
    """Counted in seconds of a processor, so that what else the machine does has no part in it."""
    seconds = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-m", "simsam_batch", "--help"], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    assert b"segment" in done.stdout
    assert min(seconds) < 0.3


def test_every_setting_stands_in_the_help_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    from simsam_batch.stages.segment.settings import SegmentSettings

    assert run(["segment", "--help-all"]) == 0
    text = capsys.readouterr().out
    for name in SegmentSettings.model_fields:
        assert "--" + name.replace("_", "-") in text
    assert "[short:384]" in text
    assert "Exit codes: 0 done" in " ".join(text.split())


def test_an_unknown_option_or_command_exits_with_1_and_one_message(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["segment", "a", "b", "--blok", "3"]) == 1
    assert "--blok" in capsys.readouterr().err
    assert run(["sgment"]) == 1
    assert "sgment" in capsys.readouterr().err


def test_segment_without_images_says_how_it_is_called(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["segment"]) == 1
    assert "simsam segment IMAGES OUT" in capsys.readouterr().err


def test_print_config_prints_what_reads_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("preset: tokencut\nseed: 4\n")
    assert run(["segment", "--config", str(file), "--seed", "5", "--no-center-head", "--print-config"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert (shown["affinity"], shown["seed"], shown["center_head"]) == ("binary", 5, False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--facet", "kee"], "facet: 'kee' is not allowed; it is key | query | value | token"),
        (["--k", "1"], "k: '1' is not allowed; it is a whole number, at least 2"),
        (["--resize", "big"], "resize"),
        (["--backbone", "vit_tinny_patch16_224"], "vit_tiny_patch16_224"),
        (["--backbone", "vit_tiny_patch16_224", "--weights", "nowhere.safetensors"], "nowhere.safetensors"),
        (["--device", "cuda"], "device"),
        (["--engine", "torchrun"], "torchrun"),
        (["--preset", "dms"], "preset: 'dms'"),
        (["--truth", "no/such/folder"], "no/such/folder"),
    ],
)
def test_what_cannot_run_is_said_in_one_message(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    import torch

    if "cuda" in arguments and torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    given = arguments if "--backbone" in arguments else ["--backbone", "descriptors", *arguments]
    assert run(["segment", str(pictures), str(tmp_path / "out"), *given]) == 1
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert not (tmp_path / "out" / "run.json").exists(), "nothing was begun"


@pytest.mark.parametrize("kind", ["missing", "empty"])
def test_no_images_is_said_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    folder = tmp_path / "photos"
    if kind == "empty":
        folder.mkdir()
    assert run(["segment", str(folder), str(tmp_path / "out"), "--backbone", "descriptors"]) == 1
    assert str(folder) in capsys.readouterr().err


@pytest.mark.parametrize("place", [0, 1])
def test_an_empty_place_is_not_the_working_folder(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    # as of a variable of the shell that is not set
    monkeypatch.chdir(pictures)
    before = sorted(pictures.rglob("*"))
    places = [str(pictures), str(tmp_path / "out")]
    places[place] = ""
    assert run(["segment", *places, "--backbone", "descriptors", "--engine", "inline"]) == 1
    assert "'' is no path or URL: it is empty. To mend it" in capsys.readouterr().err
    assert sorted(pictures.rglob("*")) == before


def test_an_out_that_cannot_be_written_is_said_by_name(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    assert run(["segment", str(pictures), str(blocked / "out"), "--backbone", "descriptors"]) == 1
    assert str(blocked) in capsys.readouterr().err


@pytest.mark.slow
def test_a_finished_run_is_read_again_and_refuses_other_result_settings(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["segment", str(pictures), str(out), "--backbone", "descriptors"]
    assert run([*command, "--workers", "2", "--log-format", "json"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [event["event"] for event in events if event["event"] != "note"] == ["plan", "shard", "done"]
    first = json.loads((out / "results" / "segment.json").read_text())
    assert (first["images"], first["ok"], first["failed"]) == (3, 3, 0)

    assert run([*command, "--quiet", "--engine", "inline"]) == 0, "operation settings may differ"
    assert capsys.readouterr().err == ""
    assert json.loads((out / "results" / "segment.json").read_text()) == first

    assert run([*command, "--kappa", "0.7"]) == 1
    message = capsys.readouterr().err
    assert "kappa" in message
    assert "0.1" in message
    assert "0.7" in message
    assert run([*command, "--shard-size", "2"]) == 1
    assert "shard_size: the run in OUT has 8, this command has 2" in capsys.readouterr().err
    (pictures.parent / "others").mkdir()
    assert run([command[0], str(pictures.parent / "others"), *command[2:]]) == 1
    assert "another input" in capsys.readouterr().err


def test_check_input_reports_what_changed_since_the_plan(
    pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["segment", str(pictures), str(tmp_path / "out"), "--backbone", "descriptors", "--engine", "inline"]
    assert run([*command, "--quiet"]) == 0
    (pictures / "0.png").unlink()
    Image.new("RGB", (64, 64)).save(pictures / "1.png")
    Image.new("RGB", (64, 64)).save(pictures / "new.png")
    capsys.readouterr()
    assert run([*command, "--quiet", "--check-input"]) == 0
    text = capsys.readouterr().err
    assert "1 image new, not part of this run: new.png" in text
    assert "1 image gone since the plan was made: 0.png" in text
    assert "1 image changed since the plan was made: 1.png" in text


def test_failed_images_decide_the_exit_code(pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (pictures / "3.jpg").write_text("these are words")
    command = ["segment", str(pictures), str(tmp_path / "out"), "--backbone", "descriptors", "--engine", "inline"]
    assert run(command) == 3
    assert "3.jpg" in capsys.readouterr().err
    assert run([*command, "--allow-failed", "0.5"]) == 0


def test_a_command_that_was_probably_meant_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["segmnt", "a", "b"]) == 1
    assert "there is no command 'segmnt'; did you mean 'segment'?" in capsys.readouterr().err
    assert run(["zzz"]) == 1
    assert "did you mean" not in capsys.readouterr().err
