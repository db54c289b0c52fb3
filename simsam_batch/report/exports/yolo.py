"""``--format yolo``: images, and for each a text file with the outlines of its objects, as YOLO's trainers read it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any

import numpy as np

from simsam_batch.regions.outlines import outline
from simsam_batch.report.exports.index_table import index_table
from simsam_batch.report.exports.safe_names import SafeNames
from simsam_batch.report.exports.samples import UNREADABLE
from simsam_batch.results.label_maps import map_rows
from simsam_batch.results.objects import objects_of
from simsam_batch.results.sources import side_by_side, upright
from simsam_batch.runs.reading import StageRows
from simsam_batch.storage import Folder

# Trainers find the labels of an image by the last folder of this name in its path, so that no other may have it.
_IMAGES, _LABELS, _LIKE_IMAGES = "images", "labels", "%69mages"

_DATA = """\
# Objects that were found without labels; val repeats train until there are images that people labelled.
train: images
val: images
names:
  0: object
"""


def write_yolo(
    rows: StageRows,
    to: Folder,
    images: int,
    on_image: Callable[[str, str], None],
    *,
    min_score: float | None = None,
) -> None:
    """Write ``images/a/b.jpg`` and ``labels/a/b.txt`` for the image ``a/b.jpg``, ``index.csv`` and ``data.yaml``.

    Args:
        rows: of a stage with objects.
        to: where the files go.
        images: how many rows, the first ones.
        on_image: called after each with its id and its outcome.
        min_score: only objects of this score at least; None for all.

    Raises:
        RunError: rows cannot be read.
        StorageError: the storage did not answer.
    """
    # of all rows: the same files, however many are written
    names = SafeNames((row["image_id"] for _, row in rows.each(["image_id"])), ".txt")

    def write(item: tuple[int, dict[str, Any]]) -> tuple[int, str, str, str]:
        number, row = item
        image_id = row["image_id"]
        if row["status"] != "ok":
            return number, image_id, "", row["status"]
        image = upright(row, rows.settings)
        if image is None:
            return number, image_id, "", UNREADABLE
        *folders, last = names.of(image_id).split("/")
        below = "/".join([*(_LIKE_IMAGES if each == _IMAGES else each for each in folders), last])
        to.replace(f"{_LABELS}/{below}", _lines(row, min_score))
        name = f"{_IMAGES}/{below.removesuffix('.txt')}.{image.suffix}"
        to.replace(name, image.data)
        return number, image_id, name, "ok"

    with index_table(to) as note:
        for number, image_id, name, outcome in side_by_side(islice(map_rows(rows), images), write):
            note(number, image_id, name)
            on_image(image_id, outcome)
    to.replace("data.yaml", _DATA.encode())


def _lines(row: Mapping[str, Any], min_score: float | None) -> bytes:
    """A line for each object: its class, 0, and its outline, x and y in turn as shares of the width and height."""
    lines = []
    for each in objects_of(row, min_score):
        corners = outline(each.mask) / np.array([row["width"], row["height"]])
        if len(corners):
            lines.append(" ".join(["0", *(f"{value:.6f}" for value in corners.ravel())]) + "\n")
    return "".join(lines).encode()
