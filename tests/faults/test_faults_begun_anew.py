"""OUT goes from under a run that is at work, on the real command with real processes; nothing of it comes elsewhere."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from killed_runs import command, descendants, make_pictures, outcome, starts, wait_until_gone

from simsam_batch.cli import run

pytestmark = pytest.mark.timeout(600)

SLOW = ["--epochs", "1500"]
"""Other settings, with which a shard takes so long that the run cannot end while the test looks elsewhere."""


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pictures(tmp_path_factory.mktemp("anew") / "pictures")


def at_work(pictures: Path, out: Path) -> subprocess.Popen[str]:
    """A slow run of two workers that has begun some shards."""
    launch = command(pictures, out, "--engine", "local", "--workers", "2", *SLOW, "--log-format", "text")
    process = subprocess.Popen(launch, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while starts(out) < 4:
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Wait for it and its workers; exit code and what it said."""
    below = descendants(process.pid)
    _, text = process.communicate(timeout=240)
    wait_until_gone(below)
    return process.returncode, text


@contextmanager
def held_still(process: subprocess.Popen[str]) -> Iterator[None]:
    """It and its workers stop here, so that they see OUT as it is afterwards and not on the way there."""
    everyone = [process.pid, *descendants(process.pid)]
    for pid in everyone:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in everyone:
            os.kill(pid, signal.SIGCONT)


@pytest.mark.slow
def test_what_a_run_begun_anew_publishes_is_all_its_own(pictures: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    assert run(command(pictures, alone, "--engine", "inline")[3:]) == 0
    expected: dict[str, Any] = outcome(alone)
    out = tmp_path / "out"
    old = at_work(pictures, out)
    try:
        with held_still(old):
            out.rename(tmp_path / "removed")
            assert run(command(pictures, out, "--engine", "inline")[3:]) == 0
        code, text = ended(old)
    finally:
        old.kill()
    assert outcome(out) == expected
    assert code == 1
    assert "stage.json is not what this command began" in " ".join(text.split())
    # and what the first one left, it left where it began
    assert starts(tmp_path / "removed") >= 4


@pytest.mark.slow
@pytest.mark.parametrize("bare", [True, False], ids=["an unmounted disk", "a removed folder"])
def test_nothing_is_written_where_out_was(pictures: Path, tmp_path: Path, bare: bool) -> None:
    out = tmp_path / "out"
    process = at_work(pictures, out)
    try:
        out.rename(tmp_path / "elsewhere")
        if bare:
            out.mkdir()
        code, text = ended(process)
    finally:
        process.kill()
    assert code == 1
    assert "stage.json has gone: OUT was removed" in " ".join(text.split())
    assert [*out.rglob("*")] == []
    assert out.exists() is bare
    # brought back, the run goes on from where it was
    if bare:
        out.rmdir()
    (tmp_path / "elsewhere").rename(out)
    before = starts(out)
    assert before >= 4
