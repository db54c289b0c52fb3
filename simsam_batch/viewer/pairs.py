"""Pairs of images with points that were matched: a list of them, one whole, its pictures and its maps."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image
from starlette.requests import Request
from starlette.responses import Response

from simsam_batch.viewer.answers import RefusedError, as_array, as_json, one_of, text, whole, whole_of
from simsam_batch.viewer.maps import cover_of
from simsam_batch.viewer.payload import arrays_of, row_of
from simsam_batch.viewer.pictures import SIDES, photograph_of
from simsam_batch.viewer.session import OpenedStage, Session

ENDS = ("source", "target")
"""The images of a pair."""

MAPS = "similarity"
"""The array of the maps of its points, (N, Hp, Wp)."""

_LISTED = ["category", "points_scored", "points_right", "status", "error", "mirrored"]
_WHOLE = [*_LISTED, "source_size", "target_size", "source_box", "target_box", "threshold", "length", "identical"]
_ORDERS = ("", "id", "category", "pck", "points")
_QUALITY = 88


def routes(session: Session) -> list[tuple[str, str, Any]]:
    """``api/pairs``, ``api/pairs/{n}``, ``pairs/{n}/{end}.jpg`` and ``layers/pairs/{n}/{point}``."""

    def pairs(request: Request) -> Response:
        stage = _stage(session, request)
        offset, limit = whole(request, "offset", 0), whole(request, "limit", 60, 1, 200)
        category = text(request, "category", most=200)
        sort = one_of(request, "sort", _ORDERS, "")
        found = stage.once("pairs", lambda: _listed(stage))
        categories = sorted({pair["category"] for pair in found if pair["category"]})
        kept = _sorted([pair for pair in found if not category or pair["category"] == category], sort)
        if one_of(request, "desc", ("0", "1"), "0") == "1":
            kept = kept[::-1]
        return as_json({"total": len(kept), "categories": categories, "pairs": kept[offset : offset + limit]})

    def pair(request: Request) -> Response:
        stage, number = _stage(session, request), whole_of(request.path_params["n"], "pair")
        found = row_of(stage, number)
        has_maps = found["status"] == "ok" and found.get("arrays_path") is not None and MAPS in arrays_of(stage, number)
        more = {name: found.get(name) for name in _WHOLE}
        return as_json(
            {
                "pair": number,
                "id": found[stage.rows.unit],
                **more,
                **{end: found.get(end) for end in ENDS},
                "points": found.get("points") or [],
                "maps": has_maps,
                "pairs": stage.plan.records,
            }
        )

    def picture(request: Request) -> Response:
        stage, number = _stage(session, request), whole_of(request.path_params["n"], "pair")
        end = one_of_ends(request.path_params["end"])
        side = whole_of(one_of(request, "side", [str(each) for each in SIDES], "640"), "side")
        target = io.BytesIO()
        _picture(stage, session, number, end, side).save(target, "JPEG", quality=_QUALITY)
        return Response(target.getvalue(), 200, {"Cache-Control": "no-store"}, "image/jpeg")

    def point_map(request: Request) -> Response:
        stage, number = _stage(session, request), whole_of(request.path_params["n"], "pair")
        point = whole_of(request.path_params["point"], "point")
        found = row_of(stage, number)
        held = arrays_of(stage, number).get(MAPS) if found["status"] == "ok" else None
        if held is None:
            raise RefusedError(404, "the run has stored no maps. To mend it: run it with --maps fp16")
        if point >= len(held):
            raise RefusedError(404, f"there is no point {point}: the pair has {len(held)}")
        return as_array(held[point].astype(np.float16), request, cover=_cover(session, found["target_record"]))

    return [
        ("GET", "api/pairs", pairs),
        ("GET", "api/pairs/{n}", pair),
        ("GET", "pairs/{n}/{end}.jpg", picture),
        ("GET", "layers/pairs/{n}/{point}", point_map),
    ]


def one_of_ends(given: Any) -> str:
    """``source`` or ``target``.

    Raises:
        RefusedError: it is neither.
    """
    if given not in ENDS:
        raise RefusedError(404, "a pair has a source and a target")
    return str(given)


def _stage(session: Session, request: Request) -> OpenedStage:
    run = session.run("a")
    name = text(request, "stage", most=100)
    if not name:
        name = next((each for each in run.stages if run.stage(each).kind == "pairs"), "")
    if not name or run.stage(name).kind != "pairs":
        raise RefusedError(404, "the run has no pairs; simsam correspond makes them")
    return run.stage(name)


def _listed(stage: OpenedStage) -> list[dict[str, Any]]:
    """Every pair that is there, without its points."""
    unit, has = stage.rows.unit, set(stage.rows.schema.names)
    names = [name for name in [unit, *_LISTED, *ENDS] if name in has]
    found = []
    for number, row in stage.rows.each(names):
        scored = row.get("points_scored")
        pck = row["points_right"] / scored if scored else None
        found.append({"pair": number, "id": row[unit], "pck": pck} | {name: row.get(name) for name in names[1:]})
    return found


def _sorted(pairs: Sequence[dict[str, Any]], sort: str) -> list[dict[str, Any]]:
    """In this order; pairs without a value last."""
    name = {"points": "points_scored"}.get(sort, sort)
    if not name:
        return list(pairs)
    there = [pair for pair in pairs if pair.get(name) is not None]
    return sorted(there, key=lambda pair: pair[name]) + [pair for pair in pairs if pair.get(name) is None]


def _picture(stage: OpenedStage, session: Session, number: int, end: str, side: int) -> Image.Image:
    found = row_of(stage, number)
    if found["status"] != "ok":
        raise RefusedError(409, f"{stage.name} failed on it: {found['error_type']}: {found['error']}")
    width, height = found[f"{end}_size"]
    plan = session.run("a").plan
    shard, place = plan.place_of(found[f"{end}_record"])
    uri = plan.shard(shard).records["uri"][place].as_py()
    read = {"uri": uri, "content_sha256": found[f"{end}_sha256"], "width": width, "height": height}
    return photograph_of(read, _reading(session, stage).rows.settings, side)


def _reading(session: Session, stage: OpenedStage) -> OpenedStage:
    """The stage that has read the images."""
    run = session.run("a")
    return run.stage("features") if "features" in run.stages else stage


def _cover(session: Session, record: int) -> str:
    """Shares of the image, down and across, that the patches cover; attention covers it whole."""
    run = session.run("a")
    if "features" not in run.stages:
        return "1,1"
    stage = run.stage("features")
    row: Mapping[str, Any] = row_of(stage, record)
    return ",".join(f"{share:.6g}" for share in cover_of(row, stage.rows.settings))
