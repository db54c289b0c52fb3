"""The features of a run as a data set of torch: any image by its number, by one range request."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch.utils.data import Dataset

from simsam_batch.errors import RunError
from simsam_batch.results.features import PLACE, features_at
from simsam_batch.runs.reading import StageRows

_BLOCK = 65_536


class FeatureDataset(Dataset[Any]):
    """The images of a run that did not fail, in the order of the plan; of a run going on those that were committed.

    An item is a dictionary: ``image_id``, and every array of the image as a tensor under its name, in the dtype that it
    is stored in. Reading it takes one range request and no lock, so that any process or thread may ask; a data set is
    sent to worker processes as a table of names and places, below 100 bytes an image.

    Args:
        rows: of the stage that keeps features.
        names: of arrays; None: all.
        transform: is given the dictionary, and what it returns is the item. It must be picklable where worker processes
            are spawned.

    Attributes:
        places: one row for each image, the columns of `simsam_batch.results.features.PLACE`.

    Raises:
        SettingsError: a name is none of the first image's arrays.
        RunError: no image is there yet.
    """

    def __init__(
        self,
        rows: StageRows,
        names: Sequence[str] | None = None,
        transform: Callable[[dict[str, Any]], Any] | None = None,
    ) -> None:
        self._out, self._names, self._transform = rows.out, names, transform
        self.places = _places(rows)
        if not len(self):
            raise RunError(
                f"{self._out.url}: no image has features yet. To mend it: run the command that made it again"
            )
        features_at(self._out, self._place(0), names)

    def __len__(self) -> int:
        return int(self.places.num_rows)

    def __getitem__(self, index: int) -> Any:
        """The item of an image; negative numbers count from the end.

        Raises:
            IndexError: there are fewer images.
            RunError: its arrays are not there or cannot be read.
            StorageError: the storage did not answer.
        """
        place = self._place(index)
        arrays = features_at(self._out, place, self._names)
        item = {"image_id": place["image_id"], **{name: torch.from_numpy(each) for name, each in arrays.items()}}
        return item if self._transform is None else self._transform(item)

    def _place(self, index: int) -> dict[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"there is no image {index}: the data set has {len(self)}")
        at = int(index) % len(self)
        return {name: column[at].as_py() for name, column in zip(PLACE, self.places.columns, strict=True)}


def _places(rows: StageRows) -> pa.Table:
    """Where the features of each image lie; names of files once each."""
    columns = [*PLACE, "status"]
    at = PLACE.index("arrays_path")

    def encoded(table: pa.Table) -> pa.Table:
        return table.set_column(at, "arrays_path", table["arrays_path"].dictionary_encode())

    blocks = [encoded(rows.schema.empty_table().select(PLACE))]
    for _, table in rows.batches(columns, _BLOCK):
        blocks.append(encoded(table.filter(pc.equal(table["status"], "ok")).select(PLACE)))
    return pa.concat_tables(blocks).unify_dictionaries().combine_chunks()
