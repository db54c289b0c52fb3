"""SIGKILL at random moments: of the driver, of all its processes, of a worker, of a Ray node.

After each round the same command runs to the end, and its content is that of an undisturbed run. The seed is printed;
SIMSAM_FAULT_SEED repeats one, SIMSAM_FAULT_ROUNDS says how many rounds the long ones take.
"""

from __future__ import annotations

import os
import random
import subprocess
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from killed_runs import SHARDS, command, descendants, kill, outcome, starts, title, wait_until_gone

from simsam_batch.cli import run

VICTIMS = ("all processes", "driver", "worker")
ROUNDS = int(os.environ.get("SIMSAM_FAULT_ROUNDS", "42"))

pytestmark = pytest.mark.timeout(3600)


@pytest.fixture
def draw() -> random.Random:
    seed = int(os.environ.get("SIMSAM_FAULT_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"SIMSAM_FAULT_SEED={seed}")
    return random.Random(seed)


def wait_for_a_moment(process: subprocess.Popen[bytes], out: Path | str, draw: random.Random) -> bool:
    """Wait until so many shards were started, or for some of the time that loading takes; False if it ended before."""
    so_many = draw.randrange(SHARDS)
    deadline = time.monotonic() + (120.0 if so_many else draw.uniform(0.0, 4.0))
    while starts(out) < so_many or not so_many:
        if process.poll() is not None:
            return False
        if time.monotonic() > deadline:
            assert not so_many, "no shard was started for two minutes"
            break
        # a listing on object storage takes time of the server that is under test
        time.sleep(0.05 if "://" in str(out) else 0.005)
    time.sleep(draw.uniform(0.0, 0.15))
    return process.poll() is None


def disturbed(launch: list[str], out: Path | str, victim: str, draw: random.Random) -> int:
    """Run the command and kill as asked; returns how many kills struck."""
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(launch, stderr=said)
        struck = 0
        # a third in a row that was not ready yet would rightly end the run
        for _ in range(draw.randint(1, 2) if victim == "worker" else 1):
            if not wait_for_a_moment(process, out, draw):
                break
            below = descendants(process.pid)
            if victim == "worker" and below:
                kill([draw.choice(below)])
                struck += 1
            elif victim != "worker":
                kill([process.pid, *below] if victim == "all processes" else [process.pid])
                process.wait()
                wait_until_gone(below)
                return 1
        code = process.wait(timeout=240)
        said.seek(0)
        assert code == 0, f"a killed worker does not end its run, but it ended with\n{said.read().decode()[-2000:]}"
    return struck


def rounds_on_local(
    pictures: Path, expected: dict[str, Any], folder: Path | str, draw: random.Random, rounds: int, last: str = "local"
) -> None:
    began, kills = time.monotonic(), Counter[str]()
    for number in range(rounds):
        out = f"{folder}/{number}"
        launch = command(pictures, out, "--engine", "local", "--workers", "2")
        victim = VICTIMS[number % len(VICTIMS)]
        kills[victim] += disturbed(launch, out, victim, draw)
        while victim != "worker" and draw.random() < 0.3:
            kills[victim] += disturbed(launch, out, victim, draw)
        assert run([*launch[3:-3], last, "--workers", "1"]) == 0
        assert outcome(out) == expected, f"round {number}, {victim}"
    print(f"two workers, {folder}: {rounds} rounds, kills {dict(kills)}, 0 losses, {time.monotonic() - began:.0f} s")


@pytest.mark.slow
def test_killed_processes_cost_no_image(
    pictures: Path, expected: dict[str, Any], tmp_path: Path, draw: random.Random
) -> None:
    rounds_on_local(pictures, expected, tmp_path, draw, len(VICTIMS), last="inline")


@pytest.mark.soak
def test_killed_processes_cost_no_image_at_length(
    pictures: Path, expected: dict[str, Any], tmp_path: Path, draw: random.Random
) -> None:
    rounds_on_local(pictures, expected, tmp_path, draw, ROUNDS)


@pytest.mark.soak
def test_killed_processes_cost_no_image_on_object_storage_at_length(
    pictures: Path, expected: dict[str, Any], s3_url: str, draw: random.Random
) -> None:
    rounds_on_local(pictures, expected, s3_url, draw, ROUNDS)


def rounds_on_ray(pictures: Path, expected: dict[str, Any], folder: Path, draw: random.Random, rounds: int) -> None:
    pytest.importorskip("ray")
    import ray
    from ray.cluster_utils import Cluster

    began, kills = time.monotonic(), Counter[str]()
    # a lost node is noticed after 3 seconds
    soon = {"initial_delay_ms": 0, "period_ms": 1000, "failure_threshold": 3}
    soon = {f"health_check_{name}": value for name, value in soon.items()}
    size = {"num_cpus": 1, "object_store_memory": 100 * 1024**2}
    ray.shutdown()
    head = {**size, "include_dashboard": False, "_system_config": soon}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        node = cluster.add_node(**size)
        for number in range(rounds):
            cluster.wait_for_nodes()
            out = folder / f"ray-{number}"
            launch = command(pictures, out, "--engine", "ray", "--ray-address", cluster.address, "--workers", "2")
            process = subprocess.Popen(launch, stderr=subprocess.DEVNULL)
            victim = ("node", "worker", "driver")[number % 3]
            if wait_for_a_moment(process, out, draw):
                kills[victim] += 1
                if victim == "node":
                    cluster.remove_node(node, allow_graceful=False)
                elif victim == "worker":
                    actors = [pid for pid in descendants(os.getpid()) if "MapWorker" in title(pid)]
                    kill([draw.choice(actors)] if actors else [])
                else:
                    kill([process.pid])
            code = process.wait(timeout=240)
            assert code == 0 or victim == "driver"
            if victim == "node":
                node = cluster.add_node(**size)
            assert run([*launch[3:-6], "--engine", "local", "--workers", "1"]) == 0
            assert outcome(out) == expected, f"round {number}, {victim}"
    finally:
        cluster.shutdown()
    print(f"ray: {rounds} rounds, kills {dict(kills)}, 0 losses, {time.monotonic() - began:.0f} s")


@pytest.mark.soak
def test_killed_nodes_and_actors_of_ray_cost_no_image_at_length(
    pictures: Path, expected: dict[str, Any], tmp_path: Path, draw: random.Random
) -> None:
    rounds_on_ray(pictures, expected, tmp_path, draw, 8)
