"""Rows of the ``probe-fits`` stage: what each fit was given and how it went; what it found are arrays beside."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

PROBE_FITS_FIELDS = [
    pa.field("probe", pa.string()),
    pa.field("features", pa.string()),
    pa.field("fraction", pa.float64()),
    pa.field("seed", pa.int32()),
    pa.field("images", pa.int64()),
    pa.field("patches", pa.int64()),
    pa.field("iterations", pa.int32()),
    pa.field("converged", pa.bool_()),
    pa.field("objective", pa.float64()),
    pa.field("device", pa.string()),
]
"""Columns of a row; ``features`` is null where a fit is about all feature sets, ``fraction`` where it needs no labels.

Beside a row, for each feature set: of linear ``weight.<set>`` (C, D) and ``bias.<set>`` (C,); of kmeans, for each
number of clusters k, a codebook ``codebook.<k>`` and ``counts.<k>`` (F, k, C), the pixels of each class in each cluster
for each fraction; of ward the same of its micro-clusters, and ``linkage`` (m - 1, 4) in SciPy's form, or of its chunks
``centroids`` (chunks, K, D) and ``counts`` (F, chunks * K, C). Of knn nothing is fitted: it searches in the stored
features.
"""


class ProbeFitsFold:
    """How many fits there are, and how many have not converged."""

    def zero(self) -> dict[str, Any]:
        """The state of no fit."""
        return {"fits": 0, "not_converged": 0}

    def merge(self, a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
        """The state of the fits of both."""
        return {name: a[name] + b[name] for name in a}

    def result(self, s: dict[str, Any]) -> dict[str, Any]:
        """The counts."""
        return dict(s)
