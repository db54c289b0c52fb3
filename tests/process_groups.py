"""Processes of a session, killed together: at once, or where they have got to a certain shard."""

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
    while alive := _states(process.pid):
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
    manifests = out / stage / "manifests"
    still = {
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent / "standing_still"), *sys.path]),
        "SIMSAM_TEST_STANDS_STILL": f"{manifests}:{commits}",
    }
    process = subprocess.Popen(launch, env=os.environ | still, start_new_session=True, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + LATEST_S
        while "T" not in _states(process.pid).values():
            assert process.poll() is None, "ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        kill_group(process)
    assert len(found := sorted(path.name for path in manifests.glob("[!.]*.json"))) == commits, found


def _states(session: int) -> dict[int, str]:
    """Of every process of a session that is more than a zombie, by its number: R runs, T stands still."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, own = path.read_text().rpartition(")")[2].split()[:4]
        except (OSError, ValueError):
            continue
        if int(own) == session and state not in "ZX":
            found[int(path.parent.name)] = state
    return found
