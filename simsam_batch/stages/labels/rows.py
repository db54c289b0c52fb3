"""Rows of the ``labels`` stage: for every node of a tree the label of its cluster."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

LABELS_FIELDS = [pa.field("labels", pa.list_(pa.int32()))]
"""Columns of a row after `ROW_FIELDS`: the label of every node, in the order of the tree; null where there is none."""


class LabelsFold:
    """How many nodes each label has."""

    def zero(self) -> dict[str, Any]:
        """The state of no image."""
        return {"nodes_by_label": {}}

    def merge(self, a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
        """The state of the images of both."""
        both = dict(a["nodes_by_label"])
        for label, count in b["nodes_by_label"].items():
            both[label] = both.get(label, 0) + count
        return {"nodes_by_label": both}

    def result(self, s: dict[str, Any]) -> dict[str, Any]:
        """The counts, by ascending label."""
        counts = {label: s["nodes_by_label"][label] for label in sorted(s["nodes_by_label"], key=int)}
        return {"nodes": sum(counts.values()), "nodes_by_label": counts}
