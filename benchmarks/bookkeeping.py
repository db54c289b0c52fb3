"""What a run's books cost with a worker that does nothing; each step is a process.

``python -m benchmarks.bookkeeping STEP FOLDER IMAGES``, steps in the order of `MEASURED`.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.measure import Row, Setup, in_own_process, peak_memory, start_new_peak
from benchmarks.null_run import NULL, SCORES, NullStage, catalog
from simsam_batch.catalog import read_catalog
from simsam_batch.engines.inline import InlineEngine
from simsam_batch.runs.execute import execute
from simsam_batch.runs.ledger import Ledger
from simsam_batch.runs.plan import Plan, load_plan, make_plan
from simsam_batch.runs.publish import publish
from simsam_batch.runs.runner import ExecuteOptions, RunnerFactory
from simsam_batch.runs.status import stage_status
from simsam_batch.storage import Folder

SHARD_SIZE = 250
TIMES, BYTES = 15.0, 200.0
"""Targets: ten times the images take at most so many times as long; planning takes so many bytes an image."""

_MIB = 2**20
_SYNCED = 100
_DRAWN_AT_RANDOM = 200


def rows(setup: Setup) -> Iterator[Row]:
    """Every step at two sizes, the second ten times the first."""
    small, large = setup.pick(cpu=(10**6, 10**7), cuda=(10**6, 10**7), smoke=(1_000, 10_000))
    with tempfile.TemporaryDirectory(prefix="simsam-bench-") as folder:
        found = {
            name: [_process(name, Path(folder) / str(images), images, setup) for images in (small, large)]
            for name in MEASURED
        }
    yield from (_memory_row(name, what, found[name], large) for name, what in _PLANNING.items())
    for name, (what, ours, peer) in _TIMED.items():
        yield _growth_row(name, what, ours, found[name], (small, large))
        if peer:
            yield _peer_row(what, ours, peer, found[name][1], large)


_PLANNING = {
    "table": "planning from Arrow columns",
    "parquet": "planning from a Parquet table",
    "list": "planning from a .txt list",
}
_TIMED = {
    "table": ("planning from Arrow columns", "make_plan", ""),
    "parquet": ("planning from a Parquet table", "read_catalog, make_plan", "pyarrow: read_table, write_table, zstd"),
    "list": ("planning from a .txt list", "read_catalog, make_plan", ""),
    "shards": ("all shards' records, one after another", "Plan.shard", "pyarrow: iter_batches of the plan's file"),
    "null": ("execution of nothing", "execute in one process, without fsync", ""),
    "resume": ("what is pending of a finished run", "load_plan, begin, pending", "os.scandir of the manifests"),
    "status": ("status with failures", "stage_status", ""),
    "publish-null": ("publishing three counts a shard", "publish", "json and pyarrow, file by file"),
    "publish-scores": ("publishing object scores", "publish", "json and pyarrow, file by file"),
}


def _growth_row(name: str, what: str, ours: str, found: Sequence[dict[str, float]], images: Sequence[int]) -> Row:
    below, above = (
        f"{count} images, {count // SHARD_SIZE} shards: {each['seconds']:.3g} s, peak {each['peak'] / _MIB:.0f} MiB"
        for each, count in zip(found, images, strict=True)
    )
    return Row(
        "bookkeeping",
        f"{what}, time at ten times the images",
        f"{ours}, {above}",
        below,
        [found[1]["seconds"] / found[0]["seconds"]],
        found[1]["seconds"] / images[1],
        found[0]["seconds"] / images[0],
        threads="as many as pyarrow and the storage take",
        target=TIMES,
        at_most=True,
        note=f"one run of each, every step a process of its own, {SHARD_SIZE} images a shard, on a local disk; the "
        "peak is above what stood before; ten is proportional, a hundred quadratic",
        details={"step": name, "small": found[0], "large": found[1]},
    )


def _peer_row(what: str, ours: str, peer: str, found: dict[str, float], images: int) -> Row:
    return Row(
        "bookkeeping",
        f"{what}, {images} images",
        ours,
        peer,
        [found["peer_seconds"] / found["seconds"]],
        found["seconds"] / images,
        found["peer_seconds"] / images,
        threads="as many as pyarrow and the storage take",
        note="the peer has less to do: it checks no names, digests or hashes and merges nothing. It comes second and "
        "finds the files in memory",
        details=found,
    )


def _memory_row(name: str, what: str, found: Sequence[dict[str, float]], images: int) -> Row:
    above = found[1]["peak"] - (0 if name == "table" else found[1]["columns"])
    return Row(
        "bookkeeping",
        f"{what}, bytes an image above the catalog's columns",
        f"peak {above / _MIB:.0f} MiB above them, {images} images",
        f"the columns: {found[1]['columns'] / _MIB:.0f} MiB, {found[1]['columns'] / images:.0f} bytes an image",
        [above / images],
        threads="as many as pyarrow and the storage take",
        target=BYTES,
        at_most=True,
        note="resident memory of the driver. Bytes, not times",
        details={"small": found[0], "large": found[1]},
    )


def _process(name: str, folder: Path, images: int, setup: Setup) -> dict[str, float]:
    if setup.smoke:
        return measure(name, folder, images)
    return in_own_process(setup, "benchmarks.bookkeeping", name, folder, images)


def measure(name: str, folder: Path, images: int) -> dict[str, float]:
    """One step: its seconds, the peak above what stood before it, and what it counts besides."""
    folder.mkdir(exist_ok=True)
    return MEASURED[name](folder, images)


def _measured(action: Callable[[], Any]) -> dict[str, float]:
    before, cpu, started = start_new_peak(), time.process_time(), time.perf_counter()
    action()
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "cpu_seconds": time.process_time() - cpu, "peak": peak_memory() - before}


def _plan(folder: Path, table: pa.Table) -> Plan:
    return make_plan(Folder(str(folder / "run")), table, shard_size=SHARD_SIZE, source={})


def _table(folder: Path, images: int) -> dict[str, float]:
    table = catalog(images)
    found = _measured(lambda: _plan(folder, table)) | {"columns": table.nbytes}
    pq.write_table(table, folder / "images.parquet")
    with (folder / "images.txt").open("wb") as file:
        for chunk in table["uri"].chunks:
            file.write("\n".join(chunk.to_pylist()).encode() + b"\n")
    return found


def _read(folder: Path, name: str) -> dict[str, float]:
    columns = 0

    def planned() -> None:
        nonlocal columns
        table = read_catalog(str(folder / name)).table
        columns = table.nbytes
        make_plan(Folder(str(folder / f"of-{name}")), table, shard_size=SHARD_SIZE, source={})

    return _measured(planned) | {"columns": columns}


def _parquet(folder: Path, _: int) -> dict[str, float]:
    found = _read(folder, "images.parquet")
    peer = _measured(
        lambda: pq.write_table(pq.read_table(folder / "images.parquet"), folder / "copy.parquet", compression="zstd")
    )
    return found | {"peer_seconds": peer["seconds"]}


def _list(folder: Path, _: int) -> dict[str, float]:
    return _read(folder, "images.txt")


def _opened(folder: Path) -> Plan:
    plan = load_plan(Folder(str(folder / "run")))
    assert plan is not None
    return plan


def _shards(folder: Path, _: int) -> dict[str, float]:
    plan = _opened(folder)

    def each() -> None:
        for number in range(plan.shards):
            plan.shard(number)

    found = _measured(each)
    drawn = np.random.default_rng(0).integers(plan.shards, size=_DRAWN_AT_RANDOM).tolist()
    at_random = _measured(lambda: [plan.shard(number) for number in drawn])

    def peer() -> None:
        with pq.ParquetFile(folder / f"run/plan/{plan.digest}.parquet") as file:
            for _ in file.iter_batches(SHARD_SIZE):
                continue

    return found | {
        "seconds_a_shard_at_random": at_random["seconds"] / _DRAWN_AT_RANDOM,
        "peer_seconds": _measured(peer)["seconds"],
    }


def _executed(stage: NullStage) -> Callable[[Path, int], dict[str, float]]:
    def step(folder: Path, _: int) -> dict[str, float]:
        plan = _opened(folder)
        Ledger(plan.out, stage.name).begin(stage, plan)
        first = range(min(_SYNCED, plan.shards // 2))
        synced = _measured(lambda: _committed(plan, stage, first))
        with _without_fsync():
            found = _measured(
                lambda: execute(plan.out, plan, stage, InlineEngine(), ExecuteOptions(), on_report=lambda _: None)
            )
        return found | {
            "seconds_a_shard": found["seconds"] / (plan.shards - len(first)),
            "seconds_a_shard_with_fsync": synced["seconds"] / len(first),
        }

    return step


def _committed(plan: Plan, stage: NullStage, shards: Sequence[int]) -> None:
    for report in RunnerFactory(plan.out, plan, stage)().run(iter(shards)):
        assert report.status == "committed", report.error


@contextmanager
def _without_fsync() -> Iterator[None]:
    """What the disk makes of 120,000 small files, each synced, says nothing of the books, and takes longest of all."""
    real, os.fsync = os.fsync, lambda _: None
    try:
        yield
    finally:
        os.fsync = real


def _resume(folder: Path, _: int) -> dict[str, float]:
    def resumed() -> None:
        plan = _opened(folder)
        ledger = Ledger(plan.out, NULL.name)
        ledger.begin(NULL, plan)
        assert ledger.pending(plan.shards) == []

    found = _measured(resumed)
    return found | {"peer_seconds": _measured(lambda: list(os.scandir(folder / "run/null/manifests")))["seconds"]}


def _status(folder: Path, _: int) -> dict[str, float]:
    plan = _opened(folder)
    found = _measured(lambda: stage_status(plan.out, NULL.name))
    return found | {
        "seconds_without_failures": _measured(lambda: stage_status(plan.out, NULL.name, failures=False))["seconds"]
    }


def _published(stage: NullStage) -> Callable[[Path, int], dict[str, float]]:
    def step(folder: Path, _: int) -> dict[str, float]:
        plan = _opened(folder)
        found = _measured(lambda: publish(plan.out, plan, stage))
        return found | {"peer_seconds": _measured(lambda: _plainly(folder / "run", stage))["seconds"]}

    return step


def _plainly(run: Path, stage: NullStage) -> None:
    """Read every manifest and every file of rows, and write the rows to one file."""
    with pq.ParquetWriter(run / "plainly.parquet", stage.schema, compression="zstd") as writer:
        for manifest in sorted((run / stage.name / "manifests").iterdir()):
            record = json.loads(manifest.read_bytes())
            writer.write_table(pq.read_table(run / record["files"][0]["name"]).replace_schema_metadata(None))


MEASURED = {
    "table": _table,
    "parquet": _parquet,
    "list": _list,
    "shards": _shards,
    "null": _executed(NULL),
    "scores": _executed(SCORES),
    "resume": _resume,
    "status": _status,
    "publish-null": _published(NULL),
    "publish-scores": _published(SCORES),
}
"""In the order in which they need each other."""


def of_words(name: str, folder: str, images: str) -> dict[str, float]:
    """`measure` by the words of the command line."""
    return measure(name, Path(folder), int(images))


if __name__ == "__main__":
    print(json.dumps(of_words(*sys.argv[1:])))
