"""Label maps against superpixels: how many pixels of each region lie in each superpixel, in one pass."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simsam_batch.scores.confusion import confusion

NO_SUPERPIXEL = -1
"""Stands for the superpixel of a pixel that is in none: it is of no node, not even of the root."""

_WIDEST = 1 << 20
"""Labels lie at most so far apart: a label is looked up in a table of them all."""


class LabelLookup:
    """Labels of a map to regions, in one pass over its pixels."""

    def __init__(self, regions: int, region_of_label: Mapping[int, int], ignore: Collection[int]) -> None:
        if any(not 0 <= region < regions for region in region_of_label.values()):
            raise ValueError(f"a label stands for a region beyond the {regions} that there are")
        if both := sorted(set(ignore) & set(region_of_label)):
            raise ValueError(f"label {both[0]} cannot both stand for a region and be ignored")
        labels = [*region_of_label, *ignore]
        if not labels or max(labels) - min(labels) > _WIDEST:
            raise ValueError(f"there must be labels, and they must lie within {_WIDEST} of each other")
        self.regions, self.first = regions, min(labels) - 1
        # One place at each end, for all that lies beyond the labels.
        self.region = np.full(max(labels) - self.first + 2, regions + 1, dtype=np.int32)
        for label, region in region_of_label.items():
            self.region[label - self.first] = region
        for label in ignore:
            self.region[label - self.first] = regions

    def count(
        self, superpixels: NDArray[np.integer[Any]], truth: NDArray[np.integer[Any]], count: int
    ) -> tuple[NDArray[np.int64], int]:
        """The (G, m + 1) pixels of each region in each superpixel and at last in none; how many pixels are ignored."""
        if truth.dtype.kind not in "iu":
            raise ValueError(f"the truth holds {truth.dtype} values; labels are integers")
        places = np.clip(truth.astype(np.int64) - self.first, 0, len(self.region) - 1)
        regions = self.region[places]
        low, high = (int(end(initial=NO_SUPERPIXEL)) for end in (superpixels.min, superpixels.max))
        if low < NO_SUPERPIXEL or high >= count:
            raise ValueError(f"a pixel is of superpixel {high if high >= count else low}, the tree has {count}")
        held = np.where(superpixels == NO_SUPERPIXEL, np.int32(count), superpixels)
        table = confusion(held, regions, count + 1, self.regions + 2)[0].T
        if table[-1].any():
            unknown = truth[regions == self.regions + 1][0]
            raise ValueError(f"the truth has the label {unknown}, which the hierarchy neither names nor ignores")
        return np.ascontiguousarray(table[:-2]), int(table[-2].sum())
