"""Rows of the ``probe-maps`` stage: label maps of images that were not fitted on, and how each cell did."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from simsam_batch.scores.bootstrap import merge_bins
from simsam_batch.stages.columns import SEGMENT
from simsam_batch.stages.kinds import Shown

SHOWN = Shown("labels", facts=("shown",), beside={"features": ("content_sha256",)}, classes=True)

PROBE_MAPS_FIELDS = [
    pa.field("width", pa.int32()),
    pa.field("height", pa.int32()),
    pa.field("side", pa.string()),
    pa.field("shown", pa.string()),
    pa.field("labels", pa.list_(pa.int32())),
    pa.field("segments", pa.list_(SEGMENT)),
    pa.field("maps", pa.list_(pa.struct([("probe", pa.string()), ("segments", pa.list_(SEGMENT))]))),
]
"""Columns of a row; kept input columns follow. All null where the image failed.

``side`` is ``train``, ``val`` or null. Images of train are not predicted. ``shown`` names the cell whose label map the
row holds, ``maps`` has one of each probe; a segment's label is a class, and 0 is what no segment covers. The array
``counts`` beside a row that was scored is (K, 3, C) int64: for each cell and reference of the table the pixels of each
class that are right, predicted, true.
"""

_COUNTED = ("images_scored", "truth_errors", "neighbours_found", "neighbours_checked")
"""In the fold's state; the last two are of an approximate search, how many of the exact neighbours it found of some."""

REFERENCES = ("floor", "patch ceiling", "bilinear ceiling")
"""What stands beside the cells: the class of most train pixels everywhere; the truth of each patch as its class, and
its shares of classes between patches."""


COUNTS = "counts"
"""The array beside a row that was scored."""


class ProbeMapsFold:
    """Confusions of the cells whose label maps are kept, and of the references."""

    def zero(self) -> dict[str, Any]:
        """The state of no image."""
        return dict.fromkeys(_COUNTED, 0) | {"confusions": {}}

    def merge(self, a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
        """The state of the images of both: of each cell the pixels by (predicted x C + true)."""
        both = dict(a["confusions"])
        for name, counts in b["confusions"].items():
            both[name] = merge_bins(both[name], counts) if name in both else counts
        return {name: a[name] + b[name] for name in _COUNTED} | {"confusions": both}

    def result(self, s: dict[str, Any]) -> dict[str, Any]:
        """How many images were scored, of how many the truth cannot be used, the recall of a search, the confusions."""
        checked = s["neighbours_checked"]
        recall = {"neighbours_recall": s["neighbours_found"] / checked} if checked else {}
        counts = {name: s[name] for name in ("images_scored", "truth_errors")}
        return counts | recall | {"confusions": s["confusions"]}
