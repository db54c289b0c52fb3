"""Rows of the ``style-networks`` stage: a network each."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

NETWORK = "network"
"""The attachment of a row, a safetensors file."""

NETWORK_FIELDS = [
    pa.field("region", pa.string()),
    pa.field("text", pa.string()),
    pa.field("images", pa.int64()),
    pa.field("images_used", pa.int64()),
    pa.field("steps", pa.int32()),
    pa.field("loss_first", pa.float64()),
    pa.field("loss_last", pa.float64()),
    pa.field("patch_first", pa.float64()),
    pa.field("patch_last", pa.float64()),
    pa.field("rejected_last", pa.float64()),
]
"""Columns of a row: a network. ``images`` are those of the run, ``images_used`` those that it was fitted to."""


class NetworksFold:
    """Counts networks and their updates."""

    def zero(self) -> dict[str, Any]:
        """The state of none."""
        return {"networks": 0, "steps": 0}

    def merge(self, a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
        """The state of both."""
        return {key: a[key] + b[key] for key in a}

    def result(self, s: dict[str, Any]) -> dict[str, Any]:
        """The state itself."""
        return dict(s)
