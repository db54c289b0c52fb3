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


def largest_component(mask: NDArray[np.bool_], connectivity: int = 8) -> NDArray[np.bool_]:
    """Keep the largest connected part of a mask; of equally large ones, the first in row order.

    Args:
        mask: (H, W) bool.
        connectivity: 8 (diagonal neighbours touch) or 4.

    Returns:
        (H, W) bool; empty if the mask is.

    Raises:
        ValueError: another connectivity.
    """
    from scipy.ndimage import generate_binary_structure, label

    if connectivity not in (4, 8):
        raise ValueError(f"connectivity is {connectivity}: it must be 4 or 8")
    labels = np.zeros(mask.shape, dtype=np.int32)
    label(mask, structure=generate_binary_structure(2, 1 if connectivity == 4 else 2), output=labels)
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    largest: NDArray[np.bool_] = mask & (labels == sizes.argmax())
    return largest
