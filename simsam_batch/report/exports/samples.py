"""Images with their maps and facts, as formats for training take them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from simsam_batch.report.exports.label_pngs import most_labels, png
from simsam_batch.results.label_maps import facts_of, kind_of, label_map, shown_by
from simsam_batch.runs.reading import StageRows

UNREADABLE = "unreadable"
"""Outcome of an image whose file has gone or has been replaced since it was computed."""


@dataclass(frozen=True, slots=True)
class Annotation:
    """What a run found in one image.

    Attributes:
        mask: PNG of the label map, grey, 8 or 16 bits.
        facts: ``image_id``, ``row``, ``width`` and ``height``, then the scalars that the stage has; for label maps
            ``labels``, for trees ``nodes``.
    """

    mask: bytes
    facts: dict[str, Any]


def annotation(number: int, row: Mapping[str, Any], rows: StageRows, names: list[str] | None) -> Annotation:
    """The annotation of an image that is ``ok``.

    Args:
        number: of the row.
        row: from `simsam_batch.results.label_maps.map_rows`.
        rows: what it is from.
        names: from `simsam_batch.results.label_maps.label_names`.
    """
    labels = label_map(row, rows.settings, kind_of(rows))
    facts = {"image_id": row["image_id"], "row": number, "width": row["width"], "height": row["height"]}
    facts |= {name: row[name] for name in facts_of(rows)}
    if kind_of(rows) == "labels":
        # of classes, 0 is one that is there, although no segment is of it
        of_classes = shown_by(rows).classes
        facts["labels"] = np.unique(labels).tolist() if of_classes else [each["label"] for each in row["segments"]]
    if names is None:
        found = row["labels"] or [None] * len(row["nodes"])
        facts["nodes"] = [
            {"parent": node["parent"], "depth": node["depth"], "ncut": node["ncut"], "label": label}
            for node, label in zip(row["nodes"], found, strict=True)
        ]
    return Annotation(png(np.asarray(labels), most_labels(names, row), palette=False), facts)
