"""Processes that stand still without dying (SIGSTOP, as a debugger, a frozen container or a stuck disk leaves them).

The real command ends by itself, and its content is that of an undisturbed run.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from killed_runs import command, descendants, kill, outcome, starts, title, wait_until_gone

STALL = ["--stall-minutes", "0.1"]
"""Six seconds; a process that stands still is ended after twelve."""

pytestmark = pytest.mark.timeout(900)


def wait_for_starts(process: subprocess.Popen[bytes], out: Path, count: int) -> None:
    deadline = time.monotonic() + 180
    while starts(out) < count:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)


def stop(pids: list[int]) -> None:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)


@pytest.mark.slow
@pytest.mark.parametrize("which", ["server", "worker"])
def test_a_stopped_process_is_replaced_and_the_run_ends(
    pictures: Path, expected: dict[str, Any], tmp_path: Path, which: str
) -> None:
    out = tmp_path / "out"
    process = subprocess.Popen(command(pictures, out, "--engine", "local", "--workers", "2", *STALL))
    try:
        wait_for_starts(process, out, 3)
        server, *workers = descendants(process.pid)
        stopped = server if which == "server" else workers[0]
        stop([stopped])
        assert process.wait(timeout=120) == 0
    finally:
        process.kill()
    assert outcome(out) == expected
    wait_until_gone([stopped])


def _node_processes(node: Any) -> list[int]:
    """The raylet of a node of a test cluster, and all that it started."""
    raylet = next(held[0].process.pid for name, held in node.all_processes.items() if name == "raylet")
    return [raylet, *descendants(raylet)]


@pytest.mark.soak
@pytest.mark.parametrize("whole", [True, False], ids=["a whole node", "its worker"])
def test_of_three_ray_nodes_one_stands_still_and_the_run_ends(
    pictures: Path, expected: dict[str, Any], tmp_path: Path, whole: bool
) -> None:
    pytest.importorskip("ray")
    import ray
    from ray.cluster_utils import Cluster

    ray.shutdown()
    # Ray's own times: a node that does not answer is given up after about a minute
    size = {"num_cpus": 1, "object_store_memory": 100 * 1024**2}
    cluster = Cluster(initialize_head=True, head_node_args={**size, "include_dashboard": False})
    stopped: list[int] = []
    try:
        nodes = [cluster.add_node(**size) for _ in range(2)]
        cluster.wait_for_nodes()
        out = tmp_path / "out"
        launch = command(pictures, out, "--engine", "ray", "--ray-address", cluster.address, "--workers", "3", *STALL)
        process = subprocess.Popen(launch)
        try:
            wait_for_starts(process, out, 5)
            below = _node_processes(nodes[0])
            stopped = below if whole else [pid for pid in below if "MapWorker" in title(pid)]
            assert stopped
            stop(stopped)
            began = time.monotonic()
            assert process.wait(timeout=400) == 0
        finally:
            process.kill()
        assert outcome(out) == expected
        print(f"{len(stopped)} processes stopped; the run ended {time.monotonic() - began:.0f} s later")
    finally:
        kill(stopped)
        cluster.shutdown()
