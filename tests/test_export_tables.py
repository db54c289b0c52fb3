"""The snippets of docs/export.md that read the rows of a run by other libraries."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from known_objects import photographs, run_with_known_objects
from pycocotools import mask as coco
from result_rows import rows_of

_TEXT = (Path(__file__).parent.parent / "docs/export.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(
    r"^```python\n(.*?)^```", _TEXT.partition("## Rows in DuckDB")[2].partition("\n## ")[0], re.MULTILINE | re.DOTALL
)


def names_after(library: str) -> dict[str, Any]:
    """What the snippet of a library has named when it has run in the folder of today."""
    pytest.importorskip(library)
    (snippet,) = (each for each in SNIPPETS if each.startswith(f"import {library}"))
    names: dict[str, Any] = {}
    exec(compile(snippet, "docs/export.md", "exec"), names)
    return names


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``out``, a run over four photographs, one of which lies in a folder."""
    home = tmp_path_factory.mktemp("tables")
    photographs(home / "photos")
    run_with_known_objects(home / "photos", home / "out")
    return home


@pytest.fixture(autouse=True)
def _there(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)


@pytest.fixture
def own_ray(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A Ray of the test's own, whatever other one there is on the machine."""
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    ray.init("local", num_cpus=2, include_dashboard=False, object_store_memory=100_000_000, log_to_driver=False)
    yield
    ray.shutdown()


def test_there_is_a_snippet_for_each_library_that_the_heading_names() -> None:
    assert [each.split()[1] for each in SNIPPETS] == ["duckdb", "polars", "pandas", "ray"]


def test_duckdb_finds_the_least_sure(home: Path) -> None:
    rows = sorted(rows_of(home / "out", "segment"), key=lambda row: row["confidence"])
    expected = [(row["image_id"], row["confidence"], round(100 * row["area_fraction"])) for row in rows]
    assert names_after("duckdb")["least_sure"] == expected


def test_polars_counts_by_folder() -> None:
    found = names_after("polars")["by_folder"].rows_by_key("folder", named=True)
    assert {folder: (each["images"], each["failed"]) for folder, [each] in found.items()} == {
        None: (3, 0),
        "images": (1, 0),
    }


def test_pandas_reads_a_mask(home: Path) -> None:
    names = names_after("pandas")
    row = rows_of(home / "out", "segment")[0]
    assert list(names["good"].index) == [each["image_id"] for each in rows_of(home / "out", "segment")]
    assert names["pixels"].shape == (row["height"], row["width"])
    assert names["pixels"].mean() == pytest.approx(row["area_fraction"])


@pytest.mark.slow
@pytest.mark.usefixtures("own_ray")
def test_ray_data_measures_every_mask(home: Path) -> None:
    areas = names_after("ray")["areas"]
    masks = pq.read_table(home / "out/results/segment", columns=["image_id", "mask_rle"]).to_pylist()
    expected = {
        row["image_id"]: int(coco.decode({**row["mask_rle"], "counts": row["mask_rle"]["counts"].encode()}).sum())
        for row in masks
    }
    assert dict(zip(areas["image_id"], areas["pixels"], strict=True)) == expected
