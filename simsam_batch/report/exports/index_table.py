"""Formats of one file for each image, and the table that says which is whose."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Any

from simsam_batch.report.exports.safe_names import SafeNames
from simsam_batch.results.csv_cells import cell
from simsam_batch.results.sources import side_by_side
from simsam_batch.runs.reading import StageRows
from simsam_batch.storage import Folder
from simsam_batch.storage.uploading import streamed


@contextmanager
def index_table(to: Folder) -> Iterator[Callable[[int, str, str], None]]:
    """What writes a line of ``index.csv``: number of a row, its image's id, and the name of its file or nothing.

    The file takes its place when the block ends; nothing does if the block raises.
    """
    with streamed(to, "index.csv") as file:
        text = io.TextIOWrapper(file, "utf-8", newline="", write_through=True)
        table = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n")
        table.writerow(["row", "image_id", "file"])
        try:
            yield lambda number, image_id, name: table.writerow([number, cell(image_id), name])
        finally:
            text.detach()


def write_each(
    rows: StageRows,
    numbered: Iterable[tuple[int, dict[str, Any]]],
    to: Folder,
    images: int,
    on_image: Callable[[str, str], None],
    where: tuple[str, str],
    content: Callable[[Mapping[str, Any], str], bytes],
) -> None:
    """Write a file for every image that is ``ok``, named like its id, and ``index.csv``; bounded memory.

    Args:
        rows: of the stage.
        numbered: its rows with their numbers.
        to: where the files go.
        images: how many rows, the first ones.
        on_image: called after each with its id and its outcome.
        where: folder below ``to``, and suffix of the files.
        content: bytes of one file, given the row and the file's name below that folder; called from several threads.
    """
    folder, suffix = where
    # of all rows: the same files, however many are written
    names = SafeNames((row["image_id"] for _, row in rows.each(["image_id"])), suffix)

    def write(item: tuple[int, dict[str, Any]]) -> tuple[int, str, str, str]:
        number, row = item
        name = ""
        if row["status"] == "ok":
            below = names.of(row["image_id"])
            name = f"{folder}/{below}"
            to.replace(name, content(row, below))
        return number, row["image_id"], name, row["status"]

    with index_table(to) as note:
        for number, image_id, name, status in side_by_side(islice(numbered, images), write):
            note(number, image_id, name)
            on_image(image_id, status)
