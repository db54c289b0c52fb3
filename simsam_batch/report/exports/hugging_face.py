"""``--format hf``: Parquet with images and masks inside, as the library `datasets` of Hugging Face loads it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from simsam_batch.report.exports.dataset_card import dataset_card
from simsam_batch.report.exports.leftovers import delete_leftovers
from simsam_batch.report.exports.safe_names import safe_path
from simsam_batch.report.exports.samples import UNREADABLE, annotation
from simsam_batch.results.label_maps import facts_of, kind_of, label_names, map_rows
from simsam_batch.results.sources import file_of, side_by_side
from simsam_batch.runs.reading import StageRows
from simsam_batch.storage import Folder
from simsam_batch.storage.uploading import streamed

FILE_IMAGES = 10_000
FILE_BYTES = 500_000_000
"""A file ends with the image that reaches one of these."""

GROUP_IMAGES = 100
GROUP_BYTES = 64_000_000
"""A row group ends likewise; memory holds one, and a few images."""

_FOLDER, _NAME = "data", "train-{:05d}.parquet"
_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_NODE = pa.struct([("parent", pa.int32()), ("depth", pa.int32()), ("ncut", pa.float64()), ("label", pa.int32())])
_NAMES_OF_TYPES = {"double": "float64", "float": "float32"}


def write_hugging_face(rows: StageRows, to: Folder, images: int, on_image: Callable[[str, str], None]) -> None:
    """Write ``data/train-00000.parquet`` and so on, and ``README.md``, the dataset card.

    Args:
        rows: of a stage with maps, see `simsam_batch.stages.kinds.Kind`.
        to: where the files go.
        images: how many rows, the first ones.
        on_image: called after each with its id and its outcome.

    Raises:
        RunError: rows cannot be read.
        StorageError: the storage did not answer.
    """
    names = label_names(rows)
    files = _Files(to, _schema(rows, names))

    def sample(item: tuple[int, dict[str, Any]]) -> tuple[str, str, dict[str, Any] | None]:
        number, row = item
        if row["status"] != "ok":
            return row["image_id"], row["status"], None
        image = file_of(row)
        if image is None:
            return row["image_id"], UNREADABLE, None
        found = annotation(number, row, rows, names)
        pictures = {
            "image": {"bytes": image, "path": safe_path(row["image_id"])},
            "mask": {"bytes": found.mask, "path": None},
        }
        return row["image_id"], "ok", pictures | found.facts

    outcomes: Counter[str] = Counter()
    with files.stack:
        for image_id, outcome, made in side_by_side(islice(map_rows(rows), images), sample):
            outcomes[outcome] += 1
            if made is not None:
                files.add(made)
            on_image(image_id, outcome)
        files.end()
    delete_leftovers(to, _FOLDER, _NAME, files.begun)
    to.replace("README.md", dataset_card(rows, names, outcomes, f"{_FOLDER}/{_NAME.format(0)[:6]}*.parquet"))


def _schema(rows: StageRows, names: list[str] | None) -> pa.Schema:
    """Columns, with what `datasets` has to know of them under the key ``huggingface``."""
    fields = [("image", _IMAGE), ("mask", _IMAGE), ("image_id", pa.string()), ("row", pa.int64())]
    fields += [("width", pa.int32()), ("height", pa.int32())]
    fields += [(name, rows.schema.field(name).type) for name in facts_of(rows)]
    known: dict[str, Any] = {}
    if kind_of(rows) == "labels":
        fields.append(("labels", pa.list_(pa.int64())))
        known["labels"] = [{"names": names, "_type": "ClassLabel"}]
    if names is None:
        fields.append(("nodes", pa.list_(_NODE)))
    features = {name: known.get(name) or _feature(kind) for name, kind in fields}
    about = {"info": {"features": features}}
    return pa.schema(fields, metadata={"huggingface": json.dumps(about)})


def _feature(kind: pa.DataType) -> Any:
    """A type in the words of `datasets`; of a list, its items in brackets, which all its releases know."""
    if kind == _IMAGE:
        return {"_type": "Image"}
    if pa.types.is_list(kind):
        return [_feature(kind.value_type)]
    if pa.types.is_struct(kind):
        return {field.name: _feature(field.type) for field in kind}
    return {"dtype": _NAMES_OF_TYPES.get(str(kind), str(kind)), "_type": "Value"}


class _Files:
    """The Parquet files, one after the other."""

    def __init__(self, to: Folder, schema: pa.Schema) -> None:
        self.stack = ExitStack()
        self.begun = 0
        self._to, self._schema = to, schema
        self._images = self._bytes = self._group_bytes = 0
        self._group: list[dict[str, Any]] = []
        self._writer: pq.ParquetWriter | None = None

    def add(self, sample: dict[str, Any]) -> None:
        size = len(sample["image"]["bytes"]) + len(sample["mask"]["bytes"])
        self._group.append(sample)
        self._images, self._bytes, self._group_bytes = self._images + 1, self._bytes + size, self._group_bytes + size
        if len(self._group) == GROUP_IMAGES or self._group_bytes >= GROUP_BYTES:
            self._flush()
        if self._images == FILE_IMAGES or self._bytes >= FILE_BYTES:
            self.end()

    def end(self) -> None:
        """End the file under way; without any image at all there is one without rows."""
        if self._group or not self.begun:
            self._flush()
        self.stack.pop_all().close()
        self._writer, self._images, self._bytes = None, 0, 0

    def _flush(self) -> None:
        if self._writer is None:
            name = f"{_FOLDER}/{_NAME.format(self.begun)}"
            file = self.stack.enter_context(streamed(self._to, name))
            self._writer = self.stack.enter_context(pq.ParquetWriter(file, self._schema, compression="snappy"))
            self.begun += 1
        self._writer.write_table(pa.Table.from_pylist(self._group, self._schema))
        self._group, self._group_bytes = [], 0
