"""Pages of all images of a stage, small, with what was found in them; each leads to a larger picture."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from PIL import Image

from simsam_batch import __version__
from simsam_batch.catalog import PAIR_UNIT
from simsam_batch.drawing.found import Drawing
from simsam_batch.drawing.matches import COLORS_SAY
from simsam_batch.drawing.photograph import FAULT, photograph
from simsam_batch.plain_text import counted
from simsam_batch.report.page.album import Picture
from simsam_batch.report.page.template import rendered
from simsam_batch.results.label_maps import WITHOUT_MAP
from simsam_batch.runs.gone import GONE
from simsam_batch.runs.reading import StageRows
from simsam_batch.stages.registry import scores_of, shown, stages_with_pictures
from simsam_batch.storage import Folder
from simsam_batch.storage.uploading import streamed
from simsam_batch.telling.status import noun_of

MOST = 10_000
"""Images of one page; further ones stand on further pages."""

THUMBNAIL, LARGE = 256, 1024
"""Pixels of the longer side."""

_NAMES = {"iou": "IoU", "nmcovering": "NMCovering"}

_MATCHED = f"Points of the left image and where they were found in the right one: {COLORS_SAY}."
_RESTYLED = "Restyled images; several of one stand side by side."

LEGENDS = {
    "objects": "Masks are tinted and outlined, the rest is pale and grey.",
    "labels": "Every label has its colour, on all pictures.",
    "trees": "The leaves of each tree; a region's colour is near that of the one it is part of.",
}
"""What is to be seen, by the kind of what a stage shows."""


class Thumbnails:
    """Draws rows of a stage and writes their pictures; one at a time.

    Args:
        rows: of the stage.
        to: where the files go.
        pages: where in it their pages go, with a slash behind; empty for itself.
        below: a folder for the pictures, beside the pages; empty for none.
    """

    def __init__(self, rows: StageRows, to: Folder, pages: str = "", below: str = "") -> None:
        self._rows, self._to = rows, to
        self._pages, self._folders = pages, [f"thumbs/{below}".rstrip("/"), f"large/{below}".rstrip("/")]
        self._scores = score_columns(rows)

    def of(self, number: int, row: Mapping[str, Any], data: bytes | None) -> tuple[Picture, Image.Image | None]:
        """The card of a row, and its small picture; an image that failed or has gone has a card that says so.

        Args:
            number: of the row.
            row: from `simsam_batch.results.label_maps.map_rows`, with `score_columns`; of a stage with maps, see
                `simsam_batch.stages.kinds.Kind`.
            data: the image's file; None if it is not as it was.
        """
        facts = [f"{_NAMES.get(name, name)} {row[name]:.2f}" for name in self._scores if row[name] is not None]
        if row["status"] != "ok":
            return Picture(row["image_id"], "", "", (4, 3), "", facts, fault_of(row)), None
        photo = None if data is None else photograph(data, row, self._rows.settings_of_reading, LARGE)
        if photo is None:
            return Picture(row["image_id"], "", "", (4, 3), "", facts, FAULT), None
        small = photo.copy()
        small.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
        small = self._drawing.over(small, row)
        return self._card(number, row["image_id"], small, self._drawing.over(photo, row), facts), small

    def of_picture(
        self, number: int, name: str, picture: Image.Image | None, facts: Sequence[str], fault: str | None
    ) -> tuple[Picture, Image.Image | None]:
        """Likewise of a row that has been drawn.

        Args:
            number: of the row.
            name: of what it is about.
            picture: at most `LARGE`; None if there is nothing to show.
            facts: lines for below its name.
            fault: what is wrong with it; None if nothing is.
        """
        if picture is None:
            return Picture(name, "", "", (4, 3), "", facts, fault), None
        small = picture.copy()
        width = 2 * THUMBNAIL if is_wide(self._rows) else THUMBNAIL
        small.thumbnail((width, THUMBNAIL), Image.Resampling.LANCZOS)
        return replace(self._card(number, name, small, picture, facts), fault=fault), small

    def _card(self, number: int, name: str, small: Image.Image, large: Image.Image, facts: Sequence[str]) -> Picture:
        files = [f"{folder}/{number:07d}.jpg" for folder in self._folders]
        for file, picture in zip(files, (small, large), strict=True):
            self._to.replace(f"{self._pages}{file}", _jpeg(picture))
        return Picture(name, files[0], files[1], small.size, ", ".join([name, *facts]), facts)

    @cached_property
    def _drawing(self) -> Drawing:
        return Drawing(self._rows)


def fault_of(row: Mapping[str, Any]) -> str:
    """Why there is nothing to see of a row that is not ``ok``."""
    if row["status"] == WITHOUT_MAP:
        return "no map: probes were fitted on it"
    return "gone from the input" if row["status"] == GONE else f"failed: {row['error_type']}"


def is_wide(rows: StageRows) -> bool:
    """Whether a picture of a row is of two images, side by side."""
    return rows.unit == PAIR_UNIT


def score_columns(rows: StageRows) -> list[str]:
    """The columns of a row whose values stand below its picture: its first score if it has any, and its confidence."""
    single = [columns[0] for columns in scores_of(rows.stage).values() if len(columns) == 1]
    return [name for name in (*single[:1], "confidence") if name in rows.schema.names]


def write_thumbnail_pages(
    rows: StageRows, to: Folder, name: str, pictures: Iterable[Picture], images: int, title: str, back: str | None
) -> None:
    """Write the pages: ``name.html``, of more than `MOST` images ``name-2.html`` and so on.

    Args:
        rows: of the stage.
        to: where the pages go.
        name: of the first, without its suffix; it may be in a folder.
        pictures: from `Thumbnails.of`, each asked for when its page comes to it.
        images: how many there are.
        title: what they are of.
        back: the page that leads here; None if none does.
    """
    count = max(1, -(-images // MOST))
    folder, slash, last = name.rpartition("/")
    names = [f"{last}.html", *(f"{last}-{page}.html" for page in range(2, count + 1))]
    going = iter(pictures)
    for place, page in enumerate(names):
        with streamed(to, f"{folder}{slash}{page}") as file:
            text = io.TextIOWrapper(file, "utf-8", "replace", write_through=True)
            try:
                text.writelines(_page(rows, itertools.islice(going, MOST), images, place, names, title, back))
            finally:
                text.detach()


def _page(
    rows: StageRows,
    pictures: Iterator[Picture],
    images: int,
    place: int,
    names: list[str],
    title: str,
    back: str | None,
) -> Iterator[str]:
    first, last = place * MOST + 1, min(images, (place + 1) * MOST)
    noun = noun_of(rows.unit)
    about = counted(images, noun) if len(names) == 1 else f"{first:,} to {last:,} of {images:,} {noun}s"
    return rendered(
        "thumbnails.html",
        title=title,
        stage=rows.stage,
        legend=_legend(rows.stage),
        about=about,
        noun=noun,
        wide=is_wide(rows),
        pictures=pictures,
        names=names,
        place=place,
        back=back,
        version=__version__,
    )


def _legend(stage: str) -> str:
    what = shown(stage)
    if what is not None:
        return LEGENDS[what.kind]
    return _RESTYLED if stage in stages_with_pictures() else _MATCHED


def _jpeg(picture: Image.Image) -> bytes:
    target = io.BytesIO()
    picture.save(target, "JPEG", quality=80)
    return target.getvalue()
