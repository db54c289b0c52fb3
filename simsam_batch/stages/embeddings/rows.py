"""Rows of the ``embeddings`` stage: how well an embedding could be fitted to each point; it is an array beside."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

EMBEDDINGS_FIELDS = [
    pa.field("source", pa.string()),
    pa.field("x", pa.float64()),
    pa.field("y", pa.float64()),
    pa.field("width", pa.int32()),
    pa.field("height", pa.int32()),
    pa.field("content_sha256", pa.string()),
    pa.field("loss_first", pa.list_(pa.float64())),
    pa.field("loss_last", pa.list_(pa.float64())),
    pa.field("collapsed", pa.int32()),
]
"""Columns of a row. All null where the point failed.

``source`` is the image, ``x`` and ``y`` the point in its pixels. For each start ``loss_first`` and ``loss_last`` are
the means of the first and last ten losses, by that of a map that is zero everywhere; ``collapsed`` counts starts that
ended there. Beside a row are ``embedding`` (starts, tokens, channels) float32 and ``losses`` (steps, starts) float32.
"""

TENTH = 10
"""Steps at either end whose mean loss is told."""


class EmbeddingsFold:
    """How many points there are, and starts that came to nothing."""

    def zero(self) -> dict[str, Any]:
        """The state of no point."""
        return {"points": 0, "starts": 0, "collapsed": 0, "loss_first": 0.0, "loss_last": 0.0}

    def merge(self, a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
        """The state of the points of both."""
        return {name: a[name] + b[name] for name in a}

    def result(self, s: dict[str, Any]) -> dict[str, Any]:
        """The counts, and mean losses."""
        found = {name: s[name] for name in ("points", "starts", "collapsed")}
        if s["starts"]:
            found |= {name: s[name] / s["starts"] for name in ("loss_first", "loss_last")}
        return found
