"""Truth that trees are compared with: label maps and what their labels are part of, objects, or partitions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from simsam_batch.catalog import center_crops, facts_of, truth_kind
from simsam_batch.catalog.datasets.hierarchies import LabelHierarchy, flat_hierarchy, label_hierarchy
from simsam_batch.errors import SettingsError
from simsam_batch.scores.covering import CoveringScores
from simsam_batch.scores.partitions import PartitionScores
from simsam_batch.stages.hierarchy.rows import TreeScores
from simsam_batch.stages.hierarchy.settings import HierarchySettings

_UNNAMED_LABELS = 256


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
