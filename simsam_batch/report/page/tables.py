"""Tables of probes for the page: a line for each probe of a feature set, a column for each share of the labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from simsam_batch.telling.metrics import line_name, pck_name


@dataclass(frozen=True, slots=True)
class Cell:
    """One number.

    Attributes:
        text: mean, and deviation over seeds if there are several.
        interval: its 95 % interval over images, in words; empty without.
        best: whether it is the highest of its column.
    """

    text: str
    interval: str
    best: bool


@dataclass(frozen=True, slots=True)
class Table:
    """What the template's macro ``probe_table`` draws.

    Attributes:
        title, about: of it.
        columns: names.
        lines: name and cells of each.
        references: names and numbers that stand below, the same in all columns.
        folded: whether it is shown when asked for.
    """

    title: str
    about: str
    columns: Sequence[str]
    lines: Sequence[tuple[str, Sequence[Cell]]]
    references: Sequence[tuple[str, str]] = ()
    folded: bool = False


def share_text(fraction: float) -> str:
    """A share of the labels, as a column is called."""
    return f"{100 * fraction:g} %"


def probe_tables(table: Mapping[str, Any]) -> list[Table]:
    """The mIoU of each cell, and folded beneath it the other figures.

    Args:
        table: of ``results/probe-table.json``.
    """
    found = [
        _table(
            table,
            "miou",
            "mIoU",
            "Mean over classes of the IoU over all scored pixels, ± the deviation over draws or fits; below it the "
            "95 % bootstrap interval over images. The best of each column is bold.",
        )
    ]
    of_images = (
        "Of every image the mean over the classes it holds, then the mean over images: what the published tables of "
        "these probes show. Background everywhere scores high in it; compare it with nothing but itself."
    )
    others = {
        "pixel_accuracy": ("Pixel accuracy", "Share of the pixels that count whose class is right."),
        "miou_per_image": ("Mean IoU of single images", of_images),
    }
    return [*found, *(_table(table, name, title, about, folded=True) for name, (title, about) in others.items())]


def difference_table(table: Mapping[str, Any]) -> Table | None:
    """What lies between feature sets at the largest share of the labels; None where there is one set alone."""
    most = max(table["fractions"], default=0.0)
    held = [each for each in table["differences"] if each["fraction"] == most]
    if not held:
        return None
    lines = []
    for each in held:
        low, high = each["interval"] or (0.0, 0.0)
        sure = low > 0 or high < 0
        cell = Cell(f"{each['difference']:+.3f}", f"{low:+.3f} to {high:+.3f}", sure)
        lines.append((f"{line_name(each)} less {each['less']}", [cell]))
    about = (
        f"mIoU with {share_text(most)} of the labels, in pairs: both see the same images drawn again and again. Bold "
        "where the 95 % interval leaves out 0."
    )
    return Table("Differences between features", about, ["difference"], lines, folded=True)


def pck_table(table: Mapping[str, Any]) -> Table:
    """PCK at every threshold and average.

    Args:
        table: of ``results/matches.json``.
    """
    lines = []
    for line in table["lines"]:
        ends = [f"{low:.3f} to {high:.3f}" for low, high in line["pck_ci"]]
        cells = [_cell(value, None, around, best=False) for value, around in zip(line["pck"], ends, strict=True)]
        lines.append((pck_name(line, table["pairs"]), cells))
    about = (
        "The share of points found within so much of a length: of the longer side of the target's box, of the box of "
        "its points, or of the image; published ones are those that figures were printed with, by mistake. By point: "
        "of all points; by image: the mean over pairs; by class: the mean over classes of these. Below it the 95 % "
        "bootstrap interval over pairs."
    )
    return Table("PCK", about, [f"{each:g}" for each in table["at"]], lines)


def class_table(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> Table | None:
    """The IoU of every class for some cells; None without cells.

    Args:
        rows: of the stage ``probe-table``.
        names: of the classes.
    """
    if not rows:
        return None
    values = [row["iou_by_class"] for row in rows]
    best = [max((each[c] for each in values if each[c] is not None), default=None) for c in range(len(names))]
    lines = [
        (name, [_cell(each[c], None, "", each[c] is not None and each[c] == best[c]) for each in values])
        for c, name in enumerate(names)
    ]
    about = "IoU over all scored pixels; a class that is neither predicted nor true has none."
    return Table("By class", about, [f"{row['probe']} {row['features']}" for row in rows], lines, folded=True)


def _table(table: Mapping[str, Any], name: str, title: str, about: str, *, folded: bool = False) -> Table:
    fractions = table["fractions"]
    columns = [[line[name][i] for line in table["lines"]] for i in range(len(fractions))]
    best = [max((value for value in column if value is not None), default=None) for column in columns]
    lines = []
    for line in table["lines"]:
        cells = []
        for i, value in enumerate(line[name]):
            ends = line["miou_ci"][i] if name == "miou" else None
            interval = "" if ends is None else f"{ends[0]:.3f} to {ends[1]:.3f}"
            deviation = line["miou_deviation"][i] if name == "miou" else None
            cells.append(_cell(value, deviation, interval, value is not None and value == best[i]))
        lines.append((line_name(line), cells))
    references = [(each, f"{of[name]:.3f}") for each, of in table["references"].items() if of.get(name) is not None]
    return Table(title, about, [share_text(each) for each in fractions], lines, references, folded)


def _cell(value: float | None, deviation: float | None, interval: str, best: bool) -> Cell:
    if value is None:
        return Cell("–", "", False)
    return Cell(f"{value:.3f}" + ("" if deviation is None else f" ± {deviation:.3f}"), interval, best)
