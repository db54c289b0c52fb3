"""``--format json``: region trees as JSON Lines, one image a line, nodes nested, masks in COCO's run lengths."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import islice
from typing import Any

from simsam_batch.report.exports.uris import told_uri
from simsam_batch.results.label_maps import map_rows
from simsam_batch.results.trees import RegionTree, measured
from simsam_batch.runs.reading import StageRows
from simsam_batch.storage import Folder

FILE_IMAGES = 10_000
FILE_BYTES = 256_000_000
"""A file ends with the image that reaches one of these; memory holds one file."""


def write_json(
    rows: StageRows,
    to: Folder,
    images: int,
    on_image: Callable[[str, str], None],
    *,
    relative_uris: str | None = None,
) -> None:
    """Write ``regions-00000.jsonl`` and so on; the same rows give the same bytes.

    Args:
        rows: of a stage that makes trees.
        to: where the files go.
        images: how many rows, the first ones.
        on_image: called after each with its id and its outcome.
        relative_uris: the folder that URIs are relative to; None: they are as in the run.

    Raises:
        RunError: rows cannot be read.
        StorageError: the storage did not answer.
    """
    lines: list[bytes] = []
    file = size = 0
    for _, row in islice(map_rows(rows), images):
        lines.append(_line(row, rows, relative_uris))
        size += len(lines[-1])
        if len(lines) == FILE_IMAGES or size >= FILE_BYTES:
            to.replace(f"regions-{file:05d}.jsonl", b"".join(lines))
            lines, file, size = [], file + 1, 0
        on_image(row["image_id"], row["status"])
    if lines:
        to.replace(f"regions-{file:05d}.jsonl", b"".join(lines))


def _line(row: dict[str, Any], rows: StageRows, root: str | None) -> bytes:
    if row["status"] == "ok":
        found = {name: row[name] for name in ("image_id", "uri", "width", "height")}
        found |= {"uri": told_uri(row["uri"], root), "tree": _nested(RegionTree(row, rows.settings), row["labels"])}
    else:
        found = {name: row[name] for name in ("image_id", "status", "error_type", "error")}
    return json.dumps(found, allow_nan=False, separators=(",", ":")).encode() + b"\n"


def _nested(tree: RegionTree, labels: list[int] | None) -> dict[str, Any]:
    """The root's object, its children's inside of it and so on."""
    objects: list[dict[str, Any]] = []
    for number, (node, mask) in enumerate(zip(tree.nodes, tree.masks(), strict=True)):
        area, (left, top, width, height) = measured(mask)
        box = [left, top, left + width, top + height] if area else None
        found = {"node": number, "depth": node["depth"], "area": area, "bbox_xyxy": box, "ncut": node["ncut"]}
        if tree.children[number]:
            found["parts"] = node["parts"]
        if labels is not None:
            found["label"] = labels[number]
        objects.append(found | {"mask": mask, "children": []})
        if number:
            objects[node["parent"]]["children"].append(objects[-1])
    return objects[0]
