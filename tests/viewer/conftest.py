"""A small run with everything that is awkward, and the real server over any run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from viewing import Client, Small, make_small_run, serving
from whole import Whole, make_whole_run


@pytest.fixture(scope="module")
def served() -> Iterator[Callable[..., Client]]:
    """What serves a run, or a run beside another, until the module's tests are done: one server for each."""
    clients: dict[tuple[Any, ...], Client] = {}
    with ExitStack() as servers:

        def serve_once(url: str | Path, other: str | Path | None = None, **options: Any) -> Client:
            key = (str(url), str(other), *sorted(options.items()))
            if key not in clients:
                clients[key] = servers.enter_context(serving(url, other, **options))
            return clients[key]

        yield serve_once


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """Twelve images in three shards: names that would run or burst, one that fails, truth, kept columns. Read only."""
    return make_small_run(tmp_path_factory.mktemp("view"))


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """Runs of all the stages that screens are about, over six pictures. Read only."""
    return make_whole_run(tmp_path_factory.mktemp("whole"))
