"""Rows of the ``transfer`` stage: label maps carried over, and how well they fit truth, where there is some."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from simsam_batch.scores.bootstrap import interval_of_mean, merge_bins
from simsam_batch.scores.confusion import as_table
from simsam_batch.scores.probing import class_counts, ious, mean_iou, pixel_accuracy
from simsam_batch.stages.columns import SEGMENT
from simsam_batch.stages.kinds import Shown

SHOWN = Shown("labels", facts=("similarity",), beside={"features": ("content_sha256",)}, classes=True)

SCORES = {"iou": ("iou",)}
"""Scores of single rows, by the columns that they are in."""

TRANSFER_FIELDS = [
    pa.field("width", pa.int32()),
    pa.field("height", pa.int32()),
    pa.field("exemplar", pa.bool_()),
    pa.field("similarity", pa.float64()),
    pa.field("iou", pa.float64()),
    pa.field("truth_error", pa.string()),
    pa.field("labels", pa.list_(pa.int32())),
    pa.field("segments", pa.list_(SEGMENT)),
]
"""Columns of a row; kept input columns follow. All null where the image failed.

``exemplar`` says that the image is one whose truth is carried over; its own map is the one that its truth comes back
as, and it is in no score. ``similarity`` is the mean over patches of the cosine with the most similar patch of the
exemplars, ``iou`` that of class 1 with a truth of masks. A segment's label is a class, and 0 is what no segment covers.
"""


class TransferFold:
    """The confusion of all scored images, and with masks the IoU of each.

    Args:
        classes: names of the classes, by id.
        masks: whether the truth is object masks.
    """

    def __init__(self, classes: Sequence[str], *, masks: bool) -> None:
        self._names, self._masks = list(classes), masks

    def zero(self) -> dict[str, Any]:
        """The state of no image."""
        return {"images_scored": 0, "truth_errors": 0, "iou": 0.0, "bins": {}, "confusion": {}}

    def merge(self, a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
        """The state of the images of both."""
        summed = {name: a[name] + b[name] for name in ("images_scored", "truth_errors", "iou")}
        return summed | {name: merge_bins(a[name], b[name]) for name in ("bins", "confusion")}

    def result(self, s: dict[str, Any]) -> dict[str, Any]:
        """How many images were scored, and the scores; none without any image."""
        counted = {name: s[name] for name in ("images_scored", "truth_errors")}
        if not s["images_scored"]:
            return counted
        counts = class_counts(as_table(s["confusion"], len(self._names)))
        of_class = ious(counts)
        if self._masks:
            mean = s["iou"] / s["images_scored"]
            scores = {"iou_per_image_mean": mean, "iou_per_image_mean_ci": interval_of_mean(s["bins"], mean)}
            return scores | {"iou_pooled": _or_none(of_class[1])} | counted
        by_class = dict(zip(self._names, map(_or_none, of_class.tolist()), strict=True))
        scores = {"miou": _or_none(mean_iou(counts)), "pixel_accuracy": _or_none(pixel_accuracy(counts))}
        return scores | counted | {"classes": self._names, "iou_by_class": by_class}


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
