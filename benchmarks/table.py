"""The rows as a table for people, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.measure import Row


def show(rows: Sequence[Row], machine: dict[str, Any], console: Console) -> None:
    """Print all rows, what must be known about them, and the machine."""
    table = Table(show_lines=True)
    for name in ("what", "ours", "peer", "ratio", "target", "met?"):
        table.add_column(name, justify="right" if name in ("ratio", "target") else "left", overflow="fold")
    notes: list[str] = []
    for row in rows:
        if row.note not in notes:
            notes.append(row.note)
        sign = "<=" if row.at_most else ">="
        style = {"met": "green", "": "default"}.get(row.verdict, "yellow")
        table.add_row(
            f"{row.group}: {row.what} [dim]({notes.index(row.note) + 1})[/dim]",
            _side(row.ours, row.ours_seconds) + f"\n[dim]threads: {row.threads}[/dim]",
            _side(row.peer, row.peer_seconds),
            "" if row.ratio is None else f"{row.ratio:.2f}\n[dim]{min(row.samples):.2f}-{max(row.samples):.2f}[/dim]",
            "" if row.target is None else f"{sign} {row.target:g}",
            f"[{style}]{row.verdict}[/{style}]",
        )
    console.print(table)
    for number, note in enumerate(notes, 1):
        console.print(f"({number}) {note}", markup=False, highlight=False)
    console.print(", ".join(f"{key} {value}" for key, value in machine.items() if value is not None), markup=False)
    if machine["others_were_computing"]:
        console.print("The machine was busy with other work when this began: ratios are rough.", style="yellow")


def _side(words: str, seconds: float | None) -> str:
    text = words.replace("[", r"\[")
    return text if seconds is None else f"{text}\n{_time(seconds)} an image"


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"


def write(rows: Sequence[Row], machine: dict[str, Any], path: Path) -> None:
    """Write machine and rows as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"machine": machine, "rows": [row.as_json() for row in rows]}
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
