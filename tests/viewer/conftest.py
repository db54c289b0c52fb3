"""A small run with everything that is awkward, and the real server over any run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from viewing import Client, Opener, Small, make_small_run, serving, settle
from whole import Whole, make_whole_run

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page


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


@pytest.fixture(scope="module")
def contexts(browser: Browser) -> Iterator[Callable[..., BrowserContext]]:
    """A window of the browser for each way to look: tests go on in the one that is there."""
    made: dict[str, BrowserContext] = {}

    def context_of(**options: Any) -> BrowserContext:
        if str(options) not in made:
            made[str(options)] = browser.new_context(reduced_motion="reduce", **options)
        return made[str(options)]

    yield context_of
    for context in made.values():
        context.close()


@pytest.fixture
def opened(contexts: Callable[..., BrowserContext]) -> Iterator[Opener]:
    """Opens an address of a served run, complete; whatever the browser complains of goes to the list."""
    pages: list[Page] = []

    def open_address(client: Client, address: str, **options: Any) -> tuple[Page, list[str]]:
        page, complaints = contexts(**options).new_page(), []
        pages.append(page)
        page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(client.at(address))
        settle(page)
        return page, complaints

    yield open_address
    for page in pages:
        page.close()
