"""Processes of a group, killed together."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a process that leads a session, with all of its group, and wait until none of them can write any more."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 30
    while _alive(process.pid):
        assert time.monotonic() < deadline
        time.sleep(0.005)


def _alive(group: int) -> bool:
    """Whether a process of the group is more than a zombie."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, own = path.read_text().rpartition(")")[2].split()[:3]
        except (OSError, ValueError):
            continue
        if int(own) == group and state not in "ZX":
            return True
    return False
