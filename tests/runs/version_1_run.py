"""A run as release 0.1.0 left it: the files of a fresh one rewritten in its form."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

_ADDED_COLUMNS = ["arrays_offset", "arrays_bytes"]


def as_version_1(out: Path, stage: str, resolved: dict[str, Any] | None = None) -> None:
    """Rewrite a run with one stage; ``resolved`` is what its record then says under that name."""
    _rewrite(out / "run.json", lambda run: run | {"version": "0.1.0"})

    def old_record(record: dict[str, Any]) -> dict[str, Any]:
        del record["reads"]
        return record | {"plan": record["plan"]["digest"]} | ({} if resolved is None else {"resolved": resolved})

    _rewrite(out / f"{stage}/stage.json", old_record)
    for path in (out / f"{stage}/data").glob("*.parquet"):
        table = pq.read_table(path)
        kept = {key: text for key, text in table.schema.metadata.items() if key != b"attachment_ranges"}
        pq.write_table(table.replace_schema_metadata(kept | {b"schema_version": b"1"}), path, compression="zstd")

    def resealed(manifest: dict[str, Any]) -> dict[str, Any]:
        del manifest["stage_token"]
        for file in manifest["files"]:
            body = (out / file["name"]).read_bytes()
            file |= {"size": len(body), "sha256": hashlib.sha256(body).hexdigest()}
        return manifest

    for path in (out / f"{stage}/manifests").iterdir():
        _rewrite(path, resealed)
    for path in (out / f"results/{stage}").glob("*.parquet"):
        pq.write_table(pq.read_table(path).drop_columns(_ADDED_COLUMNS), path)
    if (out / f"results/{stage}.json").exists():
        _rewrite(out / f"results/{stage}.json", lambda result: {k: v for k, v in result.items() if k != "stage_token"})


def _rewrite(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    path.write_text(json.dumps(change(json.loads(path.read_bytes())) | {"schema_version": 1}))
