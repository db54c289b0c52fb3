"""The ``hierarchy`` stage: for every image a tree of regions, and how well its nodes cover those of a truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from simsam_batch.catalog import center_crops, facts_of, truth_kind
from simsam_batch.catalog.datasets.hierarchies import LabelHierarchy, flat_hierarchy, label_hierarchy
from simsam_batch.errors import SettingsError
from simsam_batch.runs.schema import IMAGE, ROW_FIELDS, Needs
from simsam_batch.scores.covering import CoveringScores
from simsam_batch.scores.means import mean_result, merge_means, no_mean
from simsam_batch.scores.partitions import PartitionScores
from simsam_batch.settings import HierarchySettings, extra
from simsam_batch.stages.segment.rows import IMAGE_FIELDS
from simsam_batch.stages.segments import RLE

if TYPE_CHECKING:
    from simsam_batch.stages.hierarchy.stage import HierarchyWorker

TreeScores = CoveringScores | PartitionScores

LATER_GROUPS = ("Clusters",)
"""Groups of settings that do not change what this stage computes."""

_UNNAMED_LABELS = 256
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


@dataclass(frozen=True)
class HierarchyStage:
    """What every worker of this stage needs to know.

    Attributes:
        options: the settings.
        resolved: what the backbone's name resolved to, and under ``truth`` how that is read, see `truth_of`.
        kept: the plan's further columns.
        recorded: the settings in ``stage.json``, if limits other than those are in force.
    """

    options: HierarchySettings
    resolved: dict[str, Any]
    kept: Sequence[pa.Field] = ()
    recorded: dict[str, Any] | None = None
    name: str = "hierarchy"
    unit = IMAGE
    reads = ()
    needs = Needs()

    @property
    def settings(self) -> dict[str, Any]:
        """The result settings as plain JSON values."""
        if self.recorded is not None:
            return self.recorded
        fields, values = HierarchySettings.model_fields, self.options.values_of("result")
        return {name: value for name, value in values.items() if extra(fields[name])["group"] not in LATER_GROUPS}

    @cached_property
    def schema(self) -> pa.Schema:
        """Arrow schema of the rows."""
        return pa.schema([*ROW_FIELDS, *HIERARCHY_FIELDS, *self.kept])

    @cached_property
    def fold(self) -> HierarchyFold:
        """Merges scores and counts."""
        return HierarchyFold(scores_of(self.resolved["truth"]))

    def make_worker(self, beat: Callable[[], None]) -> HierarchyWorker:
        """Load the backbone and be ready for shards."""
        from simsam_batch.stages.hierarchy.stage import HierarchyWorker

        return HierarchyWorker(self, beat)


def truth_of(options: HierarchySettings, source: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """How the truth is read, as plain JSON values.

    ``kind`` is ``labels``, ``object``, ``partitions`` or ``boxes``, of which the last are not scored; ``ignore`` holds
    the labels that do not count, ``center_crop`` whether the central square alone is scored. For labels and objects
    there is besides what they stand for: ``title``, ``names``, ``parent``, ``region_of_label`` and ``background`` of a
    `simsam_batch.catalog.datasets.hierarchies.LabelHierarchy`.

    Args:
        options: the settings.
        source: of the plan, which knows what the truth is; None before there is one.

    Raises:
        SettingsError: there is no such hierarchy, its file is not as it should be, or the truth is not one of labels.
    """
    facts, kind = (None, None) if source is None else (facts_of(source), truth_kind(source))
    ignore = set() if options.ignore_label < 0 else {options.ignore_label}
    if facts is not None and facts.ignore_label is not None:
        ignore.add(facts.ignore_label)
    if kind in ("partitions", "boxes", "object") and options.label_hierarchy is not None:
        words = "object masks" if kind == "object" else kind
        raise SettingsError(f"label_hierarchy: the truth is one of {words}, which have no labels; leave it out")
    crop = {"center_crop": source is not None and center_crops(source)}
    if kind in ("partitions", "boxes"):
        return {"kind": kind, "ignore": sorted(ignore)} | crop
    named = options.label_hierarchy or (facts.label_hierarchy if facts is not None else None)
    if kind == "object":
        found = flat_hierarchy("object masks", ["background", "object"], background=(0,))
    elif named is not None:
        found = label_hierarchy(named)
    else:
        classes = facts.classes if facts is not None else ()
        found = flat_hierarchy("labels", classes or [str(label) for label in range(_UNNAMED_LABELS)], ignore=ignore)
    truth = {"kind": "object" if kind == "object" else "labels"} | crop | _as_json(found, {*found.ignore, *ignore})
    try:
        scores_of(truth)
    except ValueError as error:
        raise SettingsError(f"label_hierarchy: {error}") from error
    return truth


def scores_of(truth: dict[str, Any]) -> TreeScores | None:
    """The scores of a set whose truth is what `truth_of` says; None where it cannot be scored.

    Raises:
        ValueError: the labels cannot be scored, being too far apart.
    """
    if truth["kind"] == "boxes":
        return None
    if truth["kind"] == "partitions":
        return PartitionScores(truth["ignore"])
    return CoveringScores(
        truth["names"],
        truth["parent"],
        {int(label): region for label, region in truth["region_of_label"].items()},
        background=truth["background"],
        ignore=truth["ignore"],
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
