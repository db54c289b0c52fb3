"""The metrics of a stage as people read them: which are shown, in which groups, and what stands beside each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from simsam_batch.plain_text import counted

_EQUAL_WITHOUT_GROUPS = ("nhcovering", "nhcovering_distinct")
"""Where labels have no groups, these are ``nmcovering`` once more."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One of them.

    Attributes:
        name: as in the result, or what it is of, such as a class.
        value: a number, a text or None.
        interval: low and high end of its 95 % interval; None without.
        deviation: sample standard deviation over repeats, on the scale of the value; None without.
    """

    name: str
    value: Any
    interval: Sequence[float] | None = None
    deviation: float | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """Metrics that belong together.

    Attributes:
        name: the key of the result that holds them; empty for those that stand alone.
        title: in words; empty for those that stand alone.
        metrics: in the order of the result.
    """

    name: str
    title: str
    metrics: list[Metric]


def shown_metrics(metrics: Mapping[str, Any]) -> list[Group]:
    """The metrics of a result file but for curves and tables, and but for what would say the same twice.

    The first group has those that stand alone, and may be empty.
    """
    alone: list[Metric] = []
    spread = _spread(metrics)
    groups = [Group("", "", alone), *_over_repeats(spread, metrics)]
    said = {"classes", "confusions", "curve", "table", "pck", "repeats", "over_repeats"}
    said |= {f"{name}{end}" for name in spread for end in ("_mean", "_std")}
    for name, value in metrics.items():
        if name in said or name.endswith("_ci"):
            continue
        interval = metrics.get(f"{name}_ci")
        if name == "levels":
            groups += _levels(value, metrics)
        elif isinstance(value, Mapping):
            ends = interval if isinstance(interval, Mapping) else {}
            of_each = [Metric(_named(key, name), inner, ends.get(key)) for key, inner in value.items()]
            groups.append(Group(name, _title(name), of_each))
        elif isinstance(value, list):
            first, what = (1, "depth") if name.endswith("_by_depth") else (0, _LISTED.get(name, ""))
            names = (f"{what} {number}".strip() for number in range(first, first + len(value)))
            inside = (_named(each, "class") if isinstance(each, str) else each for each in value)
            listed = [Metric(*pair) for pair in zip(names, inside, strict=True)]
            groups.append(Group(name, _title(name), listed))
        elif not (name in _EQUAL_WITHOUT_GROUPS and _is_once_more(name, metrics)):
            alone.append(Metric(name, value, interval))
    return groups


_LISTED = {"class_of_cluster": "label", "inertia": "repeat"}
"""What the items of a list are of, counted from 0."""


def _spread(metrics: Mapping[str, Any]) -> Mapping[str, Mapping[str, float]]:
    """Of metrics with repeats the mean and deviation; release 0.1 wrote each under a name of its own."""
    if "over_repeats" in metrics:
        return dict(metrics["over_repeats"])
    names = [name.removesuffix("_std") for name in metrics if name.endswith("_std")]
    return {name: {"mean": metrics[f"{name}_mean"], "std": metrics[f"{name}_std"]} for name in names}


def _over_repeats(spread: Mapping[str, Mapping[str, float]], metrics: Mapping[str, Any]) -> list[Group]:
    of_each = [Metric(name, each["mean"], deviation=each["std"]) for name, each in spread.items()]
    title = f"mean and deviation over {metrics.get('repeats')} repeats"
    return [Group("over_repeats", title, of_each)] if of_each else []


def _is_once_more(name: str, metrics: Mapping[str, Any]) -> bool:
    return all(metrics.get(name + end) == metrics.get("nmcovering" + end) for end in ("", "_ci"))


def _levels(levels: Sequence[Mapping[str, Any]], metrics: Mapping[str, Any]) -> list[Group]:
    """A group for each level of the labels; none for one level alone that says what the whole set does."""
    if len(levels) == 1 and all(metrics.get(key) == value for key, value in levels[0].items()):
        return []
    groups = []
    for number, level in enumerate(levels, 1):
        plain = {key: value for key, value in level.items() if not isinstance(value, Mapping | list)}
        of_level = [Metric(key, value, level.get(f"{key}_ci")) for key, value in plain.items()]
        which = "classes" if number == len(levels) else f"groups of level {number}"
        groups.append(Group("levels", f"{which} of the labels, images without foreground included", of_level))
    return groups


def _named(key: str, name: str) -> str:
    """What a number is of: a class or label that nobody has named goes by its number."""
    return f"{name.rpartition('_')[2]} {key}" if key.isdecimal() else key


def _title(name: str) -> str:
    return name.replace("_", " ").replace("iou", "IoU").replace("pck", "PCK")


def number_text(value: Any) -> str:
    """A number for people, of shares four decimals and of others two; another value as it is, nothing as a dash."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 10 else f"{value:,.2f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


_MOST_LINES = 40


def metric_lines(metrics: Mapping[str, Any]) -> list[str]:
    """Metrics for a terminal, one a line; of a group of many the highest and lowest."""
    alone, *groups = shown_metrics(metrics)
    lines = [f"  {each.name:22} {_beside(each)}" for each in alone.metrics]
    lines += table_lines(metrics["table"]) if "table" in metrics else []
    lines += pck_lines(metrics["pck"]) if "pck" in metrics else []
    for group in groups:
        lines.append(f"  {group.title}")
        shown, left_out = extremes(group.metrics, _MOST_LINES)
        lines += [f"    {each.name:20} {_beside(each)}" for each in shown]
        lines += [f"    and {left_out:,} between these, in the results"] if left_out else []
    return lines


def table_lines(table: Mapping[str, Any]) -> list[str]:
    """A table of probes for a terminal: a line for each probe of a feature set, a column for each share of labels."""
    fractions = table["fractions"]
    names = [line_name(line) for line in table["lines"]]
    wide = max(map(len, [*names, *table["references"]]), default=0)
    lines = [f"  {'mIoU, of the labels':{wide}}  " + "".join(f"{f'{100 * each:g} %':>14}" for each in fractions)]
    for name, line in zip(names, table["lines"], strict=True):
        cells = zip(line["miou"], line["miou_deviation"], strict=True)
        texts = [
            "-" if mean is None else f"{mean:.3f}" + ("" if deviation is None else f" ± {deviation:.3f}")
            for mean, deviation in cells
        ]
        lines.append(f"  {name:{wide}}  " + "".join(f"{text:>14}" for text in texts))
    for name, scores in table["references"].items():
        lines.append(f"  {name:{wide}}  " + f"{scores['miou']:>{14 * len(fractions)}.3f}")
    return lines


def pck_lines(table: Mapping[str, Any]) -> list[str]:
    """A table of PCK for a terminal: a line for each threshold and average, a column for each share of the former."""
    names = [pck_name(line, table["pairs"]) for line in table["lines"]]
    wide = max(map(len, names), default=0)
    lines = [f"  {'PCK, within':{wide}}  " + "".join(f"{each:>8g}" for each in table["at"])]
    for name, line in zip(names, table["lines"], strict=True):
        lines.append(f"  {name:{wide}}  " + "".join(f"{value:>8.3f}" for value in line["pck"]))
    return lines


def pck_name(line: Mapping[str, Any], pairs: int) -> str:
    """What a line of a table of PCK is of, and of how many pairs and points if these are not all the scored pairs."""
    name = f"{line['threshold']}, by {line['average']}"
    if line["pairs"] == pairs:
        return name
    return f"{name}, of {counted(line['pairs'], 'pair')} with {counted(line['points'], 'point')}"


def line_name(line: Mapping[str, Any]) -> str:
    """What a line of a table of probes is of."""
    clusters = f" {line['clusters']} clusters" if line["clusters"] else ""
    return f"{line['probe']} {line['features']}{clusters}"


def extremes(metrics: Sequence[Metric], most: int) -> tuple[Sequence[Metric], int]:
    """All of them in their order; of more than ``most`` half as many each from either end, the highest first.

    Returns:
        These, and how many lie between.
    """
    if len(metrics) <= most:
        return metrics, 0
    falling = sorted(metrics, key=lambda each: -each.value if isinstance(each.value, int | float) else float("inf"))
    return [*falling[: most // 2], *falling[-(most // 2) :]], len(metrics) - 2 * (most // 2)


def _beside(metric: Metric) -> str:
    deviation = "" if metric.deviation is None else f" ± {metric.deviation:.4f}"
    interval = ""
    if metric.interval is not None:
        interval = f"  95 %: {number_text(metric.interval[0])} to {number_text(metric.interval[1])}"
    return f"{number_text(metric.value)}{deviation}{interval}"
