"""What a label holds, in a real browser: from the labels to a region, to its image and back, by mouse and by keys."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq
import pytest
from viewing import Client, Opener, serving, settle, write_photographs
from whole import Whole

from simsam_batch.cli import run

if TYPE_CHECKING:
    from playwright.sync_api import Page


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trees of so many nodes that those of a label fill more than a page."""
    root = tmp_path_factory.mktemp("nodes")
    write_photographs(root, [f"{i:02d}.png" for i in range(5)])
    command = ["hierarchy", str(root / "photos"), str(root / "out"), "--leaves", "14", "--clusters", "2"]
    small = ["--backbone", "descriptors", "--resize", "native", "--engine", "inline", "--quiet", "--shard-size", "2"]
    assert run([*command, *small]) == 0
    return root / "out"


def hash_of(page: Page) -> str:
    return str(page.evaluate("location.hash"))


def focused(page: Page) -> int:
    """Which card of the gallery has the focus; -1 for none."""
    return int(page.evaluate("[...document.querySelectorAll('.regions .cut-out')].indexOf(document.activeElement)"))


def nodes_by_label(out: Path) -> dict[int, list[tuple[int, int, int]]]:
    """(patches, row, node) of the nodes of each label, as the rows have them."""
    rows, beside = (
        [row for part in sorted((out / "results" / stage).glob("*.parquet")) for row in pq.read_table(part).to_pylist()]
        for stage in ("hierarchy", "labels")
    )
    found: dict[int, list[tuple[int, int, int]]] = {}
    for number, (row, given) in enumerate(zip(rows, beside, strict=True)):
        for place, (node, label) in enumerate(zip(row["nodes"], given["labels"], strict=True)):
            if label:
                found.setdefault(label, []).append((node["patches"], number, place))
    return found


@pytest.mark.slow
def test_by_mouse_from_a_label_to_a_region_to_its_image_and_back(
    trees: Path, served: Callable[..., Client], opened: Opener
) -> None:
    held = nodes_by_label(trees)
    label = max(held, key=lambda each: len(held[each]))
    largest = sorted(held[label], key=lambda each: (-each[0], each[1], each[2]))
    assert len(largest) > 60
    page, complaints = opened(served(trees), "clusters/hierarchy", viewport={"width": 1280, "height": 900})
    page.get_by_role("link", name=f"label {label}", exact=True).click()
    page.get_by_role("link", name="largest").click()
    settle(page)
    page.get_by_role("link", name="Page 2", exact=True).first.click()
    settle(page)
    gallery = hash_of(page)
    assert "order=largest" in gallery
    assert "page=2" in gallery
    cards = page.locator(".regions .cut-out")
    assert cards.count() == min(60, len(largest) - 60)
    _, row, node = largest[61]
    cards.nth(1).click()
    page.wait_for_selector(".twin")
    assert hash_of(page).startswith(f"#/image/{row}?")
    assert f"node={node}" in hash_of(page)
    assert page.locator(f"[role=treeitem][data-node='{node}']").get_attribute("aria-selected") == "true"
    page.go_back()
    settle(page)
    assert hash_of(page) == gallery
    # goes on where it was left
    assert focused(page) == 1
    assert complaints == []


@pytest.mark.slow
def test_by_keys_alone_from_a_label_to_a_region_to_its_image_and_back(
    trees: Path, served: Callable[..., Client], opened: Opener
) -> None:
    held = nodes_by_label(trees)
    page, complaints = opened(served(trees), "clusters/hierarchy", viewport={"width": 1280, "height": 900})
    label = max(held, key=lambda each: len(held[each]))
    page.wait_for_selector("main tbody a")
    for _ in range(80):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent") == f"label {label}":
            break
    page.keyboard.press("Enter")
    page.wait_for_selector(".regions")
    page.keyboard.press("PageDown")
    page.wait_for_function("() => location.hash.includes('page=2')")
    settle(page)
    page.keyboard.press("PageUp")
    page.wait_for_function("() => !location.hash.includes('page=2')")
    page.wait_for_selector(".regions")
    settle(page)
    page.keyboard.press("ArrowRight")
    page.keyboard.press("l")
    assert focused(page) == 1
    page.keyboard.press("ArrowDown")
    below = focused(page)
    tops = page.locator(".regions .cut-out").evaluate_all("all => all.map(one => one.getBoundingClientRect().top)")
    assert tops[below] > tops[1]
    assert tops[below] == min(top for top in tops if top > tops[1])
    gallery = hash_of(page)
    page.keyboard.press("Enter")
    page.wait_for_selector(".twin")
    page.keyboard.press("Escape")
    page.wait_for_selector(".regions")
    settle(page)
    assert hash_of(page) == gallery
    assert focused(page) == below
    page.keyboard.press("Escape")
    page.wait_for_selector(".labels")
    assert hash_of(page) == "#/clusters/hierarchy"
    assert complaints == []


def test_labels_are_sorted_by_the_heads_of_their_columns(
    trees: Path, served: Callable[..., Client], opened: Opener
) -> None:
    held = nodes_by_label(trees)
    page, _ = opened(served(trees), "clusters/hierarchy")
    for _ in range(2):
        page.get_by_role("columnheader", name="regions", exact=False).get_by_role("link").click()
        settle(page)
        way = page.locator("th[aria-sort]").get_attribute("aria-sort")
        names = page.locator(".labels tbody th a").all_text_contents()
        expected = sorted(held, key=lambda each: len(held[each]), reverse=way == "descending")
        assert names == [f"label {each}" for each in expected]
    page.reload()
    settle(page)
    assert page.locator("th[aria-sort]").get_attribute("aria-sort") == way


def test_from_a_node_to_the_same_label_elsewhere_and_to_its_regions(
    trees: Path, served: Callable[..., Client], opened: Opener
) -> None:
    held = nodes_by_label(trees)
    label = min(held, key=lambda each: len(held[each]))
    _, row, node = held[label][0]
    page, complaints = opened(served(trees), f"image/{row}?stage=hierarchy&layer=tree&node={node}")
    page.get_by_role("link", name="Same label elsewhere").click()
    page.wait_for_selector(".cards li")
    settle(page)
    assert f"q=label%3A{label}" in hash_of(page)
    assert {int(each.get_attribute("data-row") or -1) for each in page.locator(".cards li[data-row]").all()} == {
        number for _, number, _ in held[label]
    }
    page.go_back()
    page.wait_for_selector(".twin")
    page.get_by_role("link", name="Its regions").click()
    page.wait_for_selector(".regions")
    assert re.fullmatch(rf"#/clusters/hierarchy/{label}", hash_of(page))
    assert page.locator(".regions li").count() == min(60, len(held[label]))
    assert complaints == []


def test_of_a_stage_in_progress_and_of_none_it_is_told_in_words(trees: Path, tmp_path: Path, opened: Opener) -> None:
    out = tmp_path / "out"
    shutil.copytree(trees, out)
    shutil.rmtree(out / "results")
    for stage in ("hierarchy", "labels"):
        for manifest in (out / stage / "manifests").glob("0000001.*"):
            manifest.unlink()
    with serving(out) as client:
        page, complaints = opened(client, "clusters/hierarchy")
        assert "of 3 images, as far as the run is" in page.locator(".note").first.inner_text()
        page.get_by_role("link", name="label 1", exact=True).click()
        page.wait_for_selector(".regions")
        assert "as far as the run is" in page.locator(".note").first.inner_text()
        assert complaints == []
        page.goto(f"{client.base}#/clusters/hierarchy/99")
        page.wait_for_selector("[role=alert]")
        assert "no region of hierarchy has the label 99" in page.locator("[role=alert]").inner_text()


def test_trees_without_labels_are_told_how_they_get_some(tmp_path: Path, opened: Opener) -> None:
    write_photographs(tmp_path, ["0.png"])
    command = ["hierarchy", str(tmp_path / "photos"), str(tmp_path / "out"), "--leaves", "4"]
    assert run([*command, "--backbone", "descriptors", "--resize", "native", "--engine", "inline", "--quiet"]) == 0
    with serving(tmp_path / "out") as client:
        page, _ = opened(client, "clusters/hierarchy")
        assert page.locator("main code").inner_text() == "simsam hierarchy IMAGES OUT --clusters K"


def test_the_confusion_and_the_labels_scroll_within_themselves_on_a_telephone(
    whole_run: Whole, served: Callable[..., Client], opened: Opener
) -> None:
    page, complaints = opened(served(whole_run.maps), "clusters/semantic", viewport={"width": 320, "height": 640})
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    confusion = page.get_by_role("region", name="Confusion with truth")
    assert confusion.get_attribute("tabindex") == "0"
    assert confusion.locator("tbody th[scope=row]").count() == confusion.locator("tbody tr").count() > 0
    assert "ground" in confusion.locator("thead").inner_text()
    assert page.locator(".labels thead").inner_text().split()[0] == "label"
    assert complaints == []
