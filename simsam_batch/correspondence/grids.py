"""Where points of an image lie on its grid of patches, and back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]
"""(N, 2), x to the right and y down. Of an image in its own pixels, the centre of the first at (0, 0); of a grid in
patches, likewise."""


@dataclass(frozen=True, slots=True)
class PatchGrid:
    """The patches of an image. All sizes are (height, width).

    Attributes:
        size: of the image, in pixels.
        resized: of the whole image as it was computed, in pixels.
        corner: top and left of the first patch in those.
        patch: side of a patch in those.
        shape: (Hp, Wp) patches.
    """

    size: tuple[int, int]
    resized: tuple[int, int]
    corner: tuple[int, int]
    patch: int
    shape: tuple[int, int]

    def cells_of(self, points: Points) -> Points:
        """Pixels of the image as places on the grid; the centre of the patch in row r, column c is at (c, r)."""
        scale, corner = self._scale_and_corner()
        cells: Points = ((points + 0.5) * scale - corner) / self.patch - 0.5
        return cells

    def points_of(self, cells: Points) -> Points:
        """Places on the grid as pixels of the image: the inverse of `cells_of`."""
        scale, corner = self._scale_and_corner()
        points: Points = ((cells + 0.5) * self.patch + corner) / scale - 0.5
        return points

    def holds(self, points: Points) -> NDArray[np.bool_]:
        """(N,) whether each lies in the image, whose pixels reach half a pixel beyond their centres."""
        found: NDArray[np.bool_] = np.all((points >= -0.5) & (points <= np.array(self.size[::-1]) - 0.5), axis=1)
        return found

    def covers(self, points: Points) -> NDArray[np.bool_]:
        """(N,) whether each lies in the image and at most a patch from the grid, whose remainders are cut off."""
        cells = self.cells_of(points)
        near = np.all((cells >= -1.5) & (cells <= np.array(self.shape[::-1]) + 0.5), axis=1)
        found: NDArray[np.bool_] = near & self.holds(points)
        return found

    def _scale_and_corner(self) -> tuple[Points, Points]:
        scale = np.array([self.resized[1] / self.size[1], self.resized[0] / self.size[0]])
        return scale, np.array(self.corner[::-1], np.float64)
