"""The chapter of restyled images: before and after, and what CLIP and VGG say of it."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from simsam_batch.drawing.labels import fitted
from simsam_batch.drawing.photograph import shown_photograph
from simsam_batch.report.page.album import Picture
from simsam_batch.report.page.chapters import Chapter, Source, begun, galleries_of, numbers_of
from simsam_batch.report.page.choice import at_random
from simsam_batch.report.page.pictures import LARGE, SMALL, Drawn, jpeg, stacked
from simsam_batch.report.page.scalars import Scalars
from simsam_batch.runs.reading import StageRows
from simsam_batch.runs.schema import Attachment, File
from simsam_batch.stages.registry import Command

_COLUMNS = ["image_id", "uri", "status", "error", "width", "height", "content_sha256", "area_fraction", "styles"]
_COLUMNS += ["leak_max", "arrays_path", "arrays_member", "arrays_offset", "arrays_bytes"]
_MOST_PICTURES = 4
_LEGEND = (
    "The image as it is, and restyled; of a file of texts the first four. Direction: how well the region went from the "
    "source text to its own, as a cosine of CLIP features, by "
)


def chapter(source: Source, command: Command, stages: Sequence[str]) -> Chapter:
    """Counts, means and a gallery of images before and after.

    Raises:
        RunError: the run is damaged.
        StorageError: the storage did not answer.
    """
    made, _ = begun(source, command, stages)
    rows = StageRows(source.out, next(iter(command.stages)))
    numbers = Scalars(rows, source.plan, ["area_fraction", "leak_max"])
    made.plots_note = numbers.note
    fine = numbers.number[numbers.ok]
    titled = at_random(fine, source.samples)
    held = dict(source.rows(rows, sorted(numbers_of(titled)), _COLUMNS))
    made.galleries = galleries_of(titled, {number: _picture(source, rows, number, row) for number, row in held.items()})
    made.legend = _LEGEND + _scored_by(rows.resolved["models"])
    return made


def _scored_by(models: Mapping[str, Any]) -> str:
    if "score_clip" in models:
        return f"{models['score_clip']['name']}, another network than it was fitted to."
    return f"{models['clip']['name']}, the very network that it was fitted to, which flatters."


def _picture(source: Source, rows: StageRows, number: int, row: dict[str, Any]) -> Picture:
    photo, fault = shown_photograph(row, rows.settings)
    held = rows.attachments(row)
    names = list(dict.fromkeys(style["picture"] for style in row["styles"]))
    after = [_decoded(held[name]) for name in names[:_MOST_PICTURES]]

    def beside(side: int) -> Image.Image:
        size = fitted(after[0].size, side)
        return stacked([[each.resize(size, Image.Resampling.LANCZOS) for each in (photo, *after)]])

    small = beside(SMALL // (1 + len(after)))
    drawn = Drawn(jpeg(small), jpeg(beside(LARGE)), small.size, fault, {})
    facts = [_told(style) for style in row["styles"]]
    words = ", ".join(f"{style['region']}: {style['text']}" for style in row["styles"] if style["status"] == "styled")
    alt = f"{row['image_id']} before and after{f', {words}' if words else ''}"
    return source.picture(rows.stage, number, row, drawn, alt, facts)


def _decoded(file: Attachment) -> Image.Image:
    assert isinstance(file, File)  # noqa: S101  the stage puts one there
    return Image.open(io.BytesIO(file.data)).convert("RGB")


def _told(style: dict[str, Any]) -> str:
    if style["status"] != "styled":
        return f"{style['region']}: left as it is, {style['skip_reason']}"
    direction = style["clip_direction"]
    told = "" if direction is None or not np.isfinite(direction) else f", direction {direction:.2f}"
    return f"{style['region']}: {style['text']}, {style['steps']} updates{told}"
