"""Two runs side by side: their images joined by id, the difference of a number, settings, and how masks agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response

from simsam_batch.results.comparing import compared
from simsam_batch.viewer.answers import RefusedError, as_json, body_of, one_of, text, text_of, whole, whole_of
from simsam_batch.viewer.jobs import Job, Jobs
from simsam_batch.viewer.joined import Joined, joined
from simsam_batch.viewer.listing import listed
from simsam_batch.viewer.pictures import version_of
from simsam_batch.viewer.session import Session
from simsam_batch.viewer.spread import Range, range_of, spread

MOST_ROWS = 60
_SORTS = ("difference", "agreement", "a", "b", "id")
_RANGES = ("difference", "agreement")
"""What a list can be restricted by, besides the filter."""


def routes(session: Session) -> list[tuple[str, str, Any]]:
    """``api/compare``, the agreement of a page, and jobs."""

    def compare(request: Request) -> Response:
        return as_json(_page(session, request))

    def one(request: Request) -> Response:
        return as_json(_one(session, request))

    def means(request: Request) -> Response:
        both = joined(session, text(request, "stage", most=100))
        metric = one_of(request, "metric", both.metrics)
        places = _filtered(session, both, text(request, "q"))
        a, b = (values[places] for values in both.values(metric))
        return as_json(compared(metric, ("A", "B"), (a, b)))

    def agreement(request: Request) -> Response:
        both = joined(session, text(request, "stage", most=100))
        _check_masks(both)
        # a row that is not in both has no agreement, nor that of the next one
        asked = np.flatnonzero(np.isin(both.rows[0], _rows_asked(text(request, "rows"))))
        return as_json({"values": {str(int(both.rows[0][at])): both.agreement(int(at)) for at in asked}})

    def begin(request: Request) -> Response:
        given = body_of(request)
        both = joined(session, text_of(given.get("stage"), "stage", 100))
        _check_masks(both)
        places = _filtered(session, both, text_of(given.get("q", ""), "q"))

        def work(job: Job) -> None:
            for done, place in enumerate(places.tolist(), 1):
                both.agreement(place)
                job.step(done)
            job.values.update(_agreements(both, places))

        return as_json({"id": _jobs(session).begin("agreement", len(places), work).id})

    def job(request: Request) -> Response:
        return as_json(_told(_jobs(session).get(request.path_params["id"])))

    def stop(request: Request) -> Response:
        found = _jobs(session).get(request.path_params["id"])
        found.stop()
        return as_json(_told(found))

    return [
        ("GET", "api/compare", compare),
        ("GET", "api/compare/means", means),
        ("GET", "api/compare/agreement", agreement),
        ("GET", "api/compare/{row}", one),
        ("POST", "api/jobs", begin),
        ("GET", "api/jobs/{id}", job),
        ("DELETE", "api/jobs/{id}", stop),
    ]


@dataclass(frozen=True, slots=True)
class _Asked:
    """The list that a request is about.

    Attributes:
        metric: whose values are compared; None: the runs have no number in common.
        keys: (J,) of every joined image what the list can be sorted and restricted by.
        filtered: the places of the joined images that the filter takes, ascending.
        listed: those of them that are in the ranges too, in the order asked for.
    """

    metric: str | None
    keys: dict[str, NDArray[np.float64]]
    filtered: NDArray[np.int64]
    listed: NDArray[np.int64]


def _asked(session: Session, both: Joined, request: Request) -> _Asked:
    metric = one_of(request, "metric", both.metrics, both.metrics[0]) if both.metrics else None
    sort, desc = one_of(request, "sort", _SORTS, "difference"), request.query_params.get("desc") == "1"
    ranges: dict[str, Range] = {name: range_of(request, name) for name in _RANGES}
    a, b = both.values(metric)
    keys = {"a": a, "b": b, "difference": b - a, "agreement": both.agreements}
    filtered = _filtered(session, both, text(request, "q"))
    inside = np.logical_and.reduce([of.holds(keys[name][filtered]) for name, of in ranges.items()])
    places = filtered[inside]
    if sort == "id":
        names = both.ids(places)
        order = sorted(range(len(names)), key=names.__getitem__, reverse=desc)
    else:
        # those without a value are last, either way
        order = np.argsort(-keys[sort][places] if desc else keys[sort][places], kind="stable").tolist()
    return _Asked(metric, keys, filtered, places[order])


def _filtered(session: Session, both: Joined, q: str) -> NDArray[np.int64]:
    """The places of the joined images that a filter of A takes."""
    if not q.strip():
        return np.arange(both.count)
    stage = both.stages[0]
    found = stage.rows.numbers[listed(session, stage, q, "", desc=False).places]
    return np.flatnonzero(np.isin(both.rows[0], found))


def _lines(both: Joined, asked: _Asked, places: NDArray[np.int64]) -> list[dict[str, Any]]:
    return [
        {
            "row_a": int(both.rows[0][at]),
            "row_b": int(both.rows[1][at]),
            "v_a": version_of(both.stages[0], int(both.rows[0][at])),
            "v_b": version_of(both.stages[1], int(both.rows[1][at])),
            "id": name,
            **{key: values[at] for key, values in asked.keys.items()},
        }
        for at, name in zip(places.tolist(), both.ids(places), strict=True)
    ]


def _one(session: Session, request: Request) -> dict[str, Any]:
    """One image of both, by its row in A, and where it stands in the list; it need not be in the filter."""
    both = joined(session, text(request, "stage", most=100))
    row = whole_of(request.path_params["row"], "row")
    place = int(np.searchsorted(both.rows[0], row))
    if place == both.count or both.rows[0][place] != row:
        raise RefusedError(404, f"row {row} of A is not an image that both runs have")
    asked = _asked(session, both, request)
    found = np.flatnonzero(asked.listed == place)
    at = int(found[0]) if len(found) else None
    beside = [None if at is None or not 0 <= at + by < len(asked.listed) else asked.listed[at + by] for by in (-1, 1)]
    before, after = (None if each is None else int(both.rows[0][each]) for each in beside)
    agreement = both.agreement(place) if both.has_masks else None
    return {
        **_lines(both, asked, np.array([place]))[0],
        "kind": both.stages[0].kind,
        "metric": asked.metric,
        "place": at,
        "total": len(asked.listed),
        "previous": before,
        "next": after,
        "agreement": agreement,
    }


def _page(session: Session, request: Request) -> dict[str, Any]:
    both = joined(session, text(request, "stage", most=100))
    asked = _asked(session, both, request)
    offset, limit = whole(request, "offset", 0), whole(request, "limit", MOST_ROWS, 1, MOST_ROWS)
    taken = np.zeros(both.count, np.bool_)
    taken[asked.listed] = True
    return {
        "stage": both.stages[0].name,
        "kind": both.stages[0].kind,
        "metrics": both.metrics,
        "metric": asked.metric,
        "common": both.count,
        "other_content": both.other_content,
        "only_a": both.only[0],
        "only_b": both.only[1],
        "settings": [[each["setting"], *each["values"]] for each in both.settings],
        "histogram": spread(asked.keys["difference"], taken),
        "agreement": _agreements(both, asked.filtered) | {"histogram": spread(both.agreements, taken)}
        if both.has_masks
        else None,
        "rows": _lines(both, asked, asked.listed[offset : offset + limit]),
        "filtered": len(asked.filtered),
        "total": len(asked.listed),
    }


def _agreements(both: Joined, places: NDArray[np.int64]) -> dict[str, Any]:
    """Of how many of some images the agreement is known, how many have one, and their mean."""
    found = both.agreements[places]
    held = found[np.isfinite(found)]
    known = int(np.count_nonzero(both.agreements_known[places]))
    return {"known": known, "images": len(held), "mean": float(held.mean()) if len(held) else None}


def _rows_asked(given: str) -> NDArray[np.int64]:
    parts = [part for part in given.split(",") if part][:MOST_ROWS]
    if not all(part.isascii() and part.isdigit() and len(part) < 16 for part in parts):
        raise RefusedError(400, "rows: give numbers of rows with commas between")
    return np.array([int(part) for part in parts], np.int64)


def _check_masks(both: Joined) -> None:
    if not both.has_masks:
        raise RefusedError(404, f"agreement is of object masks; {both.stages[0].name} has none", none=True)


def _jobs(session: Session) -> Jobs:
    jobs: Jobs = session.once("jobs", lambda: Jobs(session.url))
    return jobs


def _told(job: Job) -> dict[str, Any]:
    return {
        "done": job.done,
        "total": job.total,
        "finished": job.finished,
        "stopped": job.stopped,
        "error": job.error,
        "values": job.values,
    }
