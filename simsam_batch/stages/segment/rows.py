"""The ``segment`` stage: for every image an object mask, its box, eigenvectors and, where truth exists, scores."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from simsam_batch import images
from simsam_batch.errors import ImageError, SettingsError
from simsam_batch.runs.plan import Plan
from simsam_batch.runs.schema import IMAGE, PLAN_FIELDS, ROW_FIELDS, Needs
from simsam_batch.scores.overlap import ObjectScores
from simsam_batch.settings import SegmentSettings
from simsam_batch.stages.segments import RLE, SEGMENT

if TYPE_CHECKING:
    from simsam_batch.stages.segment.stage import SegmentWorker

_SAMPLE = 8
_AVERAGED = ("iou_per_image_mean", "iou_pooled", "accuracy")

IMAGE_FIELDS = [
    pa.field("width", pa.int32()),
    pa.field("height", pa.int32()),
    pa.field("orientation", pa.int8()),
    pa.field("content_sha256", pa.string()),
    pa.field("changed_since_plan", pa.bool_()),
    pa.field("grid_h", pa.int32()),
    pa.field("grid_w", pa.int32()),
    pa.field("patch", pa.int32()),
]
"""Columns that say what was read and how it was cut to patches."""

SEGMENT_FIELDS = [
    *IMAGE_FIELDS,
    pa.field("outlier_tokens", pa.int32()),
    pa.field("island_patches", pa.int32()),
    pa.field("components", pa.int32()),
    pa.field("mask_rle", RLE),
    pa.field("bbox_xyxy", pa.list_(pa.int32())),
    pa.field("area_fraction", pa.float64()),
    pa.field("regions", pa.list_(SEGMENT)),
    pa.field("eigenvalues", pa.list_(pa.float32())),
    pa.field("spectral_gap", pa.float32()),
    pa.field("solver", pa.string()),
    pa.field("solver_iterations", pa.int32()),
    pa.field("converged", pa.bool_()),
    pa.field("residual_max", pa.float32()),
    pa.field("head_collapse", pa.float32()),
    pa.field("head_loss_first", pa.float32()),
    pa.field("head_loss_last", pa.float32()),
    pa.field("confidence", pa.float32()),
    pa.field("degenerate", pa.bool_()),
    pa.field("refined", pa.bool_()),
    pa.field("iou", pa.float64()),
    pa.field("accuracy", pa.float64()),
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


def spread_of(results: Sequence[dict[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """Mean and sample standard deviation of metrics over repeats; nothing for a single one, or without scores."""
    if len(results) < 2:
        return {}
    spread: dict[str, Any] = {}
    for name in names:
        values = [each[name] for each in results if each.get(name) is not None]
        if len(values) == len(results):
            spread[f"{name}_mean"], spread[f"{name}_std"] = statistics.fmean(values), statistics.stdev(values)
    return spread | {"repeats": len(results)} if spread else {}


@dataclass(frozen=True)
class SegmentStage:
    """What every worker needs to know.

    Attributes:
        options: the settings.
        resolved: what the backbone's name resolved to.
        kept: the plan's further columns.
        object_truth: whether ``truth_uri`` leads to object masks, which alone are scored here.
        center_crop: whether only the central square of each image is scored.
        recorded: the settings in ``stage.json``, if limits other than those are in force.
    """

    options: SegmentSettings
    resolved: dict[str, Any]
    kept: Sequence[pa.Field] = ()
    object_truth: bool = True
    center_crop: bool = False
    recorded: dict[str, Any] | None = None
    name: str = "segment"
    unit = IMAGE
    reads = ()
    needs = Needs()

    @property
    def settings(self) -> dict[str, Any]:
        """The result settings as plain JSON values."""
        return self.options.values_of("result") if self.recorded is None else self.recorded

    @cached_property
    def fold(self) -> SegmentFold:
        """Merges scores and counts."""
        return SegmentFold(self.options.repeats)

    @cached_property
    def schema(self) -> pa.Schema:
        """Arrow schema of the rows."""
        return pa.schema([*ROW_FIELDS, *SEGMENT_FIELDS, *self.kept])

    def array_bytes(self, plan: Plan) -> float | None:
        """About how many bytes the stored eigenvectors take; None for none, or if no image of a sample can be read.

        Judged by the sizes of up to eight images spread over the plan.
        """
        if self.options.eigenvectors == "none":
            return None
        limits = images.ImageLimits(self.options.max_bytes, self.options.max_pixels, self.options.decode_seconds)
        resize, patch = images.parse_resize(self.options.resize), self.resolved["patch"]
        patches = []
        for number in {i * plan.shards // _SAMPLE for i in range(_SAMPLE)}:
            uri = plan.shard(number).records.column("uri")[0].as_py()
            with suppress(ImageError):
                size = images.image_size(images.fetch(uri, limits), limits)
                height, width = images.working_size(size, resize)
                patches.append((height // patch) * (width // patch))
        if not patches:
            return None
        itemsize = 2 if self.options.eigenvectors == "fp16" else 4
        patch_count = sum(patches) / len(patches)
        return float(plan.records * self.options.k * itemsize * patch_count)

    def make_worker(self, beat: Callable[[], None]) -> SegmentWorker:
        """Load the backbone and be ready for shards."""
        from simsam_batch.stages.segment.stage import SegmentWorker

        return SegmentWorker(self, beat)


def check_kept_columns(names: Sequence[str], own: Sequence[pa.Field]) -> None:
    """Refuse kept columns that have the name of one of a stage's own.

    Raises:
        SettingsError: naming them.
    """
    clashing = sorted(set(names) & {field.name for field in own})
    if clashing:
        msg = f"keep_columns: {', '.join(clashing)}: the results have columns of that name; rename them in the input"
        raise SettingsError(msg)


def kept_columns(plan: Plan) -> list[pa.Field]:
    """The plan's columns beyond its own, which pass through to the rows."""
    own = {f.name for f in PLAN_FIELDS} | {"shard"}
    return [f.with_nullable(True) for f in plan.shard(0).records.schema if f.name not in own]
