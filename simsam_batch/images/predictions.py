"""Masks and label maps that some tool wrote as image files."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from simsam_batch.errors import ImageError
from simsam_batch.images.decode import ImageLimits, fetch, opened, orientation_of, oriented
from simsam_batch.images.truth import class_ids, first_channel

_OBJECT_VALUES = (1, 255, 65535)
_LOSSY = ("JPEG", "AVIF", "HEIF")


def load_mask(uri: str, limits: ImageLimits) -> NDArray[np.bool_]:
    """A predicted object mask, True on the object, at the size it has.

    Pixels are 0 for the background and one other value for the object: 1, 255, or 65535. A mask may have one of the two
    alone: all zeros find nothing, all ones or all 255 find an object everywhere. Soft maps and label maps are refused,
    since where to cut them is not for a score to decide.

    Raises:
        ImageError: not found, not readable, or with other values; they are named.
        StorageError: the storage did not answer; the read may be repeated.
    """
    with opened(fetch(uri, limits), limits) as found:
        values, form = first_channel(found.image)
        values = oriented(values, orientation_of(found.image))
    top, lit = values.max(), np.count_nonzero(values)
    if lit and (top not in _OBJECT_VALUES or lit != np.count_nonzero(values == top)):
        raise ImageError(
            "unsupported",
            f"its {form} run from {values.min()} to {top}, and a mask has 0 and 1 or 0 and 255 alone. To mend it: "
            "threshold a soft map before it is written; a map of class ids is scored with --kind semantic",
            "decode",
        )
    return np.asarray(values != 0)


def load_label_map(uri: str, limits: ImageLimits) -> NDArray[np.integer[Any]]:
    """A predicted map of class or cluster ids: palette indices or grey values, in the dtype of the file.

    Raises:
        ImageError: not found, not readable, in colours, or compressed with loss.
        StorageError: the storage did not answer; the read may be repeated.
    """
    with opened(fetch(uri, limits), limits) as found:
        if found.image.format in _LOSSY:
            message = f"{found.image.format} changes ids where they meet. To mend it: write PNG"
            raise ImageError("unsupported", message, "decode")
        values, _ = class_ids(found.image)
        return oriented(values, orientation_of(found.image))
