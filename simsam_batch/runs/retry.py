"""Another try for the images that failed in committed shards: a new generation of the shard's manifest holds all rows.

Nothing that is committed is changed. The sums of a shard add up only images that did not fail (`ShardOutput`), so the
fold merges those of the second try to those of the first.
"""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from simsam_batch.errors import RunError
from simsam_batch.runs.ledger import Ledger, checked_file, committed_rows, files_of
from simsam_batch.runs.plan import Plan
from simsam_batch.runs.schema import Fold, Shard, ShardOutput


def failed_shards(ledger: Ledger) -> tuple[dict[int, int], int]:
    """The shards with failed images, with the generation in force of each, and how many such images there are."""
    failed = {
        int(manifest["shard"]): (int(manifest["generation"]), int(manifest["failed"]))
        for manifest in ledger.manifests()
        if manifest["failed"]
    }
    return {shard: generation for shard, (generation, _) in failed.items()}, sum(count for _, count in failed.values())


def failed_images(ledger: Ledger, plan: Plan, manifest: Mapping[str, Any]) -> Shard:
    """The part of a committed shard that failed, as its plan has it.

    Raises:
        RunError: a committed file is not what its manifest says.
    """
    number = int(manifest["shard"])
    return Shard(number, plan.shard(number).records.filter(pc.equal(_rows(ledger, manifest)["status"], "failed")))


def with_second_try(ledger: Ledger, fold: Fold[Any], previous: Mapping[str, Any], output: ShardOutput) -> ShardOutput:
    """The whole shard: what is committed, with the rows, arrays and sums of what failed replaced.

    Args:
        ledger: of the stage.
        fold: merges the sums.
        previous: the manifest in force when the second try began.
        output: of `failed_images`.

    Raises:
        RunError: the output has other images than those that failed, or a committed file is damaged.
    """
    rows = _rows(ledger, previous)
    failed = np.flatnonzero(np.asarray(pc.equal(rows["status"], "failed")))
    again = output.rows.replace_schema_metadata(None).cast(rows.schema)
    if not again["image_id"].equals(rows["image_id"].take(pa.array(failed))):
        raise RunError(f"the second try of shard {output.number} is not of the images that failed, in their order")
    place = np.arange(len(rows))
    place[failed] = len(rows) + np.arange(len(failed))
    arrays = _arrays(ledger, previous, len(rows))
    for row, of_row in zip(failed.tolist(), output.arrays, strict=False):
        arrays[row] = of_row
    return ShardOutput(
        number=output.number,
        rows=pa.concat_tables([rows, again]).take(pa.array(place)),
        arrays=arrays,
        statistics=fold.merge(previous["statistics"], output.statistics),
        seconds=_added(previous["seconds"], output.seconds),
        facts={**output.facts, "images_tried_again": len(failed)},
    )


def _added(a: Mapping[str, float], b: Mapping[str, float]) -> dict[str, float]:
    return {step: a.get(step, 0.0) + b.get(step, 0.0) for step in (*a, *(step for step in b if step not in a))}


def _rows(ledger: Ledger, manifest: Mapping[str, Any]) -> pa.Table:
    (body,) = committed_rows(ledger.out, [manifest])
    return pq.read_table(pa.BufferReader(body)).replace_schema_metadata(None)


def _arrays(ledger: Ledger, manifest: Mapping[str, Any], rows: int) -> list[Mapping[str, NDArray[np.generic]]]:
    """For each row of a committed shard its arrays by name."""
    by_row: dict[int, dict[str, NDArray[np.generic]]] = defaultdict(dict)
    file = files_of(manifest)[1]
    if file is not None:
        with np.load(io.BytesIO(checked_file(ledger.out, file)), allow_pickle=False) as held:
            for member in held.files:
                row, _, name = member.partition(".")
                by_row[int(row)][name] = held[member]
    return [by_row.get(row, {}) for row in range(rows)]
