"""Pictures of one image as several runs have it: the masks, label maps or trees side by side, with the truth."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
from PIL import Image

from simsam_batch import images
from simsam_batch.drawing.labels import fitted, painted, palette
from simsam_batch.drawing.overlays import Entry, overlay
from simsam_batch.drawing.photograph import shown_photograph
from simsam_batch.drawing.text import Color
from simsam_batch.report.page.pictures import LARGE, SMALL, Drawn, captioned, draw_tree, jpeg, stacked, true_classes
from simsam_batch.results.image_scores import ImageScores
from simsam_batch.results.label_maps import kind_of, label_map, recorded_settings
from simsam_batch.results.photographs import limits_of
from simsam_batch.runs.reading import StageRows
from simsam_batch.stages.registry import command_of, shown

COLUMNS = ["image_id", "uri", "status", "width", "height", "content_sha256", "grid_h", "grid_w", "patch"]
COLUMNS += ["mask_rle", "bbox_xyxy", "segments", "superpixel_map", "leaf_masks", "nodes", "leaves", "depth"]
COLUMNS += ["truth_error"]
"""Of rows whose pictures are drawn, where a stage has them."""


def can_draw(run: ImageScores) -> bool:
    """Whether the rows of a run show anything that can be drawn."""
    return shown(run.rows.stage) is not None


def row_to_draw(run: ImageScores, place: int) -> dict[str, Any]:
    """The row of an image with what is drawn of it, columns of other stages among them; what it has not is None."""
    number = int(run.number[place])
    what = shown(run.rows.stage)
    row: dict[str, Any] = dict.fromkeys([*COLUMNS, "labels"]) | run.rows.take([number], COLUMNS).to_pylist()[0]
    # what stands beside trees are labels, which are not drawn here
    for stage, columns in ({} if what is None or what.kind == "trees" else what.beside).items():
        row |= StageRows(run.rows.out, stage).take([number], columns).to_pylist()[0]
    return row


def side_by_side(named: Sequence[tuple[str, ImageScores, dict[str, Any]]], truth_uri: str | None) -> Drawn:
    """One image as each of some runs has it, the truth outlined or beside it.

    Args:
        named: caption, run and row of each; the rows are ``ok``, from `row_to_draw`.
        truth_uri: of the image's truth, or None.

    Raises:
        RunError: arrays of a run cannot be read.
        StorageError: the storage did not answer.
    """
    _, first, row = named[0]
    settings = _settings(first)
    kind = kind_of(first.rows)
    if kind == "trees":
        trees = [(caption, draw_tree(each, _settings(run), ())) for caption, run, each in named]
        small = stacked([[captioned(_opened(drawn.small), caption)] for caption, drawn in trees])
        large = stacked([[captioned(_opened(drawn.large), caption)] for caption, drawn in trees])
        return Drawn(jpeg(small), jpeg(large), small.size, trees[0][1].fault, {})
    photo, fault = shown_photograph(row, settings)
    panels: list[tuple[str, Image.Image]] = []
    if kind == "objects":
        truth = None
        if truth_uri is not None:
            with suppress(images.TruthError):
                truth = images.load_truth(truth_uri, limits_of(settings, row), (row["height"], row["width"]))
        panels = [(caption, overlay(photo, Entry(each, truth))) for caption, _, each in named]
    else:
        colors, true = _classes(first, row, settings, truth_uri)
        panels = [(caption, _map(photo, run, each, colors)) for caption, run, each in named]
        panels += [] if true is None else [("truth", true.resize(photo.size, Image.Resampling.NEAREST))]

    def at(side: int) -> Image.Image:
        size = fitted(photo.size, side)
        return stacked([[captioned(each.resize(size, Image.Resampling.LANCZOS), name) for name, each in panels]])

    small = at(SMALL)
    return Drawn(jpeg(small), jpeg(at(LARGE)), small.size, fault, {})


def _settings(run: ImageScores) -> dict[str, Any]:
    """Of the stages that led to the rows: the first one reads the photographs."""
    found: dict[str, Any] = {}
    for stage in command_of(run.rows.stage).stages:
        found = recorded_settings(run.rows.out, stage) | found
        if stage == run.rows.stage:
            break
    return found


def _classes(
    run: ImageScores, row: Mapping[str, Any], settings: Mapping[str, Any], truth_uri: str | None
) -> tuple[dict[int, Color], Image.Image | None]:
    """Colours of the classes, and the truth in them if it can be read."""
    told = dict(run.rows.resolved.get("truth") or {})
    names = run.labels.classes if run.labels is not None else told.get("classes") or ("background", "object")
    colors = dict(enumerate(palette(len(names))))
    if truth_uri is None:
        return colors, None
    about = {
        "kind": "object" if run.labels is None else None,
        "classes": names,
        "ignore_label": told.get("ignore_label"),
    }
    return colors, true_classes(truth_uri, limits_of(settings, row), row, about, colors)


def _map(photo: Image.Image, run: ImageScores, row: Mapping[str, Any], colors: Mapping[int, Color]) -> Image.Image:
    """A label map over the photograph, clusters as the classes that they were matched to; white for none."""
    labels = label_map(row, run.rows.settings, "labels")
    if run.labels is not None:
        # one beyond the classes is painted white
        matched = np.where(run.labels.matched < 0, len(run.labels.classes), run.labels.matched)
        labels = matched.astype(np.int32)[labels]
    # what is 0 stays the photograph, and class 0 is a class
    return painted(photo, labels + np.int32(1), {number + 1: color for number, color in colors.items()})


def _opened(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as found:
        return found.convert("RGB")
