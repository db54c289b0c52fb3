"""Rows of the ``subsets`` stage: one for each budget of labels and draw, and one for the images that are scored."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

TRAIN, VAL = "train", "val"
"""Sides of the images, and rows by these names."""

SUBSETS_FIELDS = [
    pa.field("fraction", pa.float64()),
    pa.field("draw", pa.int32()),
    pa.field("images", pa.int64()),
    pa.field("class_pixels", pa.list_(pa.int64())),
    pa.field("absent", pa.list_(pa.int32())),
]
"""Columns of a row; ``fraction`` and ``draw`` are null for ``train`` and ``val``, all images of either side.

``class_pixels`` says how many pixels of each class its images have, ``absent`` which classes of all train images it
lacks. The array ``records`` beside it holds the places of its images in the plan, ascending.
"""


class SubsetsFold:
    """What each subset holds."""

    def zero(self) -> dict[str, Any]:
        """The state of no subset."""
        return {"images_of_subset": {}, "classes_absent": {}}

    def merge(self, a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
        """The state of the subsets of both."""
        return {name: a[name] | b[name] for name in a}

    def result(self, s: dict[str, Any]) -> dict[str, Any]:
        """How many images each has, and how many classes it lacks."""
        return dict(s)
