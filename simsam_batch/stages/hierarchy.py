"""The ``hierarchy`` stage: for every image a tree of regions, and how well its nodes cover those of a truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from simsam_batch.catalog.datasets.hierarchies import LabelHierarchy, flat_hierarchy, label_hierarchy
from simsam_batch.config import HierarchySettings
from simsam_batch.errors import SettingsError
from simsam_batch.runs.schema import ROW_FIELDS
from simsam_batch.scores.covering import CoveringScores
from simsam_batch.stages.segment import IMAGE_FIELDS

if TYPE_CHECKING:
    from simsam_batch.stages.hierarchy_worker import HierarchyWorker

_UNNAMED_LABELS = 256

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
    pa.field("nmcovering", pa.float64()),
    pa.field("truth_error", pa.string()),
]
"""Columns of a row after `ROW_FIELDS`; kept input columns follow. All null where the image failed."""


class HierarchyFold:
    """Covering scores, and what the trees are like."""

    def __init__(self, scores: CoveringScores) -> None:
        self.scores = scores

    def zero(self) -> dict[str, Any]:
        """The state of no image."""
        return {"scores": self.scores.zero(), "trees": 0, "nodes": 0, "leaves": 0, "root_only": 0, "truth_errors": 0}

    def merge(self, a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
        """The state of the images of both."""
        counts = {name: a[name] + b[name] for name in a if name != "scores"}
        return {"scores": self.scores.merge(a["scores"], b["scores"])} | counts

    def result(self, s: dict[str, Any]) -> dict[str, Any]:
        """The scores of the set, and the size of its trees."""
        result = dict(self.scores.result(s["scores"]))
        if s["trees"]:
            result |= {"nodes_mean": s["nodes"] / s["trees"], "leaves_mean": s["leaves"] / s["trees"]}
        return result | {name: s[name] for name in ("root_only", "truth_errors") if s[name]}


@dataclass(frozen=True)
class HierarchyStage:
    """What every worker of this stage needs to know.

    Attributes:
        options: the settings.
        resolved: what the backbone's name resolved to, and under ``labels`` what the labels of a truth stand for.
        kept: the plan's further columns.
        recorded: the settings in ``stage.json``, if limits other than those are in force.
    """

    options: HierarchySettings
    resolved: dict[str, Any]
    kept: Sequence[pa.Field] = ()
    recorded: dict[str, Any] | None = None
    name: str = "hierarchy"

    @property
    def settings(self) -> dict[str, Any]:
        """The result settings as plain JSON values."""
        return self.options.values_of("result") if self.recorded is None else self.recorded

    @cached_property
    def schema(self) -> pa.Schema:
        """Arrow schema of the rows."""
        return pa.schema([*ROW_FIELDS, *HIERARCHY_FIELDS, *self.kept])

    @cached_property
    def fold(self) -> HierarchyFold:
        """Merges scores and counts."""
        return HierarchyFold(scores_of(self.resolved["labels"]))

    def make_worker(self, beat: Callable[[], None]) -> HierarchyWorker:
        """Load the backbone and be ready for shards."""
        from simsam_batch.stages.hierarchy_worker import HierarchyWorker

        return HierarchyWorker(self, beat)


def labels_of(options: HierarchySettings) -> dict[str, Any]:
    """What the labels of a truth stand for, as plain JSON values; each for itself where no hierarchy is named.

    Raises:
        SettingsError: there is no such hierarchy, or its file is not as it should be.
    """
    ignore = () if options.ignore_label < 0 else (options.ignore_label,)
    if options.label_hierarchy is None:
        found = flat_hierarchy("labels", [str(label) for label in range(_UNNAMED_LABELS)], ignore=ignore)
    else:
        found = label_hierarchy(options.label_hierarchy)
    labels = _as_json(found, {*found.ignore, *ignore})
    try:
        scores_of(labels)
    except ValueError as error:
        raise SettingsError(f"label_hierarchy: {error}") from error
    return labels


def scores_of(labels: dict[str, Any]) -> CoveringScores:
    """The scores of a set whose labels stand for what `labels_of` says.

    Raises:
        ValueError: they cannot be scored, being too far apart.
    """
    return CoveringScores(
        labels["names"],
        labels["parent"],
        {int(label): region for label, region in labels["region_of_label"].items()},
        background=labels["background"],
        ignore=labels["ignore"],
    )


def _as_json(found: LabelHierarchy, ignore: set[int]) -> dict[str, Any]:
    return {
        "title": found.title,
        "names": list(found.names),
        "parent": list(found.parent),
        "region_of_label": {
            str(label): region for label, region in sorted(found.region_of_label.items()) if label not in ignore
        },
        "background": found.background,
        "ignore": sorted(ignore),
    }
