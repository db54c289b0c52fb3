"""A run grows while its drivers are killed, and two of them grow it at once: every image has one row in the end.

The seed is printed; SIMSAM_FAULT_SEED repeats one, SIMSAM_GROWTH_ROUNDS says how many kills the long test takes.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from killed_runs import IMAGES, command, descendants, kill, make_pictures, wait_until_gone

from simsam_batch.cli import run
from simsam_batch.runs.reading import StageRows
from simsam_batch.storage import Folder

FIRST = 8
KILLS = int(os.environ.get("SIMSAM_GROWTH_ROUNDS", "20"))

pytestmark = pytest.mark.timeout(3600)


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pictures(tmp_path_factory.mktemp("everything") / "pictures")


def undisturbed(everything: Path, pictures: Path, out: Path) -> dict[str, Any]:
    """What a run over all of them comes to, where they lie: rows say where; then there are the first few alone."""
    arrive(everything, pictures, IMAGES)
    assert run(command(pictures, out, "--engine", "inline")[3:]) == 0
    shutil.rmtree(pictures)
    arrive(everything, pictures, FIRST)
    return outcome(out)


def arrive(everything: Path, pictures: Path, upto: int) -> None:
    """So many pictures are there from now on, the first by name."""
    pictures.mkdir(exist_ok=True)
    for path in sorted(everything.iterdir())[:upto]:
        if not (pictures / path.name).exists():
            shutil.copy2(path, pictures / path.name)


def growing(pictures: Path, out: Path, *more: str) -> list[str]:
    return command(pictures, out, "--engine", "local", "--workers", "1", "--extend", *more)


def outcome(out: Path) -> dict[str, Any]:
    """Digests, counts and the rows, after checks that hold for each run alone."""
    assert run(["verify", str(out)]) == 0
    rows = [row for _, row in StageRows(Folder(str(out)), "segment").each()]
    assert [row["image_id"] for row in rows] == [f"{i:02d}.jpg" for i in range(IMAGES)], "every image has one row"
    result = json.loads((out / "results" / "segment.json").read_text())
    held = {key: result[key] for key in ("content_digest", "images", "ok", "failed", "metrics", "errors_by_type")}
    return held | {"rows": [{k: v for k, v in row.items() if not k.startswith("arrays_")} for row in rows]}


def killed_while_growing(everything: Path, folder: Path, kills: int) -> None:
    seed = int(os.environ.get("SIMSAM_FAULT_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"SIMSAM_FAULT_SEED={seed}")
    draw = random.Random(seed)
    pictures, out, struck, there, began = folder / "pictures", folder / "out", 0, FIRST, time.monotonic()
    expected = undisturbed(everything, pictures, folder / "whole")
    assert run(command(pictures, out, "--engine", "inline")[3:]) == 0
    while struck < kills:
        # pictures come two by two, as many as are in a shard, so that the shards are those of the undisturbed run
        there = min(IMAGES, there + 2 * draw.randint(0, 2))
        arrive(everything, pictures, there)
        drivers = [subprocess.Popen(growing(pictures, out), stderr=subprocess.DEVNULL) for _ in range(2)]
        time.sleep(draw.uniform(0.5, 6.0))
        for driver in drivers:
            if driver.poll() is None:
                below = descendants(driver.pid)
                kill([driver.pid, *below])
                driver.wait()
                wait_until_gone(below)
                struck += 1
        if there == IMAGES and struck < kills:
            # begun anew from a few, so that there is something to grow by
            shutil.rmtree(pictures)
            shutil.rmtree(out)
            there = FIRST
            arrive(everything, pictures, there)
            assert run(command(pictures, out, "--engine", "inline")[3:]) == 0
    arrive(everything, pictures, IMAGES)
    assert run([*growing(pictures, out)[3:]]) == 0
    assert outcome(out) == expected
    print(f"growth: {struck} kills of two drivers at once, 0 rows lost or doubled, {time.monotonic() - began:.0f} s")


@pytest.mark.slow
def test_a_run_that_grows_under_kills_of_two_drivers_loses_nothing(everything: Path, tmp_path: Path) -> None:
    killed_while_growing(everything, tmp_path, 2)


@pytest.mark.soak
def test_a_run_that_grows_under_many_kills_of_two_drivers_loses_nothing(everything: Path, tmp_path: Path) -> None:
    killed_while_growing(everything, tmp_path, KILLS)


@pytest.mark.slow
def test_two_drivers_that_find_other_new_images_make_one_run(everything: Path, tmp_path: Path) -> None:
    pictures, out = tmp_path / "pictures", tmp_path / "out"
    expected = undisturbed(everything, pictures, tmp_path / "whole")
    assert run(command(pictures, out, "--engine", "inline")[3:]) == 0
    arrive(everything, pictures, 20)
    first = subprocess.Popen(growing(pictures, out), stderr=subprocess.PIPE, text=True)
    while not list((out / "plan").glob("*.1.json")) and first.poll() is None:
        time.sleep(0.01)
    arrive(everything, pictures, IMAGES)
    second = subprocess.Popen(growing(pictures, out), stderr=subprocess.PIPE, text=True)
    texts = [driver.communicate(timeout=240)[1] for driver in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], texts
    assert outcome(out) == expected
