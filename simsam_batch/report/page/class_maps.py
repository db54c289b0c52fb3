"""Label maps whose labels are true classes: the photograph, the truth and the maps side by side, each with its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from simsam_batch.drawing.labels import fitted, palette
from simsam_batch.drawing.photograph import shown_photograph
from simsam_batch.drawing.text import Color
from simsam_batch.regions.run_lengths import decode
from simsam_batch.report.page.album import Picture
from simsam_batch.report.page.chapters import Chapter, Source, begun, leading, numbers_of, show
from simsam_batch.report.page.choice import at_random
from simsam_batch.report.page.pictures import LARGE, SMALL, Drawn, captioned, jpeg, stacked
from simsam_batch.report.page.pictures import true_classes as classes_of
from simsam_batch.report.page.scores import scores_of
from simsam_batch.results.confusions import class_name
from simsam_batch.results.label_maps import true_class_names
from simsam_batch.results.photographs import limits_of
from simsam_batch.runs.reading import StageRows
from simsam_batch.stages.registry import Command, stages_with_features

Maps = Sequence[tuple[str, Sequence[Mapping[str, Any]]]]
"""The label maps of an image: what each is called, and its segments."""

MapsOf = Callable[[Mapping[str, Any]], Maps]
"""What gives those of a row."""

_OF_FEATURES = ["content_sha256", "width", "height"]
_ABREAST = 3


def class_maps_chapter(
    source: Source, command: Command, stages: Sequence[str], stage: str, columns: Sequence[str], maps_of: MapsOf
) -> tuple[Chapter, StageRows | None]:
    """A chapter of label maps: scores, and a gallery of images; beside it the stage's rows, once there are any.

    Args:
        source: what it is made from.
        command: of the chapter.
        stages: that the run has.
        stage: whose rows are images with label maps.
        columns: that ``maps_of`` needs.
        maps_of: the label maps of a row.

    Raises:
        RunError: the run is damaged.
        StorageError: the storage did not answer.
    """
    made, _ = begun(source, command, stages)
    if (metrics := source.metrics(stage)) is not None:
        made.scores = scores_of(metrics)
    if stage not in stages:
        return made, None
    rows = StageRows(source.out, stage)
    fine = np.array([number for number, row in rows.each(["status"]) if row["status"] == "ok"], np.int64)
    fill_class_maps(made, source, rows, fine, "image", columns, maps_of)
    return made, rows


def fill_class_maps(
    made: Chapter,
    source: Source,
    rows: StageRows,
    numbers: NDArray[np.int64],
    noun: str,
    columns: Sequence[str],
    maps_of: MapsOf,
) -> None:
    """Put a gallery of a random sample into a chapter, with the colours of the classes.

    Args:
        made: the chapter.
        source: what it is made from.
        rows: of a stage whose labels are true classes, beside those of the stage ``features``.
        numbers: (N,) of the rows to choose from.
        noun: what one of them is called.
        columns: that ``maps_of`` needs.
        maps_of: the label maps of a row.
    """
    names = true_class_names(rows.resolved)
    colors = palette(len(names))
    made.colors = [(class_name(name), color) for name, color in zip(names, colors, strict=True)]
    lead = leading(numbers)
    titled = at_random(numbers, source.samples, noun, without=lead)
    features = StageRows(source.out, stages_with_features()[0])
    wanted = sorted({*lead, *numbers_of(titled)})
    own = source.rows(rows, wanted, ["image_id", "uri", "status", *columns])
    described = source.rows(features, wanted, _OF_FEATURES)
    pictures: dict[int, Picture] = {}
    for (number, row), (_, beside) in zip(own, described, strict=True):
        pictures[number] = _picture(source, rows, number, row | beside, features, maps_of(row), colors)
    show(made, lead, titled, pictures, wide=True)


def _picture(
    source: Source,
    rows: StageRows,
    number: int,
    row: dict[str, Any],
    features: StageRows,
    maps: Maps,
    colors: Sequence[Color],
) -> Picture:
    photo, fault = shown_photograph(row, features.settings)
    table = np.array(colors, np.uint8)
    named: list[tuple[str, Image.Image]] = []
    uri, truth = source.truth_uri(number), rows.resolved["truth"]
    if uri is not None and truth["kind"] is not None:
        true = classes_of(uri, limits_of(features.settings, row), row, truth, dict(enumerate(colors)))
        named += [] if true is None else [("truth", true)]
    named += [(name, Image.fromarray(table[_labels(segments, row)])) for name, segments in maps]

    def beside(side: int) -> Image.Image:
        size = fitted(photo.size, side)
        panels = [captioned(photo.resize(size, Image.Resampling.LANCZOS), "photograph")]
        panels += [captioned(each.resize(size, Image.Resampling.NEAREST), name) for name, each in named]
        return stacked([panels[i : i + _ABREAST] for i in range(0, len(panels), _ABREAST)])

    small, large = beside(2 * SMALL // _ABREAST), beside(LARGE)
    drawn = Drawn(jpeg(small), jpeg(large), small.size, fault, {})
    alt = f"{row['image_id']}: the photograph; its classes by {', '.join(name for name, _ in named)}"
    return source.picture(rows.stage, number, row, drawn, alt, [])


def _labels(segments: Sequence[Mapping[str, Any]], row: Mapping[str, Any]) -> NDArray[np.int64]:
    labels = np.zeros((row["height"], row["width"]), np.int64)
    for segment in segments:
        labels[decode(segment["mask_rle"])] = segment["label"]
    return labels
