"""Boxes of masks, in pixels, the maximum exclusive."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Box = tuple[int, int, int, int]
"""(xmin, ymin, xmax, ymax), the maximum exclusive: a single pixel at (x, y) is (x, y, x + 1, y + 1)."""


def tight_box(mask: NDArray[np.bool_]) -> Box | None:
    """Return the smallest box around all True pixels of a mask (H, W), or None if there are none."""
    rows = np.flatnonzero(mask.any(axis=1))
    if not rows.size:
        return None
    columns = np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
