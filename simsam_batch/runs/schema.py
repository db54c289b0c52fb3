"""The words of a run: shard, worker, output, fold, stage."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, overload

import pyarrow as pa
from numpy.typing import NDArray

SCHEMA_VERSION = 2

IMAGE = "image_id"
"""The unit of a run's own plan."""

ARRAY_FIELDS = [
    pa.field("arrays_path", pa.string()),
    pa.field("arrays_member", pa.string()),
    pa.field("arrays_offset", pa.int64()),
    pa.field("arrays_bytes", pa.int64()),
]
"""Columns that publishing adds: the archive relative to OUT, the first part of its members' names, where they lie."""

S = TypeVar("S")

PLAN_FIELDS = [
    pa.field("image_id", pa.string(), nullable=False),
    pa.field("uri", pa.string(), nullable=False),
    pa.field("size", pa.int64()),
    pa.field("etag", pa.string()),
    pa.field("truth_uri", pa.string()),
]
"""Columns of a catalog, and so of a run's plan; a plan adds ``shard`` (int32). Further columns are passed through."""


def row_fields(unit: str) -> list[pa.Field]:
    """The columns that every stage's rows begin with, by the unit of its plan; a stage adds its own, all nullable.

    ``status`` is ``ok`` or ``failed``. Images have their ``uri`` beside their id.
    """
    uri = [pa.field("uri", pa.string(), nullable=False)] if unit == IMAGE else []
    return [
        pa.field(unit, pa.string(), nullable=False),
        *uri,
        pa.field("status", pa.string(), nullable=False),
        pa.field("error_type", pa.string()),
        pa.field("error", pa.string()),
        pa.field("failed_step", pa.string()),
    ]


ROW_FIELDS = row_fields(IMAGE)
"""Those of a stage about images."""

FAILURE = ("status", "error_type", "error", "failed_step")
"""Columns that say what became of a record."""


@dataclass(frozen=True, slots=True)
class Shard:
    """A fixed, ordered slice of the plan: the unit of work, retry and commit.

    Attributes:
        number: position in the plan, from 0.
        records: the plan's rows of this shard, in order (`PLAN_FIELDS` and any further columns).
    """

    number: int
    records: pa.Table


@dataclass(frozen=True, slots=True)
class File:
    """A file that a row has, such as a picture.

    Attributes:
        data: its bytes.
        suffix: what its name ends in, without the dot: ``png``.
    """

    data: bytes
    suffix: str


Attachment = NDArray[Any] | File
"""What a row may have beside its columns: an array, or a file."""


class AttachmentsByRow(Sequence[Mapping[str, Attachment]], ABC):
    """The attachments of rows, each read when it is asked for and not kept."""

    @abstractmethod
    def of(self, row: int) -> Mapping[str, Attachment]:
        """What is attached to a row, from 0, by name."""

    @overload
    def __getitem__(self, row: int) -> Mapping[str, Attachment]: ...

    @overload
    def __getitem__(self, row: slice) -> Sequence[Mapping[str, Attachment]]: ...

    def __getitem__(self, row: int | slice) -> Mapping[str, Attachment] | Sequence[Mapping[str, Attachment]]:
        if isinstance(row, slice):
            return [self.of(each) for each in range(*row.indices(len(self)))]
        if not -len(self) <= row < len(self):
            raise IndexError(row)
        return self.of(row % len(self))


@dataclass(frozen=True, slots=True)
class Needs:
    """What a stage's workers need, and how many of them are of use.

    Attributes:
        gpu: a worker computes on a GPU where there is one; else it reserves cores alone.
        workers: workers at most; 0 for as many as there is room for.
    """

    gpu: bool = True
    workers: int = 0


@dataclass(frozen=True, slots=True)
class ShardOutput:
    """Everything one shard produced.

    Attributes:
        number: the shard's number.
        rows: one row for each record of the shard, in the same order, in the stage's Arrow schema. Nothing that
            differs between two equal computations (time, host, attempt) may stand in it.
        attachments: for each row the arrays and files that go into the archive, by name; an empty mapping for none.
            Each row is asked for once, in order, so that they may be read as they are asked for.
        statistics: the fold's state for this shard, as plain JSON values; a failed image adds nothing to it.
        seconds: time spent by step, for the manifest.
        facts: what was used (device, versions, precision, ...), for the manifest.
    """

    number: int
    rows: pa.Table
    attachments: Sequence[Mapping[str, Attachment]]
    statistics: dict[str, Any]
    seconds: dict[str, float] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


class Worker(Protocol):
    """Turns shards into outputs, in order; lives as long as its process and holds the model.

    It gets an iterator so that the next shard is decoded while this one is computed. It raises
    `simsam_batch.errors.StorageError` (or anything else) when an attempt fails; a fault of one image is a row.
    After an exception the same worker may be given a new iterator.
    """

    def run(self, shards: Iterator[Shard]) -> Iterator[ShardOutput]: ...


class Fold(Protocol[S]):
    """Merges the statistics of all shards into the dataset-level result.

    ``merge`` is called in shard order, so that sums in fp64 repeat to the last bit; counts are exact integers.
    States are plain JSON values.
    """

    def zero(self) -> S: ...

    def merge(self, a: S, b: S) -> S: ...

    def result(self, s: S) -> dict[str, Any]: ...


class Stage(Protocol):
    """One pass over the shards of a plan: a worker and a fold. Picklable; it travels to every worker process.

    It has all of these attributes.

    Attributes:
        name: also its folder below OUT (``segment``).
        unit: the column that names a record of its plan: ``image_id`` for a stage about the run's images.
        reads: names of the stages of the same OUT whose results it takes; which results these are becomes part of what
            it is (`simsam_batch.runs.ledger.Ledger.begin`).
        needs: what its workers need.
        schema: Arrow schema of its rows, beginning with `row_fields` of its unit.
        settings: the result settings; equal settings mean equal numbers. Plain JSON values.
        unrecorded: of settings that are younger than runs which may be gone on with, what these did without them.
        resolved: what the settings came down to (weights digest, patch size, normalisation, ...). Plain JSON values.
        fold: merges ``ShardOutput.statistics``.
    """

    @property
    def name(self) -> str: ...

    @property
    def unit(self) -> str: ...

    @property
    def reads(self) -> tuple[str, ...]: ...

    @property
    def needs(self) -> Needs: ...

    @property
    def schema(self) -> pa.Schema: ...

    @property
    def settings(self) -> dict[str, Any]: ...

    @property
    def unrecorded(self) -> Mapping[str, Any]: ...

    @property
    def resolved(self) -> dict[str, Any]: ...

    @property
    def fold(self) -> Fold[Any]: ...

    def make_worker(self, beat: Callable[[], None]) -> Worker:
        """Build the worker (loads the model). It calls ``beat`` whenever it gets on, for the stall watchdog."""
        ...

    def state_of_failed(self, row: Mapping[str, Any]) -> Any:
        """What a record that has failed for good adds to the fold's state; None where it adds nothing.

        It is asked when results are published, since another try may still mend what failed.

        Args:
            row: of the record, with the columns of ``schema``.
        """
        ...
