"""Rows of the ``features`` stage: what was read of each image; its features are arrays beside the row."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from simsam_batch.stages.columns import IMAGE_FIELDS

FEATURES = True
"""The arrays beside a row are what the reading API gives as features."""

FEATURES_FIELDS = [*IMAGE_FIELDS, pa.field("outlier_tokens", pa.int32())]
"""Columns of a row; kept input columns follow. All null where the image failed.

``outlier_tokens`` counts patches whose residual stream leaving the last block asked for is over four medians long.
"""


class FeaturesFold:
    """How many patches were described, and how many stand out."""

    def zero(self) -> dict[str, Any]:
        """The state of no image."""
        return {"patches": 0, "outlier_tokens": 0}

    def merge(self, a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
        """The state of the images of both."""
        return {name: a[name] + b[name] for name in a}

    def result(self, s: dict[str, Any]) -> dict[str, Any]:
        """The counts."""
        return dict(s)
