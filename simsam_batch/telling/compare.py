"""What `simsam_batch.operations.compare` found, for people and for papers: text, Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from simsam_batch.plain_text import counted, plain
from simsam_batch.telling.metrics import number_text

_MOST_SETTINGS = 40
_DASH = "-"


def comparison_lines(record: Mapping[str, Any]) -> list[str]:
    """Everything for a terminal: what was joined, the table, the images that differ most, settings that differ.

    Args:
        record: see `simsam_batch.results.comparing.compare_runs`.
    """
    lines = [*about(record), ""]
    head, *rows = cells(record)
    wide = [max(len(plain(row[place])) for row in (head, *rows)) for place in range(len(head))]
    for row in (head, *rows):
        padded = [plain(cell).ljust(width) for cell, width in zip(row, wide, strict=True)]
        lines.append("  " + "  ".join(padded).rstrip())
    base = record["runs"][0]["name"]
    for each in record["differing"]:
        if each["images"]:
            lines += ["", f"{each['name']} differs most from {base} ({each['metric']}) on"]
            lines += [
                f"  {number_text(image['base'])} -> {number_text(image['other'])}  {image['image_id']}"
                for image in each["images"]
            ]
    if record["settings"]:
        lines += ["", "settings that differ"]
        shown = record["settings"][:_MOST_SETTINGS]
        lines += [f"  {each['setting']}: {' | '.join(map(_value, each['values']))}" for each in shown]
        more = len(record["settings"]) - len(shown)
        lines += [f"  and {more:,} more, in --format json"] if more else []
    return lines


def about(record: Mapping[str, Any]) -> list[str]:
    """What was joined, and what was left out of each run and why."""
    noun = "pair" if record["unit"] == "pair_id" else "image"
    groups = "" if record["groups"] is None else f", in {counted(record['groups'], 'group')} by {record['by']}"
    lines = [f"{counted(record['images'], noun)} of the stage {record['stage']} that all runs have a score of{groups}"]
    if record["other_content"]:
        other = counted(record["other_content"], f"{noun} has", f"{noun}s have")
        lines.append(f"  {other} another content in one run than in another, and left out")
    for run in record["runs"]:
        why = {"failed": "failed", "without_score": "without a score", "not_in_all": "not in all runs"}
        left = [f"{run[name]:,} {words}" for name, words in why.items() if run[name]]
        going = "" if run["finished"] else ", not finished"
        ends = f"; left out: {', '.join(left)}" if left else ""
        lines.append(f"  {run['name']}: {run['run']}, {counted(run['images'], noun)}{going}{ends}")
    return lines


def markdown(record: Mapping[str, Any]) -> str:
    """The table in Markdown; of each metric the best mean is bold, and differences whose interval leaves out 0."""
    head, *rows = cells(record, bold=lambda text: f"**{text}**", escape=_escaped_markdown)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join([*(f"| {' | '.join(row)} |" for row in lines), "", _escaped_markdown(note(record)), ""])


def latex(record: Mapping[str, Any]) -> str:
    r"""The table as a ``tabular`` of LaTeX, for ``\usepackage{booktabs}``; bold as in `markdown`."""
    head, *rows = cells(record, bold=lambda text: rf"\textbf{{{text}}}", escape=_escaped_latex)
    lines = [
        f"% {plain(note(record))}",
        rf"\begin{{tabular}}{{ll{'r' * (len(head) - 2)}}}",
        r"\toprule",
        " & ".join(head) + r" \\",
        r"\midrule",
        *(" & ".join(row) + r" \\" for row in rows),
        r"\bottomrule",
        r"\end{tabular}",
        "",
    ]
    return "\n".join(lines)


def table_csv(record: Mapping[str, Any]) -> str:
    """The table as CSV with full precision, a line for each metric of each run."""
    held = io.StringIO()
    writer = csv.writer(held, lineterminator="\n")
    names = ("metric", "run", "mean", "mean_low", "mean_high", "difference", "difference_low", "difference_high")
    counts = ("wins", "losses", "ties")
    writer.writerow([*names, *counts, "images", "groups"])
    for metric in record["metrics"]:
        for run in metric["runs"]:
            apart = [run["difference"], *run["difference_ci"]] if "difference" in run else [""] * 3
            writer.writerow(
                [
                    metric["metric"],
                    run["name"],
                    run["mean"],
                    *run["ci"],
                    *apart,
                    *(run.get(each, "") for each in counts),
                    metric["images"],
                    "" if record["groups"] is None else record["groups"],
                ]
            )
    return held.getvalue()


FORMATS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "text": lambda record: "\n".join([*map(plain, comparison_lines(record)), ""]),
    "markdown": markdown,
    "csv": table_csv,
    "latex": latex,
}
"""How a comparison is written, by the names that ``--format`` takes beside ``json``."""


def note(record: Mapping[str, Any]) -> str:
    """What stands below the table: what it is over, and how intervals were found."""
    unit = "pair" if record["unit"] == "pair_id" else "image"
    drawn = f"{unit}s" if record["groups"] is None else f"{counted(record['groups'], 'group')} by {record['by']}"
    base = record["runs"][0]["name"]
    return (
        f"{counted(record['images'], unit)}; differences are to {base}, in brackets 95 % paired bootstrap intervals "
        f"over {drawn}; wins, losses and ties are {unit}s."
    )


def cells(
    record: Mapping[str, Any],
    bold: Callable[[str], str] = lambda text: text,
    escape: Callable[[str], str] = lambda text: text,
) -> list[list[str]]:
    """The table as text, its head first.

    Args:
        record: as in `comparison_lines`.
        bold: marks the best mean, and differences whose interval leaves out 0.
        escape: is given names.
    """
    lines = [["metric", "run", "mean", "95 %", "difference", "95 %", "wins", "losses", "ties"]]
    lines[0] = [escape(name) for name in lines[0]]
    for metric in record["metrics"]:
        best = max((run["mean"] for run in metric["runs"]), default=None)
        for run in metric["runs"]:
            mean = f"{run['mean']:.4f}"
            row = [escape(metric["metric"]), escape(run["name"]), bold(mean) if run["mean"] == best else mean]
            row.append(_interval(run["ci"], ""))
            if "difference" in run:
                low, high = run["difference_ci"]
                apart = f"{run['difference']:+.4f}"
                row += [bold(apart) if low < high and (low > 0 or high < 0) else apart, _interval((low, high), "+")]
            else:
                row += [_DASH, _DASH]
            lines.append([*row, *(f"{run[name]:,}" if name in run else _DASH for name in ("wins", "losses", "ties"))])
    return lines


def _interval(ends: Sequence[float], sign: str) -> str:
    return f"[{ends[0]:{sign}.4f}, {ends[1]:{sign}.4f}]"


def _value(value: Any) -> str:
    return _DASH if value is None else str(value)


def _escaped_markdown(text: str) -> str:
    """Text that stands for itself in Markdown, and in the HTML that it becomes."""
    return "".join(f"\\{letter}" if letter in r"\`*_{}[]<>()#!|~$&" else letter for letter in plain(text))


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
}


def _escaped_latex(text: str) -> str:
    """Text that stands for itself in LaTeX."""
    return "".join(_LATEX.get(letter, letter) for letter in plain(text))
