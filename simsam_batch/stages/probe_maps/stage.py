"""The ``probe-maps`` stage: label maps by all fitted probes, compared with truth."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from simsam_batch import images
from simsam_batch.regions import masks
from simsam_batch.regions.upsampling import BilinearIndex, bilinear_index, classes_between_patches
from simsam_batch.runs.committed import CommittedShard
from simsam_batch.runs.plan import ids_of
from simsam_batch.runs.schema import Shard
from simsam_batch.scores.confusion import confusion
from simsam_batch.scores.probing import class_counts
from simsam_batch.settings import Numbers
from simsam_batch.stages.base import CommandStage
from simsam_batch.stages.features.stage import FeaturesStage
from simsam_batch.stages.patch_labels.stage import GRID, LabelReader, count_by_patch, patch_index
from simsam_batch.stages.probe_fits.cells import Cell, cells_of
from simsam_batch.stages.probe_fits.patches import FeatureSet, feature_sets
from simsam_batch.stages.probe_fits.settings import Probes
from simsam_batch.stages.probe_fits.stage import ProbeFitsStage
from simsam_batch.stages.probe_maps.fitted import FittedProbes, Scores
from simsam_batch.stages.probe_maps.rows import PROBE_MAPS_FIELDS, REFERENCES, ProbeMapsFold
from simsam_batch.stages.probe_maps.settings import Prediction, ProbeMapsSettings
from simsam_batch.stages.segments import segments_of
from simsam_batch.stages.subsets.selection import roles_of
from simsam_batch.stages.subsets.stage import TRAIN, VAL, Subsets
from simsam_batch.workers.models import compute_device
from simsam_batch.workers.records import FAILURE, EarlierStage, Item, RecordWorker, Results, Row

COUNTS = "counts"
"""The array beside a row that was scored."""

_PATCHES_AT_ONCE = 16_384
_SCORES_BYTES = 500_000_000


@dataclass(frozen=True)
class ProbeMapsStage(CommandStage[ProbeMapsSettings]):
    """Labels images by every probe.

    ``resolved`` holds ``truth``, as the stage ``patch-labels``; ``classes``, how many there are; ``channels_of`` the
    stored features.
    """

    name = "probe-maps"
    components = (Numbers, Probes, Prediction)
    fields = PROBE_MAPS_FIELDS
    keeps_columns = True
    reads = (*ProbeFitsStage.reads, ProbeFitsStage.name)

    @cached_property
    def sets(self) -> list[FeatureSet]:
        """What probes see."""
        return feature_sets(self.resolved["channels_of"], self.options.combine)

    @cached_property
    def cells(self) -> list[Cell]:
        """Of the table."""
        return cells_of(self.options, [each.name for each in self.sets], self.resolved["classes"])

    @cached_property
    def fold(self) -> ProbeMapsFold:
        """Merges confusions."""
        return ProbeMapsFold([*(cell.name for cell in self.cells), *REFERENCES], self.resolved["classes"])

    def make_worker(self, beat: Callable[[], None]) -> ProbeMapsWorker:
        """Read the fits and be ready for shards."""
        return ProbeMapsWorker(self, beat)


@dataclass(frozen=True, slots=True)
class _Loaded:
    """An image that is to be labelled: its features by set (N, D), and its truth (H, W) if it is to be scored."""

    features: Sequence[NDArray[Any]]
    truth: NDArray[np.int32] | None


class ProbeMapsWorker(RecordWorker[_Loaded | None]):
    """Labels the patches of some images at once, and the pixels of one image and cell after the other."""

    def __init__(self, stage: ProbeMapsStage, beat: Callable[[], None]) -> None:
        super().__init__(stage, beat, torch.device(compute_device(stage.options.device)))
        assert stage.plan is not None  # noqa: S101  it is where the features are
        out, self._options = stage.plan.out, stage.options
        self._sets, self._cells, self._fold = stage.sets, stage.cells, stage.fold
        self._classes = int(stage.resolved["classes"])
        self._features = EarlierStage(out, FeaturesStage.name)
        self._resize = images.parse_resize(stage.options.resize)
        self._truth = LabelReader(stage.resolved["truth"], self.limits)
        self._fitted = FittedProbes(out, stage.options, self._sets, self._cells, self._classes, self.device)
        self._shown = _shown_cells(self._cells, self._fitted.faults)
        subsets = Subsets(out)
        ids = [name for block in ids_of(stage.plan) for name in block.to_pylist()]
        roles = roles_of(stage.plan, stage.options)
        self._scored = {ids[record] for record in subsets.val.tolist()}
        self._train = {ids[record] for record in roles.train.tolist()}
        self._floor = int(subsets.train_pixels.argmax())
        self._waiting: list[tuple[Item, _Loaded]] = []
        each = 4 * self._classes * max(1, len(self._cells))
        self._at_once = min(_PATCHES_AT_ONCE, max(1, _SCORES_BYTES // each))

    def items(self, shards: Iterator[Shard]) -> Iterator[Item]:
        """The images, each with its row of the stage ``features`` and what gives its arrays."""

        def beside(there: CommittedShard) -> list[Any]:
            held = there.attachments()
            rows = there.rows([*FAILURE, *GRID]).to_pylist()
            return [(row, held, place) for place, row in enumerate(rows)]

        return self._features.items(shards, beside)

    def load(self, item: Item) -> _Loaded | None:
        """Read the features of an image that is to be labelled, and its truth; None of one that is not."""
        row, attachments, place = item.beside
        image_id = item.record["image_id"]
        scored = image_id in self._scored
        if row["status"] != "ok" or (image_id in self._train and not scored):
            return None
        held = attachments[place]
        truth = self._truth.read(item.record["truth_uri"], (row["height"], row["width"]))[0] if scored else None
        return _Loaded([each.of(held) for each in self._sets], truth)

    def take(self, item: Item, loaded: _Loaded | None, results: Results) -> None:
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
        if self._fitted.bank is not None:
            with self.timer.step("neighbours"):
                together = [np.concatenate(parts) for parts in zip(*(each.features for _, each in batch), strict=True)]
                ends = np.cumsum([len(each.features[0]) for _, each in batch])
                for number, found in self._fitted.bank.scores(together, self._beat).items():
                    for own, end, start in zip(scores, ends, [0, *ends[:-1]], strict=True):
                        own[number] = found[start:end]
        for (item, loaded), own in zip(batch, scores, strict=True):
            results.put(item.row, self._row(item, loaded, own))
            self._beat()

    def _row(self, item: Item, loaded: _Loaded, scores: Scores) -> Row:
        row = item.beside[0]
        pixels = _Pixels(row, self._resize, self._options.upsample)
        wanted = range(len(self._cells)) if loaded.truth is not None else sorted({*self._shown.values()})
        maps: dict[int, NDArray[np.int64]] = {}
        counts = np.zeros((len(self._cells) + len(REFERENCES), 3, self._classes), np.int64)
        confusions: dict[str, dict[str, int]] = {}

        def score(number: int, prediction: NDArray[np.int64]) -> None:
            assert loaded.truth is not None  # noqa: S101  only then
            table, _ = confusion(prediction, loaded.truth, self._classes, self._classes, -1)
            counts[number] = class_counts(table)
            flat = table.ravel()
            there = np.flatnonzero(flat)
            confusions[self._fold.cells[number]] = dict(
                zip(map(str, there.tolist()), flat[there].tolist(), strict=True)
            )

        with self.timer.step("score"):
            for number in wanted:
                if number in scores:
                    prediction = pixels.classes(scores[number])
                    if number in self._shown.values():
                        maps[number] = prediction
                    if loaded.truth is not None:
                        score(number, prediction)
            if loaded.truth is not None:
                for number, reference in enumerate(self._references(loaded.truth, pixels), len(self._cells)):
                    score(number, reference)
        with self.timer.step("encode"):
            columns = {
                "status": "ok",
                "width": row["width"],
                "height": row["height"],
                "side": VAL if loaded.truth is not None else None,
                **self._maps(maps, (row["height"], row["width"])),
            }
        if loaded.truth is None:
            return Row(columns)
        return Row(columns, {COUNTS: counts}, {"images_scored": 1, "confusions": confusions})

    def _references(self, truth: NDArray[np.int32], pixels: _Pixels) -> Iterator[NDArray[np.int64]]:
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
        index = masks.upsample_index(size, 1, size, size)
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


class _Pixels:
    """From scores of patches to classes of pixels, of one image.

    Attributes:
        grid: (Hp, Wp).
        index: the patch under each pixel.
    """

    def __init__(self, row: Mapping[str, Any], resize: images.Resize, upsample: str) -> None:
        full = row["height"], row["width"]
        self.grid = row["grid_h"], row["grid_w"]
        self.index = patch_index(dict(row), resize)
        self._between: BilinearIndex = bilinear_index(self.grid, row["patch"], images.working_size(full, resize), full)
        self._upsample = upsample

    def classes(self, scores: Tensor) -> NDArray[np.int64]:
        """(H, W) the class of each pixel, as the settings say, of scores (N, C)."""
        return self.nearest(scores) if self._upsample == "nearest" else self.between(scores)

    def nearest(self, scores: Tensor) -> NDArray[np.int64]:
        """(H, W) the class of the patch that a pixel lies in."""
        found: NDArray[np.int64] = scores.max(dim=1).indices.reshape(self.grid).numpy()[np.ix_(*self.index)]
        return found

    def between(self, scores: Tensor) -> NDArray[np.int64]:
        """(H, W) the class of the highest score between patches."""
        planes = scores.T.reshape(-1, *self.grid).contiguous()
        found: NDArray[np.int64] = classes_between_patches(planes, self._between).numpy()
        return found


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


STAGES = {ProbeMapsStage.name: ProbeMapsStage}
