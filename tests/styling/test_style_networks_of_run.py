"""``simsam stylize --fit run``: one network for each text over the images of a run, and pictures by it."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from result_rows import rows_of
from safetensors.torch import load
from test_stylize import QUICK, alone, home, weights  # noqa: F401  a fixture among them

from simsam_batch.cli import run
from simsam_batch.regions.run_lengths import decode
from simsam_batch.runs.reading import StageRows
from simsam_batch.runs.schema import File
from simsam_batch.storage import Folder
from simsam_batch.styling.network import StyleNet

OF_RUN = ["--fit", "run", "--run-steps", "5", "--run-batch", "2", "--run-side", "32", "--run-crops", "4"]
OBJECT = ["--object", "fire"]


def stylized(home: Path, out: Path, *more: str) -> int:  # noqa: F811
    return run(["stylize", str(out), *weights(home), *QUICK, *OF_RUN, *more])


@pytest.fixture(scope="module")
def styled(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # noqa: F811
    out = alone(home, tmp_path_factory.mktemp("of-run"))
    assert stylized(home, out, *OBJECT, "--beside", "4") in (0, 3)
    return out


def attached(out: Path, stage: str) -> list[tuple[dict[str, Any], dict[str, bytes]]]:
    rows = StageRows(Folder(str(out)), stage)
    return [
        (row, {name: file.data for name, file in rows.attachments(row).items() if isinstance(file, File)})
        for _, row in rows.each()
    ]


def pixels(data: bytes) -> np.ndarray[Any, Any]:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def test_a_network_is_fitted_to_images_that_have_the_region(styled: Path) -> None:
    (row, held), *others = attached(styled, "style-networks")
    assert not others
    assert (row["network"], row["region"], row["text"], row["steps"]) == ("object: fire", "object", "fire", 5)
    usable = {
        each["image_id"]
        for each in rows_of(styled, "segment")
        if each["status"] == "ok" and not each["degenerate"] and 0 < each["area_fraction"] < 1
    }
    assert (row["images"], row["images_used"]) == (5, len(usable))
    assert np.isfinite([row["loss_first"], row["loss_last"]]).all()
    StyleNet().load_state_dict(load(held["network"]))


def test_pictures_are_by_that_network_and_differ_inside_of_masks_alone(home: Path, styled: Path) -> None:  # noqa: F811
    masks = {row["image_id"]: row for row in rows_of(styled, "segment")}
    seen = 0
    for row, held in attached(styled, "stylize"):
        if row["status"] != "ok":
            continue
        assert row["leak_max"] == 0
        mask = decode(masks[row["image_id"]]["mask_rle"]).astype(bool)
        source = pixels((home / "photos" / row["image_id"]).read_bytes())
        for name, data in held.items():
            assert np.array_equal(pixels(data)[~mask], source[~mask]), name
        if row["styles"][0]["status"] == "styled":
            seen += 1
            assert not np.array_equal(pixels(held["picture"])[mask], source[mask])
            assert row["styles"][0]["clip_direction"] is not None
            assert row["styles"][0]["steps"] is None
    assert seen >= 2


def test_some_images_are_restyled_by_networks_of_their_own_too(styled: Path) -> None:
    rows = [row for row in rows_of(styled, "stylize") if row["status"] == "ok"]
    both = [row for row in rows if len(row["styles"]) > 1]
    # of five images four, one of which may be the one that failed
    assert len(both) in (3, 4)
    for row in both:
        assert [(style["picture"], style["fit"]) for style in row["styles"]] == [
            ("picture", "run"),
            ("picture-each", "image"),
        ]
    held = {row["image_id"]: held for row, held in attached(styled, "stylize")}
    assert all(set(held[row["image_id"]]) == {"picture", "picture-each"} for row in both)
    told = json.loads((styled / "results/stylize.json").read_text())["metrics"]["object: fire"]
    # those by networks of their own are not among the means
    assert told["styled"] == sum(row["styles"][0]["status"] == "styled" for row in rows)
    assert told["steps"] == 0


def test_two_engines_make_the_same(home: Path, styled: Path, tmp_path: Path) -> None:  # noqa: F811
    out = alone(home, tmp_path)
    engine = ["--engine", "local", "--workers", "2"]
    assert stylized(home, out, *OBJECT, "--beside", "4", *engine) in (0, 3)
    for stage in ("style-networks", "stylize"):
        digests = [json.loads((each / f"results/{stage}.json").read_text())["content_digest"] for each in (out, styled)]
        assert digests[0] == digests[1]


KILLED = """
import os, signal, sys
from simsam_batch.cli import run
from simsam_batch.styling.run_fitting import FitOfRun
whole, left = FitOfRun.update, [3]
def update(fit, scenes):
    left[0] -= 1
    if left[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    whole(fit, scenes)
FitOfRun.update = update
sys.exit(run(sys.argv[1:]))
"""
"""The program, killed at its fourth update."""


def test_a_killed_fit_goes_on_to_the_same_bits(home: Path, styled: Path, tmp_path: Path) -> None:  # noqa: F811
    out = alone(home, tmp_path)
    command = ["stylize", str(out), *weights(home), *QUICK, *OF_RUN, *OBJECT, "--beside", "4", "--checkpoint-steps"]
    killed = subprocess.run([sys.executable, "-c", KILLED, *command, "2"], check=False)
    assert killed.returncode == -signal.SIGKILL
    (kept,) = (out / "stylize/checkpoints").iterdir()
    assert len(torch.load(kept, weights_only=True)["history"]["total"]) == 2
    assert run([*command, "2"]) in (0, 3)
    digests = [json.loads((each / "results/stylize.json").read_text())["content_digest"] for each in (out, styled)]
    assert digests[0] == digests[1]
    assert run(["verify", str(out)]) == 0


def test_without_any_image_to_fit_to_a_region_is_left_as_it_is(home: Path, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "photos").mkdir()
    for number in range(2):
        Image.new("RGB", (48, 48), (90, 90 + number, 90)).save(tmp_path / "photos" / f"{number}.png")
    out = tmp_path / "out"
    arguments = ["segment", str(tmp_path / "photos"), str(out), "--backbone", "descriptors", "--resize", "native"]
    assert run([*arguments, "--head", "none", "--engine", "inline", "--quiet"]) == 0
    assert stylized(home, out, *OBJECT) in (0, 3)
    (row,) = rows_of(out, "style-networks")
    assert (row["status"], row["error"]) == ("failed", "nothing can be restyled in any of 2 images")
    assert {style["status"] for row in rows_of(out, "stylize") for style in row["styles"]} == {"skipped"}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--run-steps", "7"], "run_steps: it has no effect with fit 'image'"),
        (["--beside", "3"], "beside: it has no effect with fit 'image'"),
    ],
)
def test_settings_that_mean_nothing_are_refused(
    home: Path,  # noqa: F811
    tmp_path: Path,
    more: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = alone(home, tmp_path)
    assert run(["stylize", str(out), *weights(home), *QUICK, *OBJECT, *more]) == 1
    assert said in capsys.readouterr().err


def test_the_report_shows_both_kinds_of_networks(styled: Path) -> None:
    assert run(["report", str(styled)]) == 0
    page = (styled / "report/index.html").read_text()
    assert "By the network of the run, and by their own" in page
    assert "network of each image" in page
