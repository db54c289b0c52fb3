"""Rows of the ``hierarchy`` stage: for every image a tree of regions, and how well its nodes cover those of a truth."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from simsam_batch.scores.covering import CoveringScores
from simsam_batch.scores.means import mean_result, merge_means, no_mean
from simsam_batch.scores.partitions import PartitionScores
from simsam_batch.stages.columns import IMAGE_FIELDS, RLE
from simsam_batch.stages.kinds import Shown

TreeScores = CoveringScores | PartitionScores

SHOWN = Shown("trees", beside={"labels": ("labels",)}, clusters="node-clusters")

SCORES = {"nmcovering": ("nmcovering",)}
"""Scores of single rows, by the columns that they are in."""

_COUNTED = ("trees", "nodes", "leaves", "root_only", "truth_errors")

NODE = pa.struct(
    [
        ("parent", pa.int32()),
        ("lo", pa.int32()),
        ("hi", pa.int32()),
        ("depth", pa.int16()),
        ("patches", pa.int32()),
        ("bbox_xyxy", pa.list_(pa.int32())),
        ("ncut", pa.float64()),
        ("parts", pa.int16()),
        ("gap", pa.float64()),
        ("perturbation", pa.float64()),
        ("mean_ncut", pa.float64()),
        ("outcome", pa.string()),
    ]
)
"""One node of a tree, in pre-order; see `simsam_batch.regions.tree.Tree`."""

LEAF_MASK = pa.struct([("node", pa.int32()), ("mask_rle", RLE)])
"""A refined leaf: its place in the list of nodes, and its pixels."""

HIERARCHY_FIELDS = [
    *IMAGE_FIELDS,
    pa.field("outlier_tokens", pa.int32()),
    pa.field("superpixel_count", pa.int32()),
    pa.field("superpixel_map", pa.list_(pa.int32())),
    pa.field("nodes", pa.list_(NODE)),
    pa.field("leaves", pa.int32()),
    pa.field("depth", pa.int32()),
    pa.field("solver", pa.string()),
    pa.field("converged", pa.bool_()),
    pa.field("residual_max", pa.float32()),
    pa.field("leaf_masks", pa.list_(LEAF_MASK)),
    pa.field("nmcovering", pa.float64()),
    pa.field("truth_error", pa.string()),
]
"""Columns of a row after `ROW_FIELDS`; kept input columns follow. All null where the image failed."""


class HierarchyFold:
    """Covering scores, those of the baselines, and what the trees are like."""

    def __init__(self, scores: TreeScores | None) -> None:
        self.scores = scores

    def zero(self) -> dict[str, Any]:
        """The state of no image."""
        scores = None if self.scores is None else self.scores.zero()
        return {"scores": scores, "baselines": {}} | dict.fromkeys(_COUNTED, 0)

    def merge(self, a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
        """The state of the images of both."""
        counts = {name: a[name] + b[name] for name in _COUNTED}
        scores = None if self.scores is None else self.scores.merge(a["scores"], b["scores"])
        held = [state["baselines"] for state in (a, b)]
        names = dict.fromkeys([*held[0], *held[1]])
        baselines = {name: merge_means(*(each.get(name, no_mean()) for each in held)) for name in names}
        return {"scores": scores, "baselines": baselines} | counts

    def result(self, s: dict[str, Any]) -> dict[str, Any]:
        """The scores of the set, and the size of its trees."""
        result = {} if self.scores is None else dict(self.scores.result(s["scores"]))
        if s["baselines"]:
            means = {name: mean_result(mean, "mean") for name, mean in s["baselines"].items()}
            result["baselines"] = {name: found["mean"] for name, found in means.items()}
            result["baselines_ci"] = {name: found["mean_ci"] for name, found in means.items()}
        if s["trees"]:
            result |= {"nodes_mean": s["nodes"] / s["trees"], "leaves_mean": s["leaves"] / s["trees"]}
        return result | {name: s[name] for name in ("root_only", "truth_errors") if s[name]}
