"""From patches back to the image's own pixels, in integer arithmetic."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

UpsampleIndex = tuple[NDArray[np.intp], NDArray[np.intp]]
"""For each pixel row and each pixel column of an image, the row and column of the patch that covers it."""


@lru_cache(64)
def upsample_index(
    grid: tuple[int, int],
    patch: int,
    working_size: tuple[int, int],
    full_size: tuple[int, int],
    corner: tuple[int, int] = (0, 0),
    cells: int = 1,
) -> UpsampleIndex:
    """Find the patch, or the cell of a patch, under every pixel's centre, in integer arithmetic.

    A pixel y of the full image lies at (y + 1/2) h / H of the resized one. What was cropped there at the right and at
    the bottom, because it did not fill a patch, goes to the last patch; what lies before the corner to the first.

    Args:
        grid: (Hp, Wp).
        patch: side of a patch, pixels of the resized image.
        working_size: (h, w) of the resized image before cropping.
        full_size: (H, W) of the image.
        corner: top and left of the first patch, pixels of the resized image.
        cells: equal parts that the side of a patch is divided into.

    Returns:
        rows (H,) in 0..cells*Hp-1 and columns (W,) in 0..cells*Wp-1, both ascending; they are kept and read-only.
    """

    def along(patches: int, resized: int, full: int, start: int) -> NDArray[np.intp]:
        centres = (2 * np.arange(full, dtype=np.int64) + 1) * resized - 2 * full * start
        found = np.clip(cells * centres // (2 * full * patch), 0, cells * patches - 1).astype(np.intp)
        found.flags.writeable = False
        return found

    rows, columns = (along(*axis) for axis in zip(grid, working_size, full_size, corner, strict=True))
    return rows, columns


def patch_pixels(grid: tuple[int, int], index: UpsampleIndex) -> NDArray[np.int64]:
    """Count the full image's pixels in each patch: (Hp, Wp) int64; 0 where a small image has none.

    Args:
        grid: (Hp, Wp).
        index: from `upsample_index`.
    """
    heights, widths = (np.bincount(along, minlength=patches) for along, patches in zip(index, grid, strict=True))
    return np.outer(heights, widths).astype(np.int64)


def nearest(values: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Values (H, W) at another size (height, width), each from the cell in which the centre of its pixel lies."""
    if values.shape == size:
        return values
    rows, columns = ((2 * np.arange(new) + 1) * old // (2 * new) for new, old in zip(size, values.shape, strict=True))
    return values[np.ix_(rows, columns)]
