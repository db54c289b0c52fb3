"""Image lists and tables of any content are a catalog or one message."""

from __future__ import annotations

import io
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mutated_images import damaged

from simsam_batch.catalog import Catalog, read_catalog
from simsam_batch.errors import SettingsError
from simsam_batch.runs.schema import PLAN_FIELDS

# line ends, comments, climbing, schemes, control and combining characters, other spaces, a byte order mark
PIECES = ["a", ".", "..", "/", "//", "\\", " ", "\t", "\r", "\n", "\n", "#", "%2e", "s3://", "file:", "~", "\0", "\x1b"]
PIECES += ["é", "e\u0301", "\u2028", "\u00a0", "\ufeff", "\U0001f600", "://user:pw@h/", "?sig=1", "x" * 300]


def catalog_of(content: bytes, name: str) -> Catalog | str:
    """The catalog of a file of this content, or the message why there is none."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(content)
        try:
            return read_catalog(str(path))
        except SettingsError as error:
            return str(error)


def check(found: Catalog | str) -> None:
    """A message, or records that a plan can be made of."""
    if isinstance(found, str):
        assert 0 < len(found) < 10_000
        return
    assert list(found.table.schema)[: len(PLAN_FIELDS)] == PLAN_FIELDS
    found.table.validate(full=True)
    ids = found.table["image_id"].to_pylist()
    assert len(set(ids)) == len(ids)
    assert all(ids)
    assert found.table["uri"].null_count == 0


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=30).map("".join))
@example("a" * 70_000)
def test_every_list_of_text_is_a_catalog_or_a_message(text: str) -> None:
    check(catalog_of(text.encode(), "list.txt"))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=80))
def test_every_list_of_bytes_is_a_catalog_or_a_message(content: bytes) -> None:
    check(catalog_of(content, "list.txt"))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(["a.png", "b/c.png", "#", "", "x" * 99, "../up.png"]), max_size=60), st.integers(1, 64))
def test_a_list_reads_the_same_in_blocks_of_any_size(lines: list[str], block: int) -> None:
    import simsam_batch.catalog.tables as tables

    text = "\n".join(lines).encode()
    whole, before = catalog_of(text, "list.txt"), tables._BLOCK
    try:
        tables._BLOCK = block
        cut = catalog_of(text, "list.txt")
    finally:
        tables._BLOCK = before
    names = [found if isinstance(found, str) else found.table["image_id"].to_pylist() for found in (whole, cut)]
    if isinstance(whole, Catalog) and isinstance(cut, Catalog):
        assert names[0] == names[1] == [line for line in lines if line and line != "#"]
    else:
        # each names its own folder; of paths that climb, the first block names its own alone
        assert isinstance(whole, str)
        assert isinstance(cut, str)


def small_tables() -> list[bytes]:
    """The same few rows as Parquet in different encodings."""
    table = pa.table(
        {
            "uri": ["a.png", "b/c.png", "s3://bucket/d.png"],
            "image_id": ["1", "2", "3"],
            "size": [1, None, 3],
            "truth_uri": [None, "t.png", None],
        }
    )
    files = []
    for compression, dictionary, version in (("none", False, "1.0"), ("snappy", True, "2.6"), ("zstd", True, "2.6")):
        file = io.BytesIO()
        pq.write_table(table, file, compression=compression, use_dictionary=dictionary, version=version)
        files.append(file.getvalue())
    return files


def test_damaged_tables_are_a_catalog_or_a_message() -> None:
    files = small_tables()
    assert all(isinstance(catalog_of(file, "table.parquet"), Catalog) for file in files)
    refused = 0
    for case in range(300):
        found = catalog_of(damaged(files, Random(f"tables {case}")), "table.parquet")
        check(found)
        refused += isinstance(found, str)
    # damage that is always or never noticed would test nothing
    assert 30 < refused < 300
