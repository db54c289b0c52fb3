"""Damaged image files of every format are images or errors of the image: no crash, no hang, no unbounded memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest
from mutated_images import damaged, small_files

from simsam_batch.images import ImageLimits, decode

CHILD = Path(__file__).parent / "decode_many.py"
KINDS = {"decoded", "truncated", "not_an_image", "unsupported", "undecodable", "too_large", "timed_out", "empty_file"}


def decoded_in_a_child(folder: Path, seed: int, first: int, count: int) -> dict[str, Any]:
    """The counts of a child; if it died, which case it was at and what it said."""
    report = folder / f"{seed}-{first}"
    command = [sys.executable, str(CHILD), str(seed), str(first), str(count), str(report)]
    done = subprocess.run(command, capture_output=True, timeout=60 + count, check=False)
    said = done.stderr.decode(errors="replace")[-3000:]
    assert done.returncode == 0, f"seed {seed}, case {report.read_text()}: exit code {done.returncode}\n{said}"
    counts: dict[str, Any] = json.loads(report.read_text())
    return counts


@pytest.mark.slow
@pytest.mark.parametrize("name", list(small_files()))
def test_the_files_are_whole_before_they_are_damaged(name: str) -> None:
    found = decode(small_files()[name], ImageLimits())
    assert sorted(found.rgb.shape) == ([3, 4, 8] if name == "RLE.BMP" else [3, 20, 28])


def test_damage_repeats_with_its_seed_and_mostly_does_damage() -> None:
    files = list(small_files().values())
    made = [damaged(files, Random(f"5 {case}")) for case in range(200)]
    assert made == [damaged(files, Random(f"5 {case}")) for case in range(200)]
    assert sum(data not in files for data in made) > 180


def test_damaged_images_are_decoded_or_explained(tmp_path: Path) -> None:
    found = decoded_in_a_child(tmp_path, seed=0, first=0, count=400)
    assert set(found["outcomes"]) <= KINDS
    assert sum(found["outcomes"].values()) == 400
    # damage that is always or never noticed would test nothing
    assert 40 < found["outcomes"]["decoded"] < 360
    assert found["slowest_s"] < 10


@pytest.mark.soak
def test_twenty_thousand_damaged_images_are_decoded_or_explained(tmp_path: Path) -> None:
    total: dict[str, int] = {}
    slowest = 0.0
    for first in range(0, 20_000, 2_000):
        found = decoded_in_a_child(tmp_path, seed=1, first=first, count=2_000)
        for kind, count in found["outcomes"].items():
            total[kind] = total.get(kind, 0) + count
        slowest = max(slowest, found["slowest_s"])
    print(total, f"slowest {slowest:.2f} s")
    assert set(total) <= KINDS
    assert sum(total.values()) == 20_000
    assert slowest < 10
