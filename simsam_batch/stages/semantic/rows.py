"""Rows of the ``semantic`` stage: label maps, compared with class ids where there is truth."""

from __future__ import annotations

from statistics import fmean
from typing import Any

import pyarrow as pa

from simsam_batch.scores.repeats import spread_of
from simsam_batch.scores.semantic import SemanticScores
from simsam_batch.stages.columns import SEGMENT
from simsam_batch.stages.kinds import Shown

SHOWN = Shown(
    "labels",
    facts=("degenerate", "refined"),
    # label maps are of the files that their regions were made of
    beside={"regions": ("content_sha256",)},
    clusters="clusters",
)

SEMANTIC_FIELDS = [
    pa.field("width", pa.int32()),
    pa.field("height", pa.int32()),
    pa.field("labels", pa.list_(pa.int32())),
    pa.field("segments", pa.list_(SEGMENT)),
    pa.field("refined", pa.bool_()),
    pa.field("degenerate", pa.bool_()),
    pa.field("truth_error", pa.string()),
]
"""Columns of a row of this stage after `ROW_FIELDS`; kept input columns follow. All null where the image failed."""

_AVERAGED = ("miou_over_classes", "pixel_accuracy")


class SemanticFold:
    """Scores of each repeat, and how many images could not be scored.

    Args:
        scores: what turns a confusion into scores.
        repeats: how many sets of clusters there are.
        baselines: whether there are label maps of plain k-means of the patches too, as many.
    """

    def __init__(self, scores: SemanticScores, repeats: int, *, baselines: bool = False) -> None:
        self.scores, self.repeats = scores, repeats
        self._of_each = ("repeats", "patch_kmeans") if baselines else ("repeats",)

    def zero(self) -> dict[str, Any]:
        """The state of no image."""
        scores = {name: [self.scores.zero() for _ in range(self.repeats)] for name in self._of_each}
        return scores | {"truth_errors": 0}

    def merge(self, a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
        """The state of the images of both."""
        scores = {
            name: [self.scores.merge(x, y) for x, y in zip(a[name], b[name], strict=True)] for name in self._of_each
        }
        return scores | {"truth_errors": a["truth_errors"] + b["truth_errors"]}

    def result(self, s: dict[str, Any]) -> dict[str, Any]:
        """The scores of the first repeat, whose labels are in the rows; then mean and deviation over all."""
        found = [self.scores.result(state) for state in s["repeats"]]
        result = found[0] | spread_of(found, _AVERAGED)
        if "patch_kmeans" in s and result:
            others = {
                "patch_kmeans": [self.scores.result(state) for state in s["patch_kmeans"]],
                "majority_class": [self.scores.result(_one_label(s["repeats"][0]))],
            }
            for metric in _AVERAGED:
                values = {name: [each[metric] for each in of] for name, of in others.items()}
                if result[metric] is not None:
                    suffix = "" if metric == "miou_over_classes" else f"_{metric}"
                    result[f"baselines{suffix}"] = {name: fmean(each) for name, each in values.items()}
        if s["truth_errors"]:
            result["truth_errors"] = s["truth_errors"]
        return result


def _one_label(state: dict[str, Any]) -> dict[str, Any]:
    """The state of the same images if every pixel had label 0, which then stands for the most frequent class."""
    columns = {name: [sum(column), *[0] * (len(column) - 1)] for name, column in state["confusion"].items()}
    return state | {"confusion": columns}
