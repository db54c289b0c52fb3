"""Labels and comparisons as the server tells them, beside plain computations over the same rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from viewing import Client, Small, make_small_run, write_photographs

from simsam_batch.cli import run
from simsam_batch.viewer.label_index import index_of

_SMALL = ["--backbone", "descriptors", "--resize", "native", "--engine", "inline", "--quiet"]


@pytest.fixture(scope="module")
def label_maps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("labels")
    write_photographs(root, [f"{i}.png" for i in range(5)])
    assert run(["semantic", str(root / "photos"), str(root / "out"), "--clusters", "3", *_SMALL]) == 0
    return root / "out"


def _rows(out: Path, stage: str):
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
