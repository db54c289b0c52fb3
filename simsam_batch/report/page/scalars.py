"""The numbers of all rows that pictures are chosen by and that distributions are of: a few bytes an image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from simsam_batch.runs.plan import Plan
from simsam_batch.runs.reading import StageRows

ROWS_AT_ONCE = 65_536
MOST_SHARDS = 256
"""Of a run in progress, each of whose shards is read whole whatever is asked of it."""


class Scalars:
    """Numbers of the rows of a stage as arrays, NaN where a row has none.

    Published rows are all read. While a run goes on, of more than `MOST_SHARDS` shards so many are read, spread evenly.

    Args:
        rows: of the stage.
        plan: of the run.
        columns: of numbers or booleans; those that the stage has not are NaN throughout.

    Attributes:
        number: (R,) int64, each row's number.
        ok: (R,) whether the image was computed.
        total: rows that are there, read or not.
    """

    def __init__(self, rows: StageRows, plan: Plan, columns: Sequence[str]) -> None:
        self.total = len(rows)
        numbers, fine = [np.zeros(0, np.int64)], [np.zeros(0, np.bool_)]
        values: dict[str, list[NDArray[np.float32]]] = {name: [np.zeros(0, np.float32)] for name in columns}
        for number, table in tables_of(rows, plan, ["status", *columns]):
            numbers.append(number)
            fine.append(np.array(pc.equal(table["status"], "ok")))
            for name in columns:
                values[name].append(_numbers(table, name))
        self.number, self.ok = np.concatenate(numbers), np.concatenate(fine)
        self._values = {name: np.concatenate(parts) for name, parts in values.items()}

    @property
    def note(self) -> str:
        """What they are of, if not of all rows that are there."""
        read = len(self)
        return "" if read == self.total else f"Counted over a sample of {read:,} of the {self.total:,} rows so far."

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        """A column, (R,)."""
        return self._values[name]

    def __len__(self) -> int:
        """How many rows were read."""
        return len(self.number)


def tables_of(rows: StageRows, plan: Plan, columns: Sequence[str]) -> Iterator[tuple[NDArray[np.int64], pa.Table]]:
    """Some columns of all rows, or of the shards that stand for them, with the rows' numbers."""
    there = np.array(rows.spread(len(rows)), dtype=np.int64)
    starts = np.array([plan.first_record_of(shard) for shard in range(plan.shards)])
    shard_of = np.searchsorted(starts, there, side="right") - 1
    shards = np.unique(shard_of)
    if rows.published or len(shards) <= MOST_SHARDS:
        for first, table in rows.batches(columns, ROWS_AT_ONCE):
            yield np.arange(first, first + table.num_rows), table
        return
    for shard in shards[np.linspace(0, len(shards) - 1, MOST_SHARDS).round().astype(int)].tolist():
        number = there[shard_of == shard]
        yield number, rows.take(number.tolist(), columns)


def _numbers(table: pa.Table, name: str) -> NDArray[np.float32]:
    if name not in table.column_names:
        return np.full(table.num_rows, np.nan, np.float32)
    found: NDArray[np.float32] = table[name].cast(pa.float32()).to_numpy().astype(np.float32)
    return found
