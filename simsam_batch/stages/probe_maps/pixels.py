"""From scores of classes on the patch grid of an image to a class for each of its pixels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from simsam_batch import images
from simsam_batch.regions.upsampling import BilinearIndex, bilinear_index, classes_between_patches
from simsam_batch.stages.patch_labels.stage import patch_index


class Pixels:
    """The pixels of one image, and the patches that they lie in and between.

    Args:
        row: of the image, with the columns `simsam_batch.stages.patch_labels.stage.GRID`.
        resize: by which the patches were cut.
        upsample: ``bilinear`` or ``nearest``.

    Attributes:
        grid: (Hp, Wp).
        index: the patch under each pixel.
    """

    def __init__(self, row: Mapping[str, Any], resize: images.Resize, upsample: str) -> None:
        full = row["height"], row["width"]
        self.grid = row["grid_h"], row["grid_w"]
        self.index = patch_index(dict(row), resize)
        self._between: BilinearIndex = bilinear_index(self.grid, row["patch"], images.working_size(full, resize), full)
        self._upsample = upsample

    def classes(self, scores: Tensor) -> NDArray[np.int64]:
        """(H, W) the class of each pixel, as the settings say, of scores (N, C)."""
        return self.nearest(scores) if self._upsample == "nearest" else self.between(scores)

    def nearest(self, scores: Tensor) -> NDArray[np.int64]:
        """(H, W) the class of the patch that a pixel lies in."""
        found: NDArray[np.int64] = scores.max(dim=1).indices.reshape(self.grid).numpy()[np.ix_(*self.index)]
        return found

    def between(self, scores: Tensor) -> NDArray[np.int64]:
        """(H, W) the class of the highest score between patches."""
        planes = scores.T.reshape(-1, *self.grid).contiguous()
        found: NDArray[np.int64] = classes_between_patches(planes, self._between).numpy()
        return found
