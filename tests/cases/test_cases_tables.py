"""The case tables: one column that two files hold in two types."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from simsam_batch.cli import run

SETTINGS = ["--backbone", "descriptors", "--resize", "native", "--head", "none", "--k", "4"]


@pytest.mark.parametrize(
    ("name", "values", "types"),
    [
        ("null-and-text", [None, "x"], {pa.string()}),
        ("int32-and-int64", [1, 2], {pa.int64()}),
        ("large-and-plain-text", ["a", "b"], {pa.string(), pa.large_string()}),
    ],
)
def test_the_column_is_kept_in_the_wider_type(
    cases: Path, tmp_path: Path, name: str, values: list[object], types: set[pa.DataType]
) -> None:
    out = tmp_path / "out"
    arguments = [str(cases / "tables" / name), str(out), "--keep-columns", "label"]
    assert run(["segment", *arguments, *SETTINGS, "--engine", "inline"]) == 0
    table = pq.read_table(out / "results" / "segment")
    assert table["label"].to_pylist() == values
    assert table["label"].type in types
    assert table["status"].to_pylist() == ["ok", "ok"]
