"""Flags as a table that other programs read."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from starlette.responses import Response

from simsam_batch.results.csv_cells import cell
from simsam_batch.results.flags import TABLE


def _csv(records: Iterable[Mapping[str, Any]]) -> bytes:
    text = io.StringIO(newline="")
    table = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n")
    table.writerow(TABLE.names)
    for record in records:
        table.writerow([_of_csv(record[name]) for name in TABLE.names])
    return text.getvalue().encode()


def _of_csv(value: Any) -> str:
    if isinstance(value, list):
        value = ", ".join(value)
    if value is None:
        return ""
    return cell(value) if isinstance(value, str) else json.dumps(value)


def _lines(records: Iterable[Mapping[str, Any]]) -> bytes:
    return "".join(json.dumps(dict(record)) + "\n" for record in records).encode()


def _parquet(records: Sequence[Mapping[str, Any]]) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([dict(each) for each in records], TABLE), sink)
    return bytes(sink.getvalue())


KINDS: Mapping[str, tuple[str, Callable[[Sequence[Mapping[str, Any]]], bytes]]] = {
    "csv": ("text/csv; charset=utf-8", _csv),
    "jsonl": ("application/jsonl; charset=utf-8", _lines),
    "parquet": ("application/vnd.apache.parquet", _parquet),
}
"""Formats by the ending of their files: media type, and what makes one."""


def answer(records: Sequence[Mapping[str, Any]], kind: str) -> Response:
    """A table of flags as a download with a fixed name.

    Args:
        records: of `simsam_batch.results.flags.as_records`.
        kind: of `KINDS`.
    """
    media, make = KINDS[kind]
    headers = {"Cache-Control": "no-store", "Content-Disposition": f'attachment; filename="flags.{kind}"'}
    return Response(make(records), 200, headers, media)
