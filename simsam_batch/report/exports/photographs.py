"""Exports of one picture for each image that are made from its photograph: ``overlay`` and ``cutout``."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from functools import partial
from itertools import islice
from typing import Any

from PIL import Image

from simsam_batch.drawing.cut_out import isolated
from simsam_batch.drawing.found import Drawing
from simsam_batch.drawing.photograph import LONGEST_JPEG, photograph
from simsam_batch.drawing.shown import shown_rows
from simsam_batch.report.exports.index_table import index_table
from simsam_batch.report.exports.safe_names import SafeNames
from simsam_batch.report.exports.samples import UNREADABLE
from simsam_batch.results.label_maps import map_rows
from simsam_batch.results.objects import objects_of
from simsam_batch.results.sources import with_files
from simsam_batch.runs.reading import StageRows
from simsam_batch.storage import Folder

WITHOUT_OBJECT = "without_object"
"""Outcome of an image in which there is nothing to cut out."""

_QUALITY = 92

Draw = Callable[[Image.Image, Mapping[str, Any]], Image.Image | None]


def write_overlays(
    rows: StageRows, to: Folder, images: int, on_image: Callable[[str, str], None], *, max_side: int | None = None
) -> None:
    """Write ``overlays/a/b.jpg`` for the image ``a/b.png``: the photograph with what was found; and ``index.csv``.

    Memory holds one picture, and a few files of those that come next.

    Args:
        rows: of a stage with maps, see `simsam_batch.stages.kinds.Kind`.
        to: where the files go.
        images: how many rows, the first ones.
        on_image: called after each with its id and its outcome.
        max_side: pixels of a picture's longer side at most; None: all that the image has.

    Raises:
        RunError: rows cannot be read.
        StorageError: the storage did not answer.
    """
    # a longer JPEG cannot be written
    most = min(max_side or LONGEST_JPEG, LONGEST_JPEG)
    _write(rows, to, images, on_image, ("overlays", ".jpg"), most, Drawing(rows).over)


def write_cutouts(
    rows: StageRows,
    to: Folder,
    images: int,
    on_image: Callable[[str, str], None],
    *,
    max_side: int | None = None,
    crop: bool | None = None,
    min_score: float | None = None,
) -> None:
    """Write ``cutouts/a/b.png`` for the image ``a/b.jpg``: its object on nothing, RGBA; and ``index.csv``.

    An image without an object is `WITHOUT_OBJECT`. See `write_overlays`.

    Args:
        rows: of a stage with objects.
        to: where the files go.
        images: how many rows, the first ones.
        on_image: called after each with its id and its outcome.
        max_side: as of `write_overlays`, of the whole image.
        crop: whether a picture ends where its object does; else it is as large as the image.
        min_score: only objects of this score at least; None for all.
    """

    def draw(photo: Image.Image, row: Mapping[str, Any]) -> Image.Image | None:
        masks = [each.mask for each in objects_of(row, min_score)]
        shown = isolated(photo, masks, crop=bool(crop)) if masks else None
        # an object of a few pixels may be none of a much smaller picture
        return shown if shown is not None and shown.getchannel("A").getbbox() else None

    _write(rows, to, images, on_image, ("cutouts", ".png"), max_side, draw)


def write_match_overlays(
    rows: StageRows, to: Folder, pairs: int, on_pair: Callable[[str, str], None], *, max_side: int | None = None
) -> None:
    """Write ``overlays/a-b.jpg`` for the pair ``a-b``: its images side by side with the points; and ``index.csv``.

    See `write_overlays`; ``max_side`` is of both images together. Of pictures as large as they are, memory holds three.
    """
    names = SafeNames((row[rows.unit] for _, row in rows.each([rows.unit])), ".jpg")
    with index_table(to) as note:
        most = None if max_side is None else min(max_side, LONGEST_JPEG)
        for number, row, picture, faults in islice(shown_rows(rows, most), pairs):
            name, outcome = "", UNREADABLE if faults else row["status"]
            if picture is not None and not faults:
                name = f"overlays/{names.of(row[rows.unit])}"
                to.replace(name, _file(picture, "JPEG"))
            note(number, row[rows.unit], name)
            on_pair(row[rows.unit], outcome)


def _write(
    rows: StageRows,
    to: Folder,
    images: int,
    on_image: Callable[[str, str], None],
    where: tuple[str, str],
    max_side: int | None,
    draw: Draw,
) -> None:
    folder, suffix = where
    # of all rows: the same files, however many are written
    names = SafeNames((row["image_id"] for _, row in rows.each(["image_id"])), suffix)
    save: Callable[[Image.Image], bytes] = partial(_file, kind="JPEG" if suffix == ".jpg" else "PNG")
    with index_table(to) as note:
        for number, row, data in with_files(islice(map_rows(rows), images)):
            name, outcome = "", row["status"]
            if outcome == "ok":
                photo = None if data is None else photograph(data, row, rows.settings_of_reading, max_side)
                shown = None if photo is None else draw(photo, row)
                outcome = UNREADABLE if photo is None else WITHOUT_OBJECT if shown is None else "ok"
                if shown is not None:
                    name = f"{folder}/{names.of(row['image_id'])}"
                    to.replace(name, save(shown))
            note(number, row["image_id"], name)
            on_image(row["image_id"], outcome)


def _file(picture: Image.Image, kind: str) -> bytes:
    target = io.BytesIO()
    if kind == "JPEG":
        picture.save(target, kind, quality=_QUALITY, subsampling=0)
    else:
        # the usual level takes several times as long, for a few per cent
        picture.save(target, kind, compress_level=3)
    return target.getvalue()
