"""The pixels on which truth is counted and compared: those of the image itself, or those that the network saw."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from simsam_batch import images
from simsam_batch.regions import pixel_index
from simsam_batch.regions.upsampling import BilinearIndex, bilinear_index

TruthSize = Literal["native", "working"]

UNCOUNTED = -1
"""In place of the class of a pixel that does not count."""


@dataclass(frozen=True, slots=True)
class Canvas:
    """Pixels, and where the patches of an image lie under them. All sizes are (height, width) in pixels.

    Attributes:
        size: of the canvas.
        grid: (Hp, Wp) patches.
        patch: side of a patch in pixels of the resized image.
        resized: size of the whole canvas in those pixels.
        corner: top and left of the first patch in those pixels.
        part: rows and columns of the canvas that were computed; beside them there are no patches.
    """

    size: tuple[int, int]
    grid: tuple[int, int]
    patch: int
    resized: tuple[int, int]
    corner: tuple[int, int]
    part: tuple[slice, slice]

    @property
    def index(self) -> pixel_index.UpsampleIndex:
        """The patch under every pixel; beside what was computed the nearest."""
        return pixel_index.upsample_index(self.grid, self.patch, self.resized, self.size, self.corner)

    @property
    def between(self) -> BilinearIndex:
        """Between which centres of patches every pixel lies."""
        return bilinear_index(self.grid, self.patch, self.resized, self.size, self.corner)

    def only_computed(self, values: NDArray[Any], other: int) -> NDArray[Any]:
        """Values (H, W) of pixels, with another one in place of those that were not computed."""
        if values[self.part].shape == values.shape:
            return values
        found = np.full_like(values, other)
        found[self.part] = values[self.part]
        return found


def canvas_of(row: Mapping[str, Any], resize: images.Resize, size: TruthSize) -> Canvas:
    """The canvas of an image.

    Args:
        row: of the features, with ``width``, ``height``, ``grid_h``, ``grid_w`` and ``patch``.
        resize: that the features were computed at.
        size: ``native``, the image's own pixels, or ``working``, those under whole patches after the resize.
    """
    full, grid, patch = (row["height"], row["width"]), (row["grid_h"], row["grid_w"]), row["patch"]
    if size == "working":
        seen = grid[0] * patch, grid[1] * patch
        return Canvas(seen, grid, patch, seen, (0, 0), (slice(None), slice(None)))
    part = images.covered_part(full, resize)
    return Canvas(full, grid, patch, images.resized_size(full, resize), images.crop_corner(full, resize), part)


def truth_on(ids: NDArray[np.int32], canvas: Canvas, resize: images.Resize, size: TruthSize) -> NDArray[np.int32]:
    """Class ids of an image as they lie on its canvas.

    Args:
        ids: (H, W) of the image itself, -1 for pixels that do not count.
        canvas: from `canvas_of`.
        resize: likewise.
        size: likewise. ``working`` takes the nearest pixel, as published protocols resize truth.

    Returns:
        Of the canvas's size, -1 for pixels that do not count or lie beside all patches.
    """
    if size == "native":
        return canvas.only_computed(ids, UNCOUNTED)
    top, left = images.crop_corner((ids.shape[0], ids.shape[1]), resize)
    height, width = canvas.size
    resized = images.resize_ids(ids, images.resized_size((ids.shape[0], ids.shape[1]), resize))
    return np.ascontiguousarray(resized[top : top + height, left : left + width])
