"""The record of a stage, ``stage.json``: which beginning of it this is, and of what. All that is committed names it."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from simsam_batch.errors import RunError, SettingsError
from simsam_batch.runs import version_1
from simsam_batch.runs.plan import Plan
from simsam_batch.runs.records import from_json
from simsam_batch.runs.schema import SCHEMA_VERSION, Stage
from simsam_batch.storage import Folder, ObjectNotFound

_KEYS = ("stage", "settings", "resolved", "started_with", "arrow_schema")
_DIFFERENCES_LISTED = 12
_LONGEST_SHOWN = 120


class StageLostError(RunError):
    """The record that work was begun under has gone from OUT or is another's: nothing more can be committed."""


class ForeignManifestError(RunError):
    """A manifest was written under another beginning of the stage than the one in OUT."""


def record_name(stage: str) -> str:
    """The name of a stage's record below OUT."""
    return f"{stage}/stage.json"


def new_record(
    stage: Stage, plan: Plan, reads: Mapping[str, str], started_with: Mapping[str, Any] | None
) -> dict[str, Any]:
    """What is recorded when a stage begins; its token is random, so that no two beginnings have one.

    Args:
        stage: the stage.
        plan: what it works on.
        reads: digest of the results of each stage that it reads.
        started_with: see `simsam_batch.runs.ledger.Ledger.begin`.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "stage": stage.name,
        "settings": stage.settings,
        "resolved": stage.resolved,
        "reads": dict(reads),
        "plan": plan.about(),
        "started_with": dict(started_with or {}),
        "arrow_schema": base64.b64encode(stage.schema.remove_metadata().serialize().to_pybytes()).decode(),
        "token": uuid.uuid4().hex,
    }


def read_record(out: Folder, stage: str) -> dict[str, Any] | None:
    """What a stage's record says; None if it has none. One of release 0.1 comes in the words of this one.

    Raises:
        RunError: it is damaged or was written by a newer release.
    """
    name = record_name(stage)
    where = f"{out.url}/{name}"
    try:
        record = from_json(out.read(name), where, *_KEYS)
    except ObjectNotFound:
        return None
    if record["schema_version"] == version_1.VERSION:
        return version_1.stage_record(record, out)
    if not isinstance(record.get("plan"), dict) or not isinstance(record.get("reads"), dict):
        raise RunError(f"{where} is damaged: it names no plan. To mend it: restore the file")
    if not isinstance(record.get("token"), str):
        raise RunError(f"{where} is damaged: it has no token. To mend it: restore the file")
    return record


def schema_of(record: Mapping[str, Any]) -> pa.Schema:
    """The Arrow schema of a stage's rows, from its record.

    Raises:
        ValueError, pa.ArrowException: it is no schema.
    """
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(record["arrow_schema"])))


def differences(
    there: Mapping[str, Any], here: Mapping[str, Any], unrecorded: Mapping[str, Any] | None = None
) -> list[str]:
    """What differs between the record in OUT and another, in a few lines that people can read; none if nothing does.

    They hold the first entries, and of each the beginning. The plan goes by what it is known by, since it may have
    grown. A setting that a record does not name counts as its value in ``unrecorded``, see
    `simsam_batch.runs.schema.Stage`.
    """
    one, other = (_comparable(record, unrecorded or {}) for record in (there, here))
    keys = [*one, *(key for key in other if key not in one)]
    texts = {key: [json.dumps(held[key]) if key in held else "nothing" for held in (one, other)] for key in keys}
    found = [
        f"{read}: has been computed anew with other results than those that the {there['stage']} run in OUT read"
        for read, digest in here["reads"].items()
        if there["reads"].get(read, digest) != digest
    ]
    found += [
        f"{key}: the run in OUT has {_beginning(a)}, this command has {_beginning(b)}"
        for key, (a, b) in texts.items()
        if a != b
    ]
    more = len(found) - _DIFFERENCES_LISTED
    return found if more <= 0 else [*found[:_DIFFERENCES_LISTED], f"and {more} more"]


def require_same(
    out: Folder, there: Mapping[str, Any], here: Mapping[str, Any], unrecorded: Mapping[str, Any] | None = None
) -> None:
    """Refuse to go on with a stage in OUT by another record than it has.

    Args:
        out: the run's folder.
        there: what it has.
        here: what this command would record.
        unrecorded: see `differences`.

    Raises:
        SettingsError: they differ; with the differences.
    """
    found = differences(there, here, unrecorded)
    if found:
        raise SettingsError(
            f"{out.url} holds a {there['stage']} run with other settings:",
            *(f"  {difference}" for difference in found),
            "To mend it: use the same settings, or another OUT",
        )


def _comparable(record: Mapping[str, Any], unrecorded: Mapping[str, Any]) -> dict[str, Any]:
    """A record as flat entries: settings and resolved by their dotted keys, the plan, what is read, the columns."""
    entries = {"plan": record["plan"]["digest"], "unit": record["plan"]["unit"], "reads": [*record["reads"]]}
    for section in (dict(unrecorded) | record["settings"], record["resolved"]):
        _flatten(section, "", entries)
    entries.update({f"column {field.name}": str(field.type) for field in schema_of(record)})
    return entries


def _flatten(value: Any, key: str, entries: dict[str, Any]) -> None:
    if isinstance(value, dict) and (value or not key):
        for name, inner in value.items():
            _flatten(inner, f"{key}.{name}" if key else str(name), entries)
    else:
        # a key that settings and resolved share is compared in both
        entries[key if key not in entries else f"resolved {key}"] = value


def _beginning(text: str) -> str:
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."
