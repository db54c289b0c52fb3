"""Labels and comparisons as the server tells them, beside plain computations over the same rows."""

from __future__ import annotations

import io
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from viewing import Client, Small, make_small_run, serving, write_photographs

from simsam_batch.cli import run
from simsam_batch.regions.run_lengths import decode
from simsam_batch.viewer.label_index import index_of

_SMALL = ["--backbone", "descriptors", "--resize", "native", "--engine", "inline", "--quiet"]


@pytest.fixture(scope="module")
def label_maps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("labels")
    write_photographs(root, [f"{i}.png" for i in range(5)])
    assert (
        run(["semantic", str(root / "photos"), str(root / "out"), "--clusters", "3", "--shard-size", "2", *_SMALL]) == 0
    )
    return root / "out"


def _rows(out: Path, stage: str) -> list[dict[str, Any]]:
    return [
        row for part in sorted((out / "results" / stage).glob("*.parquet")) for row in pq.read_table(part).to_pylist()
    ]


def test_each_label_has_the_regions_that_the_rows_hold(label_maps: Path, served: Callable[..., Client]) -> None:
    rows = _rows(label_maps, "semantic")
    regions = Counter(each["label"] for row in rows for each in row["segments"])
    found = served(label_maps).get("api/clusters/semantic").json()
    assert {each["label"]: each["regions"] for each in found["clusters"]} == regions
    for each in found["clusters"]:
        sizes = [s["area_fraction"] for row in rows for s in row["segments"] if s["label"] == each["label"]]
        assert each["share"] == pytest.approx(sum(sizes) / len(rows), rel=1e-5)


def test_a_gallery_has_the_largest_regions_first(label_maps: Path, served: Callable[..., Client]) -> None:
    rows = _rows(label_maps, "semantic")
    held = [
        (-s["area_fraction"], n, s["bbox_xyxy"]) for n, r in enumerate(rows) for s in r["segments"] if s["label"] == 1
    ]
    found = served(label_maps).get("api/clusters/semantic/1", order="largest").json()["regions"]
    assert [-each["area"] for each in found] == pytest.approx([size for size, _, _ in sorted(held)], rel=1e-5)
    assert {(each["row"], tuple(each["box"])) for each in found} == {(row, tuple(box)) for _, row, box in held}


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("nodes")
    write_photographs(root, [f"{i}.png" for i in range(4)])
    command = ["hierarchy", str(root / "photos"), str(root / "out"), "--leaves", "6", "--clusters", "3"]
    assert run([*command, *_SMALL]) == 0
    return root / "out"


def test_nodes_are_counted_by_the_labels_beside_them(trees: Path, served: Callable[..., Client]) -> None:
    rows, beside = _rows(trees, "hierarchy"), _rows(trees, "labels")
    held = [
        (label, number, place, node["patches"] / (row["grid_h"] * row["grid_w"]))
        for number, (row, given) in enumerate(zip(rows, beside, strict=True))
        for place, (node, label) in enumerate(zip(row["nodes"], given["labels"], strict=True))
        if label
    ]
    client = served(trees)
    found = client.get("api/clusters/hierarchy").json()
    for each in found["clusters"]:
        of = [entry for entry in held if entry[0] == each["label"]]
        assert (each["regions"], each["images"]) == (len(of), len({number for _, number, _, _ in of}))
        assert each["share"] == pytest.approx(sum(e[3] for e in of) / sum(e[3] for e in held), rel=1e-5)
        smallest = client.get(f"api/clusters/hierarchy/{each['label']}", order="smallest").json()["regions"]
        expected = [(number, place) for _, number, place, _ in sorted(of, key=lambda e: (e[3], e[1], e[2]))][:60]
        assert [(r["row"], r["region"]) for r in smallest] == expected
    assert found["rest"] is None
    assert sum(each["regions"] for each in found["clusters"]) == len(held) == found["total"]


@pytest.mark.slow
def test_of_classes_the_first_is_what_no_region_covers(tmp_path: Path) -> None:
    write_photographs(tmp_path, [f"{i}.png" for i in range(4)])
    (tmp_path / "ids").mkdir()
    for path in (tmp_path / "truth").iterdir():
        Image.fromarray((np.asarray(Image.open(path)) > 0).astype(np.uint8)).save(tmp_path / "ids" / path.name)
    (tmp_path / "classes.txt").write_text("ground\nbox")
    truth = ["--truth", str(tmp_path / "ids"), "--class-names", str(tmp_path / "classes.txt")]
    # exit status 3: some clusterings ask for more patches than so few images have
    command = ["probe", str(tmp_path / "photos"), str(tmp_path / "out"), "--facets", "token", *truth, *_SMALL]
    assert run(command) in (0, 3)
    rows = [row for row in _rows(tmp_path / "out", "probe-maps") if row["segments"] is not None]
    with serving(tmp_path / "out") as client:
        found = client.get("api/clusters/probe-maps").json()
        assert [(each["label"], each["class"]) for each in found["clusters"]] == [(1, "box")]
        sizes = [segment["area_fraction"] for row in rows for segment in row["segments"]]
        assert found["clusters"][0]["share"] == pytest.approx(sum(sizes) / found["images"], rel=1e-5)
        assert (found["nought"], found["rest"]) == ("ground", pytest.approx(1 - sum(sizes) / found["images"], abs=1e-5))
        assert found["confusion"]["classes"] == ["ground", "box"]
        # what probes were fitted on has no map, and is shown pale
        colored = []
        for number, row in enumerate(_rows(tmp_path / "out", "probe-maps")):
            answer = client.get(f"images/{number}.jpg", stage="probe-maps", overlay="labels", side=256)
            pixels = np.asarray(Image.open(io.BytesIO(answer.body)).convert("RGB")).astype(int)
            colored.append((row["segments"] is not None, bool(np.ptp(pixels, axis=2).mean() > 8)))
        assert {*colored} == {(True, True), (False, False)}


def test_pages_of_a_random_order_hold_every_region_once(trees: Path, served: Callable[..., Client]) -> None:
    client = served(trees)
    total = client.get("api/clusters/hierarchy/1").json()["total"]
    found = [
        (each["row"], each["region"])
        for offset in range(0, total, 3)
        for each in client.get("api/clusters/hierarchy/1", offset=offset, limit=3).json()["regions"]
    ]
    assert len(found) == len(set(found)) == total
    assert client.get("api/clusters/hierarchy/1", offset=total).json()["regions"] == []


def test_of_a_stage_in_progress_the_labels_of_what_is_committed_are_counted(label_maps: Path, tmp_path: Path) -> None:
    rows, out = _rows(label_maps, "semantic"), tmp_path / "out"
    shutil.copytree(label_maps, out)
    shutil.rmtree(out / "results")
    # of three shards of two images the middle one
    manifest, *_ = (out / "semantic" / "manifests").glob("0000001.*")
    manifest.unlink()
    committed = {0: rows[0], 1: rows[1], 4: rows[4]}
    with serving(out) as client:
        found = client.get("api/clusters/semantic").json()
        assert (found["complete"], found["images"]) == (False, 3)
        expected = Counter(each["label"] for row in committed.values() for each in row["segments"])
        assert {each["label"]: each["regions"] for each in found["clusters"]} == expected
        covered = sum(each["area_fraction"] for row in committed.values() for each in row["segments"]) / 3
        assert found["rest"] == pytest.approx(1 - covered, abs=1e-5)
        regions = client.get("api/clusters/semantic/1").json()["regions"]
        held = {number for number, row in committed.items() if any(s["label"] == 1 for s in row["segments"])}
        assert {each["row"] for each in regions} == held


def test_a_damaged_shard_is_told_with_what_to_do(label_maps: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(label_maps, out)
    shutil.rmtree(out / "results")
    for shard in (out / "semantic").rglob("0000001*.parquet"):
        shard.write_bytes(b"PAR1 no more")
    with serving(out) as client:
        answer = client.get("api/clusters/semantic")
        assert answer.status in (409, 500, 502, 503), answer.text
        assert "0000001" in answer.json()["error"]


def _pixels(client: Client, **query: object) -> np.ndarray:
    answer = client.get(f"images/{query.pop('row')}.jpg", side=256, **query)
    assert answer.status == 200, answer.text
    return np.asarray(Image.open(io.BytesIO(answer.body)).convert("RGB"), dtype=float)


def test_a_region_cut_out_has_the_colours_of_the_photograph_and_the_rest_is_pale_and_grey(
    label_maps: Path, served: Callable[..., Client]
) -> None:
    rows = _rows(label_maps, "semantic")
    client = served(label_maps)
    checked = 0
    for number, row in enumerate(rows):
        photo = np.asarray(Image.open(row["uri"]).convert("RGB"), dtype=float)
        for place, segment in enumerate(row["segments"]):
            left, top, right, bottom = segment["bbox_xyxy"]
            # such a one is shown within the whole image, at its own scale
            if right - left < 160 or bottom - top < 110:
                continue
            region = decode(segment["mask_rle"])
            picture = _pixels(client, row=number, stage="semantic", region=place)
            assert picture.shape[0] == 128
            offset = (192 - picture.shape[1]) // 2
            window = np.s_[:, offset : offset + picture.shape[1]]
            inside, shown = region[window], photo[window]
            near = np.abs(picture - shown).mean(axis=2)
            pale = np.abs(picture - (0.65 * 255 + 0.35 * (shown @ [0.299, 0.587, 0.114]))[..., None]).mean(axis=2)
            assert np.median(near[inside]) < 12
            if (~inside).any():
                assert np.median(pale[~inside]) < 12
            checked += 1
    assert checked


def test_a_region_that_is_not_there_is_told(label_maps: Path, served: Callable[..., Client]) -> None:
    client = served(label_maps)
    answer = client.get("images/0.jpg", stage="semantic", side=128, region=999)
    assert answer.status == 404
    assert "no region 999" in answer.json()["error"]
    assert client.get("images/0.jpg", stage="semantic", side=128, region="x").status == 400


def test_a_stage_without_labels_and_a_label_that_nobody_has_are_told(
    label_maps: Path, served: Callable[..., Client], small_run: Small
) -> None:
    assert served(small_run.out).get("api/clusters/segment").json()["command"]
    assert served(label_maps).get("api/clusters/semantic/999").status == 404


def test_an_index_of_nothing_is_empty() -> None:
    none = np.empty(0, np.int32)
    index = index_of(none, none, none, none.astype(np.float32), 0)
    assert len(index.labels) == len(index.shares) == len(index.images_of) == len(index.of(1, "random")) == 0


def test_two_runs_are_joined_and_sorted_by_their_difference(
    small_run: Small, served: Callable[..., Client], tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = make_small_run(tmp_path_factory.mktemp("other"), "--cut", "fixed")
    client = served(small_run.out, other.out)
    a, b = ({r["image_id"]: r["iou"] for r in _rows(each.out, "segment")} for each in (small_run, other))
    found = client.get("api/compare", stage="segment", metric="iou", sort="difference", desc=1).json()
    expected = {name: b[name] - a[name] for name in a if a[name] is not None and b[name] is not None}
    told = [(r["id"], r["difference"]) for r in found["rows"] if r["difference"] is not None]
    assert dict(told) == pytest.approx(expected)
    assert [value for _, value in told] == sorted((value for _, value in told), reverse=True)
    means = client.get("api/compare/means", stage="segment", metric="iou").json()["runs"]
    assert means[1]["difference"] == pytest.approx(np.mean(list(expected.values())))
    assert [each[2] for each in found["settings"] if each[0] == "cut"] == ["fixed"]
