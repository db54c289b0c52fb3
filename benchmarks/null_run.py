"""A run that computes nothing: a catalog like a real one, rows without content, sums of the size of real ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from simsam_batch.runs.schema import IMAGE, ROW_FIELDS, Fold, Needs, Shard, ShardOutput
from simsam_batch.scores.bootstrap import STEPS
from simsam_batch.scores.overlap import LEVELS
from simsam_batch.stages.regions.rows import RegionsFold
from simsam_batch.stages.segment.rows import SegmentFold


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


SCHEMA = pa.schema([*ROW_FIELDS, pa.field("width", pa.int32()), pa.field("height", pa.int32())])


@dataclass(frozen=True)
class NullStage:
    """A stage that computes nothing: rows without content, and statistics of the size that its fold's have."""

    name: str
    unit = IMAGE
    reads = ()
    needs = Needs(gpu=False)
    fold: Fold[Any]
    schema: pa.Schema = SCHEMA
    settings: dict[str, Any] = field(default_factory=dict)
    resolved: dict[str, Any] = field(default_factory=dict)
    unrecorded: dict[str, Any] = field(default_factory=dict)

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


NULL, SCORES = NullStage("null", RegionsFold(patches=False)), NullStage("scores", SegmentFold())
