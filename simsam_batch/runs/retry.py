"""Another try for the images that failed in committed shards: a new generation of the shard's manifest holds all rows.

Nothing that is committed is changed. The sums of a shard add up only images that did not fail (`ShardOutput`), so the
fold merges those of the second try to those of the first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from simsam_batch.errors import RunError
from simsam_batch.runs.committed import CommittedShard
from simsam_batch.runs.ledger import Ledger
from simsam_batch.runs.plan import Plan
from simsam_batch.runs.schema import Attachment, AttachmentsByRow, Fold, Shard, ShardOutput


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
    status = CommittedShard(ledger.out, manifest).rows(["status"])["status"]
    return Shard(number, plan.shard(number).records.filter(pc.equal(status, "failed")))


def with_second_try(ledger: Ledger, fold: Fold[Any], previous: Mapping[str, Any], output: ShardOutput) -> ShardOutput:
    """The whole shard: what is committed, with the rows, attachments and sums of what failed replaced.

    Args:
        ledger: of the stage.
        fold: merges the sums.
        previous: the manifest in force when the second try began.
        output: of `failed_images`.

    Raises:
        RunError: the output has other images than those that failed, or a committed file is damaged.
    """
    before = CommittedShard(ledger.out, previous)
    rows = before.rows()
    failed = np.flatnonzero(np.asarray(pc.equal(rows["status"], "failed")))
    again = output.rows.replace_schema_metadata(None).cast(rows.schema)
    # rows begin with the unit of their plan
    unit = rows.schema.names[0]
    if not again[unit].equals(rows[unit].take(pa.array(failed))):
        raise RunError(f"the second try of shard {output.number} is not of the images that failed, in their order")
    place = np.arange(len(rows))
    place[failed] = len(rows) + np.arange(len(failed))
    again_at = {row: number for number, row in enumerate(failed.tolist()) if number < len(output.attachments)}
    return ShardOutput(
        number=output.number,
        rows=pa.concat_tables([rows, again]).take(pa.array(place)),
        attachments=_Replaced(before.attachments(), output.attachments, again_at),
        statistics=fold.merge(previous["statistics"], output.statistics),
        seconds=_added(previous["seconds"], output.seconds),
        facts={**output.facts, "images_tried_again": len(failed)},
    )


def _added(a: Mapping[str, float], b: Mapping[str, float]) -> dict[str, float]:
    return {step: a.get(step, 0.0) + b.get(step, 0.0) for step in (*a, *(step for step in b if step not in a))}


class _Replaced(AttachmentsByRow):
    """The attachments of a shard, some rows taken from a second try; none is read before it is asked for."""

    def __init__(
        self,
        before: Sequence[Mapping[str, Attachment]],
        again: Sequence[Mapping[str, Attachment]],
        again_at: Mapping[int, int],
    ) -> None:
        self._before, self._again, self._again_at = before, again, again_at

    def __len__(self) -> int:
        return len(self._before)

    def of(self, row: int) -> Mapping[str, Attachment]:
        """What is attached to a row, by the second try if it was tried again."""
        return self._again[self._again_at[row]] if row in self._again_at else self._before[row]
