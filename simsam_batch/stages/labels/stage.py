"""The ``labels`` stage: nodes of all trees that are alike get the same label, that of their cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from simsam_batch.errors import RunError
from simsam_batch.regions import codebook
from simsam_batch.runs.committed import CommittedShard
from simsam_batch.runs.ledger import Ledger
from simsam_batch.runs.schema import IMAGE, ROW_FIELDS, Attachment, Needs, Shard, ShardOutput
from simsam_batch.settings import HierarchySettings
from simsam_batch.stages.clusters.stage import load_codebook
from simsam_batch.storage import Folder
from simsam_batch.workers.images import limits_of, table_of

if TYPE_CHECKING:
    from simsam_batch.stages.clusters.stage import FittedClusters

LABELS_FIELDS = [pa.field("labels", pa.list_(pa.int32()))]
"""Columns of a row after `ROW_FIELDS`: the label of every node, in the order of the tree; null where there is none."""

_FAILURE = ("status", "error_type", "error", "failed_step")


class LabelsFold:
    """How many nodes each label has."""

    def zero(self) -> dict[str, Any]:
        """The state of no image."""
        return {"nodes_by_label": {}}

    def merge(self, a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
        """The state of the images of both."""
        both = dict(a["nodes_by_label"])
        for label, count in b["nodes_by_label"].items():
            both[label] = both.get(label, 0) + count
        return {"nodes_by_label": both}

    def result(self, s: dict[str, Any]) -> dict[str, Any]:
        """The counts, by ascending label."""
        counts = {label: s["nodes_by_label"][label] for label in sorted(s["nodes_by_label"], key=int)}
        return {"nodes": sum(counts.values()), "nodes_by_label": counts}


@dataclass(frozen=True)
class LabelsStage:
    """What every worker of this stage needs to know.

    Attributes:
        options: the settings, of which only the clusters' matter, and those are in ``resolved``.
        resolved: see `resolved_of`.
        out: the run's folder, which holds the trees and the codebook.
    """

    options: HierarchySettings
    resolved: dict[str, Any]
    out: Folder
    settings: dict[str, Any] = field(default_factory=dict)
    name: str = "labels"
    unit = IMAGE
    reads = ()
    needs = Needs()
    fold: LabelsFold = field(default_factory=LabelsFold)

    @cached_property
    def schema(self) -> pa.Schema:
        """Arrow schema of the rows."""
        return pa.schema([*ROW_FIELDS, *LABELS_FIELDS])

    def make_worker(self, beat: Callable[[], None]) -> LabelsWorker:
        """Read the codebook and be ready for shards."""
        return LabelsWorker(self, beat)


def resolved_of(trees: str, fitted: FittedClusters) -> dict[str, Any]:
    """What the stage comes down to.

    Args:
        trees: the first content digest of the stage ``hierarchy``.
        fitted: the clusters of its nodes.
    """
    return {"hierarchy": trees, "codebook": list(fitted.files[0]), "fit": fitted.facts}


class LabelsWorker:
    """Gives every node of every tree the label of its cluster.

    Attributes:
        doing: what it is at, for the message of the watchdog.
    """

    doing = ""

    def __init__(self, stage: LabelsStage, beat: Callable[[], None]) -> None:
        from threadpoolctl import threadpool_limits

        threadpool_limits(stage.options.threads)
        self._stage, self._beat = stage, beat
        self._codebook = load_codebook(stage.out, *stage.resolved["codebook"])
        self._ledger = Ledger(stage.out, "hierarchy")
        self._generations = self._ledger.committed()

    def run(self, shards: Iterator[Shard]) -> Iterator[ShardOutput]:
        """Outputs of the shards, in order."""
        for shard in shards:
            self.doing = f"labelling the nodes of shard {shard.number}"
            if shard.number not in self._generations:
                self._generations = self._ledger.committed()
            manifest = self._ledger.manifest(shard.number, self._generations[shard.number])
            trees = CommittedShard(self._stage.out, manifest)
            told = trees.rows(["image_id", *_FAILURE]).to_pylist()
            found = {row["image_id"]: place for place, row in enumerate(told)}
            attached = trees.attachments()
            counts: dict[str, int] = {}
            rows = []
            # In quarantine a shard comes as one image at a time.
            for image_id in shard.records["image_id"].to_pylist():
                if image_id not in found:
                    raise RunError(f"the trees of shard {shard.number} lack the plan's image {image_id!r}")
                row = {name: told[found[image_id]][name] for name in _FAILURE}
                if row["status"] == "ok":
                    row["labels"] = labels = self._labels(attached[found[image_id]])
                    for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
                        counts[str(label)] = counts.get(str(label), 0) + int(count)
                rows.append(row)
                self._beat()
            yield ShardOutput(
                number=shard.number,
                rows=table_of(shard.records, rows, self._stage.schema),
                attachments=[{} for _ in rows],
                statistics={"nodes_by_label": counts},
                facts={"limits": limits_of(self._stage.options)},
            )

    def _labels(self, attached: Mapping[str, Attachment]) -> NDArray[np.int32]:
        prototypes = np.asarray(attached["prototypes"], np.float32)
        labels = np.zeros(len(prototypes), np.int32)
        # Features of no length stand for nodes without a patch: they are of no cluster.
        held = prototypes.any(axis=1)
        labels[held] = codebook.assign(prototypes[held], self._codebook)
        return labels
