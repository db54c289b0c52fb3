"""Processes that stand still at a certain shard, to be killed together or sent a signal there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

LATEST_S = 120.0


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a process that leads a session, with all that it started, and wait until none of them can write any more."""
    deadline = time.monotonic() + 30
    while alive := _alive(process.pid):
        assert time.monotonic() < deadline
        for pid in alive:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.poll()
        time.sleep(0.005)
    process.wait()


def killed_after(commits: int, out: Path, stage: str, launch: list[str]) -> None:
    """Run a command and kill all its processes as one of them has committed so many shards and is about to go on.

    It stands still there until it is killed, however late that is noticed here.
    """
    environment = os.environ | standing_still(commits, out, stage)
    process = subprocess.Popen(launch, env=environment, start_new_session=True, stderr=subprocess.DEVNULL)
    try:
        wait_until_still(process, out)
    finally:
        kill_group(process)
    assert len(found := sorted(path.name for path in (out / stage / "manifests").glob("[!.]*.json"))) == commits, found


def standing_still(commits: int, out: Path, stage: str) -> dict[str, str]:
    """Variables with which whoever has committed so many shards of a stage, or sees them, commits no other."""
    return {
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent / "standing_still"), *sys.path]),
        "SIMSAM_TEST_STANDS_STILL": f"{out / stage / 'manifests'}:{commits}:{_held(out)}",
    }


def wait_until_still(process: subprocess.Popen[bytes] | subprocess.Popen[str], out: Path) -> None:
    """Wait until a process of a run that has such variables has come that far."""
    deadline = time.monotonic() + LATEST_S
    while not _held(out).exists():
        assert process.poll() is None, "ended before it stood still"
        assert time.monotonic() < deadline
        time.sleep(0.02)


def let_go(out: Path) -> None:
    """What stands still goes on, and stands still no more."""
    Path(f"{_held(out)}.go").touch()


def _held(out: Path) -> Path:
    return out.with_name(f"{out.name}-stands-still")


def _alive(session: int) -> list[int]:
    """Processes of a session that are more than zombies."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, own = path.read_text().rpartition(")")[2].split()[:4]
        except (OSError, ValueError):
            continue
        if int(own) == session and state not in "ZX":
            found.append(int(path.parent.name))
    return found
