"""The worker of the ``semantic`` stage: reads the regions of a shard, names them, and compares them with the truth."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from simsam_batch import images
from simsam_batch.errors import ImageError, RunError
from simsam_batch.regions import codebook, masks
from simsam_batch.regions.refine import CRF, shrink
from simsam_batch.runs.committed import CommittedShard
from simsam_batch.runs.ledger import Ledger
from simsam_batch.runs.schema import Shard, ShardOutput
from simsam_batch.stages.clusters.stage import load_codebook
from simsam_batch.stages.decomposition import Timer
from simsam_batch.stages.segments import segments_of
from simsam_batch.stages.semantic.rows import SemanticStage
from simsam_batch.workers.images import failed_row, limits_of, table_of
from simsam_batch.workers.refinement import Refiner

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
    """What a thread has prepared of an image.

    Attributes:
        maps: for each codebook the label of every cell; cells are patches or, of refined maps, pixels.
        index: the cell of each pixel of the image.
        truth: (H, W) class ids if there are any.
        truth_error: why there are none.
    """

    maps: list[NDArray[np.int32]]
    index: masks.UpsampleIndex
    truth: NDArray[np.integer[Any]] | None
    truth_error: str | None


class SemanticWorker:
    """Gives every region the label of its cluster, and every pixel that of its region.

    Attributes:
        doing: what it is at, for the message of the watchdog.
    """

    doing = ""

    def __init__(self, stage: SemanticStage, beat: Callable[[], None]) -> None:
        import torch

        threadpool_limits(stage.options.threads)
        self._stage, self._options, self._beat = stage, stage.options, beat
        self._codebooks = [load_codebook(stage.out, name, sha256) for name, sha256 in stage.resolved["codebooks"]]
        self._ledger = Ledger(stage.out, "regions")
        self._generations = self._ledger.committed()
        options = stage.options
        self._limits = images.ImageLimits(options.max_bytes, options.max_pixels, options.decode_seconds)
        self._resize = images.parse_resize(stage.options.resize)
        self._refiner = Refiner(stage.options.refine_processes) if stage.options.refine != "none" else None
        self._timer = Timer(torch.device("cpu"))

    def run(self, shards: Iterator[Shard]) -> Iterator[ShardOutput]:
        """Outputs of the shards, in order; the next images are labelled and refined while these are compared."""
        threads = self._options.decode_threads or 2
        arrived = images.decode_ahead(self._items(shards), self._load, threads=threads, max_pending=4 * threads)
        with closing(arrived):
            rows: list[dict[str, Any]] = []
            state = self._stage.fold.zero()
            for item, loaded in arrived:
                self.doing = f"comparing {item.record['image_id']} of shard {item.shard.number}"
                rows.append(self._row(item, loaded, state))
                self.doing = f"waiting for what follows {item.record['image_id']} in shard {item.shard.number}"
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
        return CommittedShard(self._stage.out, manifest).rows()

    def _load(self, item: _Item) -> _Loaded | None:
        """Label and refine an image, and read its truth; None for one that has failed before."""
        record, found = item.record, item.found
        if found["status"] != "ok":
            return None
        maps, index = self._labelled(record["uri"], found)
        truth_is = self._stage.resolved["truth"]
        if record["truth_uri"] is None or truth_is is None:
            return _Loaded(maps, index, None, None)
        try:
            truth = images.load_labels(
                record["truth_uri"],
                self._limits,
                (found["height"], found["width"]),
                classes=len(self._stage.fold.scores.classes),
                ignore=truth_is["ignore_label"],
            )
        except images.TruthError as error:
            return _Loaded(maps, index, None, str(error))
        if truth_is["also_ignored"]:
            truth = np.where(np.isin(truth, truth_is["also_ignored"]), truth_is["ignore_label"], truth)
        return _Loaded(maps, index, truth, None)

    def _labelled(self, uri: str, found: dict[str, Any]) -> tuple[list[NDArray[np.int32]], masks.UpsampleIndex]:
        """The label maps of an image, and the cell of each of its pixels."""
        maps = self._label_maps(found)
        size, grid = (found["height"], found["width"]), (found["grid_h"], found["grid_w"])
        working = images.working_size(size, self._resize)
        if self._refiner is None:
            return maps, masks.upsample_index(grid, found["patch"], working, size)
        decoded = images.decode(images.fetch(uri, self._limits), self._limits)
        if decoded.content_sha256 != found["content_sha256"]:
            message = f"{uri}: the file is not the one that its regions are of. To mend it: restore it"
            raise ImageError("changed", message, "read")
        picture = shrink(decoded.rgb, self._options.refine_max_side)
        cells = picture.shape[0], picture.shape[1]
        index = masks.upsample_index(grid, found["patch"], working, cells)
        parameters = CRF[self._options.refine]
        waiting = [self._refiner.submit(picture, labels, index=index, parameters=parameters) for labels in maps]
        return [refined() for refined in waiting], masks.upsample_index(cells, 1, cells, size)

    def _row(self, item: _Item, loaded: _Loaded | Exception | None, state: dict[str, Any]) -> dict[str, Any]:
        """One image's row; its share of the confusions goes to ``state``."""
        if isinstance(loaded, ImageError):
            return failed_row(loaded)
        if isinstance(loaded, Exception):
            raise loaded
        if loaded is None:
            return {name: item.found[name] for name in ("status", "error_type", "error", "failed_step")}
        with self._timer.step("encode"):
            segments = segments_of(loaded.maps[0], loaded.index)
        if loaded.truth is not None:
            with self._timer.step("score"):
                self._score(loaded.maps, loaded.index, loaded.truth, state)
        state["truth_errors"] += loaded.truth_error is not None
        return {
            "status": "ok",
            **{name: item.found[name] for name in _COPIED},
            "labels": [each["label"] for each in segments],
            "segments": segments,
            "refined": self._refiner is not None,
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

    def _score(
        self,
        maps: list[NDArray[np.int32]],
        index: masks.UpsampleIndex,
        truth: NDArray[np.integer[Any]],
        state: dict[str, Any],
    ) -> None:
        scores, truth_is = self._stage.fold.scores, self._stage.resolved["truth"]
        part = images.central_square(truth.shape) if truth_is["center_crop"] else (slice(None), slice(None))
        cells = np.ix_(index[0][part[0]], index[1][part[1]])
        for repeat, labels in enumerate(maps):
            of_image = scores.of_image(labels[cells], truth[part])
            state["repeats"][repeat] = scores.merge(state["repeats"][repeat], of_image)

    def _output(self, shard: Shard, rows: list[dict[str, Any]], state: dict[str, Any]) -> ShardOutput:
        return ShardOutput(
            number=shard.number,
            rows=table_of(shard.records, rows, self._stage.schema),
            attachments=[{} for _ in rows],
            statistics=state,
            seconds=self._timer.take(),
            facts={"limits": limits_of(self._options)},
        )
