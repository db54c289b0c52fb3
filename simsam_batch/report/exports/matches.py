"""Matches of pairs as files: CSV with a line for each point, JSON Lines with one for each pair, COCO's key points."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from simsam_batch.runs.reading import StageRows
from simsam_batch.storage import Folder
from simsam_batch.storage.uploading import streamed, temporary_file

_PAIR = ("pair_id", "source", "target", "category")
_POINT = (
    *("name", "source_x", "source_y", "x", "y", "similarity", "margin", "mutual"),
    *("true_x", "true_y", "distance", "right", "fault"),
)
_SIZES = ("source_size", "target_size")
_COLUMNS = [*_PAIR, *_SIZES, "status", "error_type", "error", "points", "source_record", "target_record"]
_FOUND = 2
"""COCO's mark of a point that is labelled and seen."""

OnPair = Callable[[str, str], None]


def write_csv(rows: StageRows, to: Folder, pairs: int, on_pair: OnPair) -> None:
    """Write ``matches.csv``: a line for each point, empty fields where a value is not there.

    Args:
        rows: of the stage ``matches``.
        to: where the file goes.
        pairs: how many rows, the first ones.
        on_pair: called after each with its id and its outcome.

    Raises:
        RunError: rows cannot be read.
        StorageError: the storage did not answer.
    """
    with streamed(to, "matches.csv") as file:
        file.write(_csv_line([*_PAIR, *_POINT]))
        for row in _rows(rows, pairs):
            for point in row["points"] or ():
                file.write(_csv_line([*(row[name] for name in _PAIR), *(point[name] for name in _POINT)]))
            on_pair(row["pair_id"], row["status"])


def write_lines(rows: StageRows, to: Folder, pairs: int, on_pair: OnPair) -> None:
    """Write ``matches.jsonl``: a pair each line, with its points; see `write_csv`."""
    with streamed(to, "matches.jsonl") as file:
        for row in _rows(rows, pairs):
            kept = ("error_type", "error") if row["status"] != "ok" else (*_SIZES, "points")
            file.write(_json({name: row[name] for name in (*_PAIR, "status", *kept)}) + b"\n")
            on_pair(row["pair_id"], row["status"])


def write_keypoints(rows: StageRows, to: Folder, pairs: int, on_pair: OnPair) -> None:
    """Write ``keypoints.json`` as COCO's: the points found in each target, an annotation for each pair.

    The score of an annotation is the mean similarity of its points; see `write_csv`.
    """
    names = _names(rows, pairs)
    places = {kind: number for number, kind in enumerate(names, 1)}
    images: set[int] = set()
    with streamed(to, "keypoints.json") as file, temporary_file() as waiting:
        info = {"description": f"stage {rows.stage} of a run of simsam-batch", "content_digest": rows.content_digest}
        file.write(b'{"info":' + _json(info) + b',"licenses":[],"images":[')
        number = 0
        for row in _rows(rows, pairs):
            if row["status"] == "ok":
                image, (width, height) = row["target_record"], row["target_size"]
                if image not in images:
                    about = {"id": image, "file_name": row["target"], "width": width, "height": height}
                    file.write((b",\n" if images else b"\n") + _json(about))
                    images.add(image)
                number += 1
                kind = row["category"] or ""
                held = {"id": number, "image_id": image, "category_id": places[kind], "iscrowd": 0}
                waiting.write((b",\n" if number > 1 else b"\n") + _json(held | _annotation(row, names[kind])))
            on_pair(row["pair_id"], row["status"])
        file.write(b'\n],"annotations":[')
        waiting.seek(0)
        shutil.copyfileobj(waiting, file, 1 << 20)
        kinds = [
            {"id": places[kind], "name": kind or "object", "keypoints": list(points), "skeleton": []}
            for kind, points in names.items()
        ]
        file.write(b'\n],"categories":' + _json(kinds) + b"}\n")


def _annotation(row: dict[str, Any], names: dict[str, None]) -> dict[str, Any]:
    found = {_name_of(point, i): point for i, point in enumerate(row["points"]) if point["x"] is not None}
    triples: list[float] = []
    for name in names:
        point = found.get(name)
        triples += [0, 0, 0] if point is None else [round(point["x"], 2), round(point["y"], 2), _FOUND]
    scores = [point["similarity"] for point in found.values()]
    return {
        "keypoints": triples,
        "num_keypoints": len(found),
        "score": round(sum(scores) / len(scores), 4) if scores else 0.0,
        "pair_id": row["pair_id"],
        "source": row["source"],
    }


def _names(rows: StageRows, pairs: int) -> dict[str, dict[str, None]]:
    """By category the names of its points, in the order in which they first come; those without one have numbers."""
    found: dict[str, dict[str, None]] = {}
    for row in _rows(rows, pairs):
        of_kind = found.setdefault(row["category"] or "", {})
        of_kind |= {_name_of(point, i): None for i, point in enumerate(row["points"] or ())}
    return found


def _name_of(point: dict[str, Any], number: int) -> str:
    return str(point["name"] or f"point {number}")


def _rows(rows: StageRows, pairs: int) -> Iterator[dict[str, Any]]:
    for _, row in islice(rows.each(_COLUMNS), pairs):
        yield row


def _csv_line(values: list[Any]) -> bytes:
    held = io.StringIO()
    csv.writer(held, lineterminator="\n").writerow(values)
    return held.getvalue().encode()


def _json(value: Any) -> bytes:
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()
