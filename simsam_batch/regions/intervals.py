"""Nodes of a tree as intervals of its superpixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def deepest_nodes(lo: Sequence[int] | Array, hi: Sequence[int] | Array) -> NDArray[np.int32]:
    """Return the deepest node of every superpixel, and at last -1, which superpixel -1 reads: (s + 1,) int32.

    Args:
        lo: (M,) of the nodes of a tree in pre-order, see `simsam_batch.regions.tree.Tree`.
        hi: (M,) likewise.
    """
    deepest = np.full(int(hi[0]) + 1, -1, dtype=np.int32)
    # In pre-order whatever lies deeper comes later.
    for node, (first, end) in enumerate(zip(lo, hi, strict=True)):
        deepest[first:end] = node
    return deepest
