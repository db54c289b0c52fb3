"""Images of a run that are no longer in its input: which ones, as the last command said that looked for them."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from simsam_batch.errors import RunError
from simsam_batch.runs.plan import Plan, load_plan, row_numbers
from simsam_batch.runs.schema import IMAGE
from simsam_batch.storage.parquet import read_table

_ENDS = ("source_record", "target_record")

GONE_FIELD = pa.field("gone", pa.bool_(), nullable=False)
"""Column of published rows, where some of a run's images are gone; whoever reads them by `StageRows` sees a status."""

GONE = "gone"
"""The status of such a row."""


def gone_files(plan: Plan) -> list[str]:
    """The names of the files below the run's folder that say which images are gone; the last one counts."""
    name = re.compile(rf"plan/{plan.digest}\.gone\.(\d+)\.parquet")
    found = [(int(match[1]), match[0]) for each in plan.out.list("plan") if (match := name.fullmatch(each.name))]
    return [each for _, each in sorted(found)]


def gone_records(plan: Plan) -> NDArray[np.int64]:
    """The numbers of the records that are gone, ascending; of pairs those of which one image is.

    None of a plan of other records.

    Raises:
        RunError: the file that says so is damaged.
        StorageError: the storage did not answer.
    """
    if plan.unit != IMAGE:
        return _gone_pairs(plan)
    files = gone_files(plan)
    if not files:
        return np.zeros(0, np.int64)
    try:
        table = read_table(io.BytesIO(plan.out.read(files[-1])))
        return np.sort(table["record"].to_numpy().astype(np.int64))
    except (pa.ArrowException, OSError, KeyError) as error:
        raise RunError(
            f"{plan.out.url}/{files[-1]} cannot be read: {error}. To mend it: run the command again with --prune"
        ) from error


def _gone_pairs(pairs: Plan) -> NDArray[np.int64]:
    images, none = load_plan(pairs.out), np.zeros(0, np.int64)
    gone = none if images is None else gone_records(images)
    found = [none]
    for number in range(pairs.shards if len(gone) else 0):
        records = pairs.shard(number).records
        if not {*_ENDS} <= {*records.column_names}:
            break
        ends = [np.isin(records[end].to_numpy(), gone) for end in _ENDS]
        found.append(pairs.first_record_of(number) + np.flatnonzero(ends[0] | ends[1]))
    return np.concatenate(found)


def record_gone(plan: Plan, ids: Sequence[str]) -> None:
    """Record which images are gone, in place of what was recorded before; nothing happens if that is the same.

    Args:
        plan: of the run.
        ids: of all images of the plan that are gone.

    Raises:
        StorageError: OUT cannot be written.
    """
    numbers = np.sort(np.array(row_numbers(plan, ids), np.int64))
    while not _is_recorded(plan, numbers):
        files = gone_files(plan)
        last = int(files[-1].split(".")[-2]) if files else 0
        target = io.BytesIO()
        pq.write_table(pa.table({"record": numbers}), target)
        plan.out.create(f"plan/{plan.digest}.gone.{last + 1}.parquet", target.getvalue())


def _is_recorded(plan: Plan, numbers: NDArray[np.int64]) -> bool:
    try:
        return np.array_equal(numbers, gone_records(plan))
    except RunError:
        # what cannot be read is written anew
        return False
