"""A run of four shards that takes milliseconds: plan, execute in this process, publish; and what must come of it."""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from simsam_batch.engines.inline import InlineEngine
from simsam_batch.runs.execute import ExecuteOptions, execute
from simsam_batch.runs.ledger import Ledger
from simsam_batch.runs.plan import Plan, load_plan, make_plan
from simsam_batch.runs.publish import publish
from simsam_batch.runs.schema import ROW_FIELDS, Needs, Shard, ShardOutput, Worker
from simsam_batch.storage import Folder

IMAGES = [f"image-{number}.jpg" for number in range(7)]
SHARDS = 4
BAD = "image-3.jpg"


def value_of(image_id: str) -> float:
    """What is computed for an image: its checksum."""
    return float(zlib.crc32(image_id.encode()))


class CountFold:
    """Counts images and adds up their values, which are whole numbers."""

    def zero(self) -> dict[str, Any]:
        return {"images": 0, "sum": 0.0}

    def merge(self, a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
        return {key: a[key] + b[key] for key in a}

    def result(self, s: dict[str, Any]) -> dict[str, Any]:
        return dict(s)


@dataclass(frozen=True)
class ChecksumStage:
    name: str = "checksum"
    unit: str = "image_id"
    reads: tuple[str, ...] = ()
    needs: Needs = field(default_factory=Needs)
    schema: pa.Schema = field(default_factory=lambda: pa.schema([*ROW_FIELDS, pa.field("value", pa.float64())]))
    settings: dict[str, Any] = field(default_factory=lambda: {"seed": 1})
    unrecorded: dict[str, Any] = field(default_factory=dict)
    resolved: dict[str, Any] = field(default_factory=dict)
    fold: CountFold = field(default_factory=CountFold)

    def make_worker(self, beat: Callable[[], None]) -> Worker:
        return ChecksumWorker()

    def state_of_failed(self, row: Mapping[str, Any]) -> None:
        return None


class ChecksumWorker:
    def run(self, shards: Iterator[Shard]) -> Iterator[ShardOutput]:
        for shard in shards:
            yield checksums(shard)


def checksums(shard: Shard) -> ShardOutput:
    """The output of one shard; one image of the run has failed."""
    ids = shard.records["image_id"].to_pylist()
    rows = [
        {"image_id": name, "uri": name, "status": "failed", "error_type": "truncated"}
        if name == BAD
        else {"image_id": name, "uri": name, "status": "ok", "value": value_of(name)}
        for name in ids
    ]
    arrays = [{} if name == BAD else {"vector": np.full(3, value_of(name), np.float32)} for name in ids]
    good = [value_of(name) for name in ids if name != BAD]
    table = pa.Table.from_pylist(rows, ChecksumStage().schema)
    return ShardOutput(shard.number, table, arrays, {"images": len(good), "sum": sum(good)})


def catalog() -> pa.Table:
    return pa.table({"image_id": IMAGES, "uri": IMAGES})


def run_once(out: Folder) -> dict[str, Any]:
    """What one command does: probe, open or make the plan, execute what is pending, publish."""
    out.check_create()
    plan = load_plan(out) or make_plan(out, catalog(), shard_size=2, source={"kind": "test"})
    options = ExecuteOptions(pause_seconds=0.0, stall_seconds=60.0)
    execute(out, plan, ChecksumStage(), InlineEngine(), options, lambda report: None)
    return publish(out, plan, ChecksumStage())


def check_complete(out: Folder, result: dict[str, Any]) -> Plan:
    """Assert that OUT holds every image once, with the values computed here anew."""
    good = [value_of(name) for name in IMAGES if name != BAD]
    assert {key: result[key] for key in ("images", "ok", "failed", "metrics", "errors_by_type")} == {
        "images": 7,
        "ok": 6,
        "failed": 1,
        "metrics": {"images": 6, "sum": sum(good)},
        "errors_by_type": {"truncated": 1},
    }
    assert json.loads(out.read("results/checksum.json")) == result
    parts = [info.name for info in out.list("results/checksum")]
    rows = [row for part in parts for row in pq.read_table(io.BytesIO(out.read(part))).to_pylist()]
    assert [row["image_id"] for row in rows] == IMAGES
    assert [row["value"] for row in rows] == [None if name == BAD else value_of(name) for name in IMAGES]
    for row in rows:
        if row["image_id"] != BAD:
            with np.load(io.BytesIO(out.read(row["arrays_path"])), allow_pickle=False) as arrays:
                vector = arrays[f"{row['arrays_member']}.vector"]
            assert vector.tolist() == [np.float32(value_of(row["image_id"]))] * 3
    plan = load_plan(out)
    assert plan is not None
    assert Ledger(out, "checksum").committed() == dict.fromkeys(range(SHARDS), 0)
    return plan
