"""From committed shards to what others read: one result file and a few large Parquet files for each stage."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from simsam_batch.errors import RunError
from simsam_batch.runs.committed import committed_shards, files_of
from simsam_batch.runs.gone import GONE, GONE_FIELD, gone_records
from simsam_batch.runs.ledger import Ledger
from simsam_batch.runs.plan import Plan
from simsam_batch.runs.records import to_json
from simsam_batch.runs.schema import ARRAY_FIELDS, SCHEMA_VERSION, Stage
from simsam_batch.storage import Folder

PART_ROWS = 100_000
PART_BYTES = 256_000_000
"""A part file ends with the shard that reaches one of these; bytes are those of the shards' own files of rows."""

GROUP_ROWS = 10_000
GROUP_BYTES = 64_000_000
"""A row group of a part file ends likewise; bytes are those of Arrow."""


def publish(out: Folder, plan: Plan, stage: Stage) -> dict[str, Any]:
    """Merge all shards into ``results/<stage>.json`` and ``results/<stage>/part-*.parquet``; repeating it is harmless.

    What is committed costs one listing; each manifest and each shard's rows are read once, in shard order. Memory holds
    one part file.

    Returns:
        The content of ``results/<stage>.json``. Its ``seconds`` count time during which some shard was being worked on.

    Raises:
        RunError: OUT has no such stage or another run's, a shard is not committed, or what is committed is of another
            run or not what its manifest says.
    """
    ledger = Ledger(out, stage.name)
    token = ledger.join(stage, plan)
    committed = ledger.committed()
    pending = [number for number in range(plan.shards) if number not in committed]
    if pending:
        raise RunError(
            f"{len(pending)} of {plan.shards} shards are not committed (the first is {pending[0]}), so nothing can be "
            "published yet. To mend it: run the same command again"
        )
    name = f"results/{stage.name}.json"
    # what is damaged is replaced anyway
    with suppress(RunError):
        earlier = ledger.published()
        if earlier is not None and earlier["images"] < plan.records:
            # the run has grown: its parts are not those of fewer images any more
            out.delete([name])
    totals = _Totals(stage, plan)
    gone = gone_records(plan)
    waiting: list[dict[str, Any]] = []
    part = rows = size = 0
    for manifest in ledger.manifests(committed):
        records = plan.records_of(int(manifest["shard"]))
        if waiting and (rows + records > PART_ROWS or size >= PART_BYTES):
            _publish_part(out, plan, stage, part, waiting, totals, gone)
            waiting, part, rows, size = [], part + 1, 0, 0
        waiting.append(totals.add(manifest))
        rows, size = rows + records, size + files_of(waiting[-1])[0]["size"]
    if waiting:
        _publish_part(out, plan, stage, part, waiting, totals, gone)
    result = totals.result(token)
    out.replace(name, to_json(result, name))
    return result


class _Totals:
    """What the manifests add up to, and with them the rows that failed."""

    def __init__(self, stage: Stage, plan: Plan) -> None:
        self._stage, self._fold, self._plan = stage, stage.fold, plan
        self._state = self._fold.zero()
        self._counts: Counter[str] = Counter()
        self._errors: Counter[str] = Counter()
        self._steps: dict[str, float] = {}
        self._intervals: list[tuple[float, float]] = []
        self._versions: dict[str, set[str]] = {}
        self._digest, self._first_digest = hashlib.sha256(), hashlib.sha256()

    def add(self, manifest: dict[str, Any]) -> dict[str, Any]:
        self._state = self._fold.merge(self._state, manifest["statistics"])
        self._counts.update({key: manifest[key] for key in ("images", "ok", "failed")})
        self._errors.update(manifest["errors_by_type"])
        for step, seconds in manifest["seconds"].items():
            self._steps[step] = self._steps.get(step, 0.0) + seconds
        self._intervals += [(start, end) for start, end in manifest.get("earlier", ())]
        self._intervals.append((manifest["started"], manifest["committed"]))
        for package, version in manifest["versions"].items():
            self._versions.setdefault(package, set()).add(version)
        self._digest.update(manifest["content_digest"].encode())
        self._first_digest.update(manifest.get("first_content_digest", manifest["content_digest"]).encode())
        return {key: manifest[key] for key in ("shard", "files")}

    def add_gone(self, rows: pa.Table) -> None:
        """Rows whose images are gone count neither as good nor as failed."""
        self._counts.subtract(rows["status"].to_pylist())
        self._errors.subtract(rows["error_type"].drop_null().to_pylist())
        self._counts[GONE] += rows.num_rows

    def add_failed(self, rows: pa.Table) -> None:
        for row in rows.filter(pc.equal(rows["status"], "failed")).to_pylist():
            state = self._stage.state_of_failed(row)
            if state is not None:
                self._state = self._fold.merge(self._state, state)

    def result(self, token: str) -> dict[str, Any]:
        if self._counts["images"] != self._plan.records:
            held, planned = self._counts["images"], self._plan.records
            raise RunError(
                f"the manifests hold {held} images, the plan {planned}. To mend it: simsam verify names what is damaged"
            )
        seconds = busy_seconds(self._intervals)
        return {
            "schema_version": SCHEMA_VERSION,
            "stage": self._stage.name,
            "stage_token": token,
            **{key: self._counts[key] for key in ("images", "ok", "failed")},
            **({GONE: self._counts[GONE]} if self._counts[GONE] else {}),
            "errors_by_type": {key: count for key, count in sorted(self._errors.items()) if count},
            "metrics": self._fold.result(self._state),
            "content_digest": self._digest.hexdigest(),
            "first_content_digest": self._first_digest.hexdigest(),
            "seconds": seconds,
            "images_per_second": self._counts["images"] / seconds if seconds > 0 else None,
            "seconds_by_step": self._steps,
            "settings": self._stage.settings,
            "resolved": self._stage.resolved,
            "plan": self._plan.digest,
            "versions": {package: " | ".join(sorted(found)) for package, found in sorted(self._versions.items())},
        }


def busy_seconds(intervals: Iterable[tuple[float, float]]) -> float:
    """Length of the union of time intervals ``(start, end)`` in seconds."""
    total, end = 0.0, float("-inf")
    for first, last in sorted(intervals):
        total += max(0.0, last - max(first, end))
        end = max(end, last)
    return total


def _publish_part(
    out: Folder,
    plan: Plan,
    stage: Stage,
    part: int,
    shards: Sequence[Mapping[str, Any]],
    totals: _Totals,
    gone: NDArray[np.int64],
) -> None:
    about = {
        "schema_version": str(SCHEMA_VERSION),
        "stage": stage.name,
        "plan": plan.digest,
        "settings": json.dumps(stage.settings, sort_keys=True),
        "resolved": json.dumps(stage.resolved, sort_keys=True),
    }
    schema = pa.schema([*stage.schema, *ARRAY_FIELDS, *([GONE_FIELD] if len(gone) else [])], metadata=about)
    target = io.BytesIO()
    first = plan.first_record_of(int(shards[0]["shard"]))
    with pq.ParquetWriter(target, schema, compression="zstd") as writer:
        for rows in _row_groups(shard.placed_rows() for shard in committed_shards(out, shards)):
            if not len(gone):
                writer.write_table(rows.cast(schema))
                totals.add_failed(rows)
                continue
            marks = pa.array(np.isin(np.arange(first, first + rows.num_rows), gone))
            first += rows.num_rows
            writer.write_table(rows.append_column(GONE_FIELD, marks).cast(schema))
            totals.add_gone(rows.filter(marks))
            totals.add_failed(rows.filter(pc.invert(marks)))
    out.replace(f"results/{stage.name}/part-{part:05d}.parquet", target.getvalue())


def _row_groups(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Whole shards put together, since whoever reads the parts pays for each row group."""
    held: list[pa.Table] = []
    rows = size = 0
    for table in tables:
        held.append(table)
        rows, size = rows + table.num_rows, size + table.nbytes
        if rows >= GROUP_ROWS or size >= GROUP_BYTES:
            yield pa.concat_tables(held)
            held, rows, size = [], 0, 0
    if held:
        yield pa.concat_tables(held)
