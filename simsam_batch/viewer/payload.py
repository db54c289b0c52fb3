"""One whole row with its arrays, from the file of its shard, which is small and checked by its hash."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from numpy.typing import NDArray

from simsam_batch.errors import RunError
from simsam_batch.results.label_maps import WITHOUT_MAP, lacks_map
from simsam_batch.runs.committed import CommittedShard
from simsam_batch.runs.ledger import Ledger
from simsam_batch.runs.plan import Plan
from simsam_batch.runs.schema import Attachment, File
from simsam_batch.storage import Folder, ObjectNotFound
from simsam_batch.viewer.answers import RefusedError
from simsam_batch.viewer.kept import Kept
from simsam_batch.viewer.session import OpenedStage

SHARDS_KEPT = 16
"""Of a stage, in memory."""

_ARRAY_BYTES = 32 * 2**20


def row_of(stage: OpenedStage, row: int) -> dict[str, Any]:
    """All columns of a row, with where its arrays lie, and beside them those of other stages that belong to it.

    The latter are as `simsam_batch.results.label_maps.map_rows` gives them: null where that stage has no such row. So
    is the ``status`` of an image that did not fail and has no map.

    Args:
        stage: of the row.
        row: its number, its place in the plan.

    Raises:
        RefusedError: 404: there is no such row, or not yet.
        RunError: its shard is damaged or has gone, or the labels beside it are not those of its nodes.
        StorageError: the storage did not answer.
    """
    held: _Payloads = stage.once("payloads", lambda: _Payloads(stage))
    found = held.own.row(row)
    if found is None:
        there = (
            "is not committed yet" if row < stage.plan.records else f"is beyond the {stage.plan.records} of the plan"
        )
        raise RefusedError(404, f"row {row} of {stage.name} {there}. To mend it: reopen the run later, or name another")
    for columns, other in held.beside:
        of_other = None if other is None else other.row(row)
        found |= {name: None if of_other is None else of_other.get(name) for name in columns}
    if stage.what is not None and lacks_map(found):
        found["status"] = WITHOUT_MAP
    if stage.kind == "trees" and found.get("labels") is not None and len(found["labels"]) != len(found["nodes"] or ()):
        raise RunError(
            f"the labels beside row {row} of {stage.name} are {len(found['labels'])}, its nodes "
            f"{len(found['nodes'] or ())}. To mend it: label the nodes again"
        )
    return found


def arrays_of(stage: OpenedStage, row: int) -> dict[str, NDArray[Any]]:
    """The arrays of a row by name, by one request for a range of bytes; none if none were stored.

    Raises:
        RefusedError: 404: there is no such row, or not yet.
        RunError: its shard is damaged or has gone.
        StorageError: the storage did not answer.
    """
    found = row_of(stage, row)
    held: _Payloads = stage.once("payloads", lambda: _Payloads(stage))
    return held.arrays.get(row, lambda: _arrays(stage, found))


def file_of(stage: OpenedStage, row: int, name: str) -> bytes:
    """A file that is attached to a row, by the name of the attachment; it is not kept.

    Raises:
        RefusedError: 404: there is no such row, or not yet, or nothing of this name.
        RunError: its shard is damaged or has gone.
        StorageError: the storage did not answer.
    """
    file = _attachments(stage, row_of(stage, row)).get(name)
    if not isinstance(file, File):
        raise RefusedError(404, f"row {row} of {stage.name} has no file {name}")
    return file.data


@dataclass(slots=True)
class _Shards:
    """The rows of one stage by its committed shards, the last few kept."""

    ledger: Ledger
    plan: Plan
    generations: Mapping[int, int]
    _kept: Kept[pa.Table] = field(default_factory=lambda: Kept(SHARDS_KEPT))

    def row(self, number: int) -> dict[str, Any] | None:
        """A row as Python values; None if it is not committed."""
        if not 0 <= number < self.plan.records:
            return None
        shard, place = self.plan.place_of(number)
        if shard not in self.generations:
            return None
        table = self._kept.get(shard, lambda: self._read(shard))
        if table.num_rows != self.plan.records_of(shard):
            raise RunError(
                f"{self.ledger.out.url}: shard {shard} of {self.ledger.stage} has {table.num_rows} rows, planned were "
                f"{self.plan.records_of(shard)}. To mend it: restore its files"
            )
        return dict(table.slice(place, 1).to_pylist()[0])

    def _read(self, shard: int) -> pa.Table:
        out = self.ledger.out
        try:
            return CommittedShard(out, self.ledger.manifest(shard, self.generations[shard])).placed_rows()
        except ObjectNotFound as error:
            raise _vanished(out, f"shard {shard} of {self.ledger.stage}") from error


def _arrays(stage: OpenedStage, row: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    return {name: value for name, value in _attachments(stage, row).items() if not isinstance(value, File)}


def _attachments(stage: OpenedStage, row: Mapping[str, Any]) -> dict[str, Attachment]:
    try:
        return stage.rows.attachments(row)
    except ObjectNotFound as error:
        raise _vanished(stage.out, str(row["arrays_path"])) from error


class _Payloads:
    """The rows of a stage, and those of the stages that it is shown with."""

    def __init__(self, stage: OpenedStage) -> None:
        self.arrays: Kept[dict[str, NDArray[Any]]] = Kept(_ARRAY_BYTES, _bytes_in)
        self.own = _Shards(stage.ledger, stage.plan, stage.generations)
        beside = {} if stage.what is None else stage.what.beside
        self.beside = [(columns, _begun(stage, other)) for other, columns in beside.items()]


def _begun(stage: OpenedStage, other: str) -> _Shards | None:
    """Another stage about the same records; None if it has not begun, or is about others."""
    if other not in stage.run.stages:
        return None
    found = stage.run.stage(other)
    return _Shards(found.ledger, found.plan, found.generations) if found.plan.digest == stage.plan.digest else None


def _vanished(out: Folder, what: str) -> RunError:
    return RunError(f"{out.url}: {what} has gone since it was committed. To mend it: restore it, or run verify")


def _bytes_in(arrays: Mapping[str, NDArray[Any]]) -> int:
    return sum(each.nbytes for each in arrays.values())
