"""The clusters of a whole set, one fit over the regions of all images or the nodes of all trees: a stage of one shard.

Features are streamed shard by shard, and a sample of them is held. The fit is the same for any order, engine and number
of workers of the stage it rests on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import Any, ClassVar, Self

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from simsam_batch.errors import ImageError, RunError, SettingsError
from simsam_batch.regions import codebook
from simsam_batch.regions.moments import Moments, Projection
from simsam_batch.regions.sampling import Ids, RowSample, hashes_of
from simsam_batch.runs.committed import CommittedShard, committed_shards
from simsam_batch.runs.ledger import Ledger
from simsam_batch.runs.plan import make_plan_of
from simsam_batch.runs.reading import StageRows
from simsam_batch.runs.schema import File, Needs
from simsam_batch.settings import Clusters, ClusterSettings, Numbers
from simsam_batch.stages.base import CommandStage
from simsam_batch.stages.clusters.rows import CLUSTERS_FIELDS, ClustersFold
from simsam_batch.stages.regions.rows import DESCRIPTORS
from simsam_batch.storage import Folder, ObjectNotFound
from simsam_batch.workers.models import compute_device
from simsam_batch.workers.records import Item, RecordWorker, Results, Row, failed

_CODEBOOK = "codebook"
_BATCH_ROWS = 4096

Features = tuple[Ids, NDArray[np.float32]]
"""Names, unlike each other, and features (n, C) of what is clustered."""


@dataclass(frozen=True)
class ClustersStage(CommandStage[ClusterSettings]):
    """Fits the clusters of all regions; a record of its plan is one repeat, a fit with a seed of its own."""

    name = "clusters"
    components = (Numbers, Clusters)
    fields = CLUSTERS_FIELDS
    reads = ("regions",)
    unit = "repeat"
    needs = Needs(workers=1)
    things: ClassVar[str] = "regions"

    @classmethod
    def of(cls, options: ClusterSettings, out: Folder) -> Self:
        """The stage of a run, with a plan of as many repeats as the settings ask for."""
        repeats = getattr(options, "repeats", 1)
        numbers = pa.table({cls.unit: pa.array([str(repeat) for repeat in range(repeats)])})
        return cls(options, {}, make_plan_of(out, numbers, unit=cls.unit, shard_size=repeats))

    @cached_property
    def fold(self) -> ClustersFold:
        """Keeps what the repeats came to."""
        return ClustersFold(self.things)

    def features(self, shard: CommittedShard) -> Iterator[Features]:
        """What is clustered of a shard of the stage it reads, in the order of the plan."""
        for batch in shard.rows(["image_id", "regions"]).to_batches(_BATCH_ROWS):
            lists = batch.column("regions")
            owner = np.repeat(np.arange(len(lists)), lists.value_lengths().fill_null(0).to_numpy())
            regions = lists.flatten()
            if not len(regions):
                continue
            images = batch.column("image_id").to_pylist()
            numbers = regions.field("region").to_pylist()
            names = [f"{images[i]}#{number}".encode() for i, number in zip(owner.tolist(), numbers, strict=True)]
            yield names, regions.field("feature").flatten().to_numpy().reshape(len(names), -1)

    def make_worker(self, beat: Callable[[], None]) -> ClustersWorker:
        """Be ready to fit."""
        return ClustersWorker(self, beat)


@dataclass(frozen=True)
class NodeClustersStage(ClustersStage):
    """Fits the clusters of the nodes of all trees; a node that holds no patch has no feature."""

    name = "node-clusters"
    reads = ("hierarchy",)
    things = "nodes"

    def features(self, shard: CommittedShard) -> Iterator[Features]:
        """The prototypes of the nodes of a shard of trees."""
        ids = shard.rows(["image_id"])["image_id"].to_pylist()
        for image_id, prototypes in zip(ids, prototypes_of(shard), strict=True):
            held = np.flatnonzero(prototypes.any(axis=1))
            if len(held):
                yield [f"{image_id}#{node}".encode() for node in held.tolist()], prototypes[held]


@dataclass(frozen=True)
class PatchClustersStage(ClustersStage):
    """Fits the clusters of all patches, which label maps are compared with: the set's own plain k-means."""

    name = "patch-clusters"
    things = "patches"

    def features(self, shard: CommittedShard) -> Iterator[Features]:
        """The patches of the images of a shard, numbered from a number of their image's own."""
        ids = shard.rows(["image_id"])["image_id"].to_pylist()
        starts = hashes_of([str(image_id).encode() for image_id in ids], 0).view(np.int64)
        for start, held in zip(starts, shard.attachments(), strict=True):
            if DESCRIPTORS in held:
                rows = np.asarray(held[DESCRIPTORS], np.float32)
                yield start + np.arange(len(rows)), rows


def prototypes_of(shard: CommittedShard) -> list[NDArray[np.float32]]:
    """Of each tree of a shard (nodes, C) float32, the mean feature of each node; (0, 0) where the image failed."""
    nothing = np.zeros((0, 0), np.float32)
    return [np.asarray(held.get("prototypes", nothing), np.float32) for held in shard.attachments()]


class ClustersWorker(RecordWorker[None]):
    """Draws the sample once, and fits each repeat to it."""

    def __init__(self, stage: ClustersStage, beat: Callable[[], None]) -> None:
        # the limit on threads reaches only libraries that are loaded
        import_module("sklearn.cluster")
        super().__init__(stage, beat, torch.device(compute_device(stage.options.device)))
        assert stage.plan is not None  # noqa: S101  it is where the features are
        self._fit, self._options, self._out = stage, stage.options, stage.plan.out
        self._sample: tuple[int, NDArray[np.float32], Projection | None] | None = None

    def load(self, item: Item) -> None:
        """Nothing of a repeat is loaded by itself."""
        del item

    def take(self, item: Item, loaded: None, results: Results) -> None:
        """Fit one repeat."""
        del loaded
        try:
            row = self._fitted(int(item.record[self._fit.unit]))
        except ValueError as error:
            row = failed(ImageError("not_clusterable", str(error), "fit"))
        results.put(item.row, row)

    def _fitted(self, repeat: int) -> Row:
        with self.timer.step("sample"):
            there, rows, projection = self._sampled()
        self._beat()
        options = self._options
        with self.timer.step("fit"):
            book = codebook.fit(
                rows,
                options.clusters,
                (options.seed + repeat) % 2**32,
                method=options.cluster_method,
                projection=projection,
                device=self.device,
            )
        columns = {
            "status": "ok",
            "clusters": len(book.centers),
            "sampled": len(rows),
            "inertia": book.inertia,
            "iterations": book.iterations,
            "converged": book.converged,
            "device": book.device,
        }
        state = {self._fit.things: there, "sampled": len(rows), "inertia": [book.inertia]}
        return Row(columns, {_CODEBOOK: File(book.to_bytes(), "npz")}, state)

    def _sampled(self) -> tuple[int, NDArray[np.float32], Projection | None]:
        """How many things there are, the features of a sample of them, and the components to cluster in."""
        if self._sample is None:
            ledger = Ledger(self._out, self._fit.reads[0])
            there = sum(manifest["statistics"][self._fit.things] for manifest in ledger.manifests())
            sample = RowSample(self._options.seed % 2**64, max(1, min(self._options.sample, there)))
            moments: Moments | None = None
            for shard in committed_shards(self._out, ledger.manifests()):
                for keys, features in self._fit.features(shard):
                    sample.add(keys, features)
                    if self._options.pca_dim:
                        here = Moments.of(features)
                        moments = here if moments is None else moments.merge(here)
                self._beat()
            _, rows = sample.rows()
            components = moments.principal_components(self._options.pca_dim) if moments is not None else None
            self._sample = there, rows, components
        return self._sample


def check_enough(there: int, things: str, settings: ClusterSettings) -> None:
    """Refuse, before anything of the fit is recorded, to make more clusters than there are things.

    Raises:
        SettingsError: naming both numbers.
    """
    if not there:
        raise SettingsError(
            f"no image has any {things}, so there is nothing to cluster. To mend it: simsam retry, if the images "
            "failed; else other settings, in another OUT"
        )
    if there < settings.clusters:
        raise SettingsError(
            f"clusters: {there} {things} do not make {settings.clusters} clusters; ask for at most {there}"
        )


def check_fitted(out: Folder, stage: str, result: Mapping[str, Any]) -> None:
    """Refuse to go on with a fit that came to nothing.

    Raises:
        SettingsError: with what was said of it.
    """
    if result["failed"]:
        fault = next(row["error"] for _, row in StageRows(out, stage).each(["status", "error"]) if row["error"])
        raise SettingsError(f"the clusters cannot be fitted: {fault}. To mend it: other settings, in another OUT")


def codebooks(out: Folder, stage: str) -> list[codebook.Codebook]:
    """The codebooks of a fit, one for each repeat.

    Args:
        out: the run's folder.
        stage: name of the fit.

    Raises:
        RunError: they are missing or damaged.
    """
    found = []
    for manifest in Ledger(out, stage).manifests():
        try:
            attachments = CommittedShard(out, manifest).attachments()
        except ObjectNotFound as error:
            names = " or ".join(str(file["name"]) for file in manifest["files"])
            raise RunError(f"{out.url}: {names} is missing. To mend it: restore the file") from error
        for held in attachments:
            book = held.get(_CODEBOOK)
            if not isinstance(book, File):
                raise RunError(f"{out.url}: the stage {stage} has no codebook. To mend it: use another OUT")
            found.append(codebook.Codebook.from_bytes(book.data))
    return found


STAGES = {each.name: each for each in (ClustersStage, NodeClustersStage, PatchClustersStage)}
