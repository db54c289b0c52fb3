"""``--format png``: for each image a PNG whose values are labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from simsam_batch.report.exports.index_table import write_each
from simsam_batch.report.exports.label_pngs import most_labels, png, write_label_names
from simsam_batch.results.label_maps import kind_of, label_map, label_names, map_rows
from simsam_batch.runs.reading import StageRows
from simsam_batch.storage import Folder


def write_label_images(rows: StageRows, to: Folder, images: int, on_image: Callable[[str, str], None]) -> None:
    """Write ``masks/a/b.png`` for the image ``a/b.jpg``, ``index.csv``, and ``labels.txt`` but for trees.

    Args:
        rows: of a stage with maps, see `simsam_batch.stages.kinds.Kind`.
        to: where the files go.
        images: how many rows, the first ones.
        on_image: called after each with its id and its outcome.

    Raises:
        RunError: rows cannot be read.
        StorageError: the storage did not answer.
    """
    names = label_names(rows)
    write_label_names(to, names)

    def content(row: Mapping[str, Any], _: str) -> bytes:
        return png(label_map(row, rows.settings, kind_of(rows)), most_labels(names, row), palette=True)

    write_each(rows, map_rows(rows), to, images, on_image, ("masks", ".png"), content)
