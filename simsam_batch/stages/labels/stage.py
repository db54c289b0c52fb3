"""The ``labels`` stage: nodes of all trees that are alike get the same label, that of their cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simsam_batch.regions import codebook
from simsam_batch.runs.committed import CommittedShard
from simsam_batch.runs.schema import FAILURE, Needs, Shard
from simsam_batch.settings import ClusterSettings
from simsam_batch.stages.base import CommandStage
from simsam_batch.stages.clusters.stage import NodeClustersStage, codebooks, prototypes_of
from simsam_batch.stages.labels.rows import LABELS_FIELDS, LabelsFold
from simsam_batch.workers.records import EarlierStage, Item, RecordWorker, Results, Row


@dataclass(frozen=True)
class LabelsStage(CommandStage[ClusterSettings]):
    """Labels the nodes of all trees; no setting identifies it but those of what it reads."""

    name = "labels"
    components = ()
    fields = LABELS_FIELDS
    reads = (*NodeClustersStage.reads, NodeClustersStage.name)
    needs = Needs(gpu=False)

    @cached_property
    def fold(self) -> LabelsFold:
        """Counts labels."""
        return LabelsFold()

    def make_worker(self, beat: Callable[[], None]) -> LabelsWorker:
        """Read the codebook and be ready for shards."""
        return LabelsWorker(self, beat)


class LabelsWorker(RecordWorker[NDArray[np.int32] | None]):
    """Gives every node of every tree the label of its cluster."""

    def __init__(self, stage: LabelsStage, beat: Callable[[], None]) -> None:
        super().__init__(stage, beat)
        assert stage.plan is not None  # noqa: S101  it is where the trees are
        self._codebook = codebooks(stage.plan.out, NodeClustersStage.name)[0]
        self._trees = EarlierStage(stage.plan.out, NodeClustersStage.reads[0])

    def items(self, shards: Iterator[Shard]) -> Iterator[Item]:
        """The images, each with what became of it and the prototypes of its nodes."""
        return self._trees.items(shards, _with_prototypes)

    def load(self, item: Item) -> NDArray[np.int32] | None:
        """The label of every node; None for an image that has failed before."""
        row, prototypes = item.beside
        return self._labels(prototypes) if row["status"] == "ok" else None

    def take(self, item: Item, loaded: NDArray[np.int32] | None, results: Results) -> None:
        """The row of an image."""
        if loaded is None:
            results.put(item.row, Row(item.beside[0]))
            return
        counts = {str(label): int(n) for label, n in zip(*np.unique(loaded, return_counts=True), strict=True)}
        results.put(item.row, Row({"status": "ok", "labels": loaded}, state={"nodes_by_label": counts}))

    def _labels(self, prototypes: NDArray[np.float32]) -> NDArray[np.int32]:
        labels = np.zeros(len(prototypes), np.int32)
        # Features of no length stand for nodes without a patch: they are of no cluster.
        held = prototypes.any(axis=1)
        labels[held] = codebook.assign(prototypes[held], self._codebook)
        return labels


def _with_prototypes(shard: CommittedShard) -> list[tuple[dict[str, Any], NDArray[np.float32]]]:
    """Of each image what became of it, and the features of the nodes of its tree."""
    return list(zip(shard.rows(list(FAILURE)).to_pylist(), prototypes_of(shard), strict=True))


STAGES = {LabelsStage.name: LabelsStage}
