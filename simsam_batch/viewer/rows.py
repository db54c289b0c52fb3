"""Routes that list rows: a page of them, what stands beside one, and where one is."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response

from simsam_batch.errors import SettingsError, did_you_mean
from simsam_batch.runs.plan import row_numbers
from simsam_batch.viewer.answers import RefusedError, as_json, one_of, text, whole
from simsam_batch.viewer.columns import Columns, Kind, columns_of, field_of, kinds_of, paths_of
from simsam_batch.viewer.flagged import told
from simsam_batch.viewer.listing import listed
from simsam_batch.viewer.pictures import version_of
from simsam_batch.viewer.session import OpenedStage, Session

MOST_ROWS = 200
"""Rows of one answer."""

_MOST_COLUMNS = 40
_SOON_S = 0.5


def routes(session: Session) -> list[tuple[str, str, Any]]:
    """``api/rows``, ``api/neighbours`` and ``api/find``."""

    def rows(request: Request) -> Response:
        began = time.perf_counter()
        stage, q, sort, desc = asked(session, request)
        offset, limit = whole(request, "offset", 0), whole(request, "limit", 60, 1, MOST_ROWS)
        names = _names(request, stage)
        if not q.strip() and not sort and not desc:
            numbers = stage.rows.numbers
            total, complete = len(numbers), True
            found = _stored(stage, numbers[offset : offset + limit], names)
            _read_soon(stage)
        else:
            listing = listed(session, stage, q, sort, desc=desc)
            total, complete = len(listing.places), listing.complete
            found = _held(columns_of(stage), listing.page(offset, limit), names)
        flags = told(session, stage, [row["row"] for row in found])
        for row in found:
            row["flag"] = flags.get(row["row"])
            row["v"] = version_of(stage, row["row"])
        took = round(1e3 * (time.perf_counter() - began), 1)
        return as_json({"total": total, "complete": complete, "offset": offset, "ms": took, "rows": found})

    def neighbours(request: Request) -> Response:
        stage, q, sort, desc = asked(session, request)
        row = whole(request, "row")
        numbers = stage.rows.numbers
        place = int(np.searchsorted(numbers, row))
        if place == len(numbers) or numbers[place] != row:
            raise RefusedError(404, f"there is no row {row} of {stage.name}")
        listing = listed(session, stage, q, sort, desc=desc)
        around = listing.around(place) or (None, None, None)
        before, after = (None if each is None else int(numbers[each]) for each in around[1:])
        return as_json({"place": around[0], "total": len(listing.places), "previous": before, "next": after})

    def find(request: Request) -> Response:
        stage = stage_of(session, request)
        return as_json({"row": _found(stage, text(request, "id"))})

    return [("GET", "api/rows", rows), ("GET", "api/neighbours", neighbours), ("GET", "api/find", find)]


def _read_soon(stage: OpenedStage) -> None:
    """Have the columns read while the page is looked at; its pictures and its own answers come before."""

    def begin() -> threading.Timer:
        timer = threading.Timer(_SOON_S, columns_of, [stage])
        timer.daemon = True
        timer.start()
        return timer

    stage.once("read soon", begin)


def stage_of(session: Session, request: Request) -> OpenedStage:
    """The stage that a request names, of the run that it names.

    Raises:
        RefusedError: no such run.
        SettingsError: no such stage.
    """
    return session.run(one_of(request, "run", ("a", "b"), "a")).stage(text(request, "stage", most=100))


def asked(session: Session, request: Request) -> tuple[OpenedStage, str, str, bool]:
    """Stage, filter, order and whether greater values come first, as all routes that list rows take them."""
    stage = stage_of(session, request)
    q, sort = text(request, "q"), text(request, "sort", most=200)
    return stage, q, sort, one_of(request, "desc", ("0", "1", "false", "true"), "0") in ("1", "true")


def _names(request: Request, stage: OpenedStage) -> list[str]:
    names = [name for name in text(request, "columns").split(",") if name]
    known = kinds_of(stage.rows.schema)
    for name in names:
        if name not in known:
            raise RefusedError(400, f"columns: there is no {name!r} to show{did_you_mean(name, known)}")
    if len(names) > _MOST_COLUMNS:
        raise RefusedError(400, f"columns: give at most {_MOST_COLUMNS}")
    return names


def _stored(stage: OpenedStage, numbers: NDArray[np.int64], names: Sequence[str]) -> list[dict[str, Any]]:
    """Rows as they lie on storage: what the first page is made of, before any column is in memory."""
    kinds, unit = kinds_of(stage.rows.schema), stage.rows.unit
    paths = (path for name in names for path in paths_of(name, stage.rows.schema))
    wanted = {unit, "status", "error_type", "error", *(path.partition(".")[0] for path in paths)}
    table = stage.rows.take(numbers.tolist(), wanted)
    values = {name: [_plain(value, kinds[name]) for value in field_of(table, name).to_pylist()] for name in names}
    ids, statuses, types, texts = (table[name].to_pylist() for name in (unit, "status", "error_type", "error"))
    return _rows(numbers, ids, statuses, types, texts, values)


def _held(columns: Columns, places: NDArray[np.int32], names: Sequence[str]) -> list[dict[str, Any]]:
    """Rows from what is in memory."""
    numbers = columns.numbers[places]
    values = {name: _values(columns, name, places) for name in names}
    statuses, types = (_values(columns, name, places) for name in ("status", "error_type"))
    failed = [place for place, status in zip(places.tolist(), statuses, strict=True) if status != "ok"]
    errors = dict(zip(failed, columns.errors(failed), strict=True))
    texts = [errors.get(place) for place in places.tolist()]
    return _rows(numbers, columns.ids.take(places).to_pylist(), statuses, types, texts, values)


def _values(columns: Columns, name: str, places: NDArray[np.int32]) -> list[Any]:
    found = columns.column(name)[places].tolist()
    kind = columns.kinds[name]
    if kind == "words":
        words = columns.words(name)
        return [words[code] if code >= 0 else None for code in found]
    return [_plain(value, kind) for value in found]


def _plain(value: Any, kind: Kind) -> Any:
    """A value as JSON is to have it, however it is held: in single precision, as short as that is."""
    if value is None or value != value:
        return None
    if kind == "integer":
        return int(value)
    if kind == "boolean":
        return bool(value)
    return float(str(np.float32(value))) if kind == "number" else value


def _rows(
    numbers: NDArray[np.int64],
    ids: Sequence[str],
    statuses: Sequence[str],
    error_types: Sequence[str | None],
    errors: Sequence[str | None],
    values: Mapping[str, Sequence[Any]],
) -> list[dict[str, Any]]:
    return [
        {
            "row": row,
            "id": ids[place],
            "status": statuses[place],
            "flag": None,
            "values": {name: of[place] for name, of in values.items()},
            "error": None
            if statuses[place] == "ok"
            else {"type": error_types[place] or "", "text": errors[place] or ""},
        }
        for place, row in enumerate(numbers.tolist())
    ]


def _found(stage: OpenedStage, name: str) -> int:
    held: Columns | None = stage.made("columns")
    if held is not None and held.at_once and held.complete:
        place = pc.index(held.ids, name).as_py()
        if place >= 0:
            return int(held.numbers[place])
    nothing = RefusedError(404, f"there is no {name!r} among the rows of {stage.name}")
    try:
        (row,) = row_numbers(stage.plan, [name])
    except SettingsError as error:
        raise nothing from error
    numbers = stage.rows.numbers
    at = int(np.searchsorted(numbers, row))
    if at == len(numbers) or numbers[at] != row:
        raise RefusedError(404, f"{name!r} is not computed yet; look again when the run has gone on")
    return row
