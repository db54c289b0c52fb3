"""What a commit is made of: rows that fit their stage and plan, as the bytes of a file, and what is counted of them."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from simsam_batch.errors import RunError
from simsam_batch.runs.archive import ByteRange
from simsam_batch.runs.committed import ARRAY_ROWS_KEY, RANGES_KEY
from simsam_batch.runs.plan import Plan
from simsam_batch.runs.schema import IMAGE, SCHEMA_VERSION, ShardOutput

_FAILURES_LISTED = 20


def checked_rows(output: ShardOutput, schema: pa.Schema, plan: Plan) -> pa.Table:
    """The rows in the stage's schema, if they are exactly the plan's records of this shard in their order.

    Raises:
        RunError: they are not, or the output does not fit them.
    """
    where = f"the output of shard {output.number}"
    if output.rows.schema.names != schema.names:
        odd = sorted(set(output.rows.schema.names) ^ set(schema.names)) or "their order"
        raise RunError(f"{where} has other columns than its stage: {odd}")
    try:
        rows = output.rows.replace_schema_metadata(None).cast(schema)
    except (pa.ArrowException, ValueError) as error:
        raise RunError(f"{where} does not fit the schema of its stage: {error}") from error
    records = plan.shard(output.number).records
    unit = plan.unit
    if not rows[unit].equals(records[unit]):
        what = "images" if unit == IMAGE else "records"
        raise RunError(
            f"{where} is not the plan's {records.num_rows} {what} in their order: it has {rows.num_rows} rows"
        )
    if not pc.all(pc.is_in(rows["status"], pa.array(["ok", "failed"]))).as_py():
        raise RunError(f"{where} has a status other than ok and failed")
    if len(output.attachments) not in (0, rows.num_rows):
        raise RunError(f"{where} has attachments for {len(output.attachments)} rows of {rows.num_rows}")
    return rows


def counts(rows: pa.Table, unit: str) -> dict[str, Any]:
    """How many rows are good and failed, and of these the first few and the kinds, as a manifest has it."""
    failed = rows.filter(pc.equal(rows["status"], "failed")).select([unit, "error_type", "error"])
    kinds = Counter(kind or "unknown" for kind in failed["error_type"].to_pylist())
    return {
        "images": rows.num_rows,
        "ok": rows.num_rows - failed.num_rows,
        "failed": failed.num_rows,
        "failures": failed.slice(0, _FAILURES_LISTED).to_pylist(),
        "errors_by_type": dict(sorted(kinds.items())),
    }


def parquet(rows: pa.Table, ranges: Sequence[ByteRange], stage: str, plan: str) -> bytes:
    """The file of a shard's rows, which tells where the attachments of each lie in the archive."""
    about = {
        "schema_version": str(SCHEMA_VERSION),
        "stage": stage,
        "plan": plan,
        ARRAY_ROWS_KEY: json.dumps([each.row for each in ranges]),
        RANGES_KEY: json.dumps([[each.start, each.size] for each in ranges]),
    }
    target = io.BytesIO()
    pq.write_table(rows.replace_schema_metadata(about), target, compression="zstd")
    return target.getvalue()
