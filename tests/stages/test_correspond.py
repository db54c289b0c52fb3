"""``simsam correspond`` on real files: planted matches, hand-computed PCK, wrong input, engines, interruptions."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from process_groups import killed_after
from result_rows import rows_of
from safetensors.torch import save_file

from simsam_batch.cli import run as simsam
from simsam_batch.telling.metrics import metric_lines

NETWORK, PATCH = "test_vit", 16
HEIGHT, WIDTH = 96, 128
CELLS = [(column * PATCH + 7.5, row * PATCH + 7.5) for row, column in ((0, 0), (2, 3), (5, 7), (4, 1))]
NAMES = ["left_ear", "right_ear", "nose", "tail"]

pytestmark = pytest.mark.usefixtures("one_thread")


def noise(seed: int, height: int = HEIGHT, width: int = WIDTH) -> Image.Image:
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 255, (height // PATCH, width // PATCH, 3)).astype(np.uint8)
    return Image.fromarray(blocks).resize((width, height), Image.Resampling.NEAREST)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``photos``, of which ``b.bmp`` has the pixels of ``a.png``, and ``vit.safetensors``, weights by chance."""
    home = tmp_path_factory.mktemp("correspond")
    (home / "photos").mkdir()
    noise(0).save(home / "photos" / "a.png")
    noise(0).save(home / "photos" / "b.bmp")
    noise(1).save(home / "photos" / "c.png")
    Image.new("RGB", (WIDTH, HEIGHT), (90, 120, 30)).save(home / "photos" / "flat.png")
    (home / "photos" / "words.png").write_text("no picture " * 20)
    torch.manual_seed(0)
    model = timm.create_model(NETWORK, pretrained=False, num_classes=0)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, home / "vit.safetensors")
    return home


def pair(source: str, target: str, **more: Any) -> dict[str, Any]:
    known = {"source_points": CELLS, "target_points": CELLS, "point_names": NAMES}
    return {"source": source, "target": target, **known, **more}


def arguments(home: Path, out: Path, pairs: list[dict[str, Any]] | str, *more: str) -> list[str]:
    source = pairs
    if not isinstance(pairs, str):
        source = str(out.parent / f"{out.name}.json")
        Path(source).write_text(json.dumps(pairs))
    network = ["--backbone", NETWORK, "--weights", str(home / "vit.safetensors"), "--resize", "native"]
    command = ["correspond", str(source), str(out), "--root", str(home / "photos"), *network, "--blocks", "2"]
    # the centre of the best patch, which is the planted one to the last bit
    exact = ["--window", "0", "--context", "none", "--threads", "1", "--shard-size", "2", "--quiet"]
    return [*command, *exact, "--allow-failed", "1", "--engine", "inline", *more]


def metrics_of(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "results/matches.json").read_text())["metrics"]
    return found


def line_of(metrics: dict[str, Any], threshold: str, average: str) -> dict[float, float]:
    lines = {(line["threshold"], line["average"]): line["pck"] for line in metrics["pck"]["lines"]}
    return dict(zip(metrics["pck"]["at"], lines[threshold, average], strict=True))


def test_planted_points_are_all_found_and_pck_is_one(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert simsam(arguments(home, out, [pair("a.png", "b.bmp"), pair("b.bmp", "a.png")])) == 0
    metrics = metrics_of(out)
    assert metrics["pck_0.1"] == metrics["pck_0.1_per_image"] == 1
    assert metrics["mutual_share"] == 1
    assert metrics["pairs_scored"] == 2
    first, _ = rows_of(out, "matches")
    assert (first["pair_id"], first["source"], first["target"]) == ("a.png:b.bmp", "a.png", "b.bmp")
    assert first["identical"] is False
    for point, name, (x, y) in zip(first["points"], NAMES, CELLS, strict=True):
        assert (point["name"], point["x"], point["y"]) == (name, x, y)
        assert (point["distance"], point["right"], point["mutual"], point["fault"]) == (0, True, True, None)
        assert point["similarity"] == pytest.approx(1, abs=1e-4)
    assert simsam(["verify", str(out)]) == 0
    assert simsam(["report", str(out)]) == 0


def test_a_known_offset_gives_the_pck_that_follows_from_it(home: Path, tmp_path: Path) -> None:
    # off by 5, 10, 20 and 0 pixels; the box is 100 high, the points spread over 112, the image is 128 wide
    truth = [[x + off, y] for (x, y), off in zip(CELLS, (5, 10, 20, 0), strict=True)]
    box = [0, 0, 60, 100]
    pairs = [
        pair("a.png", "b.bmp", target_points=truth, target_box=box, source_box=box, category="one"),
        pair("b.bmp", "a.png", target_points=[*truth[:2], None, None], target_box=box, source_box=box, category="two"),
    ]
    out = tmp_path / "out"
    assert simsam(arguments(home, out, pairs)) == 0
    metrics = metrics_of(out)
    assert metrics["threshold"] == "box"
    by_point = line_of(metrics, "box", "point")
    # of six points those within 1, 2, 5, 10, 15 and 20 pixels
    assert by_point == pytest.approx({0.01: 1 / 6, 0.02: 1 / 6, 0.05: 3 / 6, 0.1: 5 / 6, 0.15: 5 / 6, 0.2: 1})
    by_image = line_of(metrics, "box", "image")
    assert by_image[0.1] == pytest.approx((3 / 4 + 1) / 2)
    assert by_image[0.05] == pytest.approx((2 / 4 + 1 / 2) / 2)
    assert line_of(metrics, "box", "class, of points")[0.1] == pytest.approx((3 / 4 + 1) / 2)
    # 12.8 pixels of the image are a tenth of it
    assert line_of(metrics, "image", "point")[0.1] == pytest.approx(5 / 6)
    assert metrics["pck_0.1_by_category"] == {"one": 0.75, "two": 1.0}
    assert (metrics["points"], metrics["points_scored"], metrics["points_without_truth"]) == (8, 6, 2)
    assert {*metrics["pck_0.1_of_baselines"]} == {"chance", "same-place", "relative-place"}
    # in equal boxes and images both are the planted place, and as far off as that
    assert metrics["pck_0.1_of_baselines"]["relative-place"] == pytest.approx(5 / 6)
    assert metrics["pck_0.1_of_baselines"]["same-place"] == pytest.approx(5 / 6)


def test_runs_are_compared_by_the_share_of_each_pairs_points(home: Path, tmp_path: Path, capsys: Any) -> None:
    # of four points off by 0, 10, 20 and 0 pixels with a box 100 high three are right; of exact ones all
    truth = [[x + off, y] for (x, y), off in zip(CELLS, (0, 10, 20, 0), strict=True)]
    box = [0, 0, 60, 100]
    for name, points in (("exact", [list(cell) for cell in CELLS]), ("off", truth)):
        pairs = [
            pair("a.png", "b.bmp", target_points=points, target_box=box, source_box=box),
            pair("b.bmp", "a.png", target_points=[list(cell) for cell in CELLS], target_box=box, source_box=box),
        ]
        assert simsam(arguments(home, tmp_path / name, pairs)) == 0
    capsys.readouterr()
    runs = [str(tmp_path / name) for name in ("exact", "off")]
    assert simsam(["compare", *runs, "--format", "json", "--to", str(tmp_path / "cmp")]) == 0
    record = json.loads(capsys.readouterr().out)
    (metric,) = record["metrics"]
    assert (metric["metric"], record["unit"], record["images"]) == ("pck_0.1", "pair_id", 2)
    assert [each["mean"] for each in metric["runs"]] == [1, pytest.approx((3 / 4 + 1) / 2)]
    off = metric["runs"][1]
    assert (off["difference"], off["wins"], off["losses"], off["ties"]) == (pytest.approx(-1 / 8), 0, 1, 1)
    assert record["differing"][0]["images"][0]["image_id"] == "a.png:b.bmp"
    assert "nothing that is drawn here" in (tmp_path / "cmp" / "index.html").read_text()


@pytest.fixture
def partly(home: Path, tmp_path: Path) -> Path:
    """A finished run over three pairs: of one three points in four are right, the others' targets are no pictures."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("a.png", "b.bmp", "words.png"):
        shutil.copy(home / "photos" / name, photos / name)
    truth = [[x + off, y] for (x, y), off in zip(CELLS, (5, 10, 20, 0), strict=True)]
    both = {"target_box": [0, 0, 60, 100], "source_box": [0, 0, 60, 100]}
    pairs = [
        pair("a.png", "b.bmp", target_points=truth, category="one", **both),
        pair("a.png", "words.png", target_points=[*CELLS[:2], None, None], category="two", **both),
        {"source": "b.bmp", "target": "words.png"},
    ]
    # the last --root counts
    assert simsam(arguments(home, tmp_path / "run", pairs, "--root", str(photos))) == 0
    return tmp_path / "run"


def test_points_of_a_pair_that_failed_are_wrong_until_another_try_mends_it(home: Path, partly: Path) -> None:
    metrics = metrics_of(partly)
    # of four points and two: three are right, and none
    assert line_of(metrics, "box", "point")[0.1] == pytest.approx(3 / 6)
    assert line_of(metrics, "box", "image")[0.1] == pytest.approx((3 / 4 + 0) / 2)
    assert line_of(metrics, "box", "class, of points")[0.1] == pytest.approx((3 / 4 + 0) / 2)
    assert line_of(metrics, "image", "point")[0.2] == pytest.approx(4 / 6)
    assert metrics["pck_0.1_by_category"] == {"one": 0.75, "two": 0.0}
    # what needs no features finds the three, too, and none where nothing can be read
    assert metrics["pck_0.1_of_baselines"]["relative-place"] == pytest.approx(3 / 6)
    # the ears of both pairs, of which those of one are found, one of them 10 pixels off
    assert metrics["points_with_other_side"] == 4
    assert metrics["pck_0.1_with_other_side"] == pytest.approx(2 / 4)
    counts = {"pairs": 3, "pairs_scored": 2, "pairs_failed": 2, "points": 8, "points_scored": 6, "points_failed": 2}
    assert {name: metrics[name] for name in counts} == counts
    noise(0).save(partly.parent / "photos" / "words.png")
    assert simsam(["retry", str(partly), "--quiet"]) == 0
    metrics = metrics_of(partly)
    assert line_of(metrics, "box", "point")[0.1] == pytest.approx(5 / 6)
    assert (metrics["pairs_scored"], metrics["points_scored"]) == (2, 6)
    assert "pairs_failed" not in metrics
    assert "points_failed" not in metrics


def test_matches_of_a_pair_whose_image_cannot_be_read_are_as_wrong_as_in_a_run(
    partly: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert simsam(["export", str(partly), "--format", "csv", "--to", str(tmp_path / "csv")]) == 0
    file, photos = tmp_path / "scores.json", tmp_path / "photos"
    command = ["score", str(tmp_path / "csv/matches.csv"), "--pairs", f"{partly}.json", "--json", str(file)]
    assert simsam([*command, "--root", str(photos)]) == 0
    said = capsys.readouterr()
    assert "1 of 3 images cannot be read: points of their pairs count as wrong" in said.err
    assert "words.png" in said.err
    assert [line.split() for line in said.out.splitlines() if "_failed" in line] == [
        ["pairs_failed", "2"],
        ["points_failed", "2"],
    ]
    found, expected = json.loads(file.read_text())["metrics"], metrics_of(partly)
    assert found["pck"] == expected["pck"]
    assert found["pck_0.1_of_baselines"]["relative-place"] == expected["pck_0.1_of_baselines"]["relative-place"]
    for image in photos.iterdir():
        image.write_text("no picture " * 20)
    assert simsam([*command, "--root", str(photos)]) == 1
    assert "nor can that of any other image. To mend it: give --root" in capsys.readouterr().err


def test_a_threshold_that_some_pairs_lack_says_of_how_many_it_is(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    pairs = [pair("a.png", "b.bmp", target_box=[0, 0, 60, 100]), pair("b.bmp", "a.png"), pair("c.png", "c.png")]
    pairs[2]["target_points"] = [CELLS[0], None, None, None]
    assert simsam(arguments(home, out, pairs)) == 0
    metrics = metrics_of(out)
    held = {line["threshold"]: (line["pairs"], line["points"]) for line in metrics["pck"]["lines"]}
    # a single point spreads over nothing
    assert held == {"box": (1, 4), "points": (2, 8), "image": (3, 9)}
    names = [line.strip() for line in metric_lines(metrics)]
    for name in ("box, by point, of 1 pair with 4 points ", "points, by image, of 2 pairs with 8 points ", "image, by"):
        assert any(line.startswith(name) for line in names), name
    assert not any(line.startswith("image, by point, of") for line in names)
    assert simsam(["report", str(out)]) == 0
    assert "box, by point, of 1 pair with 4 points" in (out / "report/index.html").read_text()


def test_points_found_at_their_other_side_are_counted(home: Path, tmp_path: Path) -> None:
    swapped = [CELLS[1], CELLS[0], CELLS[2], CELLS[3]]
    # what the source hides is in the target all the same
    hidden = [None, *CELLS[1:]]
    out = tmp_path / "out"
    pairs = [pair("a.png", "b.bmp", target_points=swapped), pair("b.bmp", "a.png", source_points=hidden)]
    assert simsam(arguments(home, out, pairs)) == 0
    metrics = metrics_of(out)
    assert metrics["points_with_other_side"] == 3
    assert metrics["found_at_other_side"] == pytest.approx(2 / 3)
    assert metrics["pck_0.1_with_other_side"] == pytest.approx(1 / 3)
    assert (metrics["points"], metrics["points_scored"]) == (7, 7)


def test_wrong_points_and_images_are_named_and_cost_no_other_pair(home: Path, tmp_path: Path) -> None:
    outside = [[WIDTH + 40, 5], *CELLS[1:]]
    pairs = [
        pair("a.png", "b.bmp", source_points=outside),
        pair("a.png", "flat.png"),
        pair("a.png", "words.png"),
        pair("a.png", "gone.png"),
        pair("c.png", "c.png"),
        {"source": "c.png", "target": "a.png"},
        {"source": "a.png", "target": "c.png", "source_points": CELLS},
    ]
    out = tmp_path / "out"
    assert simsam(arguments(home, out, pairs)) == 0
    rows = {row["pair_id"]: row for row in rows_of(out, "matches")}
    first = rows["a.png:b.bmp"]
    assert [point["fault"] for point in first["points"]] == ["outside", None, None, None]
    assert first["points"][0]["x"] is None
    assert (first["points_scored"], first["points_right"]) == (3, 3)
    words, gone = rows["a.png:words.png"], rows["a.png:gone.png"]
    assert (words["status"], words["error_type"]) == ("failed", "not_an_image")
    assert words["error"].startswith("words.png: ")
    assert (gone["status"], gone["error_type"]) == ("failed", "not_found")
    assert rows["c.png:c.png"]["identical"] is True
    # where nobody has named points some are chosen that choose each other
    free = rows["c.png:a.png"]["points"]
    assert 0 < len(free) <= 20
    assert all(point["mutual"] and point["true_x"] is None for point in free)
    assert all(point["right"] is None for point in rows["a.png:c.png"]["points"])
    metrics = metrics_of(out)
    assert metrics["points_outside"] == 1
    assert metrics["pairs_of_identical_images"] == 1
    result = json.loads((out / "results/matches.json").read_text())
    assert (result["images"], result["failed"]) == (7, 2)
    assert simsam(["report", str(out)]) == 0
    assert "a.png:gone.png" in (out / "report/index.html").read_text()


def test_a_target_that_is_alike_everywhere_has_no_match(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    # descriptors of colour alone know no position
    command = ["correspond", str(tmp_path / "p.json"), str(out), "--root", str(home / "photos")]
    (tmp_path / "p.json").write_text(json.dumps([pair("a.png", "flat.png")]))
    more = ["--backbone", "descriptors", "--resize", "native", "--engine", "inline", "--quiet", "--context", "none"]
    assert simsam([*command, *more]) == 0
    (row,) = rows_of(out, "matches")
    assert [point["fault"] for point in row["points"]] == ["flat"] * 4
    assert all(point["x"] is None and point["right"] is False for point in row["points"])
    assert metrics_of(out)["pck_0.1"] == 0
    assert metrics_of(out)["points_flat"] == 4


def test_similarities_are_kept_on_request(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert simsam(arguments(home, out, [pair("a.png", "c.png")], "--maps", "fp16")) == 0
    (row,) = rows_of(out, "matches")
    with np.load(out / row["arrays_path"]) as file:
        maps = file[f"{row['arrays_member']}.similarity"]
    assert (maps.shape, maps.dtype) == ((4, HEIGHT // PATCH, WIDTH // PATCH), np.float16)
    for values, point in zip(maps, row["points"], strict=True):
        y, x = np.unravel_index(values.argmax(), values.shape)
        assert (point["x"], point["y"]) == (x * PATCH + 7.5, y * PATCH + 7.5)
        assert point["similarity"] == pytest.approx(float(values.max()), abs=1e-3)


def purple(picture: Image.Image) -> np.ndarray[Any, np.dtype[np.bool_]]:
    red, green, blue = np.moveaxis(np.asarray(picture).astype(int), -1, 0)
    return np.asarray((red - green > 40) & (blue - green > 25))


def test_similarities_that_were_kept_are_drawn_where_their_patches_lie(home: Path, tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    # grey, so that what has a colour was drawn; beside eight patches lie 15 columns in none, and below six 4 rows
    grey = noise(0, HEIGHT, WIDTH).convert("L").convert("RGB")
    grey.save(photos / "a.png")
    wide = Image.new("RGB", (WIDTH + 15, HEIGHT + 4), (128, 128, 128))
    wide.paste(grey)
    wide.save(photos / "wide.png")
    pairs = [pair("a.png", "wide.png"), pair("a.png", "a.png", source_points=[[500, 5]], target_points=[[1, 1]])]
    for each in pairs[1:]:
        each["point_names"] = ["out"]
    assert simsam(arguments(home, out, pairs, "--root", str(photos), "--maps", "fp16")) == 0
    assert simsam(["report", str(out)]) == 0
    bare, shown = sorted((out / "report").rglob("matches-*-large-*.jpg"))
    with Image.open(bare) as picture:
        # a point that was not found has no map
        assert picture.height == 640
    with Image.open(shown) as picture:
        # below 640 rows and 6 between them three points and one, each with a line of text 20 high
        height = (640 - 2 * 6) // 3
        assert picture.height == 640 + 2 * (6 + height + 20)
        left = round(height * WIDTH / HEIGHT) + 6
        width = round(height * (WIDTH + 15) / (HEIGHT + 4))
        target = picture.crop((left, 640 + 6, left + width, 640 + 6 + height))
        tinted = purple(target)
    right, bottom = round(width * WIDTH / (WIDTH + 15)), round(height * HEIGHT / (HEIGHT + 4))
    assert tinted[:bottom, :right].sum() > 300
    assert not tinted[bottom + 4 :].any()
    assert not tinted[:, right + 4 :].any()
    # the first point is found in the first patch
    assert tinted[4 : height // 12, 4 : width // 20].mean() > 0.3


def test_every_patch_is_matched_on_request_and_drawn(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert simsam(arguments(home, out, [{"source": "a.png", "target": "b.bmp"}], "--dense")) == 0
    (row,) = rows_of(out, "matches")
    with np.load(out / row["arrays_path"]) as file:
        mine = {name.partition(".")[2]: file[name] for name in file.files}
    rows, columns = HEIGHT // PATCH, WIDTH // PATCH
    down, along = np.mgrid[:rows, :columns]
    expected = np.stack([along, down], axis=-1) * PATCH + 7.5
    assert np.array_equal(mine["dense_places"], expected)
    assert mine["dense_similarity"] == pytest.approx(np.ones((rows, columns)), abs=1e-3)
    assert mine["dense_mutual"].all()
    assert simsam(["report", str(out)]) == 0
    (picture,) = (out / "report").rglob("matches-*-large-*.jpg")
    with Image.open(picture) as image:
        # below the two photographs the target brought onto the source, and the colours of where patches went
        assert image.height > image.width * HEIGHT / (2 * WIDTH) * 1.8


def test_a_run_about_images_is_refused_with_its_mend(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    pairs = arguments(home, out, [pair("a.png", "b.bmp")])
    source = pairs[1]
    assert simsam(["segment", source, str(out), "--backbone", "descriptors", "--engine", "inline"]) == 1
    assert "is a single file" in capsys.readouterr().err
    assert not out.exists()
    assert simsam(["segment", "spair:photos", str(out), "--backbone", "descriptors", "--engine", "inline"]) == 1
    assert "a set of pairs, which simsam correspond takes" in capsys.readouterr().err


MANY = [
    pair(a, b, pair_id=f"{a}-{b}-{i}")
    for i in range(3)
    for a in ("a.png", "b.bmp", "c.png")
    for b in ("a.png", "c.png")
]


def digests(out: Path) -> list[str]:
    return [
        json.loads((out / f"results/{stage}.json").read_text())["content_digest"] for stage in ("features", "matches")
    ]


@pytest.fixture(scope="module")
def alone(home: Path) -> Path:
    out = home / "alone"
    assert simsam(arguments(home, out, MANY, "--window", "2", "--context", "log-bins")) == 0
    return out


@pytest.mark.slow
@pytest.mark.parametrize(
    "engine", ["local", *(pytest.param(each, marks=pytest.mark.soak) for each in ("ray", "torchrun"))]
)
def test_every_engine_computes_the_same_bits(
    engine: str, home: Path, alone: Path, tmp_path: Path, run_on: Callable[[str, list[str]], None]
) -> None:
    out = tmp_path / "out"
    command = arguments(home, out, MANY, "--window", "2", "--context", "log-bins")
    run_on(engine, [sys.executable, "-m", "simsam_batch", *command])
    assert digests(out) == digests(alone)


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_end(home: Path, alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = arguments(home, out, MANY, "--window", "2", "--context", "log-bins")
    killed_after(4, out, "matches", [sys.executable, "-m", "simsam_batch", *command])
    assert simsam(command) == 0
    assert digests(out) == digests(alone)


def spair_copy(root: Path, photos: Path) -> str:
    for folder in ("JPEGImages/thing", "PairAnnotation/test", "Layout/large"):
        (root / folder).mkdir(parents=True)
    for name, file in (("x.png", "a.png"), ("y.bmp", "b.bmp")):
        (root / "JPEGImages/thing" / name).symlink_to(photos / file)
    (root / "Layout/large/test.txt").write_text("1-x-y:thing")
    held = {
        "src_kps": CELLS,
        "trg_kps": [[x + off, y] for (x, y), off in zip(CELLS, (5, 10, 20, 0), strict=True)],
        "src_bndbox": [0, 0, 60, 100],
        "trg_bndbox": [0, 0, 100, 60],
        "src_imname": "x.png",
        "trg_imname": "y.bmp",
        "category": "thing",
    }
    (root / "PairAnnotation/test/1-x-y:thing.json").write_text(json.dumps(held))
    return f"spair:{root}"


def willow_copy(root: Path, photos: Path) -> str:
    (root / "thing").mkdir(parents=True)
    for name, file in (("x.png", "a.png"), ("y.bmp", "b.bmp")):
        (root / "thing" / name).symlink_to(photos / file)
    cells = [(column * PATCH + 7.5, row * PATCH + 7.5) for row in range(5) for column in (1, 6)]
    truth = [(x + (5 if number < 5 else 20), y) for number, (x, y) in enumerate(cells)]
    numbers = [value for points in (cells, truth) for axis in (0, 1) for value in (point[axis] for point in points)]
    head = ",".join(["imageA", "imageB", *map(str, range(40))])
    row = ",".join(["PF/thing/x.png", "PF/thing/y.bmp", *map(str, numbers)])
    (root / "test_pairs.csv").write_text(f"{head}\n{row}\n")
    return f"pf-willow:{root}"


def cub_copy(root: Path, photos: Path) -> str:
    (root / "parts").mkdir(parents=True)
    (root / "images/001.A").mkdir(parents=True)
    for name, file in (("x.png", "a.png"), ("y.bmp", "b.bmp")):
        (root / "images/001.A" / name).symlink_to(photos / file)
    (root / "images.txt").write_text("1 001.A/x.png\n2 001.A/y.bmp\n")
    (root / "image_class_labels.txt").write_text("1 1\n2 1\n")
    (root / "train_test_split.txt").write_text("1 0\n2 0\n")
    (root / "bounding_boxes.txt").write_text("1 0 0 20 30\n2 0 0 30 40\n")
    (root / "parts/parts.txt").write_text("1 beak\n2 left wing\n3 tail\n4 back\n")
    lines = [f"1 {n} {x} {y} 1" for n, (x, y) in enumerate(CELLS, 1)]
    lines += [
        f"2 {n} {x + off} {y} {int(n < 4)}" for n, ((x, y), off) in enumerate(zip(CELLS, (3, 5, 0, 0), strict=True), 1)
    ]
    (root / "parts/part_locs.txt").write_text("\n".join(lines))
    return f"cub-parts:{root}"


@pytest.mark.parametrize(
    ("make", "published", "expected"),
    [
        # the source's box squashed is 60 * 4 wide and 100 * 512 / 96 high: a tenth is 53.3, and the points are off by
        # 20, 40, 80 and 0 of those pixels; of the target's box a tenth is 10 of its own pixels, of the points 11.2
        (spair_copy, "published-spair", {"published-spair": 3 / 4, "box": 3 / 4, "points": 3 / 4, "image": 3 / 4}),
        # the highest coordinate is (6 * 16 + 7.5 + 20) * 4 = 494, and one more: 49.5; off by 20 and 80. A tenth of the
        # points' extent, 95 wide, is 9.5 pixels
        (willow_copy, "published-pf-willow", {"published-pf-willow": 5 / 10, "points": 5 / 10, "image": 5 / 10}),
        # 40 * 512 / 128 = 160, a tenth 16; off by 12, 20 and 0, and the back is not seen. Of the box a tenth is 4
        (cub_copy, "published-cub", {"published-cub": 2 / 3, "box": 2 / 3, "image": 3 / 3}),
    ],
)
def test_copies_of_the_sets_have_the_pck_that_follows_by_hand(
    make: Callable[[Path, Path], str], published: str, expected: dict[str, float], home: Path, tmp_path: Path
) -> None:
    source = make(tmp_path / "set", home / "photos")
    command = arguments(home, tmp_path / "out", source)
    at = command.index("--root")
    assert simsam([*command[:at], *command[at + 2 :]]) == 0
    metrics = metrics_of(tmp_path / "out")
    found = {kind: line_of(metrics, kind, "point")[0.1] for kind in expected}
    assert found == pytest.approx(expected)
    assert published in {line["threshold"] for line in metrics["pck"]["lines"]}


def test_figures_beside_each_other_are_of_one_threshold_and_of_all_pairs(home: Path, tmp_path: Path) -> None:
    # off by 10 pixels: a tenth of the box is 5, of the image 12.8
    truth = [[x + 10, y] for x, y in CELLS]
    box = [0, 0, 50, 40]
    pairs = [
        pair("a.png", "b.bmp", target_points=truth[:1], source_points=CELLS[:1], point_names=["nose"], target_box=box),
        pair("b.bmp", "a.png", target_points=truth[:1], source_points=CELLS[:1], point_names=["nose"]),
    ]
    pairs[0]["source_box"] = box
    assert simsam(arguments(home, tmp_path / "out", pairs)) == 0
    metrics = metrics_of(tmp_path / "out")
    assert metrics["threshold"] == "image"
    assert metrics["pck_0.1"] == metrics["pck_0.1_of_mutual"] == metrics["pck_0.1_of_largest_margins"]["100 %"] == 1
    # one of the pairs alone has boxes
    assert {*metrics["pck_0.1_of_baselines"]} == {"chance", "same-place"}


def test_the_plan_of_pairs_is_no_orphan_before_its_stage_begins(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = arguments(home, out, [pair("a.png", "b.bmp")])
    assert simsam(command) == 0
    # as a kill leaves it while features are computed
    for gone in ("matches", "results/matches"):
        shutil.rmtree(out / gone)
    (out / "results/matches.json").unlink()
    again = ["verify", str(out), "--delete-orphans", "--orphan-hours", "0", "--nobody-at-work"]
    assert simsam(again) == 0
    assert simsam(command) == 0
    assert metrics_of(out)["pck_0.1"] == 1


@pytest.fixture
def scored(home: Path, tmp_path: Path) -> Path:
    """A finished run over two pairs, one of which is not quite right."""
    truth = [[x + off, y] for (x, y), off in zip(CELLS, (5, 10, 20, 0), strict=True)]
    outside = {"source_points": [*CELLS, [500, 5]], "target_points": [*truth, [1, 1]], "point_names": [*NAMES, "out"]}
    pairs = [pair("a.png", "b.bmp", **outside), pair("c.png", "a.png", target_points=[*truth[:3], None])]
    assert simsam(arguments(home, tmp_path / "run", pairs)) == 0
    return tmp_path / "run"


def test_matches_of_any_tool_are_scored_as_those_of_a_run(home: Path, scored: Path, tmp_path: Path) -> None:
    assert simsam(["export", str(scored), "--format", "csv", "--to", str(tmp_path / "csv")]) == 0
    common = ["--pairs", f"{scored}.json", "--root", str(home / "photos")]
    file = tmp_path / "scores.json"
    assert simsam(["score", str(tmp_path / "csv/matches.csv"), *common, "--json", str(file)]) == 0
    found = json.loads(file.read_text())
    expected = metrics_of(scored)
    assert found["kind"] == "pairs"
    assert found["metrics"]["pck"] == expected["pck"]
    assert found["metrics"]["pck_0.1"] == expected["pck_0.1"]
    # in JSON, in the order of the points and by the images alone, of one pair
    rows = {row["pair_id"]: row for row in rows_of(scored, "matches")}
    places = [[point["x"], point["y"]] for point in rows["a.png:b.bmp"]["points"]]
    held = [{"source": "a.png", "target": "b.bmp", "found": [*places[:3], None, None]}]
    (tmp_path / "some.json").write_text(json.dumps(held))
    assert simsam(["score", str(tmp_path / "some.json"), *common, "--json", str(file)]) == 0
    partly = json.loads(file.read_text())
    assert partly["pairs_missing"] == 1
    # of the first pair two are near enough, the fourth was not found; none is of the other pair
    assert partly["metrics"]["points_scored"] == 7
    right = sum(bool(point["right"]) for point in rows["a.png:b.bmp"]["points"][:3])
    assert partly["metrics"]["pck_0.1"] == pytest.approx(right / 7)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.csv", "pair_id,name\nx,y\n", "no column x, y"),
        ("b.csv", "pair_id,name,x,y\nother,nose,1,2\n", "there is no pair 'other'"),
        ("c.csv", "source,target,x,y\na.png,q.png,1,2\n", "there is no pair of 'a.png' and 'q.png'"),
        ("d.csv", "pair_id,name,x,y\na.png:b.bmp,beak,1,2\n", "has no point 'beak'"),
        ("e.csv", "pair_id,x,y\na.png:b.bmp,1,2\n", "has 4 points, and 1 are given"),
        ("f.csv", "pair_id,name,x,y\na.png:b.bmp,nose,1,z\n", "is no x and y"),
        ("g.json", '{"found": []}', "is no list of matches"),
        ("h.json", '[{"pair_id": "a.png:b.bmp"}]', "has no list 'found'"),
    ],
)
def test_matches_that_cannot_be_scored_are_named(
    name: str, text: str, words: str, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pairs.json").write_text(json.dumps([pair("a.png", "b.bmp")]))
    (tmp_path / name).write_text(text)
    command = ["score", str(tmp_path / name), "--pairs", str(tmp_path / "pairs.json"), "--root", str(home / "photos")]
    assert simsam(command) == 1
    assert words in capsys.readouterr().err
