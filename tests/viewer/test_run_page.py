"""The screen of the run: how far it is, what failed, what it found, and what to type next."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from viewing import Client, Opener, photograph

from simsam_batch.cli import run


@pytest.fixture(scope="module")
def spoilt_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images that go well and one that is none, in a folder whose name a shell must be told to take whole."""
    root = tmp_path_factory.mktemp("it's a run")
    for seed in range(2):
        Image.fromarray(photograph(seed)[0]).save(root / f"{seed}.png")
    (root / "2.png").write_bytes(b"no picture")
    arguments = ["segment", str(root), str(root / "out"), "--backbone", "descriptors", "--resize", "native"]
    run([*arguments, "--engine", "inline", "--quiet"])
    return root / "out"


def test_failures_are_counted_only_when_asked_for(served: Callable[..., Client], spoilt_run: Path) -> None:
    client = served(spoilt_run)
    assert client.get("api/status").json()["stages"]["segment"]["failed"] is None
    asked = client.get("api/status?failures=1").json()["stages"]["segment"]
    assert (asked["done"], asked["failed"]) == (3, 1)
    assert sum(asked["errors_by_type"].values()) == 1


def test_the_screen_leads_to_the_failures_and_says_commands_that_a_shell_takes(
    opened: Opener, served: Callable[..., Client], spoilt_run: Path
) -> None:
    client = served(spoilt_run)
    (cause,) = json.loads((spoilt_run / "results" / "segment.json").read_text())["errors_by_type"]
    page, faults = opened(client, "run")
    cells = page.get_by_role("row", name="segment").first.get_by_role("cell")
    cells.first.wait_for()
    assert cells.all_inner_texts()[:4] == ["3", "1", "0", "3"]
    told = page.locator("code", has_text="simsam status").inner_text()
    assert told == "simsam status '" + str(spoilt_run).replace("'", "'\\''") + "'"
    page.get_by_role("link", name=cause).click()
    page.get_by_role("link", name="2.png").first.wait_for()
    assert cause in page.url
    assert faults == []


def test_a_run_of_which_nothing_has_begun_is_told_in_words(
    opened: Opener, served: Callable[..., Client], spoilt_run: Path, tmp_path: Path
) -> None:
    shutil.copy(spoilt_run / "run.json", tmp_path)
    shutil.copytree(spoilt_run / "plan", tmp_path / "plan")
    client = served(tmp_path)
    assert client.get("images/0.jpg").status == 404
    page, faults = opened(client, "")
    page.get_by_role("heading", name="Run").wait_for()
    for screen in ("browse", "image/0", "clusters", "pairs", "compare"):
        page.goto(f"{client.base}#/{screen}")
        page.locator("main .state").first.wait_for()
        assert "undefined" not in page.locator("main").inner_text()
    assert faults == []
