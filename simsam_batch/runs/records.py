"""The JSON files of a run: written strictly and without credentials, read with their version checked."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from simsam_batch.errors import RunError
from simsam_batch.runs.schema import SCHEMA_VERSION
from simsam_batch.storage import redact

# What a key holds, in whichever of the files it is asked for.
_HOLDS: Mapping[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("plan", "stage", "table", "arrow_schema", "content_digest", "first_content_digest"), str),
    **dict.fromkeys(("images", "shards", "shard_size", "shard", "generation", "attempt", "ok", "failed"), int),
    **dict.fromkeys(("first_shard", "first_image"), int),
    **dict.fromkeys(
        ("source", "settings", "resolved", "statistics", "seconds", "versions", "errors_by_type", "reads"), dict
    ),
    **dict.fromkeys(("files", "codebooks"), list),
    **dict.fromkeys(("started", "committed"), (int, float)),
}

RESTORE = "restore it, or start again in another OUT"
PUBLISH_ANEW = "delete it and run the same command again, which publishes it anew"
"""What to do about a damaged file that only this run has, and about one of its results."""


def to_json(record: Mapping[str, Any], name: str) -> bytes:
    """A record as UTF-8 JSON, lists of numbers on one line, with credentials taken out of every URL in it.

    Keys stay in the order they have: classes in that of their numbers, not of the numbers as text.

    Raises:
        RunError: a value is not plain JSON, or not finite.
    """
    try:
        text = json.dumps(_redacted(record), indent=1, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise RunError(
            f"{name}: its values must be plain JSON ({error}). To mend it: Python numbers, null where there is none"
        ) from error
    # Text inside of JSON holds no line break, so that only lists begin so.
    return re.sub(r"\[\n[-+.,\d\seE]*\]", lambda found: "".join(found[0].split()), text).encode()


def from_json(body: bytes, url: str, *keys: str, mend: str = RESTORE) -> dict[str, Any]:
    """The record in a file, which must have these keys.

    Args:
        body: of the file.
        url: where it is, for messages.
        keys: that it must have.
        mend: what to do about damage.

    Raises:
        RunError: the file is damaged or was written by a newer release; the message names it.
    """
    try:
        record = json.loads(body)
        version = int(record["schema_version"])
        # what a newer release left out is no damage
        missing = [key for key in keys if key not in record] if version <= SCHEMA_VERSION else []
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise _damaged(url, f"{type(error).__name__}: {error}", mend) from error
    if version > SCHEMA_VERSION:
        raise RunError(
            f"{url} was written by a newer release (schema {version}, this one knows {SCHEMA_VERSION}). "
            "To mend it: update simsam-batch"
        )
    if missing:
        raise _damaged(url, f"without {', '.join(missing)}", mend)
    wrong = [key for key in keys if not isinstance(record[key], _HOLDS.get(key, object))]
    if wrong:
        raise _damaged(url, f"something else in the place of {', '.join(wrong)}", mend)
    return dict(record)


def _damaged(url: str, how: str, mend: str) -> RunError:
    return RunError(f"{url} is damaged ({how}). To mend it: {mend}")


def _redacted(value: Any) -> Any:
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {key: _redacted(inner) for key, inner in value.items()}
    return [_redacted(inner) for inner in value] if isinstance(value, list | tuple) else value
