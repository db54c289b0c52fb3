"""Two drivers on one OUT at once: one result, and little computed twice."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

import pytest
from killed_runs import SHARDS, command, make_pictures, outcome, starts

from simsam_batch.cli import run

# Two drivers meet at most at two places; there each may hold two shards that the other has begun too.
TWICE = 8

pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pictures(tmp_path_factory.mktemp("shared") / "pictures")


def together(pictures: Path, out: Path, drivers: int) -> tuple[int, list[int]]:
    """Run so many drivers at once; returns the starts of shards, and how many each of them committed itself."""
    launch = command(pictures, out, "--engine", "local", "--workers", "1")
    processes = [subprocess.Popen(launch, stderr=subprocess.PIPE, text=True) for _ in range(drivers)]
    texts = [process.communicate(timeout=240)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * drivers, texts
    events = [[json.loads(line) for line in text.splitlines() if line.startswith("{")] for text in texts]
    results = [{key: event[key] for key in ("images", "ok", "failed")} for run in events for event in run[-1:]]
    assert results == [{"images": 32, "ok": 31, "failed": 1}] * drivers
    # a shard that another driver had committed is reported with no start of its own
    return starts(out), [sum(e["event"] == "shard" and e["attempt"] > 0 for e in run) for run in events]


@pytest.mark.slow
def test_two_drivers_make_one_result_and_compute_little_twice(pictures: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    assert run(command(pictures, alone, "--engine", "inline")[3:]) == 0
    expected = outcome(alone)
    out = tmp_path / "shared"
    begun, shares = together(pictures, out, 2)
    assert outcome(out) == expected
    assert begun <= SHARDS + TWICE
    assert sum(shares) == begun


@pytest.mark.soak
def test_three_drivers_share_a_run_at_length(pictures: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    assert run(command(pictures, alone, "--engine", "inline")[3:]) == 0
    expected, began, twice = outcome(alone), time.monotonic(), 0
    for number in range(10):
        out = tmp_path / f"shared-{number}"
        begun, _ = together(pictures, out, 3)
        assert outcome(out) == expected
        twice += begun - SHARDS
    print(
        f"3 drivers: 10 rounds, {10 * SHARDS} shards, {twice} begun twice, 0 losses, {time.monotonic() - began:.0f} s"
    )
