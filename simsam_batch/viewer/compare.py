"""Two runs side by side: their images joined by id, the difference of a number, settings, and how masks agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import Response

from simsam_batch.results.comparing import common_images, compared, differing_settings
from simsam_batch.results.image_scores import ImageScores, columns_of_numbers, command_name, scores_in_rows
from simsam_batch.stages.registry import scores_of
from simsam_batch.viewer.answers import RefusedError, as_json, body_of, one_of, text, text_of, whole, whole_of
from simsam_batch.viewer.jobs import Job, Jobs
from simsam_batch.viewer.kept import Kept
from simsam_batch.viewer.listing import listed
from simsam_batch.viewer.payload import row_of
from simsam_batch.viewer.session import OpenedStage, Session

MOST_ROWS = 60
_BINS = 40
_SORTS = ("difference", "a", "b", "id")


def routes(session: Session) -> list[tuple[str, str, Any]]:
    """``api/compare``, the agreement of a page, and jobs."""

    def compare(request: Request) -> Response:
        return as_json(_page(session, request))

    def one(request: Request) -> Response:
        return as_json(_one(session, request))

    def means(request: Request) -> Response:
        joined = _joined(session, text(request, "stage", most=100))
        metric = one_of(request, "metric", joined.metrics)
        places = _taken(session, joined, text(request, "q"))
        a, b = (values[places] for values in joined.values(metric))
        return as_json(compared(metric, ("A", "B"), (a, b)))

    def agreement(request: Request) -> Response:
        joined = _joined(session, text(request, "stage", most=100))
        _check_masks(joined)
        # a row that is not in both has no agreement, nor that of the next one
        first = np.flatnonzero(np.isin(joined.rows[0], _rows_asked(text(request, "rows"))))
        return as_json({"values": {str(int(joined.rows[0][at])): _agreement(joined, int(at)) for at in first}})

    def begin(request: Request) -> Response:
        given = body_of(request)
        joined = _joined(session, text_of(given.get("stage"), "stage", 100))
        _check_masks(joined)
        places = _taken(session, joined, text_of(given.get("q", ""), "q"))

        def work(job: Job) -> None:
            found = []
            for done, place in enumerate(places.tolist(), 1):
                found.append(_agreement(joined, place))
                job.step(done)
            held = [each for each in found if each is not None]
            job.values.update(
                images=len(held), mean=float(np.mean(held)) if held else None, **_histogram(np.array(held), 0.0, 1.0)
            )

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
class _Joined:
    """Two stages whose images are joined.

    Attributes:
        stages, runs: of each run the stage, and the numbers in its rows.
        places: (J,) of each run, which of its rows each joined image is; ``rows`` their numbers.
        only: how many images each has alone.
        other_content: how many have one id and another content.
        metrics: that both have, scores first.
    """

    stages: tuple[OpenedStage, OpenedStage]
    runs: tuple[ImageScores, ImageScores]
    places: tuple[NDArray[np.int64], NDArray[np.int64]]
    rows: tuple[NDArray[np.int64], NDArray[np.int64]]
    only: tuple[int, int]
    other_content: int
    metrics: list[str]

    @property
    def count(self) -> int:
        return len(self.rows[0])

    def values(self, metric: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        a, b = (run.values[metric][at] for run, at in zip(self.runs, self.places, strict=True))
        return a, b


def _joined(session: Session, name: str) -> _Joined:
    a, b = session.run("a"), session.run("b")
    if name not in a.stages or name not in b.stages:
        shared = [each for each in a.of_images if each in b.stages]
        why = f"both have {', '.join(shared)}" if shared else "they have no stage in common"
        raise RefusedError(404, f"the runs are not both of {command_name(name) if name in a.stages else name}: {why}")
    stages = a.stage(name), b.stage(name)
    kept: Kept[_Joined] = stages[0].once("compared", lambda: Kept(2))
    return kept.get(stages[1], lambda: _join(stages))


def _join(stages: tuple[OpenedStage, OpenedStage]) -> _Joined:
    numbers = [columns_of_numbers(stage.rows) for stage in stages]
    both = [each for each in numbers[0] if each in numbers[1]]
    scores = [name for name, held in scores_of(stages[0].name).items() if {*held} <= {*both}]
    wanted = {name: (name,) for name in both} | {name: scores_of(stages[0].name)[name] for name in scores}
    runs = scores_in_rows(stages[0].rows, wanted), scores_in_rows(stages[1].rows, wanted)
    _, places, elsewhere, other = common_images(runs)
    at = places[0], places[1]
    rows = runs[0].number[at[0]], runs[1].number[at[1]]
    metrics = [*scores, *(name for name in wanted if name not in scores)]
    return _Joined(stages, runs, at, rows, (elsewhere[0], elsewhere[1]), other, metrics)


def _taken(session: Session, joined: _Joined, q: str) -> NDArray[np.int64]:
    """The places of the joined images that a filter of A takes."""
    if not q.strip():
        return np.arange(joined.count)
    stage = joined.stages[0]
    found = stage.rows.numbers[listed(session, stage, q, "", desc=False).places]
    return np.flatnonzero(np.isin(joined.rows[0], found))


def _numbers(joined: _Joined, metric: str | None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return joined.values(metric) if metric else (np.full(joined.count, np.nan),) * 2


def _ordered(session: Session, joined: _Joined, request: Request) -> tuple[str | None, NDArray[np.int64]]:
    """The metric that is asked for, and the joined images that the filter takes in the order asked for."""
    places = _taken(session, joined, text(request, "q"))
    metric = one_of(request, "metric", joined.metrics, joined.metrics[0]) if joined.metrics else None
    sort, desc = one_of(request, "sort", _SORTS, "difference"), request.query_params.get("desc") == "1"
    if sort == "id":
        names = joined.runs[0].ids.take(joined.places[0][places]).to_pylist()
        return metric, places[sorted(range(len(names)), key=names.__getitem__, reverse=desc)]
    a, b = _numbers(joined, metric)
    keys = {"difference": b - a, "a": a, "b": b}[sort][places]
    # nulls last, either way
    return metric, places[np.argsort(-keys if desc else keys, kind="stable")]


def _lines(joined: _Joined, metric: str | None, places: NDArray[np.int64]) -> list[dict[str, Any]]:
    a, b = _numbers(joined, metric)
    names = joined.runs[0].ids.take(joined.places[0][places]).to_pylist()
    return [
        {
            "row_a": int(joined.rows[0][at]),
            "row_b": int(joined.rows[1][at]),
            "id": name,
            "a": a[at],
            "b": b[at],
            "difference": b[at] - a[at],
        }
        for at, name in zip(places.tolist(), names, strict=True)
    ]


def _one(session: Session, request: Request) -> dict[str, Any]:
    """One image of both, by its row in A, and where it stands in the list; it need not be in the filter."""
    joined = _joined(session, text(request, "stage", most=100))
    row = whole_of(request.path_params["row"], "row")
    place = int(np.searchsorted(joined.rows[0], row))
    if place == joined.count or joined.rows[0][place] != row:
        raise RefusedError(404, f"row {row} of A is not an image that both runs have")
    metric, places = _ordered(session, joined, request)
    found = np.flatnonzero(places == place)
    at = int(found[0]) if len(found) else None
    beside = [None if at is None or not 0 <= at + by < len(places) else places[at + by] for by in (-1, 1)]
    before, after = (None if each is None else int(joined.rows[0][each]) for each in beside)
    return {
        **_lines(joined, metric, np.array([place]))[0],
        "kind": joined.stages[0].kind,
        "metric": metric,
        "place": at,
        "total": len(places),
        "previous": before,
        "next": after,
        "agreement": _agreement(joined, place) if joined.stages[0].kind == "objects" else None,
    }


def _page(session: Session, request: Request) -> dict[str, Any]:
    joined = _joined(session, text(request, "stage", most=100))
    metric, places = _ordered(session, joined, request)
    offset, limit = whole(request, "offset", 0), whole(request, "limit", MOST_ROWS, 1, MOST_ROWS)
    rows = _lines(joined, metric, places[offset : offset + limit])
    a, b = _numbers(joined, metric)
    apart = (b - a)[places]
    return {
        "stage": joined.stages[0].name,
        "kind": joined.stages[0].kind,
        "metrics": joined.metrics,
        "metric": metric,
        "common": joined.count,
        "other_content": joined.other_content,
        "only_a": joined.only[0],
        "only_b": joined.only[1],
        "settings": [[each["setting"], *each["values"]] for each in differing_settings(joined.runs)],
        "histogram": _histogram(apart[np.isfinite(apart)]),
        "rows": rows,
        "total": len(places),
    }


def _histogram(values: NDArray[np.float64], low: float | None = None, high: float | None = None) -> dict[str, Any]:
    if not len(values):
        return {"edges": [], "counts": []}
    most = max(float(np.abs(values).max()), 1e-9)
    counts, edges = np.histogram(values, _BINS, (-most if low is None else low, most if high is None else high))
    return {"edges": edges, "counts": counts}


def _rows_asked(given: str) -> NDArray[np.int64]:
    parts = [part for part in given.split(",") if part][:MOST_ROWS]
    if not all(part.isascii() and part.isdigit() and len(part) < 16 for part in parts):
        raise RefusedError(400, "rows: give numbers of rows with commas between")
    return np.array([int(part) for part in parts], np.int64)


def _check_masks(joined: _Joined) -> None:
    if joined.stages[0].kind != "objects":
        raise RefusedError(404, f"agreement is of object masks; {joined.stages[0].name} has none", none=True)


def _agreement(joined: _Joined, place: int) -> float | None:
    """IoU of A's and B's mask of one image; None where one has failed or the images differ in size."""
    from pycocotools import mask as coco

    masks = []
    for stage, rows in zip(joined.stages, joined.rows, strict=True):
        found = row_of(stage, int(rows[place])).get("mask_rle")
        if found is None:
            return None
        masks.append({"size": found["size"], "counts": found["counts"].encode("ascii")})
    if masks[0]["size"] != masks[1]["size"]:
        return None
    return float(coco.iou([masks[0]], [masks[1]], [0])[0, 0])


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
