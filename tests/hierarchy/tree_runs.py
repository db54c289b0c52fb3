"""A ``simsam hierarchy`` command on small pictures, and what it wrote."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

SETTINGS = ["--backbone", "descriptors", "--resize", "native", "--superpixels", "12", "--shard-size", "2"]
SETTINGS += ["--tree", "split"]
INLINE = ["--engine", "inline"]


def command(pictures: Path, out: Path, *more: str) -> list[str]:
    """The command on the pictures with their truth, from the interpreter on."""
    base = [sys.executable, "-m", "simsam_batch", "hierarchy", f"{pictures}/images", str(out)]
    return [*base, "--truth", f"{pictures}/truth", *SETTINGS, *more]


def inline(pictures: Path, out: Path, *more: str) -> list[str]:
    """The same without the interpreter, in the process that runs it."""
    return [*command(pictures, out, *more)[3:], *INLINE]


def result_of(out: Path, stage: str = "hierarchy") -> dict[str, Any]:
    """What was published of a stage."""
    result: dict[str, Any] = json.loads((out / "results" / f"{stage}.json").read_text())
    return result


def rows_of(out: Path, stage: str = "hierarchy") -> list[dict[str, Any]]:
    """The published rows of a stage."""
    rows: list[dict[str, Any]] = pq.read_table(out / "results" / stage).to_pylist()
    return rows
