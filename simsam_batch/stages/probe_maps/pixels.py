"""From scores of classes on the patch grid of an image to a class for each of its pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from simsam_batch.probes.smoothing import without_lonely_patches
from simsam_batch.regions.upsampling import classes_between_patches
from simsam_batch.stages.patch_labels.canvas import Canvas
from simsam_batch.stages.probe_maps.settings import Prediction


class Pixels:
    """The pixels of one image, and the patches that they lie in and between.

    Args:
        canvas: the pixels.
        how: from patches to pixels.

    Attributes:
        grid: (Hp, Wp).
        index: the patch under each pixel.
    """

    def __init__(self, canvas: Canvas, how: Prediction) -> None:
        self._canvas, self._how = canvas, how
        self.grid, self.index = canvas.grid, canvas.index
        self._between = canvas.between

    def classes(self, scores: Tensor) -> NDArray[np.int64]:
        """(H, W) the class of each pixel, as the settings say, of scores (N, C); 0 where there are no patches."""
        if self._how.upsample == "nearest":
            found = self._spread(self._by_patch(scores, smooth=self._how.smooth == "patch8"))
        else:
            found = self.between(scores)
        return self._canvas.only_computed(found, 0)

    def nearest(self, scores: Tensor) -> NDArray[np.int64]:
        """(H, W) the class of the patch that a pixel lies in."""
        return self._spread(self._by_patch(scores))

    def between(self, scores: Tensor) -> NDArray[np.int64]:
        """(H, W) the class of the highest score between patches."""
        planes = scores.T.reshape(-1, *self.grid).contiguous()
        found: NDArray[np.int64] = classes_between_patches(planes, self._between).numpy()
        return found

    def _by_patch(self, scores: Tensor, *, smooth: bool = False) -> NDArray[np.int64]:
        found: NDArray[np.int64] = scores.max(dim=1).indices.reshape(self.grid).numpy()
        return without_lonely_patches(found) if smooth else found

    def _spread(self, classes: NDArray[np.int64]) -> NDArray[np.int64]:
        return classes[np.ix_(*self.index)]
