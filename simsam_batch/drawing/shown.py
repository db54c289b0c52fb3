"""One row of a run as one picture, whatever kind of stage it is of."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from simsam_batch.drawing.found import Drawing
from simsam_batch.drawing.labels import fitted
from simsam_batch.drawing.matches import side_by_side
from simsam_batch.drawing.overlays import vector_picture
from simsam_batch.drawing.photograph import LONGEST_JPEG, shown_photograph
from simsam_batch.drawing.text import MUTED, write
from simsam_batch.drawing.tree_page import page
from simsam_batch.errors import RunError
from simsam_batch.results.eigenvectors import grid_eigenvectors
from simsam_batch.results.label_maps import WITHOUT_MAP, map_row
from simsam_batch.results.opening import existing_plan
from simsam_batch.results.photographs import working_size
from simsam_batch.results.restyled import restyled
from simsam_batch.runs.plan import Plan
from simsam_batch.runs.reading import StageRows
from simsam_batch.runs.schema import ARRAY_FIELDS, File
from simsam_batch.stages.registry import shown, stage_names, stages_showing, stages_with_matches, stages_with_pictures
from simsam_batch.storage import read_ahead

_ARRAYS = [field.name for field in ARRAY_FIELDS]
_OF_PHOTOGRAPH = ["uri", "content_sha256", "width", "height"]
_OF_EIGENVECTORS = ["width", "height", "grid_h", "grid_w", "patch", "eigenvalues", *_ARRAYS]
_FAILED = ["status", "error_type", "error"]
_OF_PICTURES = ["styles", *_ARRAYS]
_ENDS, _SCORED = ("source", "target"), ("points_scored", "points_right")
_OF_MATCHES = ["points", *(f"{end}_{what}" for end in _ENDS for what in ("record", "size", "sha256"))]
_PICTURES, _GAP = 6, 6


@dataclass(frozen=True, slots=True)
class Asked:
    """What is to be drawn.

    Attributes:
        rows: of a stage.
        number: of the row.
        images: the plan of the run.
        side: pixels of the longer side at most; None: as large as what it is made of.
        row: the row, if it has been read, with what its layer is made of.
        faults: what is said in a picture that is shown in place of a photograph.
    """

    rows: StageRows
    number: int
    images: Plan
    side: int | None
    row: dict[str, Any] | None = None
    faults: list[str] = field(default_factory=list, compare=False)

    def taken(self, columns: Sequence[str]) -> dict[str, Any]:
        """Some columns of the row, and what tells whether it failed."""
        row = self.row
        if row is None:
            names = [self.rows.unit, *columns, *_FAILED]
            row = self.rows.take([self.number], names).to_pylist()[0]
        return self.good(row)

    def good(self, row: dict[str, Any]) -> dict[str, Any]:
        """The row, if it is not of an image that failed."""
        if row["status"] == "failed":
            raise RunError(
                f"{self.rows.out.url}: {row[self.rows.unit]!r} failed, so that there is nothing to show "
                f"({row['error_type']}: {row['error']}). To mend it: simsam retry tries failed images again"
            )
        return row

    def nothing(self, row: Mapping[str, Any], what: str) -> RunError:
        """That the row has nothing of a kind."""
        return RunError(
            f"{self.rows.out.url}: {row[self.rows.unit]!r} has no {what}. To mend it: show its layer photograph"
        )


@dataclass(frozen=True, slots=True)
class Layer:
    """What there is to see of a row.

    Attributes:
        stages: the names of those that have it.
        draw: makes the picture; that of a tree has a size of its own.
    """

    stages: Callable[[], Sequence[str]]
    draw: Callable[[Asked], Image.Image]


def _found(asked: Asked) -> Image.Image:
    row = asked.good(map_row(asked.rows, asked.number))
    if row["status"] == WITHOUT_MAP:
        raise asked.nothing(row, "map")
    return Drawing(asked.rows).over(_photograph(row, asked), row)


def _tree(asked: Asked) -> Image.Image:
    row = asked.good(map_row(asked.rows, asked.number))
    with Image.open(io.BytesIO(page(row, asked.rows.settings)[0])) as whole:
        return whole.convert("RGB")


def _plain(asked: Asked) -> Image.Image:
    return _photograph(asked.taken(_OF_PHOTOGRAPH), asked)


def _eigenvectors(asked: Asked) -> Image.Image:
    row = asked.taken(_OF_EIGENVECTORS)
    vectors = grid_eigenvectors(row, asked.rows)
    if vectors is None:
        raise asked.nothing(row, "eigenvectors")
    working = working_size(row, asked.rows.settings)
    down, across = (min(1.0, row[f"grid_{axis}"] * row["patch"] / of) for axis, of in zip("hw", working, strict=True))
    held = vectors[1 : _PICTURES + 1]
    abreast = min(3, len(held))
    whole = row["width"], row["height"]
    size = whole if asked.side is None else fitted(whole, max(1, (asked.side - (abreast - 1) * _GAP) // abreast))
    return _sheet([vector_picture(vector, size, (down, across)) for vector in held], abreast)


def _restyled(asked: Asked) -> Image.Image:
    row = asked.taken(_OF_PICTURES)
    attached = asked.rows.attachments(row)
    files = [found for each in restyled(row["styles"]) if isinstance(found := attached.get(each.name), File)]
    if not files:
        raise asked.nothing(row, "picture")
    pictures = []
    abreast = min(3, len(files))
    for file in files[:_PICTURES]:
        with Image.open(io.BytesIO(file.data)) as stored:
            picture = stored.convert("RGB")
        if asked.side is not None:
            picture.thumbnail((asked.side // abreast, asked.side // abreast), Image.Resampling.LANCZOS)
        pictures.append(picture)
    return _sheet(pictures, abreast)


def _matches(asked: Asked) -> Image.Image:
    row = asked.taken(_OF_MATCHES)
    photos = []
    for end in _ENDS:
        shard, place = asked.images.place_of(row[f"{end}_record"])
        (width, height), digest = row[f"{end}_size"], row[f"{end}_sha256"]
        uri = asked.images.shard(shard).records["uri"][place].as_py()
        photos.append(_photograph({"uri": uri, "width": width, "height": height, "content_sha256": digest}, asked))
    sizes = row["source_size"], row["target_size"]
    # both side by side are as wide as is asked for
    shares = sum(width / height for width, height in sizes)
    side = LONGEST_JPEG if asked.side is None else asked.side
    # a pixel for each of the two whose widths are rounded
    tall = max(1, min(side, int((side - _GAP - 2) / shares)))
    if asked.side is None:
        tall = min(tall, max(height for _, height in sizes))
    return side_by_side(photos[0], photos[1], sizes, row["points"], tall)


LAYERS: Mapping[str, Layer] = {
    "picture": Layer(stages_with_pictures, _restyled),
    "matches": Layer(stages_with_matches, _matches),
    "mask": Layer(lambda: stages_showing(["objects"]), _found),
    "labels": Layer(lambda: stages_showing(["labels"]), _found),
    "regions": Layer(lambda: stages_showing(["trees"]), _found),
    "photograph": Layer(stage_names, _plain),
    "tree": Layer(lambda: stages_showing(["trees"]), _tree),
    "eigenvectors": Layer(
        lambda: [name for name in stage_names() if (what := shown(name)) is not None and what.eigenvectors],
        _eigenvectors,
    ),
}
"""By name; the first that a run has is shown where none is asked for."""


def layers_of(rows: StageRows) -> list[str]:
    """The layers that rows of a stage have, in the order of `LAYERS`."""
    found = [name for name, layer in LAYERS.items() if rows.stage in layer.stages()]
    with_files = "content_sha256" in rows.schema.names
    kept = rows.settings.get("eigenvectors") != "none"
    return [name for name in found if (name != "photograph" or with_files) and (name != "eigenvectors" or kept)]


def shown_rows(
    rows: StageRows, side: int | None
) -> Iterator[tuple[int, dict[str, Any], Image.Image | None, Sequence[str]]]:
    """The rows of a stage about pairs or with restyled images, in order, each with its picture.

    Args:
        rows: of the stage.
        side: pixels of a picture's longer side at most; None: as large as what it is made of.

    Yields:
        The row's number, the row, its picture, and what is wrong with photographs in that. None in place of a picture
        that the row has none of: its image or pair failed.

    Raises:
        RunError: rows, or what is attached to them, cannot be read.
        StorageError: the storage did not answer.
    """
    if rows.stage in stages_with_pictures():
        draw, columns = _restyled, _OF_PICTURES
    else:
        draw, columns = _matches, [*_OF_MATCHES, *_SCORED]

    def one(item: tuple[int, dict[str, Any]]) -> tuple[int, dict[str, Any], Image.Image | None, Sequence[str]]:
        number, row = item
        asked = Asked(rows, number, plan, side, row)
        return number, row, draw(asked) if row["status"] == "ok" else None, asked.faults

    plan = existing_plan(rows.out)
    numbered = rows.each([rows.unit, *columns, *_FAILED])
    # large photographs are large pictures: few of them at once
    yield from read_ahead(numbered, one, threads=1 if side is None else 2, most=2, name="simsam-draw")


def _photograph(row: dict[str, Any], asked: Asked) -> Image.Image:
    photo, fault = shown_photograph(row, asked.rows.settings_of_reading, asked.side)
    if fault is not None:
        asked.faults.append(fault)
        write(ImageDraw.Draw(photo), (8, 8), f"no photograph: {fault}", photo.width - 16, MUTED)
    return photo


def _sheet(pictures: Sequence[Image.Image], abreast: int) -> Image.Image:
    """Pictures in rows of so many, all in cells of the largest size."""
    cells = np.array([picture.size for picture in pictures]).max(axis=0)
    width, height = (int(each) + _GAP for each in cells)
    down = -(-len(pictures) // abreast)
    sheet = Image.new("RGB", (abreast * width - _GAP, down * height - _GAP), "white")
    for place, picture in enumerate(pictures):
        sheet.paste(picture, (place % abreast * width, place // abreast * height))
    return sheet
