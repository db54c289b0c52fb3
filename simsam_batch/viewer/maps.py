"""What a row shows, as arrays over its whole image; and its patch grid."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simsam_batch.drawing.found import label_colors as label_colors_of
from simsam_batch.drawing.labels import UNNAMED, palette
from simsam_batch.drawing.text import Color
from simsam_batch.regions.pixel_index import UpsampleIndex, upsample_index
from simsam_batch.regions.run_lengths import decode
from simsam_batch.results.label_maps import WITHOUT_MAP
from simsam_batch.results.photographs import working_size
from simsam_batch.runs.gone import GONE
from simsam_batch.viewer.answers import RefusedError
from simsam_batch.viewer.payload import row_of
from simsam_batch.viewer.session import OpenedStage


def reader_of(stage: OpenedStage) -> OpenedStage:
    """The stage that read the images of a stage's rows, and says which bytes they had: it itself, or another.

    Raises:
        RefusedError: 404: there is none, as for pairs, and for fits.
    """
    if "content_sha256" in stage.rows.schema.names:
        return stage
    found: OpenedStage | None = stage.once("reader", lambda: _reader_of(stage))
    if found is None:
        raise RefusedError(404, f"the rows of {stage.name} are no images")
    return found


def _reader_of(stage: OpenedStage) -> OpenedStage | None:
    for name in stage.run.stages:
        other = stage.run.stage(name)
        if other.plan.digest == stage.plan.digest and "content_sha256" in other.rows.schema.names:
            return other
    return None


def good_row(stage: OpenedStage, row: int) -> dict[str, Any]:
    """The row of an image that did not fail; raises as `simsam_batch.viewer.payload.row_of`.

    Raises:
        RefusedError: 409: it failed, and why.
    """
    found = row_of(stage, row)
    if found["status"] == GONE:
        raise RefusedError(409, f"{stage.name}: the image is gone from the input, as --prune has marked it")
    if found["status"] not in ("ok", WITHOUT_MAP):
        raise RefusedError(409, f"{stage.name} failed on it: {found['error_type']}: {found['error']}")
    return found


def mask_of(row: Mapping[str, Any]) -> NDArray[np.uint8]:
    """(height, width) 1 on the object, 0 elsewhere; of several objects 1 on the surest, 2 on the next and so on."""
    several = row.get("objects")
    if several is None:
        return decode(row["mask_rle"]).view(np.uint8)
    found = np.zeros((row["height"], row["width"]), np.uint8)
    for place, each in reversed([*enumerate(several[:255], 1)]):
        found[decode(each["mask_rle"])] = place
    return found


def segments_map(row: Mapping[str, Any], segments: list[dict[str, Any]], nothing: int = 0) -> NDArray[np.int32]:
    """(height, width) the label of the segment that holds each pixel; ``nothing`` where none does."""
    found = np.full((row["height"], row["width"]), nothing, np.int32)
    for segment in segments:
        found[decode(segment["mask_rle"])] = segment["label"]
    return found


def grid_of(row: Mapping[str, Any]) -> tuple[int, int] | None:
    """Patches down and across; None where the row does not tell."""
    return None if row.get("grid_h") is None else (row["grid_h"], row["grid_w"])


def grid_index(row: Mapping[str, Any], settings: Mapping[str, Any]) -> UpsampleIndex:
    """The patch under every pixel of a row's image.

    Args:
        row: with its grid.
        settings: of the stage that read the image.
    """
    size = row["height"], row["width"]
    return upsample_index((row["grid_h"], row["grid_w"]), row["patch"], working_size(row, settings), size)


def cover_of(row: Mapping[str, Any], settings: Mapping[str, Any]) -> tuple[float, float]:
    """The shares of the image's height and width that whole patches cover; the last patch goes on beyond."""
    height, width = working_size(row, settings)
    return min(1.0, row["grid_h"] * row["patch"] / height), min(1.0, row["grid_w"] * row["patch"] / width)


def label_colors(stage: OpenedStage) -> dict[int, Color]:
    """The colour of every label of a stage, as in the report.

    Clusters are 1 to their number; true classes begin at 0.
    """
    if stage.what is None:
        return {}
    found: dict[int, Color] = stage.once("label_colors", lambda: label_colors_of(stage.rows))
    return found


def colors_for(stage: OpenedStage, labels: NDArray[np.int32]) -> dict[int, Color]:
    """The colours of the labels that are there: of such as have none by fit, regions of one image, by their number."""
    colors = label_colors(stage)
    if colors:
        return {label: colors.get(label, UNNAMED) for label in np.unique(labels).tolist()}
    return dict(enumerate(palette(int(labels.max(initial=0)) + 1)))
