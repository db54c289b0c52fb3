"""Numbers that no row has as a column, made of what it has: filtered, sorted and counted by like columns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Derived:
    """A number of each row that is made of others.

    Attributes:
        needs: columns, or fields of those of structures as ``points.margin``.
        make: from a table with these (N,) float64, NaN for no value.
        words: what it is.
    """

    needs: tuple[str, ...]
    make: Callable[[pa.Table], NDArray[np.float64]]
    words: str


def derived_of(schema: pa.Schema) -> dict[str, Derived]:
    """By name those that the rows of a schema have all that is needed for, and no column of that name."""
    return {
        name: of
        for name, of in DERIVED.items()
        if name not in schema.names and all(_paths(need, schema) for need in of.needs)
    }


def paths_of(name: str, schema: pa.Schema) -> list[str]:
    """What is read of the rows of a schema for a number, as paths of Parquet."""
    return [path for need in DERIVED[name].needs for path in _paths(need, schema)]


def _paths(need: str, schema: pa.Schema) -> list[str]:
    """The path of a column or of a field of a list of structures; none if the schema lacks it."""
    column, _, field = need.partition(".")
    if column not in schema.names:
        return []
    kind = schema.field(column).type
    if not field:
        return [column]
    inside = pt.is_list(kind) and pt.is_struct(kind.value_type) and kind.value_type.get_field_index(field) >= 0
    return [f"{column}.list.element.{field}"] if inside else []


def _pck(table: pa.Table) -> NDArray[np.float64]:
    right, scored = (table[name].to_numpy().astype(np.float64) for name in ("points_right", "points_scored"))
    found: NDArray[np.float64] = np.divide(right, scored, out=np.full(len(scored), np.nan), where=scored > 0)
    return found


def _mean_margin(table: pa.Table) -> NDArray[np.float64]:
    lists = table["points"].combine_chunks()
    parents = pc.list_parent_indices(lists).to_numpy(zero_copy_only=False)
    margins = pc.struct_field(pc.list_flatten(lists), "margin").to_numpy(zero_copy_only=False).astype(np.float64)
    there = np.isfinite(margins)
    sums = np.bincount(parents[there], margins[there], len(table))
    counts = np.bincount(parents[there], minlength=len(table))
    means: NDArray[np.float64] = np.divide(sums, counts, out=np.full(len(table), np.nan), where=counts > 0)
    return means


DERIVED = {
    "pck": Derived(
        ("points_right", "points_scored"),
        _pck,
        "share of the points with truth that are found within a tenth of the length from it, 0 to 1",
    ),
    "margin": Derived(
        ("points.margin",),
        _mean_margin,
        "confidence: mean over its points of how much more alike the place found is than the best one elsewhere",
    ),
}
"""All that there are."""
