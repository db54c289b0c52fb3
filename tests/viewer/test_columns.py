"""Columns in memory hold what the files of a run hold, read by pandas."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from viewing import Small, left_unfinished

from simsam_batch.errors import StorageError
from simsam_batch.runs.reading import StageRows
from simsam_batch.storage import Folder
from simsam_batch.viewer import columns as held_columns
from simsam_batch.viewer.answers import RefusedError
from simsam_batch.viewer.columns import Columns, columns_of
from simsam_batch.viewer.session import Session


def read(out: Path, memory: int = 10**9) -> Columns:
    """All columns of a run of ``segment``."""
    columns = Columns(StageRows(Folder(str(out)), "segment"), memory)
    assert columns.wait(30)
    return columns


def stored(out: Path) -> pd.DataFrame:
    """The same by pandas, structs by their fields."""
    frame = pq.read_table(out / "results" / "segment").to_pandas()
    for outer in ("cut", "runner_up"):
        for inner in ("vector", "sign", "level", "part", "score"):
            frame[f"{outer}.{inner}"] = [None if each is None else each[inner] for each in frame[outer]]
    return frame


def as_words(columns: Columns, name: str) -> list[Any]:
    words = columns.words(name)
    return [words[code] if code >= 0 else None for code in columns.column(name).tolist()]


def with_column(small: Small, to: Path, name: str, values: list[Any]) -> Path:
    """A copy of a run whose parts have another column."""
    shutil.copytree(small.out, to)
    (part,) = (to / "results" / "segment").iterdir()
    table = pq.read_table(part)
    place = table.schema.get_field_index("arrays_path")
    pq.write_table(table.add_column(place, name, pa.array(values)), part)
    return to


@pytest.mark.parametrize("memory", [10**9, 1000])
def test_columns_hold_what_the_files_hold_in_memory_or_asked_for_one_by_one(small_run: Small, memory: int) -> None:
    columns, frame = read(small_run.out, memory), stored(small_run.out)
    assert columns.at_once == (memory > 1000)
    assert columns.numbers.tolist() == list(range(12))
    assert columns.ids.to_pylist() == frame["image_id"].tolist() == small_run.names
    assert {"iou", "cut.score", "status", "camera", "year", "weight", "indoors"} <= {*columns.kinds}
    assert not {"image_id", "uri", "mask_rle", "bbox_xyxy", "eigenvalues", "arrays_bytes", "cut"} & {*columns.kinds}
    for name, kind in columns.kinds.items():
        if kind == "words":
            assert as_words(columns, name) == [None if pd.isna(word) else word for word in frame[name]], name
        else:
            expected = pd.to_numeric(frame[name]).astype(np.float32).to_numpy()
            np.testing.assert_array_equal(columns.column(name), expected, err_msg=name)
    assert columns.errors([3, small_run.failed]) == [None, frame["error"][small_run.failed]]


def test_columns_asked_for_one_by_one_stay_within_memory(small_run: Small) -> None:
    columns = read(small_run.out, 100)
    for name in ("iou", "accuracy", "confidence", "iou"):
        columns.column(name)
        # two columns of twelve numbers of four bytes
        assert sum(each.values.nbytes for each in columns._held.values()) <= 100


def test_whole_numbers_beyond_single_precision_are_exact(small_run: Small, tmp_path: Path) -> None:
    values = [2**24 + 1, None, *range(5), -(2**31), 2**53, 2**24, -1, 7]
    columns = read(with_column(small_run, tmp_path / "out", "big", values))
    assert columns.column("big").dtype == np.float64
    assert [None if np.isnan(value) else int(value) for value in columns.column("big")] == values
    assert columns.column("year").dtype == np.float32


def test_text_of_too_many_words_is_no_column_and_says_so(
    small_run: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held_columns, "MOST_WORDS", 11)
    columns = read(with_column(small_run, tmp_path / "out", "caption", [f"words {i}" for i in range(12)]))
    assert "caption" not in columns.kinds
    with pytest.raises(RefusedError, match="more than 11 different words"):
        columns.column("caption")
    with pytest.raises(RefusedError, match="no column 'captoin'"):
        columns.column("captoin")
    assert as_words(columns, "camera")[:3] == ["left", "right", None]


def test_of_a_run_in_progress_they_are_those_of_the_committed_shards(small_run: Small, tmp_path: Path) -> None:
    columns = read(left_unfinished(small_run, tmp_path / "out", 1))
    # shards of five, the second is missing
    assert columns.numbers.tolist() == [0, 1, 2, 3, 4, 10, 11]
    assert columns.ids.to_pylist() == [small_run.names[number] for number in columns.numbers]
    frame = stored(small_run.out)
    np.testing.assert_array_equal(columns.column("iou"), frame["iou"].astype(np.float32)[columns.numbers])
    assert columns.places(np.array([3, 7, 11])).tolist() == [3, 6]


def test_rows_that_cannot_be_read_are_told_once_and_then_read_again(small_run: Small, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(small_run.out, out)
    rows = StageRows(Folder(str(out)), "segment")
    (part,) = (out / "results" / "segment").iterdir()
    part.rename(tmp_path / "aside")
    columns = Columns(rows)
    with pytest.raises(StorageError, match="cannot read"):
        columns.wait(30)
    (tmp_path / "aside").rename(part)
    for _ in range(2):
        try:
            assert columns.wait(30)
            break
        except StorageError:
            continue
    assert columns.ids.to_pylist() == small_run.names


def test_a_session_says_how_much_memory_there_is(small_run: Small) -> None:
    little, much = (Session(str(small_run.out), None, {"memory": memory}) for memory in (10, None))
    assert not columns_of(little.run().stage("segment")).at_once
    assert columns_of(much.run().stage("segment")).at_once
