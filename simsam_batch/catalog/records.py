"""The table of image records: its columns, and how its values are named in messages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

_ROWS = 10_000
COLUMNS = ("image_id", "uri", "size", "etag", "truth_uri")


def records_schema() -> pa.Schema:
    """Columns of a catalog, without the kept ones."""
    import pyarrow as pa

    types = {"size": pa.int64()}
    return pa.schema([pa.field(n, types.get(n, pa.string()), nullable=n not in ("image_id", "uri")) for n in COLUMNS])


def records_table(columns: dict[str, Any], kept: dict[str, Any] | None = None) -> pa.Table:
    """A catalog's table from the columns at hand; absent ones are null."""
    import pyarrow as pa

    kept = kept or {}
    rows = len(columns["uri"])
    schema = records_schema()
    arrays = [columns.get(field.name) for field in schema]
    filled = [pa.nulls(rows, f.type) if a is None else a for f, a in zip(schema, arrays, strict=True)]
    return pa.Table.from_arrays(
        [*filled, *kept.values()],
        schema=pa.schema([*schema, *(pa.field(name, array.type) for name, array in kept.items())]),
    )


def repeated_values(values: Any) -> list[str]:
    """Values that occur more than once, in order; the common case of none costs one pass."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not _may_repeat(values):
        return []
    counts = pa.table({"value": values}).group_by("value").aggregate([("value", "count")])
    return sorted(counts.filter(pc.greater(counts["value_count"], 1))["value"].to_pylist())


def _may_repeat(values: Any) -> bool:
    """Whether two values have the same hash of 8 bytes; a table of the values themselves takes 200 bytes for each."""
    import numpy as np

    hashes = np.empty(len(values), dtype=np.int64)
    for start in range(0, len(values), _ROWS):
        names = values.slice(start, _ROWS).to_pylist()
        hashes[start : start + len(names)] = np.fromiter(map(hash, names), dtype=np.int64, count=len(names))
    hashes.sort()
    return bool((hashes[1:] == hashes[:-1]).any())


def quoted(names: Iterable[Any], total: int | None = None) -> str:
    """Up to five names, quoted so that a name with a line break cannot pass for a message, and how many more."""
    listed = list(names)
    more = (len(listed) if total is None else total) - len(listed[:5])
    return ", ".join(repr(str(name)) for name in listed[:5]) + (f" and {more} more" if more > 0 else "")
