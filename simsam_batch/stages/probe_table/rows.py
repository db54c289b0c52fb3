"""Rows of the ``probe-table`` stage: one for each cell of the table, and one for each reference beside it."""

from __future__ import annotations

import math
import statistics
from typing import Any

import pyarrow as pa

PROBE_TABLE_FIELDS = [
    pa.field("probe", pa.string()),
    pa.field("features", pa.string()),
    pa.field("clusters", pa.int32()),
    pa.field("fraction", pa.float64()),
    pa.field("seed", pa.int32()),
    pa.field("images", pa.int64()),
    pa.field("miou", pa.float64()),
    pa.field("miou_low", pa.float64()),
    pa.field("miou_high", pa.float64()),
    pa.field("pixel_accuracy", pa.float64()),
    pa.field("miou_per_image", pa.float64()),
    pa.field("iou_by_class", pa.list_(pa.float64())),
]
"""Columns of a row; of a reference ``features`` to ``seed`` are null.

``miou`` is the mean over classes of the IoU over the pixels of all scored images, with the ends of its 95 % bootstrap
interval over images; ``miou_per_image`` the mean over images of each one's mean IoU over the classes it holds, which is
what the published tables of these probes show and no mIoU; ``iou_by_class`` is null for a class without pixels.
"""


class ProbeTableFold:
    """The cells by name, and what they are together.

    Args:
        classes: names of the true classes.
    """

    def __init__(self, classes: list[str]) -> None:
        self.classes = classes

    def zero(self) -> dict[str, Any]:
        """The state of no cell."""
        return {"cells": {}, "images": 0, "lines": [], "differences": []}

    def merge(self, a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
        """The state of the cells of both."""
        return {
            "cells": a["cells"] | b["cells"],
            "images": max(a["images"], b["images"]),
            "lines": [*a["lines"], *b["lines"]],
            "differences": [*a["differences"], *b["differences"]],
        }

    def result(self, s: dict[str, Any]) -> dict[str, Any]:
        """The table, a line for each probe of a feature set, a column for each share of the labels."""
        cells = s["cells"]
        references = {name: cell for name, cell in cells.items() if cell["features"] is None}
        fractions = sorted({cell["fraction"] for cell in cells.values() if cell["features"] is not None})
        found: dict[tuple[Any, ...], dict[float, list[dict[str, Any]]]] = {}
        for cell in cells.values():
            if cell["features"] is not None:
                of_line = found.setdefault((cell["probe"], cell["features"], cell["clusters"]), {})
                of_line.setdefault(cell["fraction"], []).append(cell)
        of = ("probe", "features", "clusters", "fraction")
        intervals = {tuple(each[name] for name in of): each["interval"] for each in s["lines"]}
        lines = []
        for (probe, features, clusters), by_fraction in found.items():
            here = [by_fraction.get(fraction, []) for fraction in fractions]
            line: dict[str, Any] = {"probe": probe, "features": features, "clusters": clusters}
            for name in ("miou", "pixel_accuracy", "miou_per_image"):
                line[name] = [_mean([cell[name] for cell in each]) for each in here]
            line["miou_deviation"] = [_deviation([cell["miou"] for cell in each]) for each in here]
            line["miou_ci"] = [intervals.get((probe, features, clusters, fraction)) for fraction in fractions]
            line["seeds"] = [len(each) for each in here]
            lines.append(line)
        scores = {"images_scored": s["images"], "classes": self.classes}
        shown = ("miou", "pixel_accuracy", "miou_per_image")
        beside = {name: {key: cell[key] for key in shown} for name, cell in references.items()}
        return scores | {
            "table": {"fractions": fractions, "lines": lines, "references": beside, "differences": s["differences"]}
        }


def _mean(values: list[float | None]) -> float | None:
    there = [each for each in values if each is not None and not math.isnan(each)]
    return statistics.fmean(there) if there and len(there) == len(values) else None


def _deviation(values: list[float | None]) -> float | None:
    there = [each for each in values if each is not None]
    return statistics.stdev(there) if len(there) > 1 and len(there) == len(values) else None
