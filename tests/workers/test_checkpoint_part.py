"""Runs by one of the two networks of a checkpoint, and runs that began before there was a choice."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from simsam_batch.cli import run as simsam
from simsam_batch.job import recorded_settings
from simsam_batch.stages.segment.settings import SegmentSettings
from simsam_batch.storage import Folder

COMMAND = ["--backbone", "test_vit", "--block", "0", "--resize", "native", "--head", "none", "--k", "4"]
COMMAND += ["--shard-size", "1", "--engine", "inline", "--device", "cpu", "--quiet"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two ``photos``, an iBOT checkpoint ``ibot.pth`` and a run by it, ``out``."""
    home = tmp_path_factory.mktemp("home")
    (home / "photos").mkdir()
    for number in range(2):
        pixels = np.random.default_rng(number).integers(80, 120, (64, 96, 3)).astype(np.uint8)
        pixels[16:48, 16:48] = (210, 40, 40)
        Image.fromarray(pixels).save(home / "photos" / f"{number}.png")
    networks = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        networks.append(timm.create_model("test_vit", pretrained=False, num_classes=0).state_dict())
    teacher = {f"backbone.{name}": value for name, value in networks[0].items()}
    student = {f"module.backbone.{name}": value for name, value in networks[1].items()}
    torch.save({"teacher": teacher, "student": student, "ibot_loss": {}}, home / "ibot.pth")
    assert segment(home, home / "out") == 0
    return home


def segment(home: Path, out: Path, *more: str) -> int:
    return simsam(["segment", str(home / "photos"), str(out), *COMMAND, "--weights", str(home / "ibot.pth"), *more])


def read(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.fixture
def older(home: Path, tmp_path: Path) -> Path:
    """The run as a release without the setting left it, with its second shard still to do."""
    out = Path(shutil.copytree(home / "out", tmp_path / "older"))
    shutil.rmtree(out / "results")
    (out / "segment/manifests/0000001.0.json").unlink()
    record = read(out / "segment/stage.json")
    assert record["settings"].pop("checkpoint_part") == "auto"
    (out / "segment/stage.json").write_text(json.dumps(record))
    return out


def test_a_run_from_before_the_choice_goes_on_to_the_same_results(home: Path, older: Path) -> None:
    assert segment(home, older) == 0
    whole, found = (read(out / "results/segment.json") for out in (home / "out", older))
    assert (found["images"], found["content_digest"]) == (2, whole["content_digest"])
    assert recorded_settings(Folder(str(older)), "segment", {}).checkpoint_part == "auto"


def test_a_run_is_tried_again_by_what_it_did_and_not_by_a_later_default(
    older: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SegmentSettings, "unrecorded", lambda: {"checkpoint_part": "student"})
    assert recorded_settings(Folder(str(older)), "segment", {}).checkpoint_part == "student"


def test_a_run_from_before_the_choice_goes_on_with_no_other_network(
    home: Path, older: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert segment(home, older, "--checkpoint-part", "student") == 1
    told = capsys.readouterr().err
    assert 'checkpoint_part: the run in OUT has "auto", this command has "student"' in told
    assert not (older / "results").exists()


def test_the_network_that_was_used_stands_in_what_a_run_recorded(home: Path, tmp_path: Path) -> None:
    assert segment(home, tmp_path / "out", "--checkpoint-part", "student") == 0
    for out, part, said in (
        (home / "out", "teacher", "ibot file"),
        (tmp_path / "out", "student", "ibot file, student"),
    ):
        models = read(out / "segment/stage.json")["resolved"]["models"]
        assert models["backbone"]["weights"] == said
        assert read(out / "segment/manifests/0000000.0.json")["facts"]["checkpoint_part"] == part
    digests = {read(out / "results/segment.json")["content_digest"] for out in (home / "out", tmp_path / "out")}
    assert len(digests) == 2


def test_a_choice_among_the_networks_of_no_file_is_refused(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["segment", str(home / "photos"), str(tmp_path / "out"), *COMMAND, "--checkpoint-part", "teacher"]
    assert simsam(command) == 1
    assert "checkpoint_part: it has no effect with weights None" in capsys.readouterr().err
