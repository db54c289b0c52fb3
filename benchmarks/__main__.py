"""``python -m benchmarks``: measure, print the table, write the JSON."""

from __future__ import annotations

import argparse
import re
import sys
import time
from pathlib import Path

import torch
from rich.console import Console

from benchmarks import (
    bookkeeping,
    browser,
    clustering,
    correspondence,
    eigen,
    facets,
    head,
    hierarchy,
    host,
    linear_probes,
    memory,
    objects,
    pipeline,
    probes,
    refinement,
    stylize,
    table,
    viewer,
)
from benchmarks.measure import Row, Setup, machine

GROUPS = {
    "head": head.rows,
    "eigen": eigen.rows,
    "pipeline": pipeline.rows,
    "memory": memory.rows,
    "facets": facets.rows,
}
LONG = {
    "clustering": clustering.rows,
    "bookkeeping": bookkeeping.rows,
    "hierarchy": hierarchy.rows,
    linear_probes.GROUP: linear_probes.rows,
    "probes": probes.rows,
    correspondence.GROUP: correspondence.rows,
    objects.GROUP: objects.rows,
    refinement.GROUP: refinement.rows,
    "viewer": viewer.rows,
    browser.GROUP: browser.rows,
    stylize.GROUP: stylize.rows,
    host.GROUP: host.rows,
}
"""Groups that are measured only when asked for: minutes on a million rows or more, or by a slow peer."""
RESULTS = Path(__file__).parent / "results"


def main() -> int:
    """Exit code 0 when everything was measured, 2 without the device asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument(
        "--only",
        choices=[*GROUPS, *LONG],
        nargs="+",
        default=list(GROUPS),
        help=f"groups of rows; {', '.join(LONG)} take minutes",
    )
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, to see that everything runs")
    parser.add_argument(
        "--json",
        type=Path,
        help="where to write; without it results/DEVICE.json, or DEVICE-GROUPS.json; --smoke writes nothing",
    )
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        print("benchmarks: this machine has no usable CUDA device; `make bench` measures on the CPU", file=sys.stderr)
        return 2
    setup = Setup(torch.device(arguments.device), smoke=arguments.smoke)
    facts = machine(setup)
    progress = Console(stderr=True)
    progress.print(f"load average {facts['load_average_at_start']} on {facts['cores']} cores")
    rows: list[Row] = []
    began = time.perf_counter()
    for group in arguments.only:
        for row in (GROUPS | LONG)[group](setup):
            rows.append(row)
            shown = "skipped" if row.ratio is None else f"{row.ratio:.2f} {row.verdict}"
            at = f"{time.perf_counter() - began:4.0f} s"
            progress.print(
                f"{at}  {group}: {row.what} / {row.peer}: {shown}", markup=False, highlight=False, soft_wrap=True
            )
    table.show(rows, facts, Console(width=None if sys.stdout.isatty() else 150))
    name = re.sub(r"[^a-z0-9]+", "-", str(facts["gpu"] or "cpu").lower())
    # a measurement of some groups leaves that of all as it is
    some = [] if arguments.only == list(GROUPS) else arguments.only
    path = arguments.json or (None if arguments.smoke else RESULTS / f"{'-'.join([name, *some])}.json")
    if path is not None:
        table.write(rows, facts, path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
