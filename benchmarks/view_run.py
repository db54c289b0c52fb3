"""A published run of ``segment`` that nothing was computed for: values at random, in the real schema and files."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from benchmarks.null_run import NullStage, catalog
from simsam_batch.runs.ledger import Ledger
from simsam_batch.runs.plan import make_plan
from simsam_batch.runs.publish import GROUP_ROWS
from simsam_batch.runs.schema import ARRAY_FIELDS, ROW_FIELDS, SCHEMA_VERSION, ShardOutput
from simsam_batch.stages.columns import RLE
from simsam_batch.stages.segment.rows import SEGMENT_FIELDS, SegmentFold
from simsam_batch.storage import Folder

SCHEMA = pa.schema([*ROW_FIELDS, *SEGMENT_FIELDS])
PARTS = 10

_SHARD_ROWS = 1000
_FAILED_ONE_IN = 500
_MASK_LETTERS = 420
_WORDS = {"solver": ["dense", "lanczos"], "error_type": ["unreadable"], "failed_step": ["read"]}
_WHOLE = {"width": (640, 1281), "height": (480, 961), "grid_h": (30, 61), "grid_w": (40, 81)}


@dataclass(frozen=True)
class Synthetic(NullStage):
    """The stage ``segment`` by its name and columns alone."""

    schema: pa.Schema = SCHEMA
    resolved: dict[str, Any] = field(default_factory=lambda: {"models": {}, "truth": {"kind": "object"}})


def write_run(out: Folder, images: int, files: Sequence[Path] = ()) -> None:
    """Plan, record, parts and result of a run.

    Args:
        out: where, empty.
        images: how many; a multiple of `PARTS`.
        files: photographs that the images are, over and over; without them they are nowhere.
    """
    records = catalog(images)
    if files:
        uris = pa.array([str(file) for file in files]).take(pa.array(np.arange(images) % len(files)))
        records = records.set_column(records.schema.get_field_index("uri"), "uri", uris)
    seen = [_seen(file) for file in files]
    plan = make_plan(out, records, shard_size=_SHARD_ROWS, source={})
    stage = Synthetic("segment", SegmentFold())
    ledger = Ledger(out, stage.name)
    ledger.begin(stage, plan)
    about = {"schema_version": str(SCHEMA_VERSION), "stage": stage.name, "plan": plan.digest}
    about |= {"settings": json.dumps(stage.settings), "resolved": json.dumps(stage.resolved)}
    schema = pa.schema([*SCHEMA, *ARRAY_FIELDS], metadata=about)
    if files:
        for number in range(-(-images // _SHARD_ROWS)):
            start = number * _SHARD_ROWS
            rows = _rows(records.slice(start, _SHARD_ROWS), SCHEMA, start, seen)
            output = ShardOutput(number, rows, [{}] * rows.num_rows, stage.fold.zero())
            ledger.commit(output, ledger.start(number), started=time.time())
    share = images // PARTS
    for part in range(PARTS):
        target = io.BytesIO()
        with pq.ParquetWriter(target, schema, compression="zstd") as writer:
            for start in range(part * share, (part + 1) * share, GROUP_ROWS):
                count = min(GROUP_ROWS, (part + 1) * share - start)
                writer.write_table(_rows(records.slice(start, count), schema, start, seen))
        out.replace(f"results/{stage.name}/part-{part:05d}.parquet", target.getvalue())
    failed = -(-images // _FAILED_ONE_IN)
    result = {
        "schema_version": SCHEMA_VERSION,
        "stage": stage.name,
        "stage_token": ledger.record()["token"],
        "images": images,
        "ok": images - failed,
        "failed": failed,
        "errors_by_type": {"unreadable": failed},
        "metrics": {},
        "content_digest": "0" * 64,
    }
    out.replace(f"results/{stage.name}.json", json.dumps(result).encode())


def _seen(file: Path) -> dict[str, Any]:
    """What a row says of a photograph, with an ellipse for a mask."""
    from pycocotools import mask as coco

    content = file.read_bytes()
    width, height = Image.open(io.BytesIO(content)).size
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    mask = coco.encode(np.asfortranarray(x**2 + y**2 < 0.5).view(np.uint8))
    return {
        "content_sha256": sha256(content).hexdigest(),
        "width": width,
        "height": height,
        "mask_rle": mask | {"counts": mask["counts"].decode()},
    }


def _rows(records: pa.Table, schema: pa.Schema, start: int, seen: Sequence[dict[str, Any]]) -> pa.Table:
    count = records.num_rows
    rng = np.random.default_rng(start)
    failed = (np.arange(start, start + count) % _FAILED_ONE_IN) == 0
    made = {name: records[name] for name in ("image_id", "uri")}
    made["status"] = pa.array(np.where(failed, "failed", "ok"))
    made["error"] = pa.array(np.full(count, "the file ends too early"), mask=~failed)
    made["mask_rle"] = _masks(count, rng, failed)
    if seen:
        of = pa.array(np.arange(start, start + count) % len(seen), mask=failed)
        for name in seen[0]:
            made[name] = pa.array([each[name] for each in seen], schema.field(name).type).take(of)
    for column in schema:
        if column.name in made or column.name in {each.name for each in ARRAY_FIELDS}:
            continue
        made[column.name] = _column(column, count, rng, failed)
    columns = [made[f.name] if f.name in made else pa.nulls(count, f.type) for f in schema]
    return pa.Table.from_arrays([pa.chunked_array(c) if isinstance(c, list) else c for c in columns], schema=schema)


def _column(column: pa.Field, count: int, rng: np.random.Generator, failed: np.ndarray[Any, Any]) -> pa.Array:
    kind, mask = column.type, failed
    if column.name in ("error_type", "failed_step"):
        mask = ~failed
    if column.name in _WORDS:
        return pa.array(np.array(_WORDS[column.name])[rng.integers(0, len(_WORDS[column.name]), count)], mask=mask)
    if column.name == "eigenvalues":
        values = pa.array(np.sort(rng.random((count, 15), np.float32)).reshape(-1))
        return pa.ListArray.from_arrays(pa.array(np.arange(0, 15 * count + 1, 15, dtype=np.int32)), values)
    if pa.types.is_boolean(kind):
        return pa.array(rng.random(count) < 0.1, mask=mask)
    if pa.types.is_integer(kind):
        return pa.array(rng.integers(*_WHOLE.get(column.name, (0, 4)), count), kind, mask=mask)
    if pa.types.is_floating(kind):
        return pa.array(rng.beta(4, 2, count), mask=mask).cast(kind)
    if pa.types.is_struct(kind):
        fields = [_column(kind.field(i), count, rng, failed) for i in range(kind.num_fields)]
        return pa.StructArray.from_arrays(fields, fields=list(kind), mask=pa.array(mask))
    return pa.nulls(count, kind)


def _masks(count: int, rng: np.random.Generator, failed: np.ndarray[Any, Any]) -> pa.Array:
    """Run lengths as long as those of real masks, of letters that compress as badly."""
    letters = rng.integers(48, 111, (count, _MASK_LETTERS), dtype=np.uint8)
    ends = pa.array(np.arange(0, _MASK_LETTERS * count + 1, _MASK_LETTERS, dtype=np.int32))
    counts = pa.StringArray.from_buffers(count, ends.buffers()[1], pa.py_buffer(letters.tobytes()))
    sides = pa.array(np.tile(np.array([480, 640], np.int32), count))
    size = pa.ListArray.from_arrays(pa.array(np.arange(0, 2 * count + 1, 2, dtype=np.int32)), sides)
    return pa.StructArray.from_arrays([size, counts], fields=list(RLE), mask=pa.array(failed))
