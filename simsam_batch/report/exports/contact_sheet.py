"""``--format contact-sheet``: all images small, on sheets to print and on a page to look through."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from itertools import islice

from simsam_batch.drawing.contact_sheet import Sheet
from simsam_batch.report.exports.leftovers import delete_leftovers
from simsam_batch.report.exports.samples import UNREADABLE
from simsam_batch.report.page.album import Picture
from simsam_batch.report.page.thumbnails import Thumbnails, score_columns, write_thumbnail_pages
from simsam_batch.results.label_maps import map_rows
from simsam_batch.results.sources import with_files
from simsam_batch.runs.reading import StageRows
from simsam_batch.storage import Folder

_SHEETS, _NAME = "sheets", "sheet-{:04d}.jpg"


def write_contact_sheets(rows: StageRows, to: Folder, images: int, on_image: Callable[[str, str], None]) -> None:
    """Write ``index.html``, ``sheets/sheet-0000.jpg`` and so on, and ``thumbs/0000012.jpg`` and ``large/`` for row 12.

    Memory holds one image, one sheet, and a few files of the images that come next.

    Args:
        rows: of a stage with maps, see `simsam_batch.stages.kinds.Kind`.
        to: where the files go.
        images: how many rows, the first ones.
        on_image: called after each with its id and its outcome.

    Raises:
        RunError: rows cannot be read.
        StorageError: the storage did not answer.
    """
    name = rows.out.url.rstrip("/").rpartition("/")[2]
    sheets = 0

    def ended(sheet: Sheet) -> None:
        nonlocal sheets
        target = io.BytesIO()
        sheet.drawn().save(target, "JPEG", quality=88)
        to.replace(f"{_SHEETS}/{_NAME.format(sheets)}", target.getvalue())
        sheets += 1

    def pictures() -> Iterator[Picture]:
        thumbnails = Thumbnails(rows, to)
        sheet = Sheet(f"{name}, {rows.stage}: sheet {sheets + 1}")
        for number, row, data in with_files(islice(map_rows(rows, score_columns(rows)), images)):
            card, small = thumbnails.of(number, row, data)
            if small is not None:
                sheet.add(small, card.name, ", ".join(card.facts))
            if sheet.full:
                ended(sheet)
                sheet = Sheet(f"{name}, {rows.stage}: sheet {sheets + 1}")
            on_image(row["image_id"], UNREADABLE if row["status"] == "ok" and small is None else row["status"])
            yield card
        if len(sheet):
            ended(sheet)

    write_thumbnail_pages(rows, to, "index", pictures(), images, name, None)
    delete_leftovers(to, _SHEETS, _NAME, sheets)
