"""Rows of the ``probe-apply`` stage: label maps by one probe, and how well they fit truth, where there is some."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from simsam_batch.scores.confusion import as_table
from simsam_batch.scores.probing import class_counts, ious, mean_iou, pixel_accuracy
from simsam_batch.stages.columns import SEGMENT
from simsam_batch.stages.kinds import Shown
from simsam_batch.stages.probe_maps.rows import REFERENCES, ProbeMapsFold

SHOWN = Shown("labels", facts=("shown",), beside={"features": ("content_sha256",)}, classes=True)

PROBE_APPLY_FIELDS = [
    pa.field("width", pa.int32()),
    pa.field("height", pa.int32()),
    pa.field("truth_error", pa.string()),
    pa.field("shown", pa.string()),
    pa.field("labels", pa.list_(pa.int32())),
    pa.field("segments", pa.list_(SEGMENT)),
]
"""Columns of a row; kept input columns follow. All null where the image failed.

``shown`` names the cell of the fitting run's table, ``truth_error`` says why truth that there is cannot be used; a
segment's label is a class, and 0 is what no segment covers. The array ``counts`` beside a row that was scored is
(1 + R, 3, C) int64: for the probe and for each of the R references of `simsam_batch.stages.probe_maps.rows` the pixels
of each class that are right, predicted, true.
"""


class ProbeApplyFold(ProbeMapsFold):
    """The confusion of one cell, and of the references beside it.

    Args:
        cell: its name.
        classes: names of the classes, by id.
    """

    def __init__(self, cell: str, classes: Sequence[str]) -> None:
        self._cell, self._names = cell, list(classes)

    def result(self, s: dict[str, Any]) -> dict[str, Any]:
        """How many images were scored, and the scores as in the table of probes; no scores without any image."""
        counted = {name: s[name] for name in ("images_scored", "truth_errors")} | {"classes": self._names}
        if not s["confusions"]:
            return counted
        counts = {name: class_counts(as_table(table, len(self._names))) for name, table in s["confusions"].items()}
        own = counts[self._cell]
        by_class = dict(zip(self._names, ious(own).tolist(), strict=True))
        return {
            **counted,
            "miou": _or_none(mean_iou(own)),
            "pixel_accuracy": _or_none(pixel_accuracy(own)),
            "iou_by_class": {name: _or_none(value) for name, value in by_class.items()},
            "miou_of_references": {name: _or_none(mean_iou(counts[name])) for name in REFERENCES},
        }


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
