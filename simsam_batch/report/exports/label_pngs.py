"""Label maps as PNG files, and the file that says what their values are called."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from simsam_batch.storage import Folder

_MOST_OF_8_BITS = 255


def write_label_names(to: Folder, names: list[str] | None) -> None:
    """Write ``labels.txt``, the name of each value a line, that of 0 first; nothing for trees.

    Raises:
        StorageError: the storage did not answer.
    """
    if names is not None:
        to.replace("labels.txt", "".join(f"{name}\n" for name in names).encode())


def most_labels(names: list[str] | None, row: Mapping[str, Any]) -> int:
    """The largest number that the map of a row may hold: one for the collection, or that of a tree's own nodes."""
    return len(row["nodes"]) if names is None else len(names) - 1


def png(labels: NDArray[np.int32], most: int, *, palette: bool) -> bytes:
    """A map as PNG whose values are the labels: 8 bits as long as ``most`` fits into them, else 16 bits of grey.

    Args:
        labels: (height, width), 0 to ``most``.
        most: the largest label that there may be.
        palette: give 8 bits the colours of `PALETTE`; else they are grey.
    """
    target = io.BytesIO()
    picture = Image.fromarray(labels.astype(np.uint8 if most <= _MOST_OF_8_BITS else np.uint16))
    if palette and most <= _MOST_OF_8_BITS:
        picture.putpalette(PALETTE)
    picture.save(target, "PNG", compress_level=6)
    return target.getvalue()


def _palette() -> bytes:
    """256 colours as those of PASCAL VOC's label maps: bit by bit of the index into the highest bits of R, G and B."""
    index = np.arange(256, dtype=np.uint8)
    colors = np.zeros((256, 3), dtype=np.uint8)
    for bit in range(8):
        for channel in range(3):
            of_channel = 3 * bit + channel
            if of_channel < 8:
                colors[:, channel] |= ((index >> np.uint8(of_channel)) & np.uint8(1)) << np.uint8(7 - bit)
    return colors.tobytes()


PALETTE = _palette()
"""Colours of an 8-bit map, 256 times R, G, B; 0 is black."""
