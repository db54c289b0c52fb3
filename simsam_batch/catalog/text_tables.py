"""Tables as text, and which column of a table names the images."""

from __future__ import annotations

import csv
import json
import posixpath
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from simsam_batch.catalog.folders import ACCEPTED
from simsam_batch.catalog.records import COLUMNS, records_schema
from simsam_batch.errors import SettingsError
from simsam_batch.storage import ObjectNotFound, read_url, redact

if TYPE_CHECKING:
    import pyarrow as pa

USUAL = (
    *("uri", "url", "path", "file", "filename", "file_name", "filepath", "file_path"),
    *("image", "image_uri", "image_url", "image_path", "image_file", "img", "img_url", "img_path"),
)
"""What columns of paths or URLs are called, in any case; ``uri`` wins over all others."""

SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson")

Wanted = Callable[[Sequence[str]], list[str]]
"""Of the columns that there are those to read."""


def uri_column_of(present: Sequence[str], given: str | None, where: str) -> str:
    """The column of a table that names its images.

    Args:
        present: columns that could, those of text.
        given: as ``--uri-column`` says; None to find it by its name.
        where: what to call the table in messages.

    Raises:
        SettingsError: there is none, or several could be it.
    """
    listed = ", ".join(present) or "none of text"
    if given is not None:
        if given not in present:
            raise SettingsError(f"uri_column: {where} has no column {given!r}; its columns are {listed}")
        return given
    found = [name for name in present if name.lower() in USUAL]
    if "uri" in found or len(found) == 1:
        return "uri" if "uri" in found else found[0]
    if found:
        raise SettingsError(
            f"{where} has several columns that may name images: {', '.join(found)}. To mend it: say which by "
            "--uri-column"
        )
    raise SettingsError(
        f"{where} has no column 'uri', nor another that is usual for paths; its columns are {listed}. To mend it: name "
        "the one with the paths or URLs by --uri-column"
    )


def read_text_table(images: str, wanted: Wanted) -> pa.Table:
    """Some columns of CSV (with commas, semicolons or tabs) or of JSON lines; an empty text is null.

    Raises:
        SettingsError: nothing is there, or it cannot be read.
        StorageError: the storage did not answer.
    """
    where = redact(images)
    try:
        data = read_url(images).removeprefix(b"\xef\xbb\xbf")
    except ObjectNotFound as error:
        raise SettingsError(f"IMAGES: {error}. {ACCEPTED['IMAGES']}") from error
    try:
        is_csv = posixpath.splitext(images)[1].lower() in (".csv", ".tsv")
        return _read_csv(data, wanted) if is_csv else _read_lines(data, where, wanted)
    # what Arrow raises is a ValueError, too
    except (UnicodeDecodeError, ValueError, csv.Error) as error:
        raise SettingsError(f"{where} cannot be read as a table of UTF-8 text: {str(error)[:500]}") from error


def _read_csv(data: bytes, wanted: Wanted) -> pa.Table:
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    header = data.partition(b"\n")[0].decode().rstrip("\r")
    delimiter = max(",;\t", key=header.count)
    names = wanted(next(csv.reader([header], delimiter=delimiter), []))
    known = {field.name: field.type for field in records_schema()}
    # Arrow's own threads are not let at what is Python's, see simsam_batch.storage.parquet
    return arrow_csv.read_csv(
        pa.BufferReader(data),
        arrow_csv.ReadOptions(use_threads=False),
        arrow_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        arrow_csv.ConvertOptions(
            include_columns=names,
            column_types={names[0]: pa.string()} | {name: known[name] for name in names if name in known},
            null_values=[""],
            strings_can_be_null=True,
        ),
    )


def _read_lines(data: bytes, where: str, wanted: Wanted) -> pa.Table:
    import pyarrow as pa

    records: list[dict[str, Any]] = []
    present: dict[str, None] = {}
    for number, line in enumerate(data.decode().split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise SettingsError(f"{where}: line {number} is not JSON: {str(error)[:200]}") from error
        if not isinstance(record, dict):
            raise SettingsError(f"{where}: line {number} is no object with names, but {line[:100]!r}")
        records.append(record)
        present.update(dict.fromkeys(record))
    if not records:
        raise SettingsError(f"{where} has no rows")
    columns = {}
    for name in wanted(list(present)):
        values = [record.get(name) for record in records]
        try:
            column = pa.array(values)
        except (pa.ArrowException, OverflowError) as error:
            raise SettingsError(f"{where}: column {name} is not of one type: {error}") from error
        columns[name] = column.cast(pa.string()) if name in COLUMNS and pa.types.is_null(column.type) else column
    return pa.table(columns)
