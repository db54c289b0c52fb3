"""``simsam probe`` from images to the table, on shapes in colours that a network with weights by chance tells apart."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from probe_runs import CLASSES, PATCH, VOID, arguments, make_collection
from process_groups import killed_after
from result_rows import pixels_of, rows_of

from simsam_batch import open_run
from simsam_batch.cli import run as simsam

PROBES = ("linear", "knn", "kmeans", "ward")
STAGES = ("features", "patch-labels", "subsets", "probe-fits", "probe-maps", "probe-table")
FULL = ["--fractions", ".2,1", "--seeds", "2"]
SMALL = [*FULL, "--facets", "key"]
FACETS = ("norm-token", "query", "key", "value")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("probe")
    make_collection(home)
    return home


@pytest.fixture(scope="module")
def finished(home: Path) -> Path:
    """A run of all probes and facets; of 12 images 6 are fitted on and 6 scored."""
    out = home / "run"
    assert simsam(arguments(home, out, *FULL, "--engine", "inline")) == 0
    return out


@pytest.fixture(scope="module")
def small(home: Path) -> Path:
    """The same of one facet, for what is done several times over."""
    out = home / "small"
    assert simsam(arguments(home, out, *SMALL, "--engine", "inline")) == 0
    return out


def result_of(out: Path, stage: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "results" / f"{stage}.json").read_text())
    return found


def cells_of(out: Path) -> dict[str, dict[str, Any]]:
    return {row["cell"]: row for row in rows_of(out, "probe-table")}


def truth_of(home: Path, image_id: str) -> NDArray[np.uint8]:
    with Image.open(home / "truth" / image_id) as image:
        return np.asarray(image)


def map_of(segments: list[dict[str, Any]], size: tuple[int, int]) -> NDArray[np.int64]:
    found = np.zeros(size, np.int64)
    for segment in segments:
        found[pixels_of(segment["mask_rle"])] = segment["label"]
    return found


def test_every_probe_of_every_facet_has_a_line_and_tells_the_shapes_apart(finished: Path) -> None:
    metrics = result_of(finished, "probe-table")["metrics"]
    table = metrics["table"]
    assert [(line["probe"], line["features"]) for line in table["lines"]] == [
        (probe, f"{facet}-5") for probe in PROBES for facet in FACETS
    ]
    assert table["fractions"] == [0.2, 1.0]
    assert (metrics["images_scored"], metrics["classes"]) == (6, list(CLASSES))
    floor = table["references"]["floor"]["miou"]
    for line in table["lines"]:
        assert all(floor < each < 1 for each in line["miou"]), line
        for mean, (low, high) in zip(line["miou"], line["miou_ci"], strict=True):
            assert low <= mean <= high
        drawn = line["probe"] in ("kmeans", "ward")
        assert line["seeds"] == [2, 2 if drawn else 1]
        assert [each is None for each in line["miou_deviation"]] == [False, not drawn]
    linear = next(line for line in table["lines"] if line["probe"] == "linear")
    assert linear["miou"][1] > 0.5
    differences = table["differences"]
    assert {each["less"] for each in differences} == {"norm-token-5"}
    for each in differences:
        of = {name: each[name] for name in ("probe", "clusters")}
        lines = {line["features"]: line for line in table["lines"] if all(line[n] == of[n] for n in of)}
        place = table["fractions"].index(each["fraction"])
        expected = lines[each["features"]]["miou"][place] - lines[each["less"]]["miou"][place]
        assert each["difference"] == pytest.approx(expected)
        assert each["interval"][0] <= each["difference"] <= each["interval"][1]


def test_scores_are_those_of_the_label_maps_in_the_rows(home: Path, finished: Path) -> None:
    rows = rows_of(finished, "probe-maps")
    cells = cells_of(finished)
    for probe in PROBES:
        own = {f"{each['shown'] if probe == 'linear' else ''}" for each in rows if each["side"] == "val"}
        table = np.zeros((3, 3), np.int64)
        per_image = []
        for row in (row for row in rows if row["side"] == "val"):
            truth = truth_of(home, row["image_id"])
            maps = {each["probe"]: map_of(each["segments"], truth.shape) for each in row["maps"]}
            counts = truth != VOID
            here = np.zeros((3, 3), np.int64)
            np.add.at(here, (maps[probe][counts], truth[counts]), 1)
            table += here
            union = here.sum(0) + here.sum(1) - np.diag(here)
            per_image.append(np.mean([here[c, c] / union[c] for c in range(3) if union[c]]))
        union = table.sum(0) + table.sum(1) - np.diag(table)
        shown = [
            row
            for row in cells.values()
            if (row["probe"], row["features"], row["fraction"], row["seed"]) == (probe, "norm-token-5", 1.0, 0)
        ]
        assert len(shown) == 1
        assert shown[0]["miou"] == pytest.approx(np.mean(np.diag(table) / union))
        assert shown[0]["iou_by_class"] == pytest.approx((np.diag(table) / union).tolist())
        assert shown[0]["pixel_accuracy"] == pytest.approx(np.trace(table) / table.sum())
        assert shown[0]["miou_per_image"] == pytest.approx(np.mean(per_image))
        if probe == "linear":
            assert own == {shown[0]["cell"]}
        confusions = result_of(finished, "probe-maps")["metrics"]["confusions"][shown[0]["cell"]]
        flat = table.ravel()
        assert confusions == {str(i): int(flat[i]) for i in np.flatnonzero(flat)}


def test_floor_and_patch_ceiling_are_those_of_a_hand_written_oracle(home: Path, finished: Path) -> None:
    rows = rows_of(finished, "probe-maps")
    train = [row["image_id"] for row in rows if row["side"] == "train"]
    val = [row["image_id"] for row in rows if row["side"] == "val"]
    assert (len(train), len(val)) == (6, 6)
    pixels = sum(np.bincount(truth_of(home, name).ravel(), minlength=256)[:3] for name in train)
    commonest = int(np.argmax(pixels))
    tables = {"floor": np.zeros((3, 3), np.int64), "patch ceiling": np.zeros((3, 3), np.int64)}
    for name in val:
        truth = truth_of(home, name)
        oracle = np.zeros(truth.shape, np.int64)
        for top in range(0, truth.shape[0], PATCH):
            for left in range(0, truth.shape[1], PATCH):
                place = np.s_[top : top + PATCH, left : left + PATCH]
                oracle[place] = np.argmax(np.bincount(truth[place].ravel(), minlength=256)[:3])
        for which, prediction in (("floor", np.full(truth.shape, commonest)), ("patch ceiling", oracle)):
            counts = truth != VOID
            np.add.at(tables[which], (prediction[counts], truth[counts]), 1)
    cells = cells_of(finished)
    for which, table in tables.items():
        union = table.sum(0) + table.sum(1) - np.diag(table)
        assert cells[which]["miou"] == pytest.approx(np.mean(np.diag(table) / union)), which


def test_labels_of_patches_are_the_pixels_under_them_in_row_major_order(home: Path, finished: Path) -> None:
    rows = rows_of(finished, "patch-labels")
    assert len(rows) == 12
    for row in rows:
        truth = truth_of(home, row["image_id"])
        with np.load(finished / row["arrays_path"]) as file:
            labels = file[f"{row['arrays_member']}.labels.npy"]
        across = truth.shape[1] // PATCH
        expected = []
        for patch in range(across * (truth.shape[0] // PATCH)):
            top, left = divmod(patch, across)
            under = truth[top * PATCH : (top + 1) * PATCH, left * PATCH : (left + 1) * PATCH]
            expected += [[patch, c, int((under == c).sum())] for c in range(3) if (under == c).any()]
        assert labels.tolist() == expected
        assert row["void_pixels"] + labels[:, 2].sum() == truth.size


def test_subsets_are_nested_and_the_whole_is_drawn_once(finished: Path) -> None:
    held = {}
    for row in rows_of(finished, "subsets"):
        with np.load(finished / row["arrays_path"]) as file:
            held[row["subset"]] = set(file[f"{row['arrays_member']}.records.npy"].tolist())
    assert {*held} == {"train", "val", "0.2 draw 0", "0.2 draw 1", "1 draw 0"}
    assert held["1 draw 0"] == held["train"]
    assert not held["train"] & held["val"]
    assert all(len(held[f"0.2 draw {draw}"]) == 1 and held[f"0.2 draw {draw}"] < held["train"] for draw in (0, 1))


def digests(out: Path) -> dict[str, str]:
    return {stage: result_of(out, stage)["content_digest"] for stage in STAGES}


def test_a_second_run_gives_the_same_bits_and_so_does_one_that_was_killed_between_fits(
    home: Path, small: Path, tmp_path: Path
) -> None:
    again = tmp_path / "again"
    more = [*SMALL, "--engine", "inline"]
    assert simsam(arguments(home, again, *more)) == 0
    assert digests(again) == digests(small)
    # as a kill leaves it: some fits and maps are committed, others are not, and nothing after them has begun
    shutil.rmtree(again / "results")
    shutil.rmtree(again / "probe-table")
    for stage, shards in (("probe-fits", (1, 4, 7)), ("probe-maps", (0, 2))):
        for shard in shards:
            (again / stage / "manifests" / f"{shard:07d}.0.json").unlink()
    assert simsam(arguments(home, again, *more)) == 0
    assert digests(again) == digests(small)


@pytest.mark.slow
@pytest.mark.parametrize(
    "engine", ["local", *(pytest.param(each, marks=pytest.mark.soak) for each in ("ray", "torchrun"))]
)
def test_every_engine_computes_the_same_bits(
    home: Path, small: Path, tmp_path: Path, run_on: Callable[[str, list[str]], None], engine: str
) -> None:
    if engine == "ray":
        # features are computed there by tests of correspondence
        before("patch-labels", small, tmp_path / "out")
    run_on(engine, [sys.executable, "-m", "simsam_batch", *arguments(home, tmp_path / "out", *SMALL)])
    assert digests(tmp_path / "out") == digests(small)
    assert result_of(tmp_path / "out", "probe-table")["metrics"] == result_of(small, "probe-table")["metrics"]


@pytest.mark.slow
def test_a_run_in_object_storage_is_the_same(home: Path, small: Path, s3_url: str) -> None:
    assert simsam(arguments(home, f"{s3_url}/probes", *SMALL, "--engine", "inline")) == 0
    run = open_run(f"{s3_url}/probes")
    assert {stage: run.result(stage)["content_digest"] for stage in STAGES} == digests(small)


def committed(out: Path, stage: str) -> set[str]:
    return {path.name for path in (out / stage / "manifests").glob("*.json")}


def before(stage: str, small: Path, out: Path) -> None:
    """A copy of the run as it was when this stage had not begun."""
    later = STAGES[STAGES.index(stage) :]
    shutil.copytree(small, out, ignore=lambda folder, _: later if Path(folder) == small else ())
    for name in later:
        (out / "results" / f"{name}.json").unlink()
        shutil.rmtree(out / "results" / name)


KILLS = {"between fits": ("probe-fits", 4), "inside the maps": ("probe-maps", 1)}


@pytest.mark.slow
@pytest.mark.parametrize("where", KILLS)
def test_a_killed_run_goes_on_where_it_was(home: Path, small: Path, tmp_path: Path, where: str) -> None:
    out, (stage, commits) = tmp_path / "out", KILLS[where]
    before(stage, small, out)
    again = arguments(home, out, *SMALL, "--workers", "1", "--engine", "local")
    killed_after(commits, out, stage, [sys.executable, "-m", "simsam_batch", *again])
    there = {stage: committed(out, stage) for stage in STAGES}
    assert not (out / "results" / "probe-table.json").exists(), "killed too late to show anything"
    times = {path: path.stat().st_mtime_ns for path in out.glob("*/manifests/*.json")}
    assert simsam(arguments(home, out, *SMALL, "--engine", "inline")) == 0
    assert digests(out) == digests(small)
    assert all(path.stat().st_mtime_ns == time_ns for path, time_ns in times.items())
    assert all(there[stage] <= committed(out, stage) for stage in STAGES)


def test_truth_that_cannot_be_used_is_counted_and_costs_no_other_image(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in ("photos", "truth"):
        shutil.copytree(home / folder, tmp_path / folder)
    for name in ("names.txt", "vit.safetensors"):
        shutil.copy(home / name, tmp_path / name)
    names = sorted(path.name for path in (tmp_path / "truth").iterdir())
    beyond = truth_of(home, names[0]).copy()
    beyond[:4, :4] = 9
    Image.fromarray(beyond).save(tmp_path / "truth" / names[0])
    Image.fromarray(truth_of(home, names[1])[:40]).save(tmp_path / "truth" / names[1])
    Image.fromarray(np.full_like(beyond, VOID)).save(tmp_path / "truth" / names[2])
    (tmp_path / "truth" / names[3]).unlink()
    (tmp_path / "photos" / names[4]).write_bytes(b"no picture")
    wide = Image.open(tmp_path / "photos" / names[5])
    wide.resize((144, 64)).save(tmp_path / "photos" / names[5])
    Image.fromarray(truth_of(home, names[5])).resize((144, 64), 0).save(tmp_path / "truth" / names[5])
    out = tmp_path / "run"
    few = ["--fractions", "1", "--seeds", "1", "--probes", "linear,knn", "--facets", "key", "--engine", "inline"]
    assert simsam([*arguments(tmp_path, out, *few), "--allow-failed", "0.2"]) == 0
    told = capsys.readouterr().err
    assert "the truth of 2 images cannot be used: they are neither fitted on nor scored" in told
    rows = {row["image_id"]: row for row in rows_of(out, "patch-labels")}
    assert "its grey values hold 9, and class ids run from 0 to 2" in rows[names[0]]["truth_error"]
    assert "it is 96x40 pixels" in rows[names[1]]["truth_error"]
    assert (rows[names[2]]["classes"], rows[names[2]]["void_pixels"]) == ([], beyond.size)
    assert (rows[names[3]]["status"], rows[names[3]]["truth_error"]) == ("ok", None)
    assert rows[names[4]]["status"] == "failed"
    maps = {row["image_id"]: row for row in rows_of(out, "probe-maps")}
    subsets = {row["subset"]: row["images"] for row in rows_of(out, "subsets")}
    assert subsets["train"] + subsets["val"] == 7
    # what is not fitted on has a map, with truth or without
    for name in names:
        row = maps[name]
        assert (row["shown"] is None) == (row["side"] == "train" or row["status"] == "failed")
    assert result_of(out, "probe-table")["metrics"]["images_scored"] == subsets["val"]
    # what is mended is tried again: it has a map, and is not scored, for the fits stay as they are
    shutil.copy(home / "photos" / names[4], tmp_path / "photos" / names[4])
    assert simsam(["retry", str(out), "--weights", str(tmp_path / "vit.safetensors"), "--engine", "inline"]) == 0
    again = {row["image_id"]: row for row in rows_of(out, "probe-maps")}
    assert again[names[4]]["status"] == "ok"
    assert all(again[name]["maps"] == maps[name]["maps"] for name in names if name != names[4])


def test_features_that_are_there_are_taken(home: Path, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = arguments(home, out)
    features = ["features", *command[1:3], *command[5:11], "--threads", "1", "--shard-size", "4", "--quiet"]
    features += ["--truth", str(home / "truth"), "--facets", ",".join(FACETS), "--engine", "inline"]
    assert simsam(features) == 0
    manifests = {path.name: path.read_bytes() for path in (out / "features" / "manifests").iterdir()}
    few = ["--fractions", "1", "--seeds", "1", "--probes", "linear", "--engine", "inline"]
    assert simsam([*command, *few]) == 0
    assert {path.name: path.read_bytes() for path in (out / "features" / "manifests").iterdir()} == manifests
    assert digests(out)["features"] == digests(finished)["features"]
    of_both = [
        next(line["miou"][-1] for line in result_of(each, "probe-table")["metrics"]["table"]["lines"])
        for each in (out, finished)
    ]
    assert of_both[0] == of_both[1]


def test_approximate_search_tells_its_recall_and_finds_all_where_every_cell_is_looked_into(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["--fractions", ".5,1", "--seeds", "1", "--probes", "knn", "--facets", "key", "--engine", "inline"]
    lines = {}
    for name, more in {
        "exact": [],
        "all": ["--search", "approximate", "--search-cells", "1024"],
        "one": ["--search", "approximate", "--search-cells", "1"],
    }.items():
        assert simsam(arguments(home, tmp_path / name, *few, *more)) == 0
        lines[name] = result_of(tmp_path / name, "probe-table")["metrics"]["table"]["lines"]
    assert lines["all"] == lines["exact"]
    recalls = {name: result_of(tmp_path / name, "probe-maps")["metrics"].get("neighbours_recall") for name in lines}
    assert (recalls["exact"], recalls["all"]) == (None, 1.0)
    assert 0.2 < recalls["one"] < 1
    monkeypatch.setattr("simsam_batch.stages.probe.stage.find_spec", lambda name: None)
    assert simsam(arguments(home, tmp_path / "none", *few, "--search", "approximate")) == 1
    assert "pip install 'simsam-batch[approximate]'" in capsys.readouterr().err


def test_blocks_are_probed_alone_and_side_by_side(home: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    few = ["--fractions", "1", "--seeds", "1", "--probes", "linear,kmeans", "--engine", "inline"]
    assert simsam(arguments(home, out, *few, "--facets", "key", "--blocks", "2,-1", "--combine", "both")) == 0
    lines = result_of(out, "probe-table")["metrics"]["table"]["lines"]
    assert [line["features"] for line in lines] == ["key-2", "key-5", "key-2+5"] * 2
    fits = {row["fit"]: row for row in rows_of(out, "probe-fits")}
    with np.load(out / fits["linear, 1 draw 0"]["arrays_path"]) as file:
        weights = {n.split(".", 2)[2]: file[n].shape for n in file.files if ".weight." in n}
    assert weights == {"key-2": (3, 64), "key-5": (3, 64), "key-2+5": (3, 128)}


def test_a_fit_that_cannot_be_made_is_named_and_costs_no_other(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    few = ["--fractions", ".2,1", "--seeds", "1", "--facets", "key", "--engine", "inline"]
    more = ["--probes", "linear,knn,kmeans", "--clusters", "5000", "--neighbours", "30"]
    assert simsam([each for each in arguments(home, out, *few) if each != "--quiet"] + more) == 3
    told = capsys.readouterr()
    cells = cells_of(out)
    failed = {name for name, row in cells.items() if row["status"] == "failed"}
    assert failed == {name for name in cells if name.startswith(("kmeans", "knn key-5, 0.2"))}
    fits = {row["fit"]: row["error"] for row in rows_of(out, "probe-fits") if row["status"] == "failed"}
    assert "neighbours: 24 labelled patches are fewer than 30 neighbours" in fits["knn, 0.2 draw 0"]
    assert "do not make 5000 clusters" in fits["kmeans key-5, seed 0"]
    assert "fractions: 0.2" not in told.out
    lines = result_of(out, "probe-table")["metrics"]["table"]["lines"]
    assert {line["probe"]: [each is not None for each in line["miou"]] for line in lines} == {
        "linear": [True, True],
        "knn": [False, True],
    }
