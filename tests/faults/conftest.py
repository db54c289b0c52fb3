"""What several tests of faults need: the pictures of a small run, what must come of them, and a web server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from killed_runs import command, make_pictures, outcome
from web_server import WebServer

from simsam_batch.cli import run
from simsam_batch.storage import web


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the pictures of `killed_runs`, which no test changes."""
    return make_pictures(tmp_path_factory.mktemp("small") / "pictures")


@pytest.fixture(scope="session")
def expected(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The outcome of a run over them that nobody disturbs."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    assert run(command(pictures, out, "--engine", "inline")[3:]) == 0
    return outcome(out)


@pytest.fixture
def server() -> Iterator[WebServer]:
    """A web server on 127.0.0.1; what was learnt of silent hosts is forgotten after it."""
    server = WebServer()
    yield server
    server.stop()
    web._silent_hosts.clear()
