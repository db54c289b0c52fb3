"""``--format contact-sheet``: all images small, on sheets to print and on a page to look through."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

from PIL import Image

from simsam_batch.drawing.contact_sheet import Sheet
from simsam_batch.drawing.photograph import FAULT
from simsam_batch.drawing.shown import shown_rows
from simsam_batch.plain_text import counted
from simsam_batch.report.exports.leftovers import delete_leftovers
from simsam_batch.report.exports.samples import UNREADABLE
from simsam_batch.report.page.album import Picture
from simsam_batch.report.page.thumbnails import (
    LARGE,
    Thumbnails,
    fault_of,
    is_wide,
    score_columns,
    write_thumbnail_pages,
)
from simsam_batch.results.label_maps import map_rows
from simsam_batch.results.restyled import NOT_RESTYLED, restyled
from simsam_batch.results.sources import with_files
from simsam_batch.runs.reading import StageRows
from simsam_batch.storage import Folder

_SHEETS, _NAME = "sheets", "sheet-{:04d}.jpg"

OnImage = Callable[[str, str], None]
Card = tuple[str, str, Picture, Image.Image | None]
"""An image's id, its outcome, its card on the page, and its small picture."""


def write_contact_sheets(rows: StageRows, to: Folder, images: int, on_image: OnImage) -> None:
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

    def cards() -> Iterator[Card]:
        thumbnails = Thumbnails(rows, to)
        for number, row, data in with_files(islice(map_rows(rows, score_columns(rows)), images)):
            card, small = thumbnails.of(number, row, data)
            gone = row["status"] == "ok" and small is None
            yield row["image_id"], UNREADABLE if gone else row["status"], card, small

    _write(rows, to, images, on_image, cards())


def write_contact_sheets_of_shown(rows: StageRows, to: Folder, images: int, on_image: OnImage) -> None:
    """The same of a stage about pairs, with their matches, or with restyled images; see `write_contact_sheets`.

    Raises:
        RunError: rows, or what is attached to them, cannot be read.
        StorageError: the storage did not answer.
    """

    def cards() -> Iterator[Card]:
        thumbnails = Thumbnails(rows, to)
        for number, row, picture, faults in islice(shown_rows(rows, LARGE), images):
            outcome = _outcome(row, faults)
            fault = {UNREADABLE: FAULT, NOT_RESTYLED: "nothing was restyled"}.get(outcome)
            if picture is None:
                fault = fault_of(row)
            shown = None if outcome == UNREADABLE else picture
            card, small = thumbnails.of_picture(number, row[rows.unit], shown, _facts(row), fault)
            yield row[rows.unit], outcome, card, small

    _write(rows, to, images, on_image, cards())


def _facts(row: dict[str, Any]) -> list[str]:
    if row["status"] != "ok":
        return []
    if "styles" in row:
        return [each.text for each in restyled(row["styles"]) if each.changed]
    scored = row.get("points_scored")
    return [f"{row['points_right']} of {scored} right" if scored else counted(len(row["points"]), "point")]


def _outcome(row: dict[str, Any], faults: Sequence[str]) -> str:
    if faults:
        return UNREADABLE
    left = row["status"] == "ok" and "styles" in row and not any(each.changed for each in restyled(row["styles"]))
    return NOT_RESTYLED if left else str(row["status"])


def _write(rows: StageRows, to: Folder, images: int, on_image: OnImage, cards: Iterator[Card]) -> None:
    name = rows.out.url.rstrip("/").rpartition("/")[2]
    written, sheet = 0, _sheet(rows, name, 0)

    def end_sheet() -> None:
        nonlocal written, sheet
        target = io.BytesIO()
        sheet.drawn().save(target, "JPEG", quality=88)
        to.replace(f"{_SHEETS}/{_NAME.format(written)}", target.getvalue())
        written += 1
        sheet = _sheet(rows, name, written)

    def pictures() -> Iterator[Picture]:
        for image_id, outcome, card, small in cards:
            if small is not None:
                sheet.add(small, card.name, ", ".join(card.facts))
            if sheet.full:
                end_sheet()
            on_image(image_id, outcome)
            yield card

    write_thumbnail_pages(rows, to, "index", pictures(), images, name, None)
    # the last page asks for no picture after its own
    if len(sheet):
        end_sheet()
    delete_leftovers(to, _SHEETS, _NAME, written)


def _sheet(rows: StageRows, name: str, number: int) -> Sheet:
    return Sheet(f"{name}, {rows.stage}: sheet {number + 1}", wide=is_wide(rows))
