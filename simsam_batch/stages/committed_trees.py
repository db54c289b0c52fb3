"""What the stage ``hierarchy`` has committed, read back shard by shard."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from simsam_batch.runs.ledger import Ledger, checked_file, files_of
from simsam_batch.storage import Folder

_COLUMNS = ["image_id", "status", "error_type", "error", "failed_step"]


@dataclass(frozen=True, slots=True)
class ShardOfTrees:
    """The images of one shard.

    Attributes:
        rows: id and status of each, and how it failed.
        prototypes: of each (nodes, C) float32, the mean feature of each node; (0, 0) where the image failed.
    """

    rows: Sequence[dict[str, Any]]
    prototypes: Sequence[NDArray[np.float32]]


def committed_trees(out: Folder, manifests: Iterator[dict[str, Any]] | None = None) -> Iterator[ShardOfTrees]:
    """Read the shards of some manifests of the stage ``hierarchy``, one after the other; of all in order by default.

    Raises:
        RunError: a file is not what its manifest says.
        StorageError: one cannot be read.
    """
    for manifest in Ledger(out, "hierarchy").manifests() if manifests is None else manifests:
        data, arrays_file = files_of(manifest)
        table = pq.read_table(pa.BufferReader(checked_file(out, data)), columns=_COLUMNS)
        rows, prototypes = table.to_pylist(), [np.zeros((0, 0), np.float32)] * table.num_rows
        # A shard whose images have all failed has no arrays.
        if arrays_file is not None:
            with np.load(io.BytesIO(checked_file(out, arrays_file)), allow_pickle=False) as arrays:
                for name in arrays.files:
                    prototypes[int(name.partition(".")[0])] = arrays[name].astype(np.float32)
        yield ShardOfTrees(rows, prototypes)
