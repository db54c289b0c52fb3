"""What is known of one image: its row without masks, which layers there are, and its tree."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa
from starlette.requests import Request
from starlette.responses import Response

from simsam_batch.drawing.tree_colors import tree_colors
from simsam_batch.errors import SettingsError
from simsam_batch.results.label_maps import WITHOUT_MAP
from simsam_batch.results.restyled import restyled
from simsam_batch.results.trees import RegionTree
from simsam_batch.runs.schema import ARRAY_FIELDS
from simsam_batch.storage import redact
from simsam_batch.viewer.answers import RefusedError, as_json, one_of, text, whole_of
from simsam_batch.viewer.layers import truth_about, truth_uri
from simsam_batch.viewer.legends import labels_legend, truth_legend
from simsam_batch.viewer.maps import good_row, grid_of, reader_of
from simsam_batch.viewer.payload import arrays_of, row_of
from simsam_batch.viewer.pictures import segments_of, version_of
from simsam_batch.viewer.session import OpenedRun, OpenedStage, Session
from simsam_batch.viewer.words import words_of

_LONGEST_LIST = 64
_TITLES = {
    "mask": "Object mask",
    "truth": "Truth",
    "labels": "Labels",
    "regions": "Regions",
    "nodes": "Tree",
    "eigenvectors": "Eigenvectors",
    "outside": "Left out of the graph",
}


def routes(session: Session) -> list[tuple[str, str, Any]]:
    """``api/images/{row}`` and ``api/trees/{row}``."""

    def image(request: Request) -> Response:
        run = session.run(one_of(request, "run", ("a", "b"), "a"))
        stage = run.stage(text(request, "stage", most=100) or next(iter(run.of_images), ""))
        return as_json(about_image(stage, whole_of(request.path_params["row"], "row")))

    def tree(request: Request) -> Response:
        run = session.run(one_of(request, "run", ("a", "b"), "a"))
        stage = _with_trees(run, text(request, "stage", most=100))
        return as_json(tree_of(stage, whole_of(request.path_params["row"], "row")))

    return [("GET", "api/images/{row}", image), ("GET", "api/trees/{row}", tree)]


def about_image(stage: OpenedStage, row: int) -> dict[str, Any]:
    """A row without what is large: its columns, size and grid, and its layers with the reason where one is not there.

    Args:
        stage: of the row.
        row: its number.

    Raises:
        RefusedError: 404: there is no such row, or not yet.
        RunError: the run is damaged.
        StorageError: the storage did not answer.
    """
    found = row_of(stage, row)
    read = _as_read(stage, row)
    uri = read.get("uri") or found.get("uri")
    failed = found["status"] not in ("ok", WITHOUT_MAP)
    grid = grid_of(read)
    return {
        "row": row,
        "id": found[stage.rows.unit],
        "uri": None if uri is None else redact(str(uri)),
        "status": found["status"],
        "columns": (columns := _small(found, stage)),
        "docs": {name: text for name, text in words_of(stage.name).items() if name in columns},
        "size": None if read.get("width") is None else [read["width"], read["height"]],
        "grid": None if grid is None else list(grid),
        "patch": read.get("patch"),
        "content": (read.get("content_sha256") or "")[:16],
        "v": version_of(stage, row),
        "layers": layers_of(stage, row),
        "legend": labels_legend(stage),
        "truth": truth_legend(stage),
        "pictures": pictures_of(stage, found),
        "error": {"type": found["error_type"], "text": redact(str(found["error"]))} if failed else None,
    }


def pictures_of(stage: OpenedStage, row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The restyled pictures of a row, each with its words and what became of its regions; none of another stage's."""
    if stage.kind != "restyled":
        return []
    return [
        {"name": each.name, "text": each.text, "changed": each.changed, "styles": each.styles}
        for each in restyled(row["styles"])
    ]


def layers_of(stage: OpenedStage, row: int) -> list[dict[str, Any]]:
    """The layers of a row, each with its name, title, whether it is there, and if not the reason.

    Nothing is decoded: a layer that is there may still turn out to be damaged.
    """
    found = row_of(stage, row)
    why: dict[str, str] = {}
    if stage.kind != "objects":
        why["mask"] = "simsam segment makes object masks"
    if stage.kind != "labels":
        why["labels"] = "simsam semantic and the probes make label maps"
    elif segments_of(stage, found) is None:
        why["labels"] = "probes were fitted on this image, so that it has no map"
    if _as_read(stage, row).get("region_map") is None and (stage.kind != "objects" or not found.get("regions")):
        why["regions"] = "simsam semantic cuts images into regions; simsam segment does with --regions"
    if stage.kind != "trees":
        why["nodes"] = "simsam hierarchy makes trees"
    if stage.what is None or not stage.what.eigenvectors:
        why["eigenvectors"] = why["outside"] = "simsam segment alone stores them"
    elif stage.rows.settings.get("eigenvectors") == "none":
        why["eigenvectors"] = why["outside"] = "the run was made with --eigenvectors none"
    elif found["status"] == "ok" and "outside" not in arrays_of(stage, row):
        why["outside"] = "the run was made before they were stored"
    if truth_about(stage) is None:
        why["truth"] = "the run was made without --truth"
    elif truth_uri(stage, row) is None:
        why["truth"] = "this image has no truth, or the run was made without --truth"
    elif found.get("truth_error"):
        why["truth"] = redact(str(found["truth_error"]))
    if found["status"] not in ("ok", WITHOUT_MAP):
        why = {name: "the stage failed on this image" for name in _TITLES if name != "truth"} | {
            name: reason for name, reason in why.items() if name == "truth"
        }
    return [
        {"name": name, "title": title, "there": name not in why, "why": why.get(name)}
        for name, title in _TITLES.items()
    ]


def tree_of(stage: OpenedStage, row: int) -> dict[str, Any]:
    """The tree of an image: its nodes in pre-order, each with the end of its descendants, its label and its colour.

    Raises:
        RefusedError: 404: there is no such row; 409: the image failed.
        RunError: the run is damaged.
        StorageError: the storage did not answer.
    """
    found = good_row(stage, row)
    tree = RegionTree(found, stage.rows.settings)
    labels = found.get("labels") or [None] * len(tree.nodes)
    kept = ("parent", "depth", "patches", "bbox_xyxy", "ncut", "gap", "outcome")
    nodes = [
        {name: node.get(name) for name in kept}
        | {"end": end, "label": label, "color": "#{:02x}{:02x}{:02x}".format(*color)}
        for node, end, label, color in zip(tree.nodes, tree.end, labels, tree_colors(tree.children), strict=True)
    ]
    return {"nodes": nodes, "deepest": max(node["depth"] for node in tree.nodes), "labels_named": None}


def _as_read(stage: OpenedStage, row: int) -> Mapping[str, Any]:
    try:
        return row_of(reader_of(stage), row)
    except RefusedError:
        return {}


def _with_trees(run: OpenedRun, name: str) -> OpenedStage:
    for each in [name] if name else run.stages:
        if run.stage(each).kind == "trees":
            return run.stage(each)
    raise SettingsError(f"stage: {name or 'the run'} has no trees; simsam hierarchy makes them")


def _small(row: Mapping[str, Any], stage: OpenedStage) -> dict[str, Any]:
    """The columns whose values a person can read: no masks, nodes or places of arrays."""
    known = {field.name: field.type for field in stage.rows.schema}
    left_out = {name for name, kind in known.items() if _is_large(kind)} | set(_names(ARRAY_FIELDS)) | {"uri"}
    return {
        name: value
        for name, value in row.items()
        if name not in left_out and not (isinstance(value, list) and len(value) > _LONGEST_LIST)
    }


def _is_large(kind: pa.DataType) -> bool:
    """Whether a type holds masks, or lists of records."""
    if pa.types.is_struct(kind):
        return any(
            kind.field(place).name == "counts" or _is_large(kind.field(place).type) for place in range(len(kind))
        )
    return pa.types.is_list(kind) and (pa.types.is_struct(kind.value_type) or _is_large(kind.value_type))


def _names(fields: Iterable[pa.Field]) -> list[str]:
    return [field.name for field in fields]
