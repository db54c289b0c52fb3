"""Pairs: answers and page against the rows of the run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from result_rows import rows_of
from viewing import Client, photograph

from simsam_batch.cli import run

if TYPE_CHECKING:
    from playwright.sync_api import Browser

SHIFTS = (0, 30, 8)


@pytest.fixture(scope="module")
def pairs_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pairs of three photographs, with points, truth and maps."""
    root = tmp_path_factory.mktemp("pairs")
    for seed in range(3):
        Image.fromarray(photograph(seed)[0]).save(root / f"{seed}.png")
    points = [[20.0, 30.0], [100.0, 60.0], [150.0, 100.0]]
    pairs = [
        {
            "source": "0.png",
            "target": f"{target}.png",
            "source_points": points,
            "target_points": [[x + 8, y] for x, y in points[:2]] + [None],
            "category": ["box", "ball"][target - 1],
        }
        for target in (1, 2)
    ]
    (root / "pairs.json").write_text(json.dumps(pairs))
    arguments = ["correspond", str(root / "pairs.json"), str(root / "out"), "--root", str(root), "--maps", "fp16"]
    arguments += ["--backbone", "descriptors", "--blocks", "0", "--resize", "native", "--engine", "inline", "--quiet"]
    assert run(arguments) == 0
    return root / "out"


def test_a_pair_is_told_as_its_row_has_it(served: Callable[..., Client], pairs_run: Path) -> None:
    client, rows = served(pairs_run), rows_of(pairs_run, "matches")
    listed = client.get("api/pairs").json()
    assert listed["total"] == 2
    assert listed["categories"] == ["ball", "box"]
    for number, row in enumerate(rows):
        told = client.get(f"api/pairs/{number}").json()
        assert [point["x"] for point in told["points"]] == [point["x"] for point in row["points"]]
        assert listed["pairs"][number]["pck"] == row["points_right"] / row["points_scored"]


def test_the_peak_of_a_points_map_is_its_similarity(served: Callable[..., Client], pairs_run: Path) -> None:
    client = served(pairs_run)
    for point, told in enumerate(client.get("api/pairs/0").json()["points"]):
        answer = client.get(f"layers/pairs/0/{point}")
        assert answer.headers["x-dtype"] == "float16"
        assert np.frombuffer(answer.body, np.float16).max() == pytest.approx(told["similarity"], abs=1e-3)
    assert client.get("layers/pairs/0/3").status == 404


def test_an_image_that_has_changed_is_not_shown(served: Callable[..., Client], pairs_run: Path) -> None:
    client, path = served(pairs_run), pairs_run.parent / "2.png"
    assert client.get("pairs/1/target.jpg").status == 200
    kept = path.read_bytes()
    try:
        Image.fromarray(photograph(9)[0]).save(path)
        from simsam_batch.viewer import pictures

        pictures._PHOTOGRAPHS._held.clear()
        assert client.get("pairs/1/target.jpg?side=128").status == 409
    finally:
        path.write_bytes(kept)


def test_points_are_right_or_wrong_by_the_alpha_chosen(
    browser: Browser, served: Callable[..., Client], pairs_run: Path
) -> None:
    client, row = served(pairs_run), rows_of(pairs_run, "matches")[0]
    page = browser.new_page()
    faults: list[str] = []
    page.on("console", lambda message: faults.append(message.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.goto(client.link)
    for alpha in (0.01, 0.15):
        page.goto(f"{client.base}#/pairs/0?alpha={alpha}")
        page.wait_for_function("alpha => document.querySelector('.choices select')?.value === alpha", arg=str(alpha))
        for index, point in enumerate(row["points"]):
            right = point["distance"] is not None and point["distance"] <= alpha * row["length"]
            expected = "unknown" if point["distance"] is None else "right" if right else "wrong"
            assert expected in (page.locator(".match").nth(index).get_attribute("class") or "").split()
    page.locator(".match").nth(1).focus()
    page.keyboard.press("Enter")
    page.locator("image.heat").wait_for(state="attached")
    assert "point=1" in page.url
    page.goto(f"{client.base}#/run")
    page.get_by_role("cell", name="published").first.wait_for()
    page.get_by_role("row", name="points_scored").wait_for()
    page.close()
    assert faults == []


def test_pairs_are_filtered_and_sorted_and_have_the_neighbours_of_that_list(
    served: Callable[..., Client], pairs_run: Path
) -> None:
    client, rows = served(pairs_run), rows_of(pairs_run, "matches")
    means = [float(np.mean([point["margin"] for point in row["points"]])) for row in rows]
    listed = client.get("api/pairs?sort=margin&desc=1").json()["pairs"]
    assert [pair["pair"] for pair in listed] == sorted(range(2), key=lambda pair: -means[pair])
    assert [pair["margin"] for pair in listed] == pytest.approx(sorted(means, reverse=True))
    near = client.get(f"api/pairs/{listed[0]['pair']}?sort=margin&desc=1").json()["near"]
    assert near == {"place": 0, "previous": None, "next": listed[1]["pair"]}
    assert client.get("api/pairs/0?category=box").json()["near"] == {"place": 0, "previous": None, "next": None}
    pck = [row["points_right"] / row["points_scored"] for row in rows]
    for least, most in ((0, 0.4), (0.5, 1), (1, 1)):
        found = client.get(f"api/pairs?least={least}&most={most}").json()
        assert [pair["pair"] for pair in found["pairs"]] == [n for n, each in enumerate(pck) if least <= each <= most]
    assert client.get("api/pairs?least=2").status == 400


def test_a_picture_asked_for_by_its_digest_is_kept_by_the_browser(
    served: Callable[..., Client], pairs_run: Path
) -> None:
    client = served(pairs_run)
    digest = client.get("api/pairs/0").json()["digests"]["source"]
    assert "immutable" in client.get(f"pairs/0/source.jpg?v={digest}").headers["cache-control"]
    assert client.get("pairs/0/source.jpg?v=0").headers["cache-control"] == "no-store"
