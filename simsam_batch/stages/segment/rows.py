"""Rows of the ``segment`` stage: an object mask, its box, eigenvectors and, where truth exists, scores."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from simsam_batch.scores.overlap import ObjectScores
from simsam_batch.scores.repeats import spread_of
from simsam_batch.stages.columns import IMAGE_FIELDS, OBJECT, RLE, SEGMENT
from simsam_batch.stages.kinds import Shown

_AVERAGED = ("iou_per_image_mean", "iou_pooled", "accuracy")

SHOWN = Shown(
    "objects",
    facts=(
        "confidence",
        "spectral_gap",
        "degenerate",
        "refined",
        "area_fraction",
        "bbox_xyxy",
        "iou",
        "accuracy",
        "boundary_iou",
    ),
    eigenvectors=True,
)

CUT = pa.struct(
    [
        ("vector", pa.int8()),
        ("sign", pa.int8()),
        ("level", pa.float32()),
        ("part", pa.int8()),
        ("score", pa.float32()),
    ]
)
"""How an object was cut out, see `simsam_batch.regions.candidates.Cut`."""

BOUNDARY = pa.field("boundary_iou", pa.float64())

OF_CHOSEN = (pa.field("cut", CUT), pa.field("runner_up", CUT), BOUNDARY)
"""Columns of runs whose cuts are chosen. Those of fixed cuts, as published, have the rows that they always had."""

OBJECTS = pa.field("objects", pa.list_(OBJECT))
"""Column of runs that look for several objects."""

SCORES = {"iou": ("iou",), "accuracy": ("accuracy",), "boundary_iou": ("boundary_iou",)}
"""Scores of single rows, by the columns that they are in."""

SEGMENT_FIELDS = [
    *IMAGE_FIELDS,
    pa.field("outlier_tokens", pa.int32()),
    pa.field("island_patches", pa.int32()),
    pa.field("components", pa.int32()),
    pa.field("mask_rle", RLE),
    pa.field("bbox_xyxy", pa.list_(pa.int32())),
    pa.field("area_fraction", pa.float64()),
    pa.field("regions", pa.list_(SEGMENT)),
    OBJECTS,
    pa.field("eigenvalues", pa.list_(pa.float32())),
    pa.field("spectral_gap", pa.float32()),
    pa.field("solver", pa.string()),
    pa.field("solver_iterations", pa.int32()),
    pa.field("converged", pa.bool_()),
    pa.field("residual_max", pa.float32()),
    pa.field("head_collapse", pa.float32()),
    pa.field("head_loss_first", pa.float32()),
    pa.field("head_loss_last", pa.float32()),
    *OF_CHOSEN[:2],
    pa.field("confidence", pa.float32()),
    pa.field("degenerate", pa.bool_()),
    pa.field("refined", pa.bool_()),
    pa.field("iou", pa.float64()),
    pa.field("accuracy", pa.float64()),
    BOUNDARY,
    pa.field("truth_error", pa.string()),
]
"""Columns of a segment row after `ROW_FIELDS`; kept input columns follow. All null where the image failed."""


class SegmentFold:
    """Object scores, and how many images could not be scored or have no certain mask.

    Args:
        repeats: how many heads every image has; scores of all are kept, the first one's with curves.
    """

    def __init__(self, repeats: int = 1) -> None:
        self.scores, self.repeats = ObjectScores(), repeats

    def zero(self) -> dict[str, Any]:
        """The state of no image."""
        others = [self.scores.zero() for _ in range(1, self.repeats)]
        return {"scores": self.scores.zero(), "others": others, "degenerate": 0, "truth_errors": 0}

    def merge(self, a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
        """The state of the images of both."""
        return {
            "scores": self.scores.merge(a["scores"], b["scores"]),
            "others": [self.scores.merge(x, y) for x, y in zip(a["others"], b["others"], strict=True)],
            "degenerate": a["degenerate"] + b["degenerate"],
            "truth_errors": a["truth_errors"] + b["truth_errors"],
        }

    def result(self, s: dict[str, Any]) -> dict[str, Any]:
        """The dataset's metrics: those of the first head, then mean and deviation over all of them."""
        counts = {"degenerate": s["degenerate"], "truth_errors": s["truth_errors"]}
        first = self.scores.result(s["scores"])
        spread = spread_of([first, *(self.scores.result(state) for state in s["others"])], _AVERAGED)
        return first | spread | {name: n for name, n in counts.items() if n}
