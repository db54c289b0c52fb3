"""Runs of schema version 1, by simsam-batch 0.1: they are read, but nothing is added to them.

A stage of such a run works on the run's plan, of which its ``stage.json`` gives the digest alone; and the codebooks of
its clusters are files that no manifest names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from simsam_batch.errors import RunError, SettingsError
from simsam_batch.runs.records import from_json
from simsam_batch.storage import Folder, ObjectNotFound

VERSION = 1

CODEBOOK = re.compile(r"codebook\.\d+\.[0-9a-f]{16}\.npz")
"""What a codebook is called, in a folder of its own."""

FIT = "clusters.json"
"""The file beside codebooks that names those in force."""


def require_none(out: Folder) -> None:
    """Raise a `SettingsError` if OUT was begun by such a release, since this one would go on in another format."""
    try:
        run = from_json(out.read("run.json"), f"{out.url}/run.json")
    except ObjectNotFound:
        return
    if run["schema_version"] == VERSION:
        version = run.get("version", "0.1.0")
        raise SettingsError(
            f"{out.url} was begun by simsam-batch {version}, whose runs this release reads and does not go on with. "
            f"To mend it: finish it with that release (pip install 'simsam-batch=={version}'), or use another OUT"
        )


def stage_record(record: Mapping[str, Any], out: Folder) -> dict[str, Any]:
    """What a ``stage.json`` of version 1 says, in the words of this one.

    Raises:
        RunError: its plan is not the run's.
    """
    name = f"{out.url}/run.json"
    try:
        run = from_json(out.read("run.json"), name, "plan", "images", "shards", "shard_size")
    except ObjectNotFound as error:
        raise RunError(f"{name} is missing. To mend it: restore the file") from error
    if record["plan"] != run["plan"]:
        raise RunError(
            f"{out.url}: {record['stage']}/stage.json names another plan than run.json. To mend it: restore the file"
        )
    numbers = {key: run[key] for key in ("images", "shards", "shard_size")}
    # no manifest of such a run names the record it belongs to
    plan = {"digest": run["plan"], "unit": "image_id", **numbers}
    return {**record, "reads": {}, "plan": plan, "token": None}


def codebooks_of(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Name and sha256 of each file that a stage of version 1 rests on, by its record; none for later versions.

    Raises:
        ValueError, TypeError: what stands there is none.
    """
    resolved = record["resolved"] if record["schema_version"] == VERSION else {}
    listed = resolved.get("codebooks", [resolved["codebook"]] if "codebook" in resolved else [])
    return [(str(name), str(sha256)) for name, sha256 in listed]
