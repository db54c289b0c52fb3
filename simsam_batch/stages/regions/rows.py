"""Rows of the ``regions`` stage, first of ``semantic``: every image cut into regions, each with a box and a feature."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from simsam_batch.stages.columns import IMAGE_FIELDS

REGION = pa.struct(
    [
        ("region", pa.int32()),
        ("bbox_xyxy", pa.list_(pa.int32())),
        ("patches", pa.int32()),
        ("feature", pa.list_(pa.float32())),
    ]
)

REGIONS_FIELDS = [
    *IMAGE_FIELDS,
    pa.field("outlier_tokens", pa.int32()),
    pa.field("components", pa.int32()),
    pa.field("region_count", pa.int32()),
    pa.field("region_map", pa.list_(pa.int32())),
    pa.field("regions", pa.list_(REGION)),
    pa.field("eigenvalues", pa.list_(pa.float32())),
    pa.field("solver", pa.string()),
    pa.field("converged", pa.bool_()),
    pa.field("residual_max", pa.float32()),
    pa.field("degenerate", pa.bool_()),
]
"""Columns of a row of this stage after `ROW_FIELDS`. All null where the image failed."""

DESCRIPTORS = "descriptors"
"""What is attached to a row if there are baselines: unit descriptors of the patches, (N, C) float16."""


class RegionsFold:
    """How many regions there are.

    Args:
        patches: whether patches are counted too.
    """

    def __init__(self, *, patches: bool) -> None:
        self.patches = patches

    def zero(self) -> dict[str, Any]:
        """The state of no image."""
        return {"regions": 0, "images_without_regions": 0, "degenerate": 0} | ({"patches": 0} if self.patches else {})

    def merge(self, a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
        """The state of the images of both."""
        return {name: a[name] + b[name] for name in a}

    def result(self, s: dict[str, Any]) -> dict[str, Any]:
        """The counts."""
        return dict(s)
