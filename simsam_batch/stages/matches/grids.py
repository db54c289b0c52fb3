"""The patch grids that points are matched on; without torch."""

from __future__ import annotations

from collections.abc import Mapping

from simsam_batch import images
from simsam_batch.correspondence.grids import PatchGrid


def grid_of(row: Mapping[str, int], resize: images.Resize) -> PatchGrid:
    """The patches of an image, as its row of the stage ``features`` has them."""
    size = row["height"], row["width"]
    return PatchGrid(
        size,
        images.resized_size(size, resize),
        images.crop_corner(size, resize),
        row["patch"],
        (row["grid_h"], row["grid_w"]),
    )
