"""``simsam view`` over a run of a million rows: ``python -m benchmarks.viewer FOLDER ROUNDS IMAGES``."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlencode

import numpy as np

from benchmarks.measure import Row, Setup, in_own_process, peak_memory, start_new_peak
from benchmarks.view_run import write_run
from simsam_batch.storage import Folder
from simsam_batch.viewer.app import application
from simsam_batch.viewer.columns import columns_of
from simsam_batch.viewer.session import Session

FIRST_PAGE_S, PAGE_CPU_MS, PAGE_TIMES, MEMORY_MB = 1.0, 50.0, 5.0, 1000.0
"""Targets: the first page in the order of the plan; a filter with a sort, also in times of bare NumPy; memory."""

_NOTE = "a run that nothing was computed for, 10 parts, masks of 420 bytes, on a local disk; routes without the network"
_NAMES = "status,error_type,solver,degenerate,converged,confidence,spectral_gap,area_fraction,iou,accuracy,width,height"


def rows(setup: Setup) -> Iterator[Row]:
    """Start, load, pages and counts."""
    images, rounds = setup.pick(cpu=(10**6, 9), cuda=(10**6, 9), smoke=(20_000, 3))
    with tempfile.TemporaryDirectory(prefix="simsam-bench-") as folder:
        write_run(Folder(f"{folder}/run"), images)
        found = in_own_process(setup, "benchmarks.viewer", f"{folder}/run", rounds)
    yield _row(f"first page in the order of the plan, s, {images:,} rows", found["first_page_s"], FIRST_PAGE_S, found)
    yield _row("columns read, s of CPU", found["load_cpu_s"], None, found)
    yield _row("memory above what Python and its packages take, MB", found["memory_mb"], MEMORY_MB, found)
    yield _row("filter and sort, first 60, ms of CPU", found["page_cpu_ms"], PAGE_CPU_MS, found)
    yield Row(
        "viewer",
        "filter and sort, first 60, in times of the bare expression",
        "api/rows, with ids and values of the 60",
        "NumPy: comparisons, flatnonzero, argpartition",
        found["page_times"],
        threads="1",
        target=PAGE_TIMES,
        at_most=True,
        note=_NOTE,
        details=found,
    )
    yield _row("facets of 12 columns, ms of CPU", found["facets_cpu_ms"], None, found)
    yield _row("part of an id, ms of CPU", found["ids_cpu_ms"], None, found)
    yield _row("one row's neighbours in a list sorted, ms of CPU", found["neighbours_cpu_ms"], None, found)


def _row(what: str, value: float, target: float | None, found: dict[str, Any]) -> Row:
    more = {"threads": "1", "target": target, "at_most": True, "note": _NOTE, "details": found}
    return Row("viewer", what, f"{value:.3g}", "", [value], **more)


def measure(out: str, rounds: int) -> dict[str, Any]:
    """All figures of one run.

    Args:
        out: its folder.
        rounds: of which medians are taken; each with another filter, so that none is answered from before.
    """
    before, began = start_new_peak(), time.perf_counter()
    session = Session(out)
    ask = _asker(session)
    first = ask("api/rows", columns="confidence,iou")
    first_page = time.perf_counter() - began
    assert len(first["rows"]) == 60
    began, cpu = time.perf_counter(), time.process_time()
    columns = columns_of(session.run().stage("segment"))
    columns.wait()
    load, load_cpu = time.perf_counter() - began, time.process_time() - cpu
    loaded_mb = (peak_memory() - before) / 1e6
    values = columns.column("spectral_gap"), columns.column("area_fraction")
    least = [0.5 + turn / 1000 for turn in range(rounds)]
    pages = [_page(ask, *values, each) for each in least]
    facets = [_cpu(ask, "api/facets", q=f"accuracy>{each}", names=_NAMES)[0] for each in least]
    ids = [_cpu(ask, "api/rows", q=f"id~00{turn}7")[0] for turn in range(rounds)]
    beside = [
        _cpu(ask, "api/neighbours", q="area_fraction>0.5", sort="spectral_gap", row=turn)[0] for turn in range(rounds)
    ]
    return {
        "rows": len(columns.numbers),
        "first_page_s": first_page,
        "load_s": load,
        "load_cpu_s": load_cpu,
        "loaded_mb": loaded_mb,
        "memory_mb": (peak_memory() - before) / 1e6,
        "page_cpu_ms": 1e3 * median(ours for ours, _ in pages),
        "bare_cpu_ms": 1e3 * median(bare for _, bare in pages),
        "page_times": [ours / bare for ours, bare in pages],
        "facets_first_cpu_ms": 1e3 * facets[0],
        "facets_cpu_ms": 1e3 * median(facets),
        "ids_cpu_ms": 1e3 * median(ids),
        "neighbours_cpu_ms": 1e3 * median(beside),
    }


def _page(ask: Callable[..., Any], gap: Any, area: Any, least: float) -> tuple[float, float]:
    """Seconds of CPU of a page that is filtered and sorted, and of NumPy alone, which must find the same rows."""
    shown = {"sort": "spectral_gap", "columns": "spectral_gap,confidence,iou"}
    ours, answer = _cpu(ask, "api/rows", q=f"area_fraction>{least}", **shown)
    bare, expected = _cpu(_bare, area, gap, least)
    assert [row["row"] for row in answer["rows"]] == expected.tolist()
    return ours, bare


def _bare(area: Any, gap: Any, least: float) -> Any:
    places = np.flatnonzero(area > least)
    held = gap[places]
    best = np.argpartition(held, 60)[:60]
    return places[best[np.lexsort((places[best], held[best]))]]


def _cpu(action: Callable[..., Any], *given: Any, **named: Any) -> tuple[float, Any]:
    began = time.process_time()
    found = action(*given, **named)
    return time.process_time() - began, found


def _asker(session: Session) -> Callable[..., Any]:
    """What asks the application itself, without a server or a gate before it."""
    app = application(session)

    def ask(path: str, **query: Any) -> Any:
        parts: list[bytes] = []
        scope = {"type": "http", "method": "GET", "path": f"/{path}", "headers": [], "http_version": "1.1"}
        scope |= {"query_string": urlencode({"stage": "segment", **query}).encode(), "root_path": "", "scheme": "http"}

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message: Any) -> None:
            parts.append(message.get("body", b""))
            assert message.get("status", 200) == 200, parts

        asyncio.run(app(scope, receive, send))  # type: ignore[arg-type]
        return json.loads(b"".join(parts))

    return ask


def of_words(out: str, rounds: str, images: str = "0") -> dict[str, Any]:
    """`measure` by the words of the command line; a run that is not there is written first."""
    if not Path(out).exists():
        write_run(Folder(out), int(images))
    return measure(out, int(rounds))


if __name__ == "__main__":
    print(json.dumps(of_words(*sys.argv[1:])))
