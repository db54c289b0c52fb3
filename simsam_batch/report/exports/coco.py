"""``--format coco``: one JSON file of instances in COCO's form, masks in its compressed run lengths."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from simsam_batch.regions.outlines import outer_rings
from simsam_batch.regions.pixel_index import upsample_index
from simsam_batch.regions.run_lengths import RunLengths, decode, run_lengths
from simsam_batch.report.exports.safe_names import is_plain, safe_path
from simsam_batch.report.exports.uris import told_uri
from simsam_batch.results.label_maps import cluster_count, kind_of, label_map, label_names, map_rows, shown_by
from simsam_batch.results.objects import objects_of
from simsam_batch.results.trees import RegionTree, measured
from simsam_batch.runs.reading import StageRows
from simsam_batch.storage import Folder
from simsam_batch.storage.uploading import streamed, temporary_file

Nodes = Literal["leaves", "all"]
"""Which nodes of trees become annotations: those that pixels end in, with these pixels, or all with all of theirs."""

FILE = "instances.json"


def write_coco(
    rows: StageRows,
    to: Folder,
    images: int,
    on_image: Callable[[str, str], None],
    *,
    nodes: Nodes = "leaves",
    min_score: float | None = None,
    polygons: bool = False,
    relative_uris: str | None = None,
) -> None:
    """Write `FILE`, image by image; memory holds one image.

    The local disk for temporary files holds the whole file, and annotations a second time.

    Args:
        rows: of a stage with maps, see `simsam_batch.stages.kinds.Kind`.
        to: where the file goes.
        images: how many rows, the first ones.
        on_image: called after each with its id and its outcome.
        nodes: of trees.
        min_score: of objects; None for all.
        polygons: write outer rings as polygons, in which holes are filled; else masks as run lengths.
        relative_uris: the folder that URIs are relative to; None: they are as in the run.

    Raises:
        RunError: rows cannot be read.
        StorageError: the storage did not answer.
    """
    # images and annotations are two lists, the second of which waits until the first ends
    with streamed(to, FILE) as file, temporary_file() as waiting:
        info = {"description": f"stage {rows.stage} of a run of simsam-batch", "content_digest": rows.content_digest}
        file.write(b'{"info":' + _json(info) + b',"licenses":[],"images":[')
        categories = _categories(rows)
        separator, number_of = b"\n", 1
        for number, row in islice(map_rows(rows), images):
            if row["status"] == "ok":
                file.write(separator + _json(_image(number, row, relative_uris)))
                separator = b",\n"
                for found in _annotations(row, rows, nodes, len(categories) - 1, min_score):
                    if polygons:
                        found["segmentation"] = _polygons(found["segmentation"])
                    between = b",\n" if number_of > 1 else b"\n"
                    waiting.write(between + _json({"id": number_of, "image_id": number} | found))
                    number_of += 1
            on_image(row["image_id"], row["status"])
        file.write(b'\n],"annotations":[')
        waiting.seek(0)
        shutil.copyfileobj(waiting, file, 1 << 20)
        first = 0 if shown_by(rows).classes else 1
        named = [
            {"id": i, "name": name, "supercategory": rows.stage} for i, name in enumerate(categories) if i >= first
        ]
        file.write(b'\n],"categories":' + _json(named) + b"}\n")


def _image(number: int, row: dict[str, Any], root: str | None) -> dict[str, Any]:
    image_id = row["image_id"]
    return {
        "id": number,
        # readers join it to a folder
        "file_name": image_id if is_plain(image_id) else safe_path(image_id),
        "width": row["width"],
        "height": row["height"],
        "image_id": image_id,
        "uri": told_uri(row["uri"], root),
    }


def _annotations(
    row: dict[str, Any], rows: StageRows, nodes: Nodes, last: int, min_score: float | None
) -> Iterator[dict[str, Any]]:
    """What is to be seen in one image; an empty mask is nothing."""
    kind = kind_of(rows)
    if kind == "objects":
        for each in objects_of(row, min_score):
            found = _annotation(1, each.mask_rle)
            if found is not None:
                yield found if each.score is None else found | {"score": each.score}
    elif kind == "labels":
        if shown_by(rows).classes:
            found = _annotation(0, _rest(row))
            if found is not None:
                yield found
        for segment in row["segments"]:
            found = _annotation(segment["label"], segment["mask_rle"])
            if found is not None:
                yield found
    else:
        tree = RegionTree(row, rows.settings)
        labels = row["labels"] or [0] * len(tree.nodes)
        for node, mask in enumerate(tree.own_masks() if nodes == "leaves" else tree.masks()):
            found = _annotation(labels[node] or last, mask)
            if found is not None:
                held = tree.nodes[node]
                yield found | {"node": node, "parent": held["parent"], "depth": held["depth"]}


def _rest(row: dict[str, Any]) -> RunLengths:
    """What no segment covers: the pixels of class 0."""
    size = row["height"], row["width"]
    uncovered: NDArray[np.bool_] = label_map(row, {}, "labels") == 0
    return run_lengths(uncovered, upsample_index(size, 1, size, size))


def _annotation(category: int, mask: RunLengths) -> dict[str, Any] | None:
    area, box = measured(mask)
    if not area:
        return None
    return {"category_id": category, "segmentation": mask, "bbox": box, "area": area, "iscrowd": 0}


def _polygons(mask: RunLengths) -> list[list[int]]:
    """Of every part x and y of its corners in turn."""
    return [ring.ravel().tolist() for ring in outer_rings(decode(mask))]


def _categories(rows: StageRows) -> list[str]:
    """Names by number, of which 0 is none unless labels are classes; trees' last one is for nodes without a label."""
    names = label_names(rows)
    if names is not None:
        return names
    return ["", *(f"cluster {label}" for label in range(1, cluster_count(rows) + 1)), "region"]


def _json(value: Any) -> bytes:
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()
