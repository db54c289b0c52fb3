"""Pairs in a file: JSON, JSON lines, CSV with a line for each point, or Parquet."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from typing import Any

from simsam_batch.catalog.pair_records import Pair, pair_of
from simsam_batch.errors import SettingsError
from simsam_batch.storage import Folder, ObjectNotFound, absolute_url, read_url, redact

_OWN = ("source", "target", "source_points", "target_points", "point_names", "source_box", "target_box", "category")
_POINT = ("point", "source_x", "source_y", "target_x", "target_y")
_CORNERS = ("left", "top", "right", "bottom")


def content_of(images: str) -> bytes:
    """A file that IMAGES names.

    Raises:
        SettingsError: it is not there.
    """
    try:
        return read_url(images)
    except ObjectNotFound as error:
        raise SettingsError(f"IMAGES: {error}. To mend it: name a file of pairs or key points, or a dataset") from error


def text_of(images: str) -> str:
    """The same as text.

    Raises:
        SettingsError: it is not there, or is not UTF-8.
    """
    try:
        return content_of(images).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SettingsError(f"{redact(images)} is not UTF-8 text. To mend it: save it as UTF-8") from error


def parsed(images: str) -> Any:
    """What a JSON file holds.

    Raises:
        SettingsError: it is not there, or no JSON.
    """
    try:
        return json.loads(text_of(images))
    except (ValueError, RecursionError) as error:
        raise SettingsError(f"{redact(images)} is not JSON: {str(error)[:200]}") from error


def pairs_of_json(held: Any, images: str) -> list[Pair]:
    """Pairs of a list, or of one under ``pairs``."""
    records = held.get("pairs") if isinstance(held, dict) else held
    if not isinstance(records, list):
        raise SettingsError(f"{redact(images)} has no list of pairs. To mend it: give [{{source, target, ...}}, ...]")
    return [pair_of(record, f"{redact(images)}: pair {number}") for number, record in enumerate(records)]


def pairs_of_lines(images: str) -> list[Pair]:
    """Pairs of JSON lines."""
    found = []
    for number, line in enumerate(text_of(images).splitlines(), 1):
        if line.strip():
            where = f"{redact(images)}: line {number}"
            try:
                record = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise SettingsError(f"{where} is not JSON: {str(error)[:200]}") from error
            found.append(pair_of(record, where))
    return found


def pairs_of_csv(text: str, images: str) -> list[Pair]:
    """Pairs of CSV, which has a line for each point.

    Columns are ``source``, ``target``; of a point ``source_x``, ``source_y`` and, as far as they are known,
    ``target_x``, ``target_y`` and its name ``point``; of a pair ``category``, ``pair_id``, and ``source_box_left`` to
    ``target_box_bottom``. Lines of one ``pair_id``, or without it of the same two images, are one pair.
    """
    where = redact(images)
    reader = csv.DictReader(io.StringIO(text))
    names = reader.fieldnames or []
    if missing := [name for name in ("source", "target") if name not in names]:
        raise SettingsError(f"{where} has no column {', '.join(missing)}; its columns are {', '.join(names)}")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise SettingsError(f"{where} has columns of the same name: {', '.join(twice)}")
    of_pair: dict[tuple[str, ...], dict[str, Any]] = {}
    for line in reader:
        number = f"{where}: line {reader.line_num}"
        key = (line["pair_id"],) if line.get("pair_id") else (line["source"], line["target"])
        record = of_pair.setdefault(key, _pair_of_line(line, number))
        if [record["source"], record["target"]] != [line["source"], line["target"]]:
            raise SettingsError(
                f"{number}: the pair {key[0]!r} has other images before. To mend it: name each pair once"
            )
        _add_point(record, line, number)
    return [pair_of(record, f"{where}: pair {' '.join(map(str, key))}") for key, record in of_pair.items()]


def _pair_of_line(line: dict[str, Any], number: str) -> dict[str, Any]:
    record: dict[str, Any] = {name: line.get(name) for name in ("source", "target", "category", "pair_id")}
    for side in ("source", "target"):
        corners = [line.get(f"{side}_box_{corner}") for corner in _CORNERS]
        if any(corners):
            record[f"{side}_box"] = [_number(corner, f"{number}: {side}_box") for corner in corners]
    return record


def _add_point(record: dict[str, Any], line: dict[str, Any], number: str) -> None:
    values = [line.get(name) for name in _POINT]
    if not any(values):
        return
    name, *places = values
    for side, both in (("source", places[:2]), ("target", places[2:])):
        point = [_number(place, f"{number}: {side}_x, {side}_y") for place in both] if any(both) else None
        record.setdefault(f"{side}_points", []).append(point)
    record.setdefault("point_names", []).append(name or "")


def _number(text: Any, where: str) -> float:
    try:
        return float(text)
    except (TypeError, ValueError) as error:
        raise SettingsError(f"{where}: {text!r} is no number") from error


def is_pairs_parquet(images: str) -> bool:
    """Whether a Parquet file names pairs, and not images alone."""
    import pyarrow as pa

    from simsam_batch.storage.parquet import ParquetReader

    folder, _, name = absolute_url(images).rpartition("/")
    try:
        with ParquetReader(Folder(folder).open(name)) as parquet:
            names = parquet.schema.names
    except (ObjectNotFound, pa.ArrowException, OSError, ValueError):
        return False
    return {"source", "target"} <= set(names) and "uri" not in names


def pairs_of_parquet(images: str, keep: Sequence[str]) -> list[Pair]:
    """Pairs of a Parquet file, with the columns of `pair_of`, and those to keep."""
    import pyarrow as pa

    from simsam_batch.storage.parquet import ParquetReader

    where = redact(images)
    folder, _, name = absolute_url(images).rpartition("/")
    try:
        with ParquetReader(Folder(folder).open(name)) as parquet:
            present = parquet.schema.names
            absent = [each for each in ("source", "target", *keep) if each not in present]
            if absent:
                raise SettingsError(f"{where} has no column {', '.join(absent)}; its columns are {', '.join(present)}")
            if clashing := [each for each in keep if each in (*_OWN, "pair_id", "source_record", "target_record")]:
                raise SettingsError(
                    f"keep_columns: {', '.join(clashing)}: the pairs have columns of that name already; leave them out"
                )
            table = parquet.read([each for each in present if each in (*_OWN, "pair_id", *keep)])
        table.validate(full=True)
    except ObjectNotFound as error:
        raise SettingsError(f"IMAGES: {error}. To mend it: name a file of pairs or key points, or a dataset") from error
    except (pa.ArrowException, OSError, ValueError) as error:
        raise SettingsError(f"{where} is no Parquet file that can be read: {str(error)[:500]}") from error
    return [*_pairs_of_table(table, keep, where)]


def _pairs_of_table(table: Any, keep: Sequence[str], where: str) -> Iterator[Pair]:
    for number, record in enumerate(table.to_pylist()):
        pair = pair_of(record, f"{where}: row {number}")
        pair.kept.update({name: record[name] for name in keep})
        yield pair
