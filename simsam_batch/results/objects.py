"""The objects of one image, several or one, as rows of the stage ``segment`` hold them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from simsam_batch.regions.run_lengths import RunLengths

COLUMNS = ("objects", "mask_rle", "bbox_xyxy", "confidence")
"""What `objects_of` reads; runs of an older release lack the first."""


@dataclass(frozen=True, slots=True)
class FoundObject:
    """One object.

    Attributes:
        mask_rle: at the image's full size.
        box: left, top, right and bottom in pixels, right and bottom exclusive.
        score: the higher the surer; None where nobody gave one.
    """

    mask_rle: RunLengths
    box: tuple[int, int, int, int]
    score: float | None

    @property
    def mask(self) -> NDArray[np.bool_]:
        """(height, width), True on the object."""
        from simsam_batch.regions.run_lengths import decode

        return decode(self.mask_rle)


def objects_of(row: Mapping[str, Any], min_score: float | None = None) -> list[FoundObject]:
    """The objects of an image that is ``ok``, the highest score first.

    Where the run was not asked for several, that is its one mask with its confidence, or none if the mask is empty.

    Args:
        row: with `COLUMNS`.
        min_score: objects of a lower one are left out; None: none.
    """
    several = row.get("objects")
    if several is None:
        several = [{**row, "score": row["confidence"]}]
    return [
        FoundObject(each["mask_rle"], tuple(each["bbox_xyxy"]), each["score"])
        for each in several
        if each["bbox_xyxy"] is not None
        and (min_score is None or (each["score"] is not None and each["score"] >= min_score))
    ]
