"""The worker of the ``hierarchy`` stage: patches to superpixels, superpixels to a tree, nodes against the truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from simsam_batch import images
from simsam_batch.config import HierarchySettings
from simsam_batch.features.outliers import spike_mask
from simsam_batch.regions import masks
from simsam_batch.regions.nodes import node_boxes, node_patches, node_prototypes
from simsam_batch.regions.splitting import OUTCOMES, SplitRules
from simsam_batch.regions.superpixels import OverClustering, over_cluster
from simsam_batch.regions.tree import Tree, grow_trees, with_upstream_numbering
from simsam_batch.scores.nodes import TreeNodes
from simsam_batch.spectral import affinity
from simsam_batch.stages.decomposition import normalized
from simsam_batch.stages.hierarchy import HierarchyStage
from simsam_batch.stages.image_worker import ImageWorker, Item, Loaded, Results, finite_or_none
from simsam_batch.storage import redact

_ANY_LABEL = 2**31
_BESIDE_THE_TREE = ("ncut", "gap", "perturbation", "mean_ncut")


@dataclass(frozen=True, slots=True)
class Trees:
    """What a batch of B images came to, on the CPU.

    Attributes:
        trees: of each image.
        prototypes: of each image (M, C) float32, the mean feature of each node scaled to unit length.
        outliers, residual, converged: (B,).
        solver: of each image's eigenproblem.
    """

    trees: list[Tree]
    prototypes: list[NDArray[np.float32]]
    outliers: Tensor
    residual: Tensor
    converged: Tensor
    solver: list[str]


class HierarchyWorker(ImageWorker[Trees]):
    """Grows the trees of batches of images, and scores those that have a truth."""

    def __init__(self, stage: HierarchyStage, beat: Callable[[], None]) -> None:
        super().__init__(stage, beat)
        self._options, self._scores = stage.options, stage.fold.scores
        self._labels = stage.resolved["labels"]
        self._over, self._rules = _over_clustering(stage.options), _rules(stage.options)

    def compute(self, pictures: Tensor, grid: tuple[int, int], seeds: Sequence[int]) -> Trees:
        """Grow the trees of a batch."""
        with torch.inference_mode():
            with self.timer.step("forward"):
                features = self.backbone(normalized(pictures, self.backbone.mean, self.backbone.std))
                valid = torch.ones_like(features.norms, dtype=torch.bool)
                if self._options.outlier_ratio:
                    valid = ~spike_mask(features.norms, self._options.outlier_ratio)
                rows = affinity.normalize_rows(features.descriptors)
            with self.timer.step("superpixels"):
                superpixels, pairs = over_cluster(rows, valid, seeds, self._over, grid=grid)
        with self.timer.step("tree"):
            trees = grow_trees(superpixels, seeds, self._rules)
            described = features.descriptors.cpu().numpy()
            prototypes = [node_prototypes(tree, one) for tree, one in zip(trees, described, strict=True)]
            if self._options.numbering == "upstream":
                trees = [with_upstream_numbering(tree) for tree in trees]
        self.timer.settle()
        return Trees(
            trees,
            prototypes,
            (~valid).sum(1).cpu(),
            pairs.residual.cpu(),
            pairs.converged.cpu(),
            pairs.solver,
        )

    def load_truth(
        self, record: dict[str, Any], image: images.Prepared, index: masks.UpsampleIndex
    ) -> tuple[NDArray[np.integer[Any]] | None, str | None]:
        """The labels of the image's pixels."""
        del index
        if record["truth_uri"] is None:
            return None, None
        known = {int(label) for label in self._labels["region_of_label"]} | set(self._labels["ignore"])
        uri = record["truth_uri"]
        try:
            truth = images.load_labels(uri, self.limits, image.full_size, classes=_ANY_LABEL, ignore=None)
        except images.TruthError as error:
            return None, str(error)
        unknown = sorted(set(np.unique(truth).tolist()) - known)
        if unknown:
            return None, f"truth {redact(uri)}: nothing is said of its label {unknown[0]}"
        return truth, None

    def encode(self, item: Item, loaded: Loaded, found: Trees, i: int, results: Results) -> None:
        """Fill one image's row, arrays and share of the statistics."""
        tree, grid = found.trees[i], loaded.image.grid
        leaves = int(tree.leaf.sum())
        state = results.state
        row: dict[str, Any] = {
            **self.image_columns(loaded),
            "outlier_tokens": int(found.outliers[i]),
            "superpixel_count": int(tree.hi[0]),
            "superpixel_map": tree.superpixel,
            "nodes": _nodes(tree, grid, loaded.index),
            "leaves": leaves,
            "depth": int(tree.depth.max()),
            "solver": found.solver[i],
            "converged": bool(found.converged[i]),
            "residual_max": finite_or_none(found.residual[i]),
            "truth_error": loaded.truth_error,
        }
        state["trees"] += 1
        state["nodes"] += len(tree.parent)
        state["leaves"] += leaves
        state["root_only"] += len(tree.parent) == 1
        state["truth_errors"] += loaded.truth_error is not None
        if loaded.truth is not None:
            with self.timer.step("score"):
                owners = tree.superpixel.reshape(grid)[np.ix_(*loaded.index)]
                nodes = TreeNodes(tree.parent, tree.lo, tree.hi, tree.depth)
                of_image = self._scores.of_image(owners, loaded.truth, nodes)
            state["scores"] = self._scores.merge(state["scores"], of_image)
            covered = of_image["hierarchy"]["nmcovering"]
            row["nmcovering"] = covered["sum"] if covered["images"] else None
        results.rows[item.row] = row
        results.arrays[item.row] = {"prototypes": found.prototypes[i].astype(np.float16)}


def _nodes(tree: Tree, grid: tuple[int, int], index: masks.UpsampleIndex) -> list[dict[str, Any]]:
    """The nodes of a tree as a row holds them; boxes in pixels of the full image."""
    boxes = node_boxes(tree, grid)
    columns = np.searchsorted(index[1], boxes[:, ::2])
    rows = np.searchsorted(index[0], boxes[:, 1::2])
    pixels = np.stack([columns[:, 0], rows[:, 0], columns[:, 1], rows[:, 1]], axis=1).tolist()
    whole = {name: getattr(tree, name).tolist() for name in ("parent", "lo", "hi", "depth", "parts")}
    whole |= {name: _or_none(getattr(tree, name)) for name in _BESIDE_THE_TREE}
    whole |= {"patches": node_patches(tree).tolist(), "bbox_xyxy": pixels}
    whole["outcome"] = [OUTCOMES[place] for place in tree.outcome.tolist()]
    return [dict(zip(whole, node, strict=True)) for node in zip(*whole.values(), strict=True)]


def _or_none(values: NDArray[np.float64]) -> list[float | None]:
    return [value if np.isfinite(value) else None for value in values.tolist()]


def _over_clustering(options: HierarchySettings) -> OverClustering:
    return OverClustering(
        superpixels=options.superpixels,
        adjacency=options.adjacency,
        sigma=options.sigma,
        form=options.form,
        tolerance=options.tolerance,
    )


def _rules(options: HierarchySettings) -> SplitRules:
    return SplitRules(
        heuristic=options.heuristic,
        eigenpairs=options.eigenpairs,
        max_ncut=options.max_ncut or None,
        max_perturbation=options.max_perturbation or None,
        min_superpixels=options.min_superpixels,
        max_depth=options.max_depth,
    )
