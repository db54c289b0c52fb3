"""The chapter of probes: the table, how it goes with the share of the labels, and label maps side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from simsam_batch.plain_text import counted
from simsam_batch.report.page.chapters import Chapter, Source, begun
from simsam_batch.report.page.class_maps import fill_class_maps
from simsam_batch.report.page.plots import over_shares
from simsam_batch.report.page.tables import class_table, difference_table, probe_tables
from simsam_batch.results.confusions import Confusion, best_table, class_name, confusion_of
from simsam_batch.results.label_maps import true_class_names
from simsam_batch.runs.reading import StageRows
from simsam_batch.stages.probe_maps.rows import REFERENCES
from simsam_batch.stages.registry import Command
from simsam_batch.stages.subsets.rows import VAL
from simsam_batch.telling.metrics import line_name

_LEGEND = "The label maps are of each probe with most of the labels, of the first feature set. White does not count."


def chapter(source: Source, command: Command, stages: Sequence[str]) -> Chapter:
    """The table, curves, pictures and confusions of probes, as far as they are there.

    Raises:
        RunError: the run is damaged.
        StorageError: the storage did not answer.
    """
    made, _ = begun(source, command, stages)
    if "subsets" in stages:
        made.lacking = _lacking(source)
    metrics = source.metrics("probe-table")
    if metrics is not None:
        _fill_tables(made, metrics, StageRows(source.out, "probe-table"))
    if "probe-maps" in stages:
        _fill_pictures(made, source)
    return made


def _lacking(source: Source) -> list[tuple[str, str]]:
    """The shares of the labels that lack classes, and which."""
    named = StageRows(source.out, "patch-labels").resolved["truth"]["classes"]
    return [
        (
            f"{row['subset']}, {counted(row['images'], 'image')}",
            ", ".join(class_name(str(each) if named is None else named[each]) for each in row["absent"]),
        )
        for _, row in StageRows(source.out, "subsets").each(["subset", "images", "absent"])
        if row["absent"]
    ]


def _fill_tables(made: Chapter, metrics: Mapping[str, Any], rows: StageRows) -> None:
    table, names = metrics["table"], [class_name(name) for name in metrics["classes"]]
    images, classes = counted(metrics["images_scored"], "image"), counted(len(names), "class", "classes")
    made.tables_title = f"Scores over {images}, {classes}"
    made.tables = probe_tables(table)
    if (differences := difference_table(table)) is not None:
        made.tables.append(differences)
    shown = _best_of_each_probe([row for _, row in rows.each() if row["status"] == "ok" and row["features"]])
    if (by_class := class_table(shown, names)) is not None:
        made.tables.append(by_class)
    if len(table["fractions"]) > 1:
        for probe in dict.fromkeys((line["probe"], line["clusters"]) for line in table["lines"]):
            lines = [line for line in table["lines"] if (line["probe"], line["clusters"]) == probe]
            made.curves.append(
                over_shares(
                    line_name({"probe": probe[0], "features": "", "clusters": probe[1]}).replace("  ", " ").strip(),
                    "mIoU",
                    table["fractions"],
                    {line["features"]: line["miou"] for line in lines},
                    {line["features"]: line["miou_ci"] for line in lines},
                )
            )


def _best_of_each_probe(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each probe the cell of the most labels with the highest mIoU."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        best = found.get(row["probe"])
        if best is None or (row["fraction"], row["miou"]) > (best["fraction"], best["miou"]):
            found[row["probe"]] = row
    return list(found.values())


def _fill_pictures(made: Chapter, source: Source) -> None:
    rows = StageRows(source.out, "probe-maps")
    fine = np.array([number for number, row in rows.each(["side"]) if row["side"] == VAL], np.int64)
    fill_class_maps(
        made,
        source,
        rows,
        fine,
        "scored image",
        ["maps"],
        lambda row: [(each["probe"], each["segments"]) for each in row["maps"] or ()],
    )
    made.legend = _LEGEND
    metrics = source.metrics("probe-maps")
    if metrics is not None and metrics["confusions"]:
        named = rows.resolved["truth"]["classes"]
        made.confusion = _confusion(metrics["confusions"], true_class_names(rows.resolved), named)


def _confusion(
    confusions: Mapping[str, Mapping[str, int]], names: Sequence[str], named: Sequence[str] | None
) -> Confusion | None:
    """That of the cell with the highest mIoU of those whose label maps are kept."""
    found = best_table(confusions, len(names), REFERENCES)
    if found is None:
        return None
    best, table = found
    # a class that nobody has named would be called by its number twice
    stands_for = named or ()
    columns = {c: table[:, c] for c in range(len(names))}
    return confusion_of(columns, names, stands_for, f"Of the best of the label maps shown: {best}.")
