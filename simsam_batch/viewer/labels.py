"""Which rows have which label: of label maps the clusters or classes, of region trees those of their nodes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from simsam_batch.errors import SettingsError
from simsam_batch.runs.reading import StageRows
from simsam_batch.stages.registry import shown

COLUMN = "labels"
"""Lists the labels of a row, of maps each once, of trees one a node with 0 for none."""


def rows_with_labels(rows: StageRows) -> StageRows | None:
    """The rows whose `COLUMN` has the labels of a stage: its own, or those of the stage beside it; None without."""
    what = shown(rows.stage)
    if what is None or what.kind == "objects":
        return None
    if COLUMN in rows.schema.names:
        return rows
    for stage, columns in what.beside.items():
        if COLUMN in columns:
            try:
                return StageRows(rows.out, stage)
            except SettingsError:
                continue
    return None


class Labels:
    """From a label to the rows that have it.

    Attributes:
        labels: (L,) int32, those that some row has, ascending.
        counts: (L,) int64, how many rows.
        names: of the labels that have one besides their number.

    Args:
        rows: of the stage.
        source: of `rows_with_labels`.
    """

    def __init__(self, rows: StageRows, source: StageRows) -> None:
        numbers, labels = [np.zeros(0, np.int32)], [np.zeros(0, np.int32)]
        for first, table in source.batches([COLUMN], 65_536):
            lists = pc.fill_null(table[COLUMN], pa.scalar([], table.schema.field(COLUMN).type)).combine_chunks()
            (chunk,) = lists.chunks if isinstance(lists, pa.ChunkedArray) else [lists]
            sizes = np.diff(chunk.offsets.to_numpy())
            numbers.append(np.repeat(np.arange(first, first + len(chunk), dtype=np.int32), sizes))
            labels.append(chunk.flatten().to_numpy().astype(np.int32))
        number, label = np.concatenate(numbers), np.concatenate(labels)
        if source is not rows:
            held = (label > 0) & np.isin(number, rows.numbers)
            number, label = number[held], label[held]
        order = np.argsort(label, kind="stable")
        number, label = number[order], label[order]
        fresh = np.ones(len(label), np.bool_)
        fresh[1:] = (label[1:] != label[:-1]) | (number[1:] != number[:-1])
        number, label = number[fresh], label[fresh]
        self._places = np.searchsorted(rows.numbers, number).astype(np.int32)
        self.labels, starts = np.unique(label, return_index=True)
        self._starts = np.append(starts, len(label))
        self.counts = np.diff(self._starts)
        self.names: Mapping[int, str] = _names(source) if source is rows else {}

    def places_of(self, label: int) -> NDArray[np.int32]:
        """The places of the rows that have a label, ascending; none for a label that no row has."""
        at = int(np.searchsorted(self.labels, label))
        if at == len(self.labels) or self.labels[at] != label:
            return self._places[:0]
        return self._places[self._starts[at] : self._starts[at + 1]]

    def counts_among(self, taken: NDArray[np.bool_]) -> NDArray[np.int64]:
        """How many rows of each label are taken, (L,).

        Args:
            taken: (R,) of all places.
        """
        if not len(self.labels):
            return np.zeros(0, np.int64)
        return np.add.reduceat(taken[self._places], self._starts[:-1], dtype=np.int64)


def _names(rows: StageRows) -> dict[int, str]:
    # it brings what decodes masks, which a table of numbers need not wait for
    from simsam_batch.results.label_maps import label_names

    names = label_names(rows) or []
    return {label: name for label, name in enumerate(names) if name != str(label)}
