"""``--format pictures``: for each image a PNG with the levels of its tree over the photograph, and the tree itself."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

from simsam_batch.drawing.tree_page import page
from simsam_batch.report.exports.index_table import index_table
from simsam_batch.report.exports.samples import UNREADABLE
from simsam_batch.results.label_maps import map_rows
from simsam_batch.runs.reading import StageRows
from simsam_batch.storage import Folder


def write_pictures(rows: StageRows, to: Folder, images: int, on_image: Callable[[str, str], None]) -> None:
    """Write ``0000012.png`` for row 12 and so on, and ``index.csv``, which says which image each is of.

    Memory holds one image. An image that failed has no picture, and no file in the index; one
    whose photograph has gone or changed has its tree on a grey ground, and counts as unreadable.

    Args:
        rows: of a stage that makes trees.
        to: where the files go.
        images: how many rows, the first ones.
        on_image: called after each with its id and its outcome.

    Raises:
        RunError: rows cannot be read.
        StorageError: the storage did not answer.
    """
    with index_table(to) as note:
        for number, row in islice(map_rows(rows), images):
            name, outcome = "", row["status"]
            if outcome == "ok":
                name = f"{number:07d}.png"
                content, fault = page(row, rows.settings)
                to.replace(name, content)
                outcome = "ok" if fault is None else UNREADABLE
            note(number, row["image_id"], name)
            on_image(row["image_id"], outcome)
