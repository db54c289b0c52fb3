"""What labels images by fitted probes, whatever run they are of, and compares the maps with truth."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from simsam_batch import images
from simsam_batch.regions import pixel_index
from simsam_batch.runs.committed import CommittedShard
from simsam_batch.runs.schema import FAILURE, Shard, ShardOutput
from simsam_batch.scores.confusion import as_counts, confusion
from simsam_batch.scores.probing import class_counts
from simsam_batch.stages.features.stage import FeaturesStage
from simsam_batch.stages.patch_labels.canvas import canvas_of
from simsam_batch.stages.patch_labels.stage import GRID, LabelReader, count_by_patch
from simsam_batch.stages.probe_fits.cells import Cell
from simsam_batch.stages.probe_maps.bank import Scores
from simsam_batch.stages.probe_maps.fits import Fits
from simsam_batch.stages.probe_maps.fitted import FittedProbes
from simsam_batch.stages.probe_maps.pixels import Pixels
from simsam_batch.stages.probe_maps.rows import COUNTS, REFERENCES, ProbeMapsFold
from simsam_batch.stages.segments import segments_of
from simsam_batch.stages.subsets.rows import TRAIN, VAL
from simsam_batch.stages.subsets.stage import Subsets
from simsam_batch.workers.models import compute_device
from simsam_batch.workers.records import EarlierStage, Item, RecordWorker, Results, Row, SettledStage

_PATCHES_AT_ONCE = 16_384
_SCORES_BYTES = 500_000_000


@dataclass(frozen=True, slots=True)
class Loaded:
    """An image that is to be labelled.

    Attributes:
        features: by set (N, D).
        truth: (H, W) if it is to be scored, -1 where pixels do not count.
        truth_error: why there is none.
    """

    features: Sequence[NDArray[Any]]
    truth: NDArray[np.int32] | None
    truth_error: str | None


class MapStage(SettledStage, Protocol):
    """A stage of label maps; ``resolved`` holds ``truth``, as that of the stage ``patch-labels``."""

    @property
    def fold(self) -> ProbeMapsFold:
        """Knows the cells by name, and merges what they came to."""
        ...


class MapWorker(RecordWorker[Loaded | None]):
    """Labels the patches of some images at once, and the pixels of one image and cell after the other.

    Args:
        stage: whose plan is of the images, with their features in its run.
        beat: is told of progress.
        fits: what labels them.
    """

    def __init__(self, stage: MapStage, beat: Callable[[], None], fits: Fits) -> None:
        super().__init__(stage, beat, torch.device(compute_device(stage.options.device)))
        assert stage.plan is not None  # noqa: S101  it is where the features are
        self._sets, self._cells, self._classes = fits.sets, fits.cells, fits.classes
        self._resize, self._how = images.parse_resize(fits.settings.resize), fits.settings
        self._fold, self._features = stage.fold, EarlierStage(stage.plan.out, FeaturesStage.name)
        self._truth = LabelReader(stage.resolved["truth"], self.limits, fits.settings)
        self._fitted = FittedProbes(fits, self.device)
        self._shown = _shown_cells(self._cells, self._fitted.faults)
        self._floor = int(Subsets(fits.out).train_pixels.argmax())
        self._waiting: list[tuple[Item, Loaded]] = []
        each = 4 * self._classes * max(1, len(self._cells))
        self._at_once = min(_PATCHES_AT_ONCE, max(1, _SCORES_BYTES // each))

    @abstractmethod
    def is_scored(self, image_id: str) -> bool:
        """Whether an image is compared with its truth, if it has any."""

    @abstractmethod
    def is_labelled(self, image_id: str) -> bool:
        """Whether a label map is made of an image; one that is scored has one."""

    def run(self, shards: Iterator[Shard]) -> Iterator[ShardOutput]:
        """Outputs of the shards, in order."""
        # what an attempt that failed had left
        self._waiting = []
        yield from super().run(shards)

    def items(self, shards: Iterator[Shard]) -> Iterator[Item]:
        """The images, each with its row of the stage ``features`` and what gives its arrays."""

        def beside(there: CommittedShard) -> list[Any]:
            held = there.attachments()
            rows = there.rows([*FAILURE, *GRID]).to_pylist()
            return [(row, held, place) for place, row in enumerate(rows)]

        return self._features.items(shards, beside)

    def load(self, item: Item) -> Loaded | None:
        """Read the features of an image that is to be labelled, and its truth; None of one that is not."""
        row, attachments, place = item.beside
        image_id = item.record["image_id"]
        if row["status"] != "ok" or not self.is_labelled(image_id):
            return None
        held = attachments[place]
        truth, fault = None, None
        if self.is_scored(image_id):
            truth, _, fault = self._truth.read(item.record["truth_uri"], row)
        return Loaded([each.of(held) for each in self._sets], truth, fault)

    def take(self, item: Item, loaded: Loaded | None, results: Results) -> None:
        """Let an image wait for others, and label them when there are enough patches."""
        row = item.beside[0]
        if row["status"] != "ok":
            results.put(item.row, Row({name: row[name] for name in FAILURE}))
        elif loaded is None:
            results.put(item.row, Row({"status": "ok", "side": TRAIN, "width": row["width"], "height": row["height"]}))
        else:
            self._waiting.append((item, loaded))
            if sum(len(each.features[0]) for _, each in self._waiting) >= self._at_once:
                self._compute(results)

    def finish(self, results: Results) -> None:
        """Label what still waits."""
        if self._waiting:
            self._compute(results)

    def _compute(self, results: Results) -> None:
        batch, self._waiting = self._waiting, []
        with self.timer.step("predict"):
            scores: list[Scores] = []
            for _, loaded in batch:
                scores.append(self._fitted.scores(loaded.features))
                self._beat()
        before = self._fitted.recall()
        with self.timer.step("neighbours"):
            found = self._fitted.search([loaded.features for _, loaded in batch], self._beat)
        found_of = [after - then for after, then in zip(self._fitted.recall(), before, strict=True)]
        for (item, loaded), own, beside in zip(batch, scores, found, strict=True):
            row = self._row(item, loaded, own | beside)
            if row.state is not None:
                # what a search of several images came to is told once
                row.state["neighbours_found"], row.state["neighbours_checked"] = found_of
                found_of = [0, 0]
            results.put(item.row, row)
            self._beat()

    def _row(self, item: Item, loaded: Loaded, scores: Scores) -> Row:
        row = item.beside[0]
        pixels = own = Pixels(canvas_of(row, self._resize, "native"), self._how)
        if self._how.truth_size == "working":
            pixels = Pixels(canvas_of(row, self._resize, "working"), self._how)
        shown, names = {*self._shown.values()}, [*(cell.name for cell in self._cells), *REFERENCES]
        wanted = range(len(self._cells)) if loaded.truth is not None else sorted(shown)
        maps: dict[int, NDArray[np.int64]] = {}
        counts = np.zeros((len(self._cells) + len(REFERENCES), 3, self._classes), np.int64)
        confusions: dict[str, dict[str, int]] = {}

        def score(number: int, prediction: NDArray[np.int64]) -> None:
            assert loaded.truth is not None  # noqa: S101  only then
            table, _ = confusion(prediction, loaded.truth, self._classes, self._classes, -1)
            counts[number] = class_counts(table)
            if number in shown or number >= len(self._cells):
                confusions[names[number]] = as_counts(table)

        with self.timer.step("score"):
            for number in wanted:
                if number not in scores:
                    continue
                if number in shown:
                    maps[number] = own.classes(scores[number])
                if loaded.truth is not None:
                    same = pixels is own and number in maps
                    score(number, maps[number] if same else pixels.classes(scores[number]))
            if loaded.truth is not None:
                for number, reference in enumerate(self._references(loaded.truth, pixels), len(self._cells)):
                    score(number, reference)
        with self.timer.step("encode"):
            columns = {
                "status": "ok",
                "width": row["width"],
                "height": row["height"],
                "side": VAL if loaded.truth is not None else None,
                "truth_error": loaded.truth_error,
                **self._maps(maps, (row["height"], row["width"])),
            }
        if loaded.truth is None:
            return Row(columns, state=self._fold.zero() | {"truth_errors": int(loaded.truth_error is not None)})
        return Row(columns, {COUNTS: counts}, self._fold.zero() | {"images_scored": 1, "confusions": confusions})

    def _references(self, truth: NDArray[np.int32], pixels: Pixels) -> Iterator[NDArray[np.int64]]:
        """What the table's numbers are to be read beside, in the order of `REFERENCES`."""
        yield np.full(truth.shape, self._floor, np.int64)
        labels = count_by_patch(truth, pixels.index, pixels.grid[1])
        labels = labels[labels[:, 1] >= 0]
        histogram = np.zeros((pixels.grid[0] * pixels.grid[1], self._classes), np.float32)
        histogram[labels[:, 0], labels[:, 1]] = labels[:, 2]
        shares = torch.from_numpy(histogram / np.maximum(histogram.sum(axis=1, keepdims=True), 1))
        yield pixels.nearest(shares)
        yield pixels.between(shares)

    def _maps(self, maps: Mapping[int, NDArray[np.int64]], size: tuple[int, int]) -> dict[str, Any]:
        index = pixel_index.upsample_index(size, 1, size, size)
        of_probe = {
            probe: segments_of(maps[number].astype(np.int32), index)
            for probe, number in self._shown.items()
            if number in maps
        }
        if not of_probe:
            return {}
        probe, segments = next(iter(of_probe.items()))
        return {
            "shown": self._cells[self._shown[probe]].name,
            "labels": [each["label"] for each in segments],
            "segments": segments,
            "maps": [{"probe": name, "segments": each} for name, each in of_probe.items()],
        }


def _shown_cells(cells: Sequence[Cell], faults: Mapping[int, str]) -> dict[str, int]:
    """The cell whose label maps are kept for each probe: the first feature set, the most labels, the first seed."""
    found: dict[str, int] = {}
    for number, cell in enumerate(cells):
        if number in faults:
            continue
        best = found.get(cell.probe)
        if best is None or (
            cell.features == cells[best].features and cell.budget.fraction > cells[best].budget.fraction
        ):
            found[cell.probe] = number
    return found
