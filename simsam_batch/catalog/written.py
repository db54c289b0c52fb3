"""Folders that this program has written to: they lie among images, and are none."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from simsam_batch.catalog.named import Images, named_paths, told_paths
from simsam_batch.errors import SettingsError, StorageError
from simsam_batch.storage import absolute_url, is_same_place, read_url, redact

if TYPE_CHECKING:
    import pyarrow as pa

_ENDINGS = (".json", ".parquet", ".csv")
_MARK = re.compile(
    r"(?:(?P<folder>.*)/)?(?:(?P<run>run\.json)|(?P<plan>plan/[0-9a-f]{64}\.parquet)"
    r"|(?P<export>export\.json)|(?P<index>index\.csv))",
    re.DOTALL,
)
_KINDS = {"run": {"run", "plan"}, "export": {"export", "index"}}
"""What must be in a folder for it to hold a run, or an export of image files."""


class WrittenFolders:
    """Runs and exports among listed files, each known by two names that it has."""

    def __init__(self) -> None:
        self._marks: dict[str, set[str]] = {}

    def look_at(self, name: str) -> None:
        """Note a file, by its name relative to the folder that is listed."""
        # most names are looked at no further
        if name.endswith(_ENDINGS) and (found := _MARK.fullmatch(name)) is not None:
            self._marks.setdefault(found["folder"] or "", set()).add(str(found.lastgroup))

    def those_of(self, kind: str) -> list[str]:
        """The folders with a ``run`` or an ``export``, sorted; the one that is listed is the empty name."""
        return sorted(folder for folder, marks in self._marks.items() if marks >= _KINDS[kind])


def outside(table: pa.Table, folders: Collection[str]) -> pa.Table:
    """The rows of a table whose ``name`` is in none of some folders."""
    import pyarrow.compute as pc

    for folder in folders:
        table = table.filter(pc.invert(pc.starts_with(table["name"], f"{folder}/")))
    return table


def planned_images(url: str) -> str | None:
    """What the run in a folder is about, as its ``run.json`` says; None where that cannot be read."""
    try:
        found: Any = json.loads(read_url(f"{absolute_url(url)}/run.json"))["source"]["images"]
    except (StorageError, ValueError, KeyError, TypeError, RecursionError):
        return None
    several = isinstance(found, list) and found and all(isinstance(each, str) for each in found)
    return told_paths(found) if several or isinstance(found, str) else None


def require_apart(images: Images, out: str) -> None:
    """Refuse one folder for IMAGES and OUT: what a run writes would be among its images.

    Raises:
        SettingsError: they are the same, by whatever names of the local disk.
    """
    if any(is_same_place(path, out) for path in named_paths(images)):
        raise SettingsError(
            f"OUT: {redact(absolute_url(out))} is IMAGES itself, and what the run writes would be among its images. "
            "To mend it: name another folder, which may be one inside of IMAGES"
        )
