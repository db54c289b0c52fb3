"""A small run of the real command, for tests that end its processes, and what must come of it."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from simsam_batch.cli import run
from simsam_batch.storage import Folder

IMAGES = 32
SHARD_SIZE = 2
SHARDS = IMAGES // SHARD_SIZE
SETTINGS = ["--backbone", "descriptors", "--resize", "native", "--epochs", "1", "--k", "3", "--log-format", "json"]


def make_pictures(folder: Path) -> Path:
    """Pictures of two shapes, one of them broken, with a square that stands out."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for i in range(IMAGES):
        pixels = rng.integers(80, 120, ((64, 80), (80, 64))[i % 2] + (3,)).astype(np.uint8)
        pixels[16:48, 16 + i % 16 : 40] = (210, 40, 40)
        Image.fromarray(pixels).save(folder / f"{i:02d}.jpg")
    (folder / "07.jpg").write_bytes((folder / "07.jpg").read_bytes()[:700])
    return folder


def command(pictures: Path, out: Path | str, *more: str) -> list[str]:
    """The command line, from the interpreter's name on."""
    sizes = ["--shard-size", str(SHARD_SIZE), "--allow-failed", "1"]
    return [sys.executable, "-m", "simsam_batch", "segment", str(pictures), str(out), *SETTINGS, *sizes, *more]


def outcome(out: Path | str) -> dict[str, Any]:
    """What two runs over the same pictures must agree on, after checks that hold for each alone."""
    folder = Folder(str(out))
    parts = [pq.read_table(io.BytesIO(folder.read(info.name))) for info in folder.list("results/segment")]
    rows = pa.concat_tables(parts).to_pylist()
    assert [row["image_id"] for row in rows] == [f"{i:02d}.jpg" for i in range(IMAGES)], "every image has one row"
    assert [row["image_id"] for row in rows if row["status"] == "failed"] == ["07.jpg"]
    # a killed writer leaves its temporary file behind, which no listing shows
    manifests = [info.name for info in folder.list("segment/manifests")]
    assert manifests == [f"segment/manifests/{number:07d}.0.json" for number in range(SHARDS)]
    assert run(["verify", str(out)]) == 0
    result = json.loads(folder.read("results/segment.json"))
    return {name: result[name] for name in ("content_digest", "images", "ok", "failed", "metrics", "errors_by_type")}


def starts(out: Path | str) -> int:
    """Starts of shards so far."""
    return len(Folder(str(out)).list("segment/attempts"))


def descendants(pid: int) -> list[int]:
    """The processes that a process started, and those started by them."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            except (FileNotFoundError, ProcessLookupError):
                continue
            if state != "Z":
                parents.setdefault(int(parent), []).append(int(entry.name))
    found = list(parents.get(pid, []))
    for child in found:
        found += parents.get(child, [])
    return found


def kill(pids: list[int]) -> None:
    """SIGKILL to each that still lives."""
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def wait_until_gone(pids: list[int], seconds: float = 15.0) -> None:
    """Wait for the end of processes that nobody waits for; one that stays is a failure."""
    deadline = time.monotonic() + seconds
    left = set(pids)
    while left and time.monotonic() < deadline:
        left = {pid for pid in left if Path(f"/proc/{pid}").exists() and not _is_zombie(pid)}
        time.sleep(0.05)
    assert not left, f"processes {sorted(left)} outlived their driver"


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def title(pid: int) -> str:
    """The command line of a process; empty once it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
