"""Boxes of masks, in pixels, the maximum exclusive."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from simsam_batch.regions.masks import UpsampleIndex

Box = tuple[int, int, int, int]
"""(xmin, ymin, xmax, ymax), the maximum exclusive: a single pixel at (x, y) is (x, y, x + 1, y + 1)."""


def tight_box(grid_mask: NDArray[np.bool_], index: UpsampleIndex) -> Box | None:
    """Return the smallest box around the pixels of all True patches, or None if there are none.

    Args:
        grid_mask: (Hp, Wp).
        index: from `simsam_batch.regions.masks.upsample_index`.
    """
    rows, columns = index
    # Columns first, then rows: patches without a pixel, which small images have, count for nothing.
    down = np.flatnonzero(np.any(grid_mask[:, columns], axis=1)[rows])
    if not down.size:
        return None
    across = np.flatnonzero(np.any(grid_mask[rows], axis=0)[columns])
    return int(across[0]), int(down[0]), int(across[-1]) + 1, int(down[-1]) + 1
