"""Rows of the ``patch-labels`` stage: which classes an image has, and why there are none; labels are arrays beside."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

PATCH_LABELS_FIELDS = [
    pa.field("classes", pa.list_(pa.int32())),
    pa.field("class_pixels", pa.list_(pa.int64())),
    pa.field("void_pixels", pa.int64()),
    pa.field("truth_error", pa.string()),
]
"""Columns of a row after `ROW_FIELDS`: the classes that have pixels, how many each has, and pixels that do not count.

All null where the image failed or has no truth. The array ``labels`` beside a row is (M, 3) int32, ascending: a patch
in row-major order, a class, and how many of the patch's pixels are of it; ``void`` (N,) int32 is how many of each patch
do not count.
"""


class PatchLabelsFold:
    """How many pixels each class has in all images."""

    def zero(self) -> dict[str, Any]:
        """The state of no image."""
        return {"images_with_truth": 0, "truth_errors": 0, "void_pixels": 0, "pixels_by_class": {}}

    def merge(self, a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
        """The state of the images of both."""
        pixels = dict(a["pixels_by_class"])
        for name, count in b["pixels_by_class"].items():
            pixels[name] = pixels.get(name, 0) + count
        counts = {name: a[name] + b[name] for name in ("images_with_truth", "truth_errors", "void_pixels")}
        return counts | {"pixels_by_class": pixels}

    def result(self, s: dict[str, Any]) -> dict[str, Any]:
        """The counts, by ascending class."""
        pixels = s["pixels_by_class"]
        return {**s, "pixels_by_class": {name: pixels[name] for name in sorted(pixels, key=int)}}
