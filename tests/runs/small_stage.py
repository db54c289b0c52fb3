"""A stage small enough to compute by hand, for the tests of plans, ledgers and results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from simsam_batch.runs.plan import Plan, make_plan
from simsam_batch.runs.schema import ROW_FIELDS, Needs, ShardOutput, Worker
from simsam_batch.storage import Folder


class SumFold:
    """Adds up counts and values."""

    def zero(self) -> dict[str, Any]:
        return {"rows": 0, "sum": 0.0, "order": []}

    def merge(self, a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
        return {"rows": a["rows"] + b["rows"], "sum": a["sum"] + b["sum"], "order": a["order"] + b["order"]}

    def result(self, s: dict[str, Any]) -> dict[str, Any]:
        return {"mean": s["sum"] / s["rows"], "order": s["order"]}


@dataclass(frozen=True)
class SmallStage:
    name: str = "small"
    unit: str = "image_id"
    reads: tuple[str, ...] = ()
    needs: Needs = field(default_factory=Needs)
    settings: dict[str, Any] = field(default_factory=lambda: {"kappa": 10, "head": {"lr": 0.5}})
    unrecorded: dict[str, Any] = field(default_factory=dict)
    resolved: dict[str, Any] = field(default_factory=lambda: {"weights": "sha256:ab"})
    schema: pa.Schema = field(
        default_factory=lambda: pa.schema(
            [*ROW_FIELDS, pa.field("value", pa.float64()), pa.field("box", pa.list_(pa.int32()))]
        )
    )
    fold: SumFold = field(default_factory=SumFold)

    def make_worker(self, beat: Callable[[], None]) -> Worker:
        raise NotImplementedError

    def state_of_failed(self, row: Mapping[str, Any]) -> None:
        return None


def catalog(images: int) -> pa.Table:
    names = [f"folder/{number:06d}.jpg" for number in range(images)]
    return pa.table({"image_id": names, "uri": [f"/data/{name}" for name in names]})


def small_plan(out: Folder, images: int = 5, shard_size: int = 2) -> Plan:
    return make_plan(out, catalog(images), shard_size=shard_size, source={"images": "/data"})


def output(plan: Plan, number: int, values: Sequence[float | None]) -> ShardOutput:
    """The output of one shard; a value of None is a failed image, which has no arrays."""
    records = plan.shard(number).records
    failed = [value is None for value in values]
    rows = pa.table(
        {
            "image_id": records["image_id"],
            "uri": records["uri"],
            "status": ["failed" if bad else "ok" for bad in failed],
            "error_type": pa.array(["truncated" if bad else None for bad in failed], pa.string()),
            "error": pa.array(["the file ends early" if bad else None for bad in failed], pa.string()),
            "failed_step": pa.array(["decode" if bad else None for bad in failed], pa.string()),
            "value": pa.array(values, pa.float64()),
            "box": pa.array([None if bad else [0, 1, 2, 3] for bad in failed], pa.list_(pa.int32())),
        }
    )
    good = [value for value in values if value is not None]
    return ShardOutput(
        number,
        rows,
        [{} if value is None else {"eigenvectors": np.full((2, 3), value, np.float16)} for value in values],
        {"rows": len(good), "sum": sum(good), "order": [number]},
        {"decode": 0.5, "solve": 0.25},
        {"device": "cpu"},
    )
