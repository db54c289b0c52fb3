"""Rows of a fit of clusters: one for each repeat, with its codebook beside it."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

CLUSTERS_FIELDS = [
    pa.field("clusters", pa.int32()),
    pa.field("sampled", pa.int64()),
    pa.field("inertia", pa.float64()),
    pa.field("iterations", pa.int32()),
    pa.field("converged", pa.bool_()),
    pa.field("device", pa.string()),
]
"""Columns of a row; the codebook is its attachment ``codebook``."""


class ClustersFold:
    """How many things there were, how many were sampled, and the inertia of every repeat.

    Args:
        things: what is clustered, in words: the key of their number.
    """

    def __init__(self, things: str) -> None:
        self.things = things

    def zero(self) -> dict[str, Any]:
        """The state of no repeat."""
        return {self.things: 0, "sampled": 0, "inertia": []}

    def merge(self, a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
        """The state of both: all repeats have the same things and sample."""
        counts = {name: max(a[name], b[name]) for name in (self.things, "sampled")}
        return counts | {"inertia": [*a["inertia"], *b["inertia"]]}

    def result(self, s: dict[str, Any]) -> dict[str, Any]:
        """The state itself."""
        return dict(s)
