"""One image in a real browser: its layers, affinity against NumPy, its tree against the drawing room, keys alone."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from viewing import Client, Opener, Small, photograph, settle, write_photographs
from whole import Whole

from simsam_batch.cli import run
from simsam_batch.drawing.tree_levels import nodes_at
from simsam_batch.results.trees import RegionTree
from simsam_batch.viewer.payload import row_of

if TYPE_CHECKING:
    from playwright.sync_api import Page, Route

ROW = 1
SMALL = ["--backbone", "descriptors", "--resize", "native", "--engine", "inline", "--quiet"]


def of_the_image(url: str) -> list[str]:
    """The address, but for what the page asks again and again: its icon, and how far the run is."""
    return [] if url.endswith(("icon.svg", "api/status")) else [url]


def number(page: Page) -> float:
    """The value that the text twin tells."""
    return float(page.locator(".twin").get_attribute("data-value") or "nan")


def stored(client: Client, row: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Eigenvalues and (K, Hp, Wp) eigenvectors as the run has them."""
    answer = client.get(f"layers/segment/{row}/eigenvectors")
    shape = [int(side) for side in answer.headers["x-shape"].split(",")]
    values = client.get(f"api/images/{row}", stage="segment").json()["columns"]["eigenvalues"]
    return np.array(values), np.frombuffer(answer.body, "<f2").reshape(shape).astype(np.float64)


def lifted(values: NDArray[np.float64], vectors: NDArray[np.float64], patch: int, steps: int) -> NDArray[np.float64]:
    """The formula, term by term."""
    flat = vectors.reshape(len(vectors), -1)
    weights = (1 - values) ** steps
    row = sum(w * v[patch] * v for w, v in zip(weights, flat, strict=True)) / np.mean(flat[0] ** 2)
    return np.maximum(np.asarray(row), 0)


@pytest.mark.parametrize("steps", [1, 4])
def test_the_affinity_under_the_pointer_is_that_of_the_stored_eigenvectors(
    opened: Opener, served: Callable[..., Client], whole_run: Whole, steps: int
) -> None:
    client = served(whole_run.out)
    page, complaints = opened(client, f"image/{ROW}?stage=segment&layer=affinity&t={steps}&patch=20")
    values, vectors = stored(client, ROW)
    _, down, across = vectors.shape
    expected = lifted(values, vectors, 20, steps)
    box = page.locator("canvas.layers").bounding_box()
    assert box is not None
    for cell in (0, 20, down * across // 2, down * across - 1):
        at = ((cell % across + 0.5) / across * box["width"], (cell // across + 0.5) / down * box["height"])
        page.locator("canvas.layers").hover(position={"x": at[0], "y": at[1]})
        page.wait_for_function(
            "cell => document.querySelector('.twin').textContent.includes(`patch ${cell} `)", arg=cell
        )
        assert number(page) == pytest.approx(expected[cell], rel=1e-5, abs=1e-9)
    assert complaints == []


def test_the_canvas_shows_the_affinity_in_its_colours(
    opened: Opener, served: Callable[..., Client], whole_run: Whole
) -> None:
    client = served(whole_run.out)
    page, _ = opened(client, f"image/{ROW}?stage=segment&layer=affinity&patch=20&opacity=100")
    values, vectors = stored(client, ROW)
    _, down, across = vectors.shape
    row = lifted(values, vectors, 20, 1)
    shares = np.minimum(row / np.quantile(row, 0.99), 1)
    stops = np.array([[10, 10, 30], [70, 20, 105], [160, 45, 95], [225, 100, 50], [250, 180, 60], [255, 250, 190]])
    # the palette has 256 steps
    at = np.round(shares * 255) / 255
    expected = np.stack([np.interp(at, np.linspace(0, 1, 6), channel) for channel in stops.T], axis=-1)
    pixels = page.evaluate(
        """([down, across]) => {
          const canvas = document.querySelector('canvas.layers'), context = canvas.getContext('2d')
          const of = i => [...context.getImageData((i % across + .3) / across * canvas.width,
            (Math.floor(i / across) + .3) / down * canvas.height, 1, 1).data.slice(0, 3)]
          return [...Array(down * across).keys()].map(of) }""",
        [down, across],
    )
    off = np.abs(np.array(pixels) - expected).max(axis=1)
    # the cross lies over its own patch and may touch those beside it
    near = [20 + dy * across + dx for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    outside = client.get(f"layers/segment/{ROW}/outside")
    hatched = np.flatnonzero(np.frombuffer(outside.body, np.uint8)) if outside.status == 200 else np.array([], int)
    left = np.setdiff1d(np.arange(down * across), np.concatenate([near, hatched]))
    assert len(left) > down * across / 2
    assert off[left].max() <= 2


def test_a_row_of_3600_patches_is_computed_and_painted_within_10_ms(
    opened: Opener, served: Callable[..., Client], whole_run: Whole, capsys: pytest.CaptureFixture[str]
) -> None:
    page, _ = opened(served(whole_run.out), f"image/{ROW}?stage=segment")
    took = page.evaluate("""async () => {
      const [{ liftRow, quantile }, { rising }] = await Promise.all([import('./affinity.js'), import('./layers.js')])
      const N = 3600, K = 15, canvas = document.createElement('canvas'), times = []
      const vectors = Float32Array.from({ length: N * K }, (_, i) => i < N ? 1 : Math.sin(i * 12.9898))
      const eigen = { vectors, values: [...Array(K).keys()].map(k => k / K), count: N }
      for (let i = 0; i < 100; i++) { const began = performance.now(), row = liftRow(eigen, i * 36, 1)
        rising(row, quantile(row, .99), 60, 60, canvas); times.push(performance.now() - began) }
      return times.sort((a, b) => a - b) }""")
    with capsys.disabled():
        print(f"\naffinity row with painting, N = 3,600: median {took[50]:.1f} ms, 90th {took[90]:.1f} ms")
    # the median, since other tests may take the cores for a while
    assert took[50] <= 10


@pytest.mark.slow
def test_the_tree_is_cut_at_the_depth_of_the_slider(
    opened: Opener, served: Callable[..., Client], whole_run: Whole
) -> None:
    client = served(whole_run.maps)
    page, complaints = opened(client, f"image/{ROW}?stage=hierarchy&layer=tree&depth=0")
    stage = client.session.run("a").stage("hierarchy")
    row = row_of(stage, ROW)
    tree = RegionTree(row, stage.rows.settings)
    owners = tree.owners((row["height"], row["width"]))
    asked: list[str] = []
    page.on("request", lambda request: asked.extend(of_the_image(request.url)))
    deepest = max(node["depth"] for node in tree.nodes)
    box = page.locator("canvas.layers").bounding_box()
    assert box is not None
    assert deepest >= 2
    page.locator("#depth").focus()
    for depth in range(1, deepest + 1):
        page.keyboard.press("ArrowRight")
        cut = nodes_at(tree, depth)
        leaves = [node for node, inside in enumerate(tree.children) if not inside]
        words = f"{depth} of {deepest}: {len(np.unique(cut[leaves]))} regions"
        assert page.locator("output[for=depth]").inner_text() == words
        for y, x in [(10, 10), (64, 96), (110, 180), (70, 30)]:
            at = {"x": (x + 0.5) / row["width"] * box["width"], "y": (y + 0.5) / row["height"] * box["height"]}
            page.locator("canvas.layers").hover(position=at)
            page.wait_for_function(
                "at => document.querySelector('.twin').textContent.startsWith(at)", arg=f"x {x}, y {y}"
            )
            assert number(page) == cut[owners[y, x]]
    assert asked == []
    assert complaints == []


@pytest.mark.slow
def test_a_step_of_depth_or_eigenvector_needs_no_request_and_50_ms(
    opened: Opener, served: Callable[..., Client], whole_run: Whole
) -> None:
    step = """selector => { const one = document.querySelector(selector), times = []
      for (let i = 0; i < 9; i++) { const began = performance.now()
        if (one.type === 'range') { one.value = i % 3; one.dispatchEvent(new Event('input')) }
        else document.querySelectorAll(selector)[1 + i % 3].click()
        document.querySelector('canvas.layers').getContext('2d').getImageData(0, 0, 1, 1)
        times.push(performance.now() - began) }
      return times.sort((a, b) => a - b)[4] }"""
    for out, address, selector in (
        (whole_run.maps, "stage=hierarchy&layer=tree", "#depth"),
        (whole_run.out, "stage=segment&layer=eigenvector", ".strip button"),
    ):
        page, _ = opened(served(out), f"image/{ROW}?{address}")
        asked: list[str] = []
        page.on("request", lambda request, asked=asked: asked.extend(of_the_image(request.url)))
        assert page.evaluate(step, selector) <= 50
        assert asked == []


def test_why_a_mask_is_wrong_is_looked_into_by_keys_alone(
    opened: Opener, served: Callable[..., Client], whole_run: Whole
) -> None:
    client = served(whole_run.out)
    page, complaints = opened(client, f"image/{ROW}?stage=segment&layer=photo&sort=iou")
    values, vectors = stored(client, ROW)
    across = vectors.shape[2]
    for key in ("m", "t", "b", "]", "]"):
        page.keyboard.press(key)
    settle(page)
    assert "layer=eigenvector%2Cmask%2Ctruth%2Cbox&k=2" in page.url
    # every layer is read out
    assert re.search(r"eigenvector 2: .* mask [01] .* truth [01] .*box", page.locator(".twin").inner_text())
    page.keyboard.press("a")
    page.wait_for_function("() => document.activeElement.matches('canvas.layers')")
    page.keyboard.press("ArrowRight")
    before = int(re.findall(r"patch (\d+) ", page.locator(".twin").inner_text())[0])
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Shift+ArrowUp")
    page.wait_for_timeout(250)
    patch = int(re.findall(r"patch=(\d+)", page.url)[0])
    assert patch in (before - 1 - 5 * across, (before - 1) % across)
    assert number(page) == pytest.approx(lifted(values, vectors, patch, 1)[patch], rel=1e-5)
    # said to those who do not look
    assert f"patch {patch}" in page.locator("#said").inner_text()
    tab_to(page, ".facts:last-child > summary")
    page.keyboard.press("Enter")
    assert page.locator("details[open] > summary", has_text="Settings of segment").count() == 1
    page.keyboard.press("Escape")
    page.wait_for_function("() => location.hash === '#/browse?stage=segment&sort=iou'")
    assert complaints == []


def test_a_tree_is_walked_by_keys_alone(opened: Opener, served: Callable[..., Client], whole_run: Whole) -> None:
    page, complaints = opened(served(whole_run.maps), f"image/{ROW}?stage=hierarchy&layer=tree&depth=1")
    items = page.locator("[role=treeitem]")
    assert page.locator("[role=treeitem][tabindex='0']").count() == 1
    page.locator("[role=treeitem][tabindex='0']").focus()
    before = items.count()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.dataset.node") == "1"
    page.keyboard.press("ArrowRight")
    opened_now = items.count()
    assert opened_now > before
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert page.evaluate("document.activeElement.dataset.node") == "0"
    page.keyboard.press("End")
    last = page.evaluate("document.activeElement.dataset.node")
    assert last == items.last.get_attribute("data-node")
    page.wait_for_timeout(250)
    assert f"node={last}" in page.url
    assert page.locator(".about-node h3").inner_text() == f"Node {last}"
    assert "q=label%3A" in (page.get_by_text("Same label elsewhere").get_attribute("href") or "")
    assert complaints == []


def test_a_tree_is_walked_in_the_picture_by_keys_alone(
    opened: Opener, served: Callable[..., Client], whole_run: Whole
) -> None:
    """From the root down to a region under the cross, by its path back up, and on to its like in other images."""
    page, complaints = opened(served(whole_run.maps), f"image/{ROW}?stage=hierarchy&layer=tree&depth=0")
    for _ in range(2):
        page.keyboard.press("]")
    assert page.locator("output[for=depth]").inner_text().startswith("2 of ")
    tab_to(page, "canvas.layers")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    words = page.locator(".twin").inner_text()
    path = [int(node) for node in re.findall(r"node ([\d› ]+)", words)[0].split(" › ")]
    assert path[0] == 0
    assert f"node {' › '.join(map(str, path))}" in page.locator("#said").inner_text()
    page.keyboard.press("Enter")
    page.wait_for_function("node => location.hash.includes(`node=${node}`)", arg=path[-1])
    assert page.locator(".about-node h3").inner_text() == f"Node {path[-1]}"
    tab_to(page, ".path button")
    page.keyboard.press("Enter")
    page.wait_for_function("() => location.hash.includes('node=0')")
    assert page.evaluate("document.activeElement !== document.body")
    tab_to(page, ".elsewhere")
    page.keyboard.press("Enter")
    page.wait_for_function("() => location.hash.startsWith('#/browse?stage=hierarchy&q=label')")
    assert complaints == []


def tab_to(page: Page, selector: str) -> None:
    """Press Tab until the focus is there."""
    for _ in range(90):
        if page.evaluate("selector => document.activeElement.matches(selector)", selector):
            return
        page.keyboard.press("Tab")
    pytest.fail(f"the focus never comes to {selector}")


def test_a_tree_is_walked_by_mouse(opened: Opener, served: Callable[..., Client], whole_run: Whole) -> None:
    page, _ = opened(served(whole_run.maps), f"image/{ROW}?stage=hierarchy&layer=tree&depth=2")
    page.locator("canvas.layers").click(position={"x": 30, "y": 30})
    page.wait_for_timeout(250)
    node = re.findall(r"node=(\d+)", page.url)[0]
    assert page.locator("[role=treeitem][aria-selected=true]").get_attribute("data-node") == node
    page.locator(".path button").first.click()
    page.wait_for_timeout(250)
    assert "node=0" in page.url


@pytest.mark.slow
@pytest.mark.parametrize(
    ("which", "address"),
    [
        ("out", "stage=segment&layer=affinity%2Cmask%2Ctruth&t=4&vectors=5&opacity=60&smooth=1&style=fill&patch=20"),
        ("out", "stage=segment&layer=eigenvector&k=3&sort=iou&desc=1"),
        ("maps", "stage=hierarchy&layer=tree&node=3&depth=2"),
        ("maps", "stage=semantic&layer=labels%2Ctruth&truth=fill"),
    ],
)
def test_reload_gives_the_same(
    opened: Opener, served: Callable[..., Client], whole_run: Whole, which: str, address: str
) -> None:
    page, complaints = opened(served(getattr(whole_run, which)), f"image/{ROW}?{address}")
    picture = "document.querySelector('canvas.layers').toDataURL()"
    before = page.evaluate(picture)
    page.reload()
    settle(page)
    assert page.evaluate(picture) == before
    assert complaints == []


def test_the_next_image_is_that_of_the_list(opened: Opener, served: Callable[..., Client], whole_run: Whole) -> None:
    client = served(whole_run.out)
    rows = [each["row"] for each in client.get("api/rows", stage="segment", sort="confidence", limit=6).json()["rows"]]
    page, _ = opened(client, f"image/{rows[2]}?stage=segment&sort=confidence&layer=eigenvector&k=2")
    page.keyboard.press("n")
    page.wait_for_function("row => location.hash.startsWith(`#/image/${row}?`)", arg=rows[3])
    settle(page)
    assert "k=2" in page.url
    page.keyboard.press("p")
    page.wait_for_function("row => location.hash.startsWith(`#/image/${row}?`)", arg=rows[2])


def test_zoom_keeps_the_point_that_it_is_at(opened: Opener, served: Callable[..., Client], whole_run: Whole) -> None:
    page, _ = opened(served(whole_run.out), f"image/{ROW}?stage=segment")
    canvas = page.locator("canvas.layers")
    canvas.hover(position={"x": 64, "y": 52})
    before = page.locator(".twin").inner_text().partition(" · ")[0]
    page.mouse.wheel(0, -500)
    page.mouse.move(0, 0)
    canvas.hover(position={"x": 64, "y": 52})
    page.wait_for_timeout(100)
    assert page.locator(".twin").inner_text().partition(" · ")[0] == before
    page.keyboard.press("0")
    canvas.focus()


def test_a_failed_image_says_why(opened: Opener, served: Callable[..., Client], small_run: Small) -> None:
    client = served(small_run.out)
    page, _ = opened_without_picture(opened, client, small_run.failed)
    assert "failed on this image" in page.locator(".state.fault").inner_text()
    assert page.locator("canvas.layers").count() == 0
    assert page.locator(".flagbar").count() == 1


def opened_without_picture(opened: Opener, client: Client, row: int) -> tuple[Page, list[str]]:
    """A screen that has no twin to wait for, opened from one that has."""
    page, complaints = opened(client, "image/0?stage=segment")
    page.goto(f"{client.base}#/image/{row}?stage=segment")
    page.wait_for_selector(".state.fault")
    return page, complaints


def test_an_image_that_has_changed_is_not_shown_but_its_layers_are(
    opened: Opener, served: Callable[..., Client], tmp_path: Path
) -> None:
    (tmp_path / "photos").mkdir()
    # of no other test: pictures that the server has decoded it keeps by their bytes
    Image.fromarray(photograph(98)[0]).save(tmp_path / "photos" / "a.png")
    assert run(["segment", str(tmp_path / "photos"), str(tmp_path / "out"), *SMALL]) == 0
    Image.fromarray(photograph(99)[0]).save(tmp_path / "photos" / "a.png")
    page, _ = opened(served(tmp_path / "out"), "image/0?stage=segment&layer=mask&style=fill")
    assert "changed" in page.locator(".pane .fault").inner_text()
    # a grey ground and the mask's blue, whereas the new photograph has a red rectangle on a bright ground
    grey, blue, brightest = page.evaluate("""() => {
      const { width, height } = document.querySelector('canvas.layers')
      const { data } = document.querySelector('canvas.layers').getContext('2d').getImageData(0, 0, width, height)
      let grey = 0, blue = 0, brightest = 0
      for (let i = 0; i < data.length; i += 4) {
        grey += data[i] === 138 && data[i + 1] === 144 && data[i + 2] === 153
        blue += data[i + 2] > data[i] + 40
        brightest = Math.max(brightest, data[i])
      }
      return [4 * grey / data.length, 4 * blue / data.length, brightest] }""")
    assert grey > 0.2
    assert blue > 0.02
    assert brightest <= 138


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``both`` of ``segment`` and ``hierarchy`` over two pictures, ``drawn`` with two drawings of truth of each."""
    root = tmp_path_factory.mktemp("few")
    write_photographs(root, ["a.png", "b.png"])
    halves = np.repeat([[0, 1]], 96, axis=1).repeat(128, axis=0).astype(np.int32)
    quarters = halves + 2 * np.repeat([[0], [1]], 64, axis=0).astype(np.int32)
    (root / "partitions").mkdir()
    for name in "ab":
        np.savez_compressed(root / "partitions" / f"{name}.npz", halves, quarters)
    photos, tree = str(root / "photos"), ["--leaves", "8", *SMALL]
    assert run(["segment", photos, str(root / "both"), *SMALL]) == 0
    assert run(["hierarchy", photos, str(root / "both"), *tree]) == 0
    assert run(["hierarchy", photos, str(root / "drawn"), "--truth", str(root / "partitions"), *tree]) == 0
    return root


def test_keys_pressed_before_the_eigenvectors_are_there_move_the_patch_all_the_same(
    opened: Opener, served: Callable[..., Client], whole_run: Whole
) -> None:
    client = served(whole_run.out)
    page, complaints = opened(client, "run")
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    page.route("**/layers/segment/*/eigenvectors*", hold)
    page.goto(f"{client.base}#/image/{ROW}?stage=segment&layer=affinity&patch=20")
    page.wait_for_selector(".pane canvas")
    page.locator(".pane canvas").focus()
    for key in ("ArrowRight", "Shift+ArrowRight", "ArrowDown"):
        page.keyboard.press(key)
    values, vectors = stored(client, ROW)
    while not held:
        page.wait_for_timeout(20)
    held[0].continue_()
    high, wide = vectors.shape[1:]
    patch = min(wide - 1, 20 % wide + 6) + wide * min(high - 1, 20 // wide + 1)
    page.wait_for_function("patch => location.hash.includes(`patch=${patch}`)", arg=patch)
    assert number(page) == pytest.approx(lifted(values, vectors, patch, 1)[patch], rel=1e-5)
    assert complaints == []


def test_who_has_gone_elsewhere_is_not_led_back_by_what_was_still_to_be_kept(
    opened: Opener, served: Callable[..., Client], whole_run: Whole
) -> None:
    client = served(whole_run.out)
    page, complaints = opened(client, "browse")
    # a busy browser: the event that tells of another address comes late
    page.add_init_script(
        """const add = window.addEventListener
        window.addEventListener = (type, does, how) =>
          add.call(window, type, type === 'hashchange' ? (event) => setTimeout(() => does(event), 400) : does, how)"""
    )
    page.goto(client.at(f"image/{ROW}?stage=segment&layer=affinity&patch=20"))
    page.wait_for_selector(".twin[data-value]")
    page.locator(".pane canvas").focus()
    page.keyboard.press("ArrowRight")
    # before the patch is kept in the address
    page.evaluate("location.hash = '#/run'")
    page.wait_for_selector(".screen.run")
    assert page.url.endswith("#/run")
    assert complaints == []


def test_eigenvectors_of_one_stage_serve_the_tree_of_another(
    opened: Opener, served: Callable[..., Client], few: Path
) -> None:
    client = served(few / "both")
    page, complaints = opened(client, f"image/{ROW}?stage=hierarchy&layer=tree")
    values, vectors = stored(client, ROW)
    page.keyboard.press("a")
    page.keyboard.press("ArrowDown")
    page.wait_for_function("() => /patch=/.test(location.hash)")
    patch = int(re.findall(r"patch=(\d+)", page.url)[0])
    assert number(page) == pytest.approx(lifted(values, vectors, patch, 1)[patch], rel=1e-5)
    assert page.locator(".strip button").count() == len(values)
    # the mask of segment goes around it as well
    page.keyboard.press("m")
    page.wait_for_function("() => / mask [01]/.test(document.querySelector('.twin').textContent)")
    assert complaints == []


def test_of_several_drawings_of_the_truth_each_is_shown(
    opened: Opener, served: Callable[..., Client], few: Path
) -> None:
    page, complaints = opened(served(few / "drawn"), "image/0?stage=hierarchy&layer=truth&truth=fill")
    right_below = {"x": 0.8, "y": 0.8}
    box = page.locator("canvas.layers").bounding_box()
    assert box is not None
    at = {"x": box["width"] * right_below["x"], "y": box["height"] * right_below["y"]}
    page.locator("canvas.layers").hover(position=at)
    page.wait_for_function("() => document.querySelector('.twin').textContent.endsWith('truth 1')")
    assert "Truth: 2 regions, drawing 1 of 2" in page.locator(".pane-side").inner_text()
    page.locator("#drawing").focus()
    page.keyboard.press("ArrowDown")
    settle(page)
    page.locator("canvas.layers").hover(position={"x": at["x"] - 1, "y": at["y"]})
    page.wait_for_function("() => document.querySelector('.twin').textContent.endsWith('truth 3')")
    assert "Truth: 4 regions, drawing 2 of 2" in page.locator(".pane-side").inner_text()
    assert "drawing=1" in page.url
    assert complaints == []


def test_classes_of_the_truth_have_their_names_in_the_legend_and_under_the_pointer(
    opened: Opener, served: Callable[..., Client], whole_run: Whole
) -> None:
    page, _ = opened(served(whole_run.maps), f"image/{ROW}?stage=semantic&layer=labels%2Ctruth&truth=fill")
    assert page.locator(".legend li").filter(has_text="0 ground").count() >= 1
    assert page.locator(".legend li").filter(has_text="1 box").count() >= 1
    page.locator("canvas.layers").hover(position={"x": 3, "y": 3})
    page.wait_for_function("() => document.querySelector('.twin').textContent.endsWith('truth 0 ground')")
    assert re.search(r"label \d", page.locator(".twin").inner_text())
    # no eigenvectors here: why, and what would make them
    assert "simsam segment IMAGES OUT" in page.locator(".strip-note").inner_text()


def test_what_a_mask_is_judged_by_comes_first_and_long_lists_are_folded(
    opened: Opener, served: Callable[..., Client], whole_run: Whole
) -> None:
    page, _ = opened(served(whole_run.out), f"image/{ROW}?stage=segment")
    rows = page.locator(".facts").first.locator("tbody th")
    assert rows.all_inner_texts()[:4] == ["confidence", "iou", "spectral_gap", "cut"]
    row = page.locator("tr", has=page.locator("th", has_text=re.compile("^eigenvalues$")))
    assert row.locator("td.note").inner_text()
    values = row.locator("details")
    assert re.match(r"\d+ values, 0 to ", values.locator("summary").inner_text())
    assert values.get_attribute("open") is None


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over one picture of 3000 x 2000: grey, with stripes two pixels wide around (2400, 1500)."""
    root = tmp_path_factory.mktemp("large")
    pixels = np.full((2000, 3000, 3), 128, np.uint8)
    pixels[1480:1520, 2360:2440] = np.where(np.arange(80) // 2 % 2, 235, 20)[:, None]
    (root / "photos").mkdir()
    Image.fromarray(pixels).save(root / "photos" / "large.png")
    # there is one object nowhere, so that the mask is empty
    command = ["segment", str(root / "photos"), str(root / "out"), *SMALL]
    command[command.index("native")] = "short:128"
    assert run(command) in (0, 1)
    return root / "out"


@pytest.mark.slow
def test_a_large_picture_is_shown_to_its_pixels(opened: Opener, served: Callable[..., Client], large: Path) -> None:
    page, complaints = opened(served(large), "image/0?stage=segment&layer=photo")
    asked: list[str] = []
    page.on("request", lambda request: asked.extend(re.findall(r"box=([\d%C,]+)", request.url)))
    box = page.locator("canvas.layers").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 0.8 * box["width"], box["y"] + 0.75 * box["height"])
    with page.expect_response(re.compile("box=")):
        page.mouse.wheel(0, -1500)
    page.wait_for_timeout(250)
    scale = 1.2**15
    left, top, right, bottom = (int(side) for side in asked[-1].replace("%2C", ",").split(","))
    # what is seen is an image's side by the zoom, and the point under the pointer has not moved
    assert right - left == pytest.approx(3000 / scale, abs=2)
    assert bottom - top == pytest.approx(2000 / scale, abs=2)
    assert (left, top) == (pytest.approx(2400 - 0.8 * 3000 / scale, abs=4), pytest.approx(1500 - 1500 / scale, abs=4))
    row = page.evaluate("""() => { const { width, height } = document.querySelector('canvas.layers')
      const context = document.querySelector('canvas.layers').getContext('2d')
      return [...context.getImageData(0, Math.round(.75 * height), width, 1).data].filter((_, i) => i % 4 === 0) }""")
    places = left + (np.arange(len(row)) + 0.5) / len(row) * (right - left)
    middles = [np.abs(places - (x + 1)).argmin() for x in range(2370, 2430, 2)]
    shades = np.array(row)[middles]
    assert np.min(np.abs(np.diff(shades.astype(int)))) > 100
    assert complaints == []


@pytest.mark.slow
def test_two_fingers_zoom_and_one_scrolls_the_page(
    opened: Opener, served: Callable[..., Client], whole_run: Whole
) -> None:
    telephone = {"viewport": {"width": 400, "height": 700}, "has_touch": True, "is_mobile": True}
    page, complaints = opened(served(whole_run.out), f"image/{ROW}?stage=segment", **telephone)
    fingers = page.context.new_cdp_session(page)
    box = page.locator("canvas.layers").bounding_box()
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2

    def touch(kind: str, *points: tuple[float, float]) -> None:
        named = [{"x": at[0], "y": at[1], "id": i} for i, at in enumerate(points)]
        fingers.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": named})

    zoomed = "() => document.querySelector('canvas.layers').classList.contains('zoomed')"
    touch("touchStart", (x, y))
    touch("touchEnd")
    # what is tapped is read out
    page.wait_for_function("() => /^x 9[4-7], y 6[2-5]/.test(document.querySelector('.twin').textContent)")
    touch("touchStart", (x - 20, y), (x + 20, y))
    for step in range(1, 7):
        touch("touchMove", (x - 20 - 10 * step, y), (x + 20 + 10 * step, y))
    touch("touchEnd")
    page.wait_for_function(zoomed)
    # from 40 pixels to 160: four times, about the middle, which stays
    page.wait_for_timeout(100)
    touch("touchStart", (x + 40, y))
    touch("touchEnd")
    page.wait_for_timeout(100)
    across = int(re.findall(r"x (\d+)", page.locator(".twin").inner_text())[0])
    assert across == pytest.approx(96 + 40 / box["width"] * 192 / 4, abs=2)
    assert page.evaluate("scrollY") == 0
    page.get_by_role("button", name="Whole image").click()
    touch("touchStart", (x, y))
    for step in range(1, 9):
        touch("touchMove", (x, y - 15 * step))
    touch("touchEnd")
    page.wait_for_function("() => scrollY > 40")
    assert not page.evaluate(zoomed)
    assert complaints == []


@pytest.mark.slow
def test_patches_left_out_of_the_graph_are_hatched_and_told(
    opened: Opener, served: Callable[..., Client], test_weights: Path, tmp_path: Path
) -> None:
    write_photographs(tmp_path, ["a.png"])
    command = ["segment", str(tmp_path / "photos"), str(tmp_path / "out"), "--backbone", "vit_tiny_patch16_224"]
    command += [
        "--weights",
        str(test_weights / "vit_tiny_patch16_224.supervised.safetensors"),
        "--outlier-ratio",
        "1.1",
        "--engine",
        "inline",
        "--quiet",
    ]
    assert run(command) == 0
    client = served(tmp_path / "out")
    answer = client.get("layers/segment/0/outside")
    left_out = np.flatnonzero(np.frombuffer(answer.body, np.uint8))
    assert len(left_out) > 0
    page, _ = opened(client, f"image/0?stage=segment&layer=eigenvector&patch={left_out[0]}")
    assert "left out of the graph" in page.locator(".twin").inner_text()
    picture = "document.querySelector('canvas.layers').toDataURL()"
    hatched = page.evaluate(picture)
    page, _ = opened(client, f"image/0?stage=segment&layer=photo&patch={left_out[0]}")
    without = page.evaluate(picture)
    page.get_by_role("button", name="Left out of the graph").click()
    page.wait_for_timeout(100)
    assert page.evaluate(picture) not in (without, hatched)
