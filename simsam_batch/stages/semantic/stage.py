"""The ``semantic`` stage: regions and clusters to label maps, compared with class ids where there is truth."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simsam_batch import images
from simsam_batch.errors import ImageError
from simsam_batch.regions import codebook, pixel_index
from simsam_batch.regions.refine import REFINEMENTS, shrink
from simsam_batch.runs.committed import CommittedShard
from simsam_batch.runs.schema import FAILURE, Needs, Shard
from simsam_batch.scores.semantic import SemanticScores
from simsam_batch.settings import Refinement, TrueClasses
from simsam_batch.stages.base import CommandStage
from simsam_batch.stages.clusters.stage import (
    ClustersStage,
    PatchClustersStage,
    check_enough,
    check_fitted,
    codebooks,
)
from simsam_batch.stages.regions.rows import DESCRIPTORS
from simsam_batch.stages.regions.stage import RegionsStage, check_crop_size
from simsam_batch.stages.segments import segments_of
from simsam_batch.stages.semantic.rows import SEMANTIC_FIELDS, SemanticFold
from simsam_batch.stages.semantic.settings import LabelScoring, SemanticSettings
from simsam_batch.stages.steps import Job, Stages, Steps
from simsam_batch.stages.true_classes import names_of, read_class_names, truth_of
from simsam_batch.workers.models import DESCRIPTORS as WITHOUT_NETWORK
from simsam_batch.workers.records import EarlierStage, Item, RecordWorker, Results, Row
from simsam_batch.workers.refinement import check_refinement, make_refiner
from simsam_batch.workers.truth import TruthReader

_COPIED = ("width", "height", "degenerate")


@dataclass(frozen=True)
class SemanticStage(CommandStage[SemanticSettings]):
    """``resolved`` holds under ``truth`` what `simsam_batch.stages.true_classes.truth_of` says, or None."""

    name = "semantic"
    components = (Refinement, TrueClasses, LabelScoring)
    fields = SEMANTIC_FIELDS
    keeps_columns = True
    reads = (RegionsStage.name, ClustersStage.name)
    needs = Needs(gpu=False)

    @cached_property
    def fold(self) -> SemanticFold:
        """Merges confusions."""
        truth = self.resolved["truth"] or {"classes": None, "ignore_label": None, "protocol": "semantic"}
        scores = SemanticScores(
            names_of(truth["classes"]),
            predicted=self.options.clusters + 1,
            ignore=truth["ignore_label"],
            matching=self.options.matching,
            protocol=truth["protocol"],
        )
        return SemanticFold(scores, self.options.repeats, baselines=self.options.baselines)

    def make_worker(self, beat: Callable[[], None]) -> SemanticWorker:
        """Read the codebooks and be ready for shards."""
        return SemanticWorker(self, beat)


@dataclass(frozen=True, slots=True)
class _Loaded:
    """What a thread has prepared of an image.

    Attributes:
        maps: for each codebook the label of every cell; cells are patches or, of refined maps, pixels.
        index: the cell of each pixel of the image.
        baselines: for each codebook of patches the label of every patch; if there are baselines.
        patches: the patch of each pixel.
        truth: class ids of the part that is scored, if there are any.
        truth_error: why there are none.
    """

    maps: list[NDArray[np.int32]]
    index: pixel_index.UpsampleIndex
    baselines: list[NDArray[np.int32]]
    patches: pixel_index.UpsampleIndex
    truth: NDArray[np.integer[Any]] | None
    truth_error: str | None


class SemanticWorker(RecordWorker[_Loaded | None]):
    """Gives every region the label of its cluster, and every pixel that of its region."""

    def __init__(self, stage: SemanticStage, beat: Callable[[], None]) -> None:
        super().__init__(stage, beat)
        assert stage.plan is not None  # noqa: S101  it is where the regions are
        self._options, self._fold = stage.options, stage.fold
        self._codebooks = codebooks(stage.plan.out, ClustersStage.name)
        self._patch_codebooks = codebooks(stage.plan.out, PatchClustersStage.name) if stage.options.baselines else []
        self._regions = EarlierStage(stage.plan.out, RegionsStage.name)
        self._resize = images.parse_resize(stage.options.resize)
        self._refiner = make_refiner(stage.options, self.device.type)
        self._truth = TruthReader(stage.resolved["truth"] or {}, self.limits)

    def items(self, shards: Iterator[Shard]) -> Iterator[Item]:
        """The images, each with its row of the stage ``regions``."""
        return self._regions.items(shards, self._beside)

    def _beside(self, there: CommittedShard) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = there.rows().to_pylist()
        if not self._patch_codebooks:
            return rows
        return [row | {DESCRIPTORS: held.get(DESCRIPTORS)} for row, held in zip(rows, there.attachments(), strict=True)]

    def load(self, item: Item) -> _Loaded | None:
        """Label and refine an image, and read its truth; None for one that has failed before."""
        found = item.beside
        if found["status"] != "ok":
            return None
        maps, index = self._labelled(item.record["uri"], found)
        truth, fault = self._truth.read(item.record["truth_uri"], (found["height"], found["width"]))
        size, grid = (found["height"], found["width"]), (found["grid_h"], found["grid_w"])
        patches = pixel_index.upsample_index(grid, found["patch"], images.working_size(size, self._resize), size)
        plain = [
            codebook.assign(np.asarray(found[DESCRIPTORS], np.float32), book).reshape(grid)
            for book in self._patch_codebooks
        ]
        return _Loaded(maps, index, plain, patches, truth, fault)

    def take(self, item: Item, loaded: _Loaded | None, results: Results) -> None:
        """The row of an image, with its share of the confusions."""
        if loaded is None:
            results.put(item.row, Row({name: item.beside[name] for name in FAILURE}))
            return
        with self.timer.step("encode"):
            segments = segments_of(loaded.maps[0], loaded.index)
        state = self._fold.zero() | {"truth_errors": int(loaded.truth_error is not None)}
        if loaded.truth is not None:
            with self.timer.step("score"):
                part = self._truth.part((item.beside["height"], item.beside["width"]))
                labelled = {"repeats": (loaded.maps, loaded.index)}
                if loaded.baselines:
                    labelled["patch_kmeans"] = loaded.baselines, loaded.patches
                for name, (maps, index) in labelled.items():
                    cells = np.ix_(index[0][part[0]], index[1][part[1]])
                    state[name] = [self._fold.scores.of_image(each[cells], loaded.truth) for each in maps]
        columns = {
            "status": "ok",
            **{name: item.beside[name] for name in _COPIED},
            "labels": [each["label"] for each in segments],
            "segments": segments,
            "refined": self._refiner is not None,
            "truth_error": loaded.truth_error,
        }
        results.put(item.row, Row(columns, state=state))

    def _labelled(self, uri: str, found: dict[str, Any]) -> tuple[list[NDArray[np.int32]], pixel_index.UpsampleIndex]:
        """The label maps of an image, and the cell of each of its pixels."""
        maps = self._label_maps(found)
        size, grid = (found["height"], found["width"]), (found["grid_h"], found["grid_w"])
        working = images.working_size(size, self._resize)
        if self._refiner is None:
            return maps, pixel_index.upsample_index(grid, found["patch"], working, size)
        decoded = images.decode(images.fetch(uri, self.limits), self.limits, self._options.color_profile)
        if decoded.content_sha256 != found["content_sha256"]:
            message = f"{uri}: the file is not the one that its regions are of. To mend it: restore it"
            raise ImageError("changed", message, "read")
        picture = shrink(decoded.rgb, self._options.refine_max_side)
        cells = picture.shape[0], picture.shape[1]
        index = pixel_index.upsample_index(grid, found["patch"], working, cells)
        parameters = REFINEMENTS[self._options.refine]
        waiting = [self._refiner.submit(picture, labels, index=index, parameters=parameters) for labels in maps]
        return [refined() for refined in waiting], pixel_index.upsample_index(cells, 1, cells, size)

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


def _stages(job: Job) -> Stages:
    settings: SemanticSettings = job.settings
    truth = truth_of(settings, job.plan.source)
    if truth is None:
        job.note("label maps are not scored: the truth of this dataset is not one of class ids")
    if settings.backbone == WITHOUT_NETWORK and settings.region_feature != "patches":
        job.note(f"regions are described by their patches: {WITHOUT_NETWORK} has no {settings.region_feature}")
    of_regions = yield RegionsStage(settings, job.resolved, job.plan)
    there = of_regions["metrics"]["regions"]
    check_enough(there, "regions", settings)
    if not settings.quiet:
        job.note(f"{there} regions are clustered")
    fitted = yield ClustersStage.of(settings, job.folder)
    check_fitted(job.folder, ClustersStage.name, fitted)
    if settings.baselines:
        check_enough(of_regions["metrics"]["patches"], PatchClustersStage.things, settings)
        fitted = yield PatchClustersStage.of(settings, job.folder)
        check_fitted(job.folder, PatchClustersStage.name, fitted)
    yield SemanticStage(settings, {"truth": truth}, job.plan)


def _check(settings: SemanticSettings) -> None:
    images.require_whole_images(settings.resize)
    check_refinement(settings)
    if settings.class_names is not None:
        read_class_names(settings.class_names)


STAGES = {SemanticStage.name: SemanticStage}
STEPS = Steps(
    _stages,
    SemanticStage.name,
    roles=("backbone", "encoder"),
    check=_check,
    check_models=check_crop_size,
    idle=lambda options: () if options.baselines else (PatchClustersStage.name,),
)
