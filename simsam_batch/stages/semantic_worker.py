"""The worker of the ``semantic`` stage: reads the regions of a shard, names them, and compares them with the truth."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from simsam_batch import images
from simsam_batch.errors import ImageError, RunError
from simsam_batch.regions import boxes, codebook, masks
from simsam_batch.regions.run_lengths import run_lengths
from simsam_batch.runs.ledger import Ledger
from simsam_batch.runs.schema import Shard, ShardOutput
from simsam_batch.stages.clusters import load_codebook
from simsam_batch.stages.decomposition import Timer
from simsam_batch.stages.semantic import SemanticStage

_COPIED = ("width", "height", "degenerate")


@dataclass(frozen=True, slots=True)
class _Item:
    """One image of one shard, with what the stage ``regions`` found in it."""

    shard: Shard
    row: int
    record: dict[str, Any]
    found: dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Loaded:
    """What this stage reads of an image: its truth if it has one, its pixels only if labels are refined."""

    truth: NDArray[np.integer[Any]] | None
    truth_error: str | None
    rgb: NDArray[np.uint8] | None


class SemanticWorker:
    """Gives every region the label of its cluster, and every pixel that of its region."""

    def __init__(self, stage: SemanticStage, beat: Callable[[], None]) -> None:
        import torch

        threadpool_limits(stage.options.threads)
        self._stage, self._options, self._beat = stage, stage.options, beat
        self._codebooks = [load_codebook(stage.out, name, sha256) for name, sha256 in stage.resolved["codebooks"]]
        self._ledger = Ledger(stage.out, "regions")
        self._generations = self._ledger.committed()
        self._limits = images.ImageLimits(stage.options.max_bytes, stage.options.max_pixels)
        self._resize = images.parse_resize(stage.options.resize)
        self._timer = Timer(torch.device("cpu"))

    def run(self, shards: Iterator[Shard]) -> Iterator[ShardOutput]:
        """Outputs of the shards, in order; the next truths are read while these are compared."""
        threads = self._options.decode_threads or 2
        arrived = images.decode_ahead(self._items(shards), self._load, threads=threads, max_pending=4 * threads)
        with closing(arrived):
            rows: list[dict[str, Any]] = []
            state = self._stage.fold.zero()
            for item, loaded in arrived:
                rows.append(self._row(item, loaded, state))
                self._beat()
                if len(rows) == len(item.shard.records):
                    yield self._output(item.shard, rows, state)
                    rows, state = [], self._stage.fold.zero()

    def _items(self, shards: Iterator[Shard]) -> Iterator[_Item]:
        for shard in shards:
            found = {each["image_id"]: each for each in self._regions(shard.number).to_pylist()}
            # In quarantine a shard comes as one image at a time.
            for row, record in enumerate(shard.records.to_pylist()):
                if record["image_id"] not in found:
                    raise RunError(f"the regions of shard {shard.number} lack the plan's image {record['image_id']!r}")
                yield _Item(shard, row, record, found[record["image_id"]])

    def _regions(self, number: int) -> pa.Table:
        if number not in self._generations:
            self._generations = self._ledger.committed()
        manifest = self._ledger.manifest(number, self._generations[number])
        name = next(str(file["name"]) for file in manifest["files"] if file["name"].endswith(".parquet"))
        return pq.read_table(pa.BufferReader(self._stage.out.read(name)))

    def _load(self, item: _Item) -> _Loaded:
        record, found, options = item.record, item.found, self._options
        if found["status"] != "ok":
            return _Loaded(None, None, None)
        rgb = None
        if options.refine != "none":
            rgb = images.decode(images.fetch(record["uri"], self._limits), self._limits).rgb
        truth_is = self._stage.resolved["truth"]
        if record["truth_uri"] is None or truth_is is None:
            return _Loaded(None, None, rgb)
        size = found["height"], found["width"]
        try:
            truth = images.load_labels(
                record["truth_uri"],
                self._limits,
                size,
                classes=len(truth_is["classes"]),
                ignore=truth_is["ignore_label"],
            )
        except images.TruthError as error:
            return _Loaded(None, str(error), rgb)
        return _Loaded(truth, None, rgb)

    def _row(self, item: _Item, loaded: _Loaded | Exception, state: dict[str, Any]) -> dict[str, Any]:
        """One image's row; its share of the confusions goes to ``state``."""
        if isinstance(loaded, ImageError):
            return {
                "status": "failed",
                "error_type": loaded.kind,
                "error": loaded.message,
                "failed_step": loaded.step,
            }
        if isinstance(loaded, Exception):
            raise loaded
        found = item.found
        if found["status"] != "ok":
            return {name: found[name] for name in ("status", "error_type", "error", "failed_step")}
        with self._timer.step("labels"):
            maps = self._label_maps(found)
        size = found["height"], found["width"]
        grid = found["grid_h"], found["grid_w"]
        index = masks.upsample_index(grid, found["patch"], images.working_size(size, self._resize), size)
        if loaded.rgb is None:
            with self._timer.step("encode"):
                segments = _segments(maps[0], index)
            full = [labels[np.ix_(*index)] for labels in maps] if loaded.truth is not None else []
        else:
            with self._timer.step("refine"):
                wanted = maps if loaded.truth is not None else maps[:1]
                full = [self._refined(loaded.rgb, labels[np.ix_(*index)]) for labels in wanted]
            with self._timer.step("encode"):
                segments = _segments(full[0], (np.arange(size[0]), np.arange(size[1])))
        if loaded.truth is not None:
            with self._timer.step("score"):
                self._score(full, loaded.truth, state)
        state["truth_errors"] += loaded.truth_error is not None
        return {
            "status": "ok",
            **{name: found[name] for name in _COPIED},
            "labels": [each["label"] for each in segments],
            "segments": segments,
            "refined": loaded.rgb is not None,
            "truth_error": loaded.truth_error,
        }

    def _label_maps(self, found: dict[str, Any]) -> list[NDArray[np.int32]]:
        """For each codebook the label of every patch, (Hp, Wp); 0 is the background."""
        regions = found["regions"]
        region_map = np.array(found["region_map"], np.int32).reshape(found["grid_h"], found["grid_w"])
        if not regions:
            return [np.zeros_like(region_map) for _ in self._codebooks]
        features = np.array([each["feature"] for each in regions], np.float32)
        numbers = [each["region"] for each in regions]
        maps = []
        for book in self._codebooks:
            label_of = np.zeros(int(region_map.max()) + 1, np.int32)
            label_of[numbers] = codebook.assign(features, book)
            maps.append(label_of[region_map])
        return maps

    def _refined(self, rgb: NDArray[np.uint8], labels: NDArray[np.int32]) -> NDArray[np.int32]:
        from simsam_batch.regions.refine import CRF, refine

        return refine(rgb, labels, CRF[self._options.refine], max_side=self._options.refine_max_side)

    def _score(self, full: list[NDArray[np.int32]], truth: NDArray[np.integer[Any]], state: dict[str, Any]) -> None:
        scores, truth_is = self._stage.fold.scores, self._stage.resolved["truth"]
        part = images.central_square(truth.shape) if truth_is["center_crop"] else (slice(None), slice(None))
        for repeat, labels in enumerate(full):
            state["repeats"][repeat] = scores.merge(
                state["repeats"][repeat], scores.of_image(labels[part], truth[part])
            )

    def _output(self, shard: Shard, rows: list[dict[str, Any]], state: dict[str, Any]) -> ShardOutput:
        records, schema = shard.records, self._stage.schema
        columns = {name: records.column(name) for name in records.column_names if name in schema.names}
        for column in schema.names:
            if column not in columns:
                columns[column] = pa.array([row.get(column) for row in rows], schema.field(column).type)
        return ShardOutput(
            number=shard.number,
            rows=pa.table({name: columns[name] for name in schema.names}, schema=schema),
            arrays=[{} for _ in rows],
            statistics=state,
            seconds=self._timer.take(),
        )


def _segments(labels: NDArray[np.int32], index: masks.UpsampleIndex) -> list[dict[str, Any]]:
    """The parts of a map of cells that carry a label, as masks of the full image."""
    pixels = masks.patch_pixels((labels.shape[0], labels.shape[1]), index)
    found = []
    for label in np.unique(labels[pixels > 0]).tolist():
        mask = labels == label
        if label:
            found.append(
                {
                    "label": label,
                    "area_fraction": int(pixels[mask].sum()) / int(pixels.sum()),
                    "bbox_xyxy": boxes.tight_box(mask, index),
                    "mask_rle": run_lengths(mask, index),
                }
            )
    return found
