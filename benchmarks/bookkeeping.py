"""What a run's books cost with a worker that does nothing; each step is a process.

``python -m benchmarks.bookkeeping STEP FOLDER IMAGES``, steps in the order of `MEASURED`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.measure import Row, Setup, peak_memory, start_new_peak
from simsam_batch.catalog import read_catalog
from simsam_batch.engines.contract import Runner, ShardReport
from simsam_batch.runs.execute import execute
from simsam_batch.runs.ledger import Ledger
from simsam_batch.runs.plan import Plan, load_plan, make_plan
from simsam_batch.runs.publish import publish
from simsam_batch.runs.runner import ExecuteOptions, RunnerFactory
from simsam_batch.runs.schema import ROW_FIELDS, Fold, Shard, ShardOutput
from simsam_batch.runs.status import stage_status
from simsam_batch.scores.bootstrap import STEPS
from simsam_batch.scores.overlap import LEVELS
from simsam_batch.stages.regions import RegionsFold
from simsam_batch.stages.segment import SegmentFold
from simsam_batch.storage import Folder

SHARD_SIZE = 250
TIMES, BYTES = 15.0, 200.0
"""Targets: ten times the images take at most so many times as long; planning takes so many bytes an image."""

_MIB = 2**20
_SYNCED = 100
_DRAWN_AT_RANDOM = 200


def rows(setup: Setup) -> Iterator[Row]:
    """Every step at two sizes, the second ten times the first."""
    small, large = setup.pick(cpu=(10**6, 10**7), cuda=(10**6, 10**7), smoke=(2_500, 25_000))
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
    command = [sys.executable, "-m", "benchmarks.bookkeeping", name, str(folder), str(images)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=Path(__file__).parents[1])
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(name: str, folder: Path, images: int) -> dict[str, float]:
    """One step: its seconds, the peak above what stood before it, and what it counts besides."""
    folder.mkdir(exist_ok=True)
    return MEASURED[name](folder, images)


def _measured(action: Callable[[], Any]) -> dict[str, float]:
    before, cpu, started = start_new_peak(), time.process_time(), time.perf_counter()
    action()
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "cpu_seconds": time.process_time() - cpu, "peak": peak_memory() - before}


def catalog(images: int) -> pa.Table:
    """Image records as a listing of object storage gives them: 60 characters of id and URI, sizes, ETags."""
    tables = []
    for start in range(0, images, 10**6):
        numbers = np.arange(start, min(start + 10**6, images))
        rng = np.random.default_rng(start)
        folders, names = (
            pc.utf8_lpad(pa.array(values).cast(pa.string()), 8, "0") for values in (numbers // 1000, numbers)
        )
        ids = pc.binary_join_element_wise("train/", folders, "/", names, ".jpg", "")
        etags = np.frombuffer(rng.bytes(16 * len(numbers)).hex().encode(), dtype="S32")
        columns = {
            "image_id": ids,
            "uri": pc.binary_join_element_wise("s3://bucket/photographs/", ids, ""),
            "size": pa.array(rng.integers(10_000, 900_000, len(numbers))),
            "etag": pa.array(etags).cast(pa.string()),
        }
        tables.append(pa.table(columns))
    return pa.concat_tables(tables)


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


SCHEMA = pa.schema([*ROW_FIELDS, pa.field("width", pa.int32()), pa.field("height", pa.int32())])


@dataclass(frozen=True)
class NullStage:
    """A stage that computes nothing: rows without content, and statistics of the size that its fold's have."""

    name: str
    fold: Fold[Any]
    schema: pa.Schema = SCHEMA
    settings: dict[str, Any] = field(default_factory=dict)
    resolved: dict[str, Any] = field(default_factory=dict)

    def make_worker(self, beat: Callable[[], None]) -> NullWorker:
        return NullWorker(self, beat)


class NullWorker:
    def __init__(self, stage: NullStage, beat: Callable[[], None]) -> None:
        self._stage, self._beat = stage, beat

    def run(self, shards: Iterator[Shard]) -> Iterator[ShardOutput]:
        for shard in shards:
            self._beat()
            count = shard.records.num_rows
            nothing = pa.nulls(count, pa.string())
            side = pa.repeat(pa.scalar(480, pa.int32()), count)
            ids, uris = (shard.records[name].combine_chunks() for name in ("image_id", "uri"))
            columns = [ids, uris, pa.repeat("ok", count), nothing, nothing, nothing, side, side]
            table = pa.Table.from_arrays(columns, schema=self._stage.schema)
            yield ShardOutput(shard.number, table, [], _statistics(self._stage.name, count), {"compute": 0.1})


@cache
def _statistics(stage: str, images: int) -> dict[str, Any]:
    """Three counts, or the scores of so many images: histograms of random values and curves of random heights."""
    if stage == "null":
        return {"regions": 3 * images, "images_without_regions": 0, "degenerate": 1}
    rng = np.random.default_rng(images)
    state = SegmentFold().zero()
    values = rng.beta(4, 2, (2, images))
    bins = [dict(zip(*np.unique(np.rint(v * STEPS).astype(int), return_counts=True), strict=True)) for v in values]
    state["scores"] |= {
        "images_scored": images,
        "intersection": 150_000 * images,
        "union": 200_000 * images,
        "correct": 250_000 * images,
        "pixels": 300_000 * images,
        "iou_sum": float(values[0].sum()),
        "accuracy_sum": float(values[1].sum()),
        **{
            name: {str(value): int(count) for value, count in of.items()}
            for name, of in zip(("iou_bins", "accuracy_bins"), bins, strict=True)
        },
        "soft_maps": images,
        **{name: (images * rng.random(LEVELS)).tolist() for name in ("precision_sum", "recall_sum")},
    }
    return state


NULL, SCORES = NullStage("null", RegionsFold()), NullStage("scores", SegmentFold())


class InProcess:
    """An engine that runs all shards in the driver itself."""

    def run(self, make_runner: Callable[[], Runner], shards: Sequence[int]) -> Iterator[ShardReport]:
        return make_runner().run(iter(shards))

    def stop(self) -> bool:
        return False

    def close(self) -> None:
        return


def _executed(stage: NullStage) -> Callable[[Path, int], dict[str, float]]:
    def step(folder: Path, _: int) -> dict[str, float]:
        plan = _opened(folder)
        Ledger(plan.out, stage.name).begin(stage, plan)
        first = range(min(_SYNCED, plan.shards // 2))
        synced = _measured(lambda: _committed(plan, stage, first))
        with _without_fsync():
            found = _measured(
                lambda: execute(plan.out, plan, stage, InProcess(), ExecuteOptions(), on_report=lambda _: None)
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
    found = _measured(lambda: stage_status(plan, NULL.name))
    return found | {
        "seconds_without_failures": _measured(lambda: stage_status(plan, NULL.name, failures=False))["seconds"]
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


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))))
