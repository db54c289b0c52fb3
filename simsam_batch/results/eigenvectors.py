"""The stored eigenvectors of a row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simsam_batch.runs.reading import StageRows


def grid_eigenvectors(row: Mapping[str, Any], rows: StageRows) -> NDArray[np.float32] | None:
    """The eigenvectors of a row on its patch grid, (K, Hp, Wp); None if none were stored.

    Args:
        row: with the columns that say where its arrays are, and its grid.
        rows: what it is from.
    """
    held = rows.arrays(row).get("eigenvectors")
    return None if held is None else held.astype(np.float32).reshape(-1, row["grid_h"], row["grid_w"])
