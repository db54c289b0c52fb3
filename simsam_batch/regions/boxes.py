"""Boxes of masks and regions, in pixels, the maximum exclusive."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from simsam_batch.regions.pixel_index import UpsampleIndex

Box = tuple[int, int, int, int]
"""(xmin, ymin, xmax, ymax), the maximum exclusive: a single pixel at (x, y) is (x, y, x + 1, y + 1)."""


def tight_box(grid_mask: NDArray[np.bool_], index: UpsampleIndex) -> Box | None:
    """Return the smallest box around the pixels of all True patches, or None if there are none.

    Args:
        grid_mask: (Hp, Wp).
        index: from `simsam_batch.regions.pixel_index.upsample_index`.
    """
    # Patches without a pixel, which small images have, count for nothing.
    held = [np.bincount(along, minlength=patches) > 0 for along, patches in zip(index, grid_mask.shape, strict=True)]
    seen = grid_mask & held[0][:, None] & held[1]
    if not seen.any():
        return None
    # Indices ascend, so that the pixels of a patch row lie between two places.
    ends = []
    for along, axis in zip(index, (1, 0), strict=True):
        patches = np.flatnonzero(seen.any(axis=axis))
        ends.append((int(np.searchsorted(along, patches[0])), int(np.searchsorted(along, patches[-1], "right"))))
    (top, bottom), (left, right) = ends
    return left, top, right, bottom


def region_boxes(
    labels: NDArray[np.integer], index: UpsampleIndex, *, erode: int = 2, dilate: int = 3, first: int = 1
) -> list[tuple[int, Box]]:
    """Put a box around every region, after erosions and then dilations of its mask.

    Each step takes a cross of 3 x 3 patches; what lies outside the grid does not erode. An erosion that would leave
    nothing of a region is left out for it, and so are all after it. A region of several parts has one box around all
    (boxes of Deep Spectral Methods).

    Args:
        labels: (Hp, Wp) whole numbers.
        index: from `simsam_batch.regions.pixel_index.upsample_index`.
        erode: erosions.
        dilate: dilations.
        first: lowest id that gets a box: 1 leaves the background out.

    Returns:
        (id, box) by ascending id; without the regions that have no pixel, as may be in images smaller than the grid.
    """
    from scipy.ndimage import binary_dilation, binary_erosion

    ids = np.unique(labels[labels >= first])
    masks = labels == ids[:, None, None]
    cross = np.zeros((3, 3, 3), dtype=bool)
    cross[1] = [[False, True, False], [True, True, True], [False, True, False]]
    for _ in range(erode):
        smaller = binary_erosion(masks, cross, border_value=1)
        masks = np.where(smaller.any(axis=(1, 2), keepdims=True), smaller, masks)
    if dilate and len(ids):
        masks = binary_dilation(masks, cross, iterations=dilate)
    boxes = ((int(region), tight_box(mask, index)) for region, mask in zip(ids, masks, strict=True))
    return [(region, box) for region, box in boxes if box is not None]
