"""Columns that the rows of several stages have."""

from __future__ import annotations

import pyarrow as pa

IMAGE_FIELDS = [
    pa.field("width", pa.int32()),
    pa.field("height", pa.int32()),
    pa.field("orientation", pa.int8()),
    pa.field("more_frames", pa.bool_()),
    pa.field("content_sha256", pa.string()),
    pa.field("changed_since_plan", pa.bool_()),
    pa.field("grid_h", pa.int32()),
    pa.field("grid_w", pa.int32()),
    pa.field("patch", pa.int32()),
]
"""Columns that say what was read and how it was cut to patches."""

RLE = pa.struct([("size", pa.list_(pa.int32())), ("counts", pa.string())])

SEGMENT = pa.struct(
    [
        ("label", pa.int32()),
        ("area_fraction", pa.float64()),
        ("bbox_xyxy", pa.list_(pa.int32())),
        ("mask_rle", RLE),
    ]
)
"""One label of one image."""

OBJECT = pa.struct(
    [("mask_rle", RLE), ("bbox_xyxy", pa.list_(pa.int32())), ("area_fraction", pa.float64()), ("score", pa.float32())]
)
"""One of several objects of one image."""
