"""Masks of patches as COCO's run-length encoding of the full image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from simsam_batch.regions.pixel_index import UpsampleIndex


class RunLengths(TypedDict):
    """COCO's compressed run-length encoding: ``size`` [height, width], ``counts`` in column order."""

    size: list[int]
    counts: str


def run_lengths(grid_mask: NDArray[np.bool_], index: UpsampleIndex) -> RunLengths:
    """Encode the mask that gives every pixel of the image the value of its patch, without making it.

    Args:
        grid_mask: (Hp, Wp).
        index: from `simsam_batch.regions.pixel_index.upsample_index`; (H,) and (W,).

    Returns:
        What ``pycocotools.mask.encode`` gives for the mask at full size.
    """
    from pycocotools import mask as coco

    rows, columns = index
    patch_rows, heights = np.unique(rows, return_counts=True)
    # The image column by column, each a run for each patch row; then neighbouring runs of one value become one.
    values = np.take(grid_mask[patch_rows].T, columns, axis=0).ravel()
    size = [len(rows), len(columns)]
    across, down = np.divmod(np.flatnonzero(values[1:] != values[:-1]) + 1, len(heights))
    starts = across * len(rows) + (np.cumsum(heights) - heights)[down]
    runs = np.diff(starts, prepend=0, append=len(rows) * len(columns)).tolist()
    # Counts begin with the background, be it of no length.
    encoded = coco.frPyObjects({"size": size, "counts": [0, *runs] if values[0] else runs}, *size)
    return {"size": size, "counts": encoded["counts"].decode("ascii")}


def decode(mask: Mapping[str, Any]) -> NDArray[np.bool_]:
    """The mask (height, width) of `RunLengths`."""
    from pycocotools import mask as coco

    pixels = coco.decode({"size": mask["size"], "counts": mask["counts"].encode("ascii")})
    return np.ascontiguousarray(pixels).view(np.bool_)
