"""Pairs: answers and page against the rows of the run."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from result_rows import rows_of
from viewing import Client, loaded, photograph

from simsam_batch import operations
from simsam_batch.cli import run
from simsam_batch.drawing.photograph import FAULT

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


def test_pairs_are_exported_as_pictures(pairs_run: Path, tmp_path: Path) -> None:
    counts = [
        operations.export(str(pairs_run), str(tmp_path / form), format=form) for form in ("overlay", "contact-sheet")
    ]
    assert [(record["ok"], record["complete"]) for record in counts] == [(2, True)] * 2
    sizes = set()
    for file in sorted((tmp_path / "overlay/overlays").iterdir()):
        with Image.open(file) as picture:
            sizes.add(picture.size)
    # both images at their own size, and a gap
    with Image.open(pairs_run.parent / "0.png") as photo:
        ((width, height),) = sizes
        assert height == photo.height
        assert 2 * photo.width < width <= 2 * photo.width + 12
    page = (tmp_path / "contact-sheet/index.html").read_text(encoding="utf-8")
    assert "2 pairs" in page
    assert page.count("<figure") == page.count('src="thumbs/') == 2
    assert [path.name for path in (tmp_path / "contact-sheet/sheets").iterdir()] == ["sheet-0000.jpg"]
    with Image.open(tmp_path / "contact-sheet/thumbs/0000000.jpg") as small:
        assert small.width > 2 * small.height
        assert 256 < small.width <= 512, "each image as wide as one by itself would be"
    points = rows_of(pairs_run, "matches")[0]
    assert f"{points['points_right']} of {points['points_scored']} right" in page


def test_a_pair_whose_image_has_gone_is_counted_and_not_drawn(pairs_run: Path, tmp_path: Path) -> None:
    gone = pairs_run.parent / "2.png"
    data = gone.read_bytes()
    gone.unlink()
    try:
        for form in ("overlay", "contact-sheet"):
            record = operations.export(str(pairs_run), str(tmp_path / form), format=form)
            assert (record["ok"], record["unreadable"], record["complete"]) == (1, 1, False)
    finally:
        gone.write_bytes(data)
    assert len(list((tmp_path / "overlay/overlays").iterdir())) == 1
    page = (tmp_path / "contact-sheet/index.html").read_text(encoding="utf-8")
    assert page.count(FAULT) == page.count('src="thumbs/') == 1


def test_a_pair_is_told_as_its_row_has_it(served: Callable[..., Client], pairs_run: Path) -> None:
    client, rows = served(pairs_run), rows_of(pairs_run, "matches")
    for number, row in enumerate(rows):
        told = client.get(f"api/pairs/{number}").json()
        assert [point["x"] for point in told["points"]] == [point["x"] for point in row["points"]]
        assert told["id"] == row["pair_id"]


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


def _pck(row: dict[str, Any]) -> float:
    return float(row["points_right"] / row["points_scored"])


def test_pairs_are_filtered_and_sorted_by_what_is_made_of_their_points(
    served: Callable[..., Client], pairs_run: Path
) -> None:
    client, rows = loaded(served(pairs_run), "matches"), rows_of(pairs_run, "matches")
    of = {"stage": "matches", "columns": "pck,margin"}
    means = [float(np.mean([point["margin"] for point in row["points"]])) for row in rows]
    first = client.get("api/rows", **of).json()["rows"]
    assert [row["values"]["pck"] for row in first] == pytest.approx([_pck(row) for row in rows])
    listed = client.get("api/rows", **of, sort="margin", desc=1).json()["rows"]
    assert [row["row"] for row in listed] == sorted(range(2), key=lambda pair: -means[pair])
    assert [row["values"]["margin"] for row in listed] == pytest.approx(sorted(means, reverse=True))
    near = client.get("api/neighbours", stage="matches", sort="margin", desc=1, row=listed[0]["row"]).json()
    assert near == {"place": 0, "total": 2, "previous": None, "next": listed[1]["row"]}
    for low, high in ((0, 0.4), (0.5, 1), (1, 1)):
        found = client.get("api/rows", **of, q=f"pck:{low}..{high}").json()["rows"]
        assert [row["row"] for row in found] == [n for n, row in enumerate(rows) if low <= _pck(row) <= high]
    found = client.get("api/rows", **of, q="category:box").json()["rows"]
    assert [row["row"] for row in found] == [n for n, row in enumerate(rows) if row["category"] == "box"]
    about = {stage["name"]: stage for stage in client.get("api/run").json()["stages"]}["matches"]
    assert {"pck", "margin"} <= {column["name"] for column in about["columns"] if column["doc"]}


@pytest.mark.slow
def test_a_pair_whose_points_have_no_truth_has_no_pck_and_is_last(
    served: Callable[..., Client], tmp_path: Path
) -> None:
    for seed in range(2):
        Image.fromarray(photograph(seed)[0]).save(tmp_path / f"{seed}.png")
    points = [[20.0, 30.0], [100.0, 60.0]]
    pairs = [
        {"source": "0.png", "target": "1.png", "source_points": points},
        {"source": "1.png", "target": "1.png", "source_points": points, "target_points": points},
    ]
    (tmp_path / "pairs.json").write_text(json.dumps(pairs))
    arguments = ["correspond", str(tmp_path / "pairs.json"), str(tmp_path / "out"), "--root", str(tmp_path), "--quiet"]
    arguments += ["--backbone", "descriptors", "--blocks", "0", "--resize", "native", "--engine", "inline"]
    assert run(arguments) == 0
    client = loaded(served(tmp_path / "out"), "matches")
    for desc in (0, 1):
        listed = client.get("api/rows", stage="matches", sort="pck", desc=desc, columns="pck").json()["rows"]
        assert [(row["row"], row["values"]["pck"]) for row in listed] == [(1, 1.0), (0, None)]
    assert client.get("api/rows", stage="matches", q="-pck?").json()["total"] == 1


@pytest.mark.slow
def test_the_list_of_pairs_is_filtered_and_sorted_and_one_comes_back_to_its_page(
    browser: Browser, served: Callable[..., Client], pairs_run: Path
) -> None:
    client, rows = loaded(served(pairs_run), "matches"), rows_of(pairs_run, "matches")
    worst = sorted(range(2), key=lambda pair: _pck(rows[pair]))
    names = [rows[pair]["pair_id"] for pair in worst]
    page = browser.new_page()
    faults: list[str] = []
    page.on("console", lambda message: faults.append(message.text))
    page.on("pageerror", lambda error: faults.append(str(error)))
    # the two pairs are two pages
    script = (files("simsam_batch.viewer") / "page" / "pairlist.js").read_text(encoding="utf-8")
    assert "const PAGE = 60\n" in script
    one = script.replace("const PAGE = 60\n", "const PAGE = 1\n")
    page.route("**/pairlist.js", lambda route: route.fulfill(body=one, content_type="text/javascript"))
    page.goto(client.at("pairs"))
    links = page.locator("tbody a")
    page.locator("#pairs-sort").select_option("pck")
    page.locator("tbody tr", has_text=names[0]).wait_for()
    assert "sort=pck" in page.url
    page.get_by_role("navigation", name="Pages", exact=True).get_by_role("link", name="Page 2").click()
    page.locator("tbody tr", has_text=names[1]).wait_for()
    assert links.all_inner_texts() == names[1:]
    page.reload()
    links.first.click()
    # of the pair, and not of the counts beside the list
    page.locator(".steps", has_text="2 of 2").wait_for()
    page.keyboard.press("Escape")
    page.locator("tbody tr", has_text=names[1]).wait_for()
    assert "page=2" in page.url
    page.wait_for_function("name => document.activeElement?.textContent === name", arg=names[1])
    page.keyboard.press("/")
    page.keyboard.type("category:box ")
    page.keyboard.press("Enter")
    page.locator(".total", has_text="1 of 2 pairs").wait_for()
    assert links.all_inner_texts() == [row["pair_id"] for row in rows if row["category"] == "box"]
    assert "q=category" in page.url
    page.close()
    assert faults == []


def test_a_picture_asked_for_by_its_digest_is_kept_by_the_browser(
    served: Callable[..., Client], pairs_run: Path
) -> None:
    client = served(pairs_run)
    digest = client.get("api/pairs/0").json()["digests"]["source"]
    assert "immutable" in client.get(f"pairs/0/source.jpg?v={digest}").headers["cache-control"]
    assert client.get("pairs/0/source.jpg?v=0").headers["cache-control"] == "no-store"
