"""Predictions to be scored: the rows of a finished run, or a folder of image files that any tool wrote."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from simsam_batch import images
from simsam_batch.catalog.facts import BOXES_COLUMN
from simsam_batch.catalog.folders import ACCEPTED, is_image, listed_files
from simsam_batch.catalog.records import records_table
from simsam_batch.errors import ImageError, SettingsError
from simsam_batch.regions.boxes import tight_box
from simsam_batch.regions.pixel_index import upsample_index
from simsam_batch.regions.run_lengths import run_lengths
from simsam_batch.results.label_maps import label_map, lacks_map
from simsam_batch.results.objects import FoundObject, objects_of
from simsam_batch.runs.gone import GONE_FIELD
from simsam_batch.runs.ledger import Ledger
from simsam_batch.runs.plan import Plan, load_plan
from simsam_batch.stages.registry import shown, stages_showing
from simsam_batch.storage import Folder, absolute_url, redact
from simsam_batch.storage.parquet import ParquetReader, read_table

Kind = Literal["object", "semantic"]

_ROWS_AT_ONCE = 256

_GIVEN = "exemplar"
"""Column that marks images whose truth was given, and which are in no score."""

_SCORED: Mapping[str, Kind] = {"objects": "object", "labels": "semantic"}
"""What is compared, by what the rows of a stage show."""


@dataclass(frozen=True, slots=True)
class RunPredictions:
    """The published rows of one stage of a run.

    Attributes:
        out: the run's folder.
        stage: whose results.
        parts: names of the Parquet files, in order.
        records: a catalog's table, one row for each image in the order of the rows.
        kind: whether the stage makes object masks or label maps.
        about: ``settings`` and ``resolved`` of the stage.
        source: where the run's images and truth came from.
    """

    out: Folder
    stage: str
    parts: tuple[str, ...]
    records: pa.Table
    kind: Kind
    about: dict[str, Any]
    source: dict[str, Any]

    def items(self, more: Sequence[str] = ()) -> Iterator[Mapping[str, Any]]:
        """What `load` needs of each image, and some columns more, in order; memory holds a few hundred rows."""
        column = "segments" if self._of_labels else "mask_rle"
        for part in self.parts:
            with self.out.open(part) as file:
                reader = ParquetReader(file)
                wanted = {"image_id", "status", "width", "height", column, _GIVEN, GONE_FIELD.name, *more}
                columns = [name for name in reader.schema.names if name in wanted]
                for batch in reader.batches(_ROWS_AT_ONCE, columns):
                    yield from (row for row in batch.to_pylist() if not row.get(GONE_FIELD.name))

    def load(self, row: Mapping[str, Any]) -> NDArray[Any] | None:
        """The mask or label map of a row, (height, width); None for an image that failed or has none."""
        if row["status"] != "ok" or lacks_map(row) or row.get(_GIVEN):
            return None
        found = label_map(row, {}, "labels" if self._of_labels else "objects")
        return found.astype(np.bool_) if self.kind == "object" else found

    def objects(self, row: Mapping[str, Any]) -> tuple[tuple[int, int], list[FoundObject]] | None:
        """Likewise the size (height, width) and the objects, of a row with the columns that these are in."""
        if row["status"] != "ok":
            return None
        return (row["height"], row["width"]), objects_of(row)

    @property
    def _of_labels(self) -> bool:
        """Whether rows hold label maps; masks that were carried over are such of one class."""
        what = shown(self.stage)
        return what is not None and what.kind == "labels"

    @property
    def has_objects(self) -> bool:
        """Whether rows hold objects, several or one an image."""
        what = shown(self.stage)
        return what is not None and what.kind == "objects"

    @property
    def of_classes(self) -> bool:
        """Whether labels are true classes, so that none is to be matched."""
        what = shown(self.stage)
        return what is not None and what.classes

    def most_clusters(self) -> int:
        """The highest label in any row."""
        import pyarrow.compute as pc

        highest = 0
        for part in self.parts:
            with self.out.open(part) as file:
                column = read_table(file, ["labels"])["labels"]
            highest = max(highest, pc.max(pc.list_flatten(column)).as_py() or 0)
        return highest


@dataclass(frozen=True, slots=True)
class FilePredictions:
    """A folder of masks or label maps; attributes as in `RunPredictions`."""

    records: pa.Table
    kind: Kind

    def items(self, more: Sequence[str] = ()) -> Iterator[Mapping[str, Any]]:
        """What `load` needs of each image, in order; a file has no more columns."""
        del more
        for batch in self.records.select(["image_id", "uri"]).to_batches(_ROWS_AT_ONCE):
            yield from batch.to_pylist()

    def load(self, row: Mapping[str, Any]) -> NDArray[Any]:
        """The mask or label map in a file, at the size it has.

        Raises:
            SettingsError: it cannot be used; the message names it.
        """
        read = images.load_mask if self.kind == "object" else images.load_label_map
        try:
            return read(row["uri"], images.ImageLimits())
        except ImageError as error:
            raise SettingsError(f"prediction {redact(row['uri'])}: {error}") from error

    def objects(self, row: Mapping[str, Any]) -> tuple[tuple[int, int], list[FoundObject]]:
        """Likewise its size (height, width) and the mask as one object, or as none if it is empty."""
        mask = self.load(row)
        size = mask.shape[0], mask.shape[1]
        index = upsample_index(size, 1, size, size)
        box = tight_box(mask, index)
        return size, [] if box is None else [FoundObject(run_lengths(mask, index), box, None)]


Predictions = RunPredictions | FilePredictions


def open_predictions(
    url: str, stage: str | None, kind: Kind | None, truth: str | None, notes: list[str]
) -> Predictions:
    """The predictions at a URL: of a run if there is a ``run.json``, else of a folder of image files.

    Args:
        url: of either.
        stage: whose results of a run; None: the first finished one with masks or label maps.
        kind: None for what the stage makes, and object masks in a folder.
        truth: where the truth is; if that is a sub-folder of ``url``, its files are no predictions.
        notes: what people should know is added here.

    Raises:
        SettingsError: nothing there, a run without results of that stage, or results of another kind.
    """
    out = Folder(absolute_url(url))
    plan = load_plan(out)
    if plan is None:
        return FilePredictions(_files(url, truth, notes), kind or "object")
    scored = stages_showing(_SCORED) if stage is None else [stage]
    published = {name: _parts(out, name) for name in scored if Ledger(out, name).published() is not None}
    found_stage = next((name for name, parts in published.items() if parts), None)
    if found_stage is None:
        raise SettingsError(
            f"{out.url} is a run without results/{' or results/'.join(scored)}. To mend it: finish it with the command "
            "that began it, or name another --stage"
        )
    stage, parts = found_stage, published[found_stage]
    with out.open(parts[0]) as file:
        schema = ParquetReader(file).schema
    what = shown(stage)
    about = {
        name.decode(): json.loads(text)
        for name, text in (schema.metadata or {}).items()
        if name in (b"settings", b"resolved")
    }
    found = None if what is None else _SCORED.get(what.kind)
    if what is not None and what.classes and about["resolved"]["truth"]["kind"] == "object":
        found = "object"
    if found is None or (kind is not None and kind != found):
        raise SettingsError(
            f"the stage {stage} of {out.url} has "
            + (f"{found} predictions, not {kind} ones" if found else "neither masks nor label maps to score")
            + ". To mend it: name another --stage"
            + (", or leave out --kind" if found else "")
        )
    return RunPredictions(out, stage, parts, _image_records(plan, out, parts), found, about, plan.source)


def _parts(out: Folder, stage: str) -> tuple[str, ...]:
    return tuple(info.name for info in out.list(f"results/{stage}") if info.name.endswith(".parquet"))


def _files(url: str, truth: str | None, notes: list[str]) -> pa.Table:
    here, there = absolute_url(url).rstrip("/"), absolute_url(truth).rstrip("/") if truth else ""
    inside = there.removeprefix(here + "/") if there.startswith(here + "/") else None
    if here == there:
        raise SettingsError(f"truth: {redact(url)} would be compared with itself; give the folder of the truth")
    listing = listed_files("PREDICTIONS", url, is_image, notes, inside)
    found = listing.files
    if not found.num_rows:
        what = "neither a run nor a folder with image files in it"
        raise SettingsError(f"PREDICTIONS: {redact(url)} is {what}. {ACCEPTED['PREDICTIONS']}")
    return records_table({"image_id": found["name"], "uri": found["uri"]})


def _image_records(plan: Plan, out: Folder, parts: Sequence[str]) -> pa.Table:
    """The images whose rows are published and are not gone, in their order, with the truth they were planned with."""
    names = ["image_id", "uri", "truth_uri"]
    tables = [plan.shard(number).records for number in range(plan.shards)]
    rows = pa.concat_tables(
        [table.select([n for n in (*names, BOXES_COLUMN) if n in table.column_names]) for table in tables]
    )
    there = np.concatenate([_there(out, part) for part in parts])
    # a run may have grown since
    rows = rows.slice(0, len(there)).filter(pa.array(there))
    boxes = {BOXES_COLUMN: rows[BOXES_COLUMN]} if BOXES_COLUMN in rows.column_names else {}
    return records_table({name: rows[name] for name in names}, boxes)


def _there(out: Folder, part: str) -> NDArray[np.bool_]:
    """Which rows of a published file are of images that are not gone."""
    with out.open(part) as file:
        reader = ParquetReader(file)
        if GONE_FIELD.name not in reader.schema.names:
            return np.ones(reader.metadata.num_rows, np.bool_)
        column = read_table(file, [GONE_FIELD.name])[GONE_FIELD.name]
    return ~np.asarray(column.to_numpy(zero_copy_only=False), np.bool_)
