"""What a run published, read without its own reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pycocotools import mask as coco


def rows_of(out: Path, stage: str) -> list[dict[str, Any]]:
    """The rows of a stage."""
    rows: list[dict[str, Any]] = pq.read_table(out / "results" / stage).to_pylist()
    return rows


def pixels_of(rle: dict[str, Any]) -> NDArray[np.bool_]:
    """A mask (height, width) from its run lengths, by COCO's own decoder."""
    return np.asarray(coco.decode({"size": rle["size"], "counts": rle["counts"].encode()})).astype(bool)
