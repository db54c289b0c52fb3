"""The chapter of restyled images: before and after, and what CLIP and VGG say of it."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from simsam_batch.drawing.labels import fitted, painted, palette
from simsam_batch.drawing.photograph import shown_photograph
from simsam_batch.plain_text import counted
from simsam_batch.report.page.album import Picture
from simsam_batch.report.page.chapters import Chapter, Source, begun, leading, numbers_of, show
from simsam_batch.report.page.choice import at_random
from simsam_batch.report.page.pictures import LARGE, SMALL, Drawn, jpeg, stacked
from simsam_batch.report.page.scalars import Scalars
from simsam_batch.report.page.tables import Cell, Table
from simsam_batch.results.restyled import Restyled, restyled
from simsam_batch.runs.plan import row_numbers
from simsam_batch.runs.reading import StageRows
from simsam_batch.runs.schema import Attachment, File
from simsam_batch.stages.registry import Command
from simsam_batch.stages.style_networks.masks import columns_of, joined, mask_of
from simsam_batch.stages.stylize.rows import EACH

_COLUMNS = ["image_id", "uri", "status", "error", "width", "height", "content_sha256", "area_fraction", "styles"]
_COLUMNS += ["leak_max", "arrays_path", "arrays_member", "arrays_offset", "arrays_bytes"]
_MOST_PICTURES = 4
_MOST_IN_A_ROW = 3
_LEGEND = (
    "The image as it is, the regions that have words, and restyled; of a file of texts the first four. The number "
    "of a region: how well it went from the source text to its own, as a cosine of CLIP features, by "
)
_BOTH = "By the network of the run, and by their own"
_KINDS = {"run": "network of the run", "image": "network of each image"}
_SHOWN = {
    "clip_direction": "direction",
    "content_inside": "content moved",
    "steps": "updates",
}
_TABLE = (
    "Of the images that were restyled by both. Of an image a network of the run takes one forward pass and no update; "
    "its own updates are counted with it."
)


def chapter(source: Source, command: Command, stages: Sequence[str]) -> Chapter:
    """Counts, means and a gallery of images before and after.

    Raises:
        RunError: the run is damaged.
        StorageError: the storage did not answer.
    """
    made, _ = begun(source, command, stages)
    if "stylize" not in stages:
        return made
    rows = StageRows(source.out, "stylize")
    numbers = Scalars(rows, source.plan, ["area_fraction", "leak_max"])
    made.plots_note = numbers.note
    fine = numbers.number[numbers.ok]
    lead = leading(fine)
    titled: dict[str, tuple[str, Sequence[int]]] = {}
    compared = row_numbers(source.plan, rows.resolved.get("beside", []))
    if both := sorted(set(compared) & set(fine.tolist())):
        titled[_BOTH] = "Each image, by the network of the run, and by one of its own.", both
    titled |= at_random(fine, source.samples, without=lead)
    held = dict(source.rows(rows, sorted({*lead, *numbers_of(titled)}), _COLUMNS))
    regions = _Regions(source, rows, sorted(held))
    pictures = {number: _picture(source, rows, number, row, regions) for number, row in held.items()}
    show(made, lead, titled, pictures)
    if lines := _compared([held[number] for number in both]):
        made.tables_title = _BOTH
        made.tables = [Table(f"Means over {counted(len(both), 'image')}", _TABLE, list(_SHOWN.values()), lines)]
    made.legend = _LEGEND + _scored_by(rows.resolved["models"])
    return made


def _compared(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[Cell]]]:
    """Means of figures of the regions that both kinds of networks have restyled, a line for each kind."""
    pairs: dict[str, list[Mapping[str, Any]]] = {"run": [], "image": []}
    for row in rows:
        styled = [style for style in row["styles"] if style["status"] == "styled"]
        by = {(style["fit"], style["picture"].removesuffix(EACH), style["region"]): style for style in styled}
        for fit, *of in by:
            if all((kind, *of) in by for kind in pairs):
                pairs[fit].append(by[fit, of[0], of[1]])
    if not pairs["run"]:
        return []
    return [(_KINDS[fit], [_mean(styles, key) for key in _SHOWN]) for fit, styles in pairs.items()]


def _mean(styles: Sequence[Mapping[str, Any]], key: str) -> Cell:
    there = [style[key] for style in styles if style[key] is not None]
    return Cell(f"{np.mean(there):.4g}" if there else "-", "", best=False)


def _scored_by(models: Mapping[str, Any]) -> str:
    if "score_clip" in models:
        return f"{models['score_clip']['name']}, another network than it was fitted to."
    return f"{models['clip']['name']}, the very network that it was fitted to, which flatters."


class _Regions:
    """Where the regions are that some look has words for.

    Args:
        source: of the chapter.
        rows: of the stage that restyles.
        numbers: of the rows that are shown.
    """

    def __init__(self, source: Source, rows: StageRows, numbers: Sequence[int]) -> None:
        looks = rows.settings["looks"]
        self._names = list(dict.fromkeys(region for look in looks for region in look))
        stages = [
            [row for _, row in source.rows(StageRows(source.out, name), numbers, columns)]
            for name, columns in columns_of(looks).items()
        ]
        self._rows = {number: joined(held) for number, *held in zip(numbers, *stages, strict=True)}
        self._colors = dict(enumerate(palette(len(self._names)), 1))

    def over(self, photo: Image.Image, number: int, row: Mapping[str, Any]) -> Image.Image:
        """Each in its colour over a photograph."""
        size = row["height"], row["width"]
        labels = np.zeros(size, np.int32)
        for label, name in enumerate(self._names, 1):
            labels[mask_of(name, self._rows[number], size)] = label
        return painted(photo, labels, self._colors)


def _picture(source: Source, rows: StageRows, number: int, row: dict[str, Any], regions: _Regions) -> Picture:
    photo, fault = shown_photograph(row, rows.settings)
    held, made = rows.attachments(row), restyled(row["styles"])
    after = [_decoded(held[each.name]) for each in made[:_MOST_PICTURES]]
    tiles = [photo, regions.over(photo, number, row), *after]
    columns = len(tiles) if len(tiles) <= _MOST_IN_A_ROW else -(-len(tiles) // 2)

    def beside(side: int) -> Image.Image:
        size = fitted(after[0].size, side)
        shown = [each.resize(size, Image.Resampling.LANCZOS) for each in tiles]
        return stacked([shown[start : start + columns] for start in range(0, len(shown), columns)])

    small = beside(SMALL // columns)
    drawn = Drawn(jpeg(small), jpeg(beside(LARGE)), small.size, fault, {})
    words = ", ".join(f"{style['region']}: {style['text']}" for style in row["styles"] if style["status"] == "styled")
    alt = f"{row['image_id']} before, its regions, and after{f', {words}' if words else ''}"
    return source.picture(rows.stage, number, row, drawn, alt, [_told(each) for each in made])


def _decoded(file: Attachment) -> Image.Image:
    assert isinstance(file, File)  # noqa: S101  the stage puts one there
    return Image.open(io.BytesIO(file.data)).convert("RGB")


def _told(picture: Restyled) -> str:
    """What became of each region, and by which network."""
    done = [style for style in picture.styles if style["status"] == "styled"]
    told = [_went(style) for style in picture.styles]
    if not done:
        return "; ".join(told)
    by = "Network of the run" if done[0]["fit"] == "run" else f"{max(style['steps'] for style in done)} updates"
    return f"{by}: {'; '.join(told)}"


def _went(style: Mapping[str, Any]) -> str:
    if style["status"] != "styled":
        return f"{style['region']} left: {style['skip_reason']}"
    direction = style["clip_direction"]
    told = "" if direction is None or not np.isfinite(direction) else f" ({direction:.2f})"
    return f"{style['region']} {style['text']}{told}"
