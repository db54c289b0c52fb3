"""Pairs of images with points that were matched: a list of them, one whole, its pictures and its maps."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from PIL import Image
from starlette.requests import Request
from starlette.responses import Response

from simsam_batch.stages.registry import stages_with_features
from simsam_batch.viewer.answers import RefusedError, as_array, as_json, number, one_of, text, whole, whole_of
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

_LISTED = ["category", "points_scored", "points_right", "status", "error", "mirrored"]
_WHOLE = [*_LISTED, "source_size", "target_size", "source_box", "target_box", "threshold", "length", "identical"]
_ORDERS = ("", "id", "category", "pck", "points", "margin")
_NONE = pa.table({name: pa.nulls(0) for name in ("pair", "id", "category", "pck", "points_scored", "margin")})
_QUALITY = 88


def routes(session: Session) -> list[tuple[str, str, Any]]:
    """``api/pairs``, ``api/pairs/{n}``, ``pairs/{n}/{end}.jpg``, ``layers/pairs/{n}/{point}`` and ``.../layers``."""

    def pairs(request: Request) -> Response:
        stage = _stage(session, request)
        offset, limit = whole(request, "offset", 0), whole(request, "limit", 60, 1, 200)
        kept = _chosen(stage, request)
        categories = sorted(each for each in pc.unique(_listed(stage)["category"]).to_pylist() if each)
        listed = kept.slice(offset, limit).to_pylist()
        return as_json({"total": kept.num_rows, "categories": categories, "pairs": listed})

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
                "near": _near(_chosen(stage, request)["pair"].to_numpy(), place),
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
        ("GET", "api/pairs", pairs),
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


def _near(listed: NDArray[np.int64], pair: int) -> dict[str, int | None]:
    """Where a pair stands in a list, and its neighbours there; all null if it is not in it."""
    at = np.flatnonzero(listed == pair)
    if not len(at):
        return {"place": None, "previous": None, "next": None}
    here = int(at[0])
    return {
        "place": here,
        "previous": int(listed[here - 1]) if here else None,
        "next": int(listed[here + 1]) if here + 1 < len(listed) else None,
    }


def _chosen(stage: OpenedStage, request: Request) -> pa.Table:
    """The pairs that a request asks for, in its order; those without a value last."""
    category, sort = text(request, "category", most=200), one_of(request, "sort", _ORDERS, "")
    least, most = number(request, "least", 0, 0, 1), number(request, "most", 1, 0, 1)
    direction = "descending" if one_of(request, "desc", ("0", "1"), "0") == "1" else "ascending"
    found = _listed(stage)
    if category:
        found = found.filter(pc.equal(found["category"], category))
    if least > 0 or most < 1:
        pck = found["pck"]
        found = found.filter(pc.and_(pc.greater_equal(pck, least), pc.less_equal(pck, most)))
    keys = [({"points": "points_scored", "": "pair"}.get(sort, sort), direction), ("pair", "ascending")]
    return found.take(pc.sort_indices(found, sort_keys=keys[: 1 if not sort else 2]))


def _listed(stage: OpenedStage) -> pa.Table:
    """Every pair that is there, as columns and without its points: these are summed up part by part."""
    found: pa.Table = stage.once("pairs", lambda: _read(stage))
    return found


def _read(stage: OpenedStage) -> pa.Table:
    schema, unit = stage.rows.schema, stage.rows.unit
    names = [name for name in [*_LISTED, *ENDS] if name in schema.names]
    parts = []
    for first, read in stage.rows.batches([unit, "points", *names]):
        part = read.select(names)
        for name in {"category", "points_scored", "points_right"} - {*names}:
            part = part.append_column(name, pa.nulls(len(read), pa.string() if name == "category" else pa.int64()))
        scored = part["points_scored"].to_numpy().astype(np.float64)
        right = part["points_right"].to_numpy().astype(np.float64)
        pck = np.divide(right, scored, out=np.full(len(read), np.nan), where=scored > 0)
        own = {"pair": pa.array(np.arange(first, first + len(read))), "id": read[unit]}
        own |= {"pck": pa.array(pck, from_pandas=True), "margin": pa.array(_margins(read), from_pandas=True)}
        for name, values in own.items():
            part = part.append_column(name, values)
        parts.append(part)
    return pa.concat_tables(parts) if parts else _NONE


def _margins(read: pa.Table) -> NDArray[np.float64]:
    """The mean margin of the points of each pair; NaN without any."""
    lists = read["points"].combine_chunks()
    parents = pc.list_parent_indices(lists).to_numpy(zero_copy_only=False)
    margins = pc.struct_field(pc.list_flatten(lists), "margin").to_numpy(zero_copy_only=False).astype(np.float64)
    there = np.isfinite(margins)
    sums = np.bincount(parents[there], margins[there], len(read))
    counts = np.bincount(parents[there], minlength=len(read))
    means: NDArray[np.float64] = np.divide(sums, counts, out=np.full(len(read), np.nan), where=counts > 0)
    return means


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
