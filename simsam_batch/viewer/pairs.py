"""Pairs of images with points that were matched: one whole, its pictures and its maps. They are listed as rows are."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from starlette.requests import Request
from starlette.responses import Response

from simsam_batch.stages.registry import stages_with_features
from simsam_batch.viewer.answers import RefusedError, as_array, as_json, one_of, text, whole_of
from simsam_batch.viewer.maps import cover_of
from simsam_batch.viewer.payload import arrays_of, row_of
from simsam_batch.viewer.pictures import SIDES, photograph_of
from simsam_batch.viewer.session import OpenedStage, Session

ENDS = ("source", "target")
"""The images of a pair."""

MAPS = "similarity"
"""The array of the maps of its points, (N, Hp, Wp)."""

LAYERS = "layers"
"""The array of those of each layer of a network, in source and target, (N, 2, L, H, W)."""

_WHOLE = ["category", "points_scored", "points_right", "status", "error", "mirrored", "source_size", "target_size"]
_WHOLE += ["source_box", "target_box", "threshold", "length", "identical"]
_QUALITY = 88


def routes(session: Session) -> list[tuple[str, str, Any]]:
    """``api/pairs/{n}``, ``pairs/{n}/{end}.jpg``, ``layers/pairs/{n}/{point}`` and ``.../layers``."""

    def pair(request: Request) -> Response:
        stage, place = _stage(session, request), whole_of(request.path_params["n"], "pair")
        found = row_of(stage, place)
        held = _held(stage, place, found)
        more = {name: found.get(name) for name in _WHOLE}
        return as_json(
            {
                "pair": place,
                "id": found[stage.rows.unit],
                **more,
                **{end: found.get(end) for end in ENDS},
                "points": found.get("points") or [],
                "maps": MAPS in held,
                "layers": list(stage.rows.settings["layers"]) if LAYERS in held else [],
                "pairs": stage.plan.records,
                "digests": {end: found.get(f"{end}_sha256") for end in ENDS},
            }
        )

    def picture(request: Request) -> Response:
        stage, place = _stage(session, request), whole_of(request.path_params["n"], "pair")
        end = one_of_ends(request.path_params["end"])
        side = whole_of(one_of(request, "side", [str(each) for each in SIDES], "640"), "side")
        # An address with the digest of the bytes is always of the same picture.
        digest = row_of(stage, place).get(f"{end}_sha256")
        keep = (
            "private, max-age=31536000, immutable" if digest and request.query_params.get("v") == digest else "no-store"
        )
        target = io.BytesIO()
        _picture(stage, session, place, end, side).save(target, "JPEG", quality=_QUALITY)
        return Response(target.getvalue(), 200, {"Cache-Control": keep}, "image/jpeg")

    def point_map(request: Request) -> Response:
        stage, place = _stage(session, request), whole_of(request.path_params["n"], "pair")
        point = whole_of(request.path_params["point"], "point")
        found = row_of(stage, place)
        maps = _held(stage, place, found).get(MAPS)
        return as_array(_of_point(maps, point, "fp16"), request, cover=_cover(stage, found["target_record"]))

    def layer_maps(request: Request) -> Response:
        stage, place = _stage(session, request), whole_of(request.path_params["n"], "pair")
        point = whole_of(request.path_params["point"], "point")
        return as_array(_of_point(_held(stage, place, row_of(stage, place)).get(LAYERS), point, "layers"), request)

    return [
        ("GET", "api/pairs/{n}", pair),
        ("GET", "pairs/{n}/{end}.jpg", picture),
        ("GET", "layers/pairs/{n}/{point}", point_map),
        ("GET", "layers/pairs/{n}/{point}/layers", layer_maps),
    ]


def one_of_ends(given: Any) -> str:
    """``source`` or ``target``.

    Raises:
        RefusedError: it is neither.
    """
    if given not in ENDS:
        raise RefusedError(404, "a pair has a source and a target")
    return str(given)


def _held(stage: OpenedStage, place: int, found: Mapping[str, Any]) -> Mapping[str, NDArray[Any]]:
    """The arrays of a pair; of one that failed, or has none, nothing."""
    there = found["status"] == "ok" and found.get("arrays_path") is not None
    return arrays_of(stage, place) if there else {}


def _of_point(maps: NDArray[Any] | None, point: int, wanted: str) -> NDArray[np.float16]:
    """The maps of a point.

    Raises:
        RefusedError: 404: none are stored, or there is no such point.
    """
    if maps is None:
        raise RefusedError(404, f"the run has stored no such maps. To mend it: run it with --maps {wanted}")
    if point >= len(maps):
        raise RefusedError(404, f"there is no point {point}: the pair has {len(maps)}")
    found: NDArray[np.float16] = maps[point].astype(np.float16)
    return found


def _stage(session: Session, request: Request) -> OpenedStage:
    run = session.run("a")
    name = text(request, "stage", most=100)
    if not name:
        name = next((each for each in run.stages if run.stage(each).kind == "pairs"), "")
    if not name or run.stage(name).kind != "pairs":
        raise RefusedError(404, "the run has no pairs; simsam correspond makes them")
    return run.stage(name)


def _picture(stage: OpenedStage, session: Session, pair: int, end: str, side: int) -> Image.Image:
    found = row_of(stage, pair)
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


def _cover(stage: OpenedStage, record: int) -> str:
    """Shares of the target, down and across, that the patches cover; what rests on no features covers it whole."""
    read = [name for name in stages_with_features() if name in stage.ledger.known()["reads"]]
    if not read:
        return "1,1"
    features = stage.run.stage(read[0])
    row: Mapping[str, Any] = row_of(features, record)
    return ",".join(f"{share:.6g}" for share in cover_of(row, features.rows.settings))
