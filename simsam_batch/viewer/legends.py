"""What the values of a layer are called, and the colours that they have."""

from __future__ import annotations

from simsam_batch.results.confusions import class_name
from simsam_batch.results.label_maps import true_class_names
from simsam_batch.viewer.layers import truth_about
from simsam_batch.viewer.maps import label_colors
from simsam_batch.viewer.session import OpenedStage

Legend = dict[int, tuple[str, str]]
"""By value its colour ``#rrggbb``, empty where the page chooses one, and its name, empty where nobody gave one."""


def labels_legend(stage: OpenedStage) -> Legend:
    """Of every label of a stage: true classes by their names, clusters by those of the classes they were matched to."""
    rows = stage.rows
    if stage.what is not None and stage.what.classes:
        names = dict(enumerate(true_class_names(rows.resolved)))
    else:
        matched = ((rows.result or {}).get("metrics") or {}).get("class_of_cluster") or []
        names = {label: class_name(name) for label, name in enumerate(matched) if name}
    return {label: (_hex(color), names.get(label, "")) for label, color in label_colors(stage).items()}


def truth_legend(stage: OpenedStage) -> Legend:
    """Of the values of the truth that a stage compares with; nothing where they have no names, as those of partitions.

    Labels that are true classes have the colours of the truth.
    """
    about = truth_about(stage)
    if about is None:
        return {}
    if stage.what is not None and stage.what.classes:
        return labels_legend(stage)
    if about["kind"] == "object":
        return {0: ("", "ground"), 1: ("", "object")}
    if about["kind"] == "classes":
        return {value: ("", str(name)) for value, name in enumerate(about.get("classes") or [])}
    names = about.get("names") or []
    regions = {int(value): region for value, region in (about.get("region_of_label") or {}).items()}
    # a value that goes by its own number has no name
    return {value: ("", names[region]) for value, region in regions.items() if names[region] != str(value)}


def _hex(color: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)
