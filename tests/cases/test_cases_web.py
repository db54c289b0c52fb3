"""The case web: a store that refuses some objects, each time they are asked for."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pyarrow.parquet as pq
import pytest

from simsam_batch.cli import run

SETTINGS = ["--backbone", "descriptors", "--resize", "native", "--head", "none", "--k", "4", "--workers", "1"]


@pytest.fixture
def urls(cases: Path, tmp_path: Path) -> Iterator[Path]:
    """The list of the case, on a port that is free, and its server behind it."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    script = Path(os.environ["SIMSAM_TEST_CASES"]) / "make_cases.py"
    server = subprocess.Popen([sys.executable, script, "--serve", str(port)])
    listed = tmp_path / "urls.txt"
    listed.write_text((cases / "web" / "urls.txt").read_text().replace(":8765/", f":{port}/"))
    try:
        for _ in range(100):
            try:
                with urlopen(f"http://127.0.0.1:{port}/ok.png") as reply:
                    assert reply.status == 200
                break
            except URLError:
                time.sleep(0.1)
        yield listed
    finally:
        server.kill()
        server.wait()


@pytest.mark.slow
def test_the_pictures_are_rows_and_so_are_those_that_are_gone_or_denied(urls: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(["segment", str(urls), str(out), *SETTINGS, "--engine", "local"]) == 3
    rows: list[dict[str, Any]] = pq.read_table(out / "results" / "segment").to_pylist()
    found = {row["image_id"].rpartition("/")[2]: row for row in rows}
    assert {name: row["status"] for name, row in found.items()} == {
        "ok.png": "ok",
        "ok.png?copy=2": "ok",
        "gone.png": "failed",
        "denied.png": "failed",
    }
    assert "gone.png" in found["gone.png"]["error"]
    assert "403" in found["denied.png"]["error"]
    assert found["ok.png"]["mask_rle"] == found["ok.png?copy=2"]["mask_rle"]
