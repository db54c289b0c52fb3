"""The ``hierarchy`` stage: patches to superpixels, superpixels to a tree, nodes against the truth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from simsam_batch import images, settings
from simsam_batch.features.outliers import spike_mask
from simsam_batch.regions import pixel_index
from simsam_batch.regions.baselines import Regions, grid_tree, kmeans_partitions
from simsam_batch.regions.leaf_refinement import leaf_evidence
from simsam_batch.regions.merging import merge_trees
from simsam_batch.regions.nodes import node_boxes, node_patches, node_prototypes
from simsam_batch.regions.run_lengths import run_lengths
from simsam_batch.regions.splitting import OUTCOMES, SplitRules
from simsam_batch.regions.superpixels import OverClustering, over_cluster
from simsam_batch.regions.tree import Tree, grow_trees, with_upstream_numbering
from simsam_batch.scores.means import mean_of_one
from simsam_batch.scores.nodes import TreeNodes
from simsam_batch.settings import Features, Growth, Images, Limits, Network, Numbering, Numbers, Superpixels
from simsam_batch.settings.refinement import refines_whole
from simsam_batch.spectral import affinity
from simsam_batch.spectral.eigen import NOT_FINITE
from simsam_batch.spectral.laplacian import fill_left_out
from simsam_batch.stages.base import CommandStage
from simsam_batch.stages.clusters.stage import NodeClustersStage, check_enough, check_fitted
from simsam_batch.stages.decomposition import require_finite
from simsam_batch.stages.hierarchy.baselines import baseline_coverings
from simsam_batch.stages.hierarchy.rows import HIERARCHY_FIELDS, HierarchyFold
from simsam_batch.stages.hierarchy.settings import HierarchySettings, LeafRefinement, TreeScoring
from simsam_batch.stages.hierarchy.truth import scores_of, truth_of
from simsam_batch.stages.labels.stage import LabelsStage
from simsam_batch.stages.steps import Job, Stages, Steps
from simsam_batch.workers.images import ImageWorker, Loaded, finite_or_none
from simsam_batch.workers.pixels import normalized
from simsam_batch.workers.records import Item, Later, Row
from simsam_batch.workers.refinement import check_refinement, make_refiner
from simsam_batch.workers.truth import TruthReader

_BESIDE_THE_TREE = ("ncut", "gap", "perturbation", "mean_ncut")


@dataclass(frozen=True)
class HierarchyStage(CommandStage[HierarchySettings]):
    """``resolved`` holds under ``truth`` what `simsam_batch.stages.hierarchy.truth.truth_of` says."""

    name = "hierarchy"
    components = (
        Images,
        Limits,
        Numbers,
        Network,
        Features,
        Growth,
        Superpixels,
        settings.Tree,
        Numbering,
        LeafRefinement,
        TreeScoring,
    )
    fields = HIERARCHY_FIELDS
    keeps_columns = True

    @cached_property
    def fold(self) -> HierarchyFold:
        """Merges scores and counts."""
        return HierarchyFold(scores_of(self.resolved["truth"]))

    def make_worker(self, beat: Callable[[], None]) -> HierarchyWorker:
        """Load the backbone and be ready for shards."""
        return HierarchyWorker(self, beat)


@dataclass(frozen=True, slots=True)
class Trees:
    """What a batch of B images came to, on the CPU.

    Attributes:
        trees: of each image.
        prototypes: of each image (M, C) float32, the mean feature of each node scaled to unit length.
        features: of each image (N, C) float32, those of outliers filled in; if leaves are to be refined.
        others: for each image the regions of every baseline by its name, in ascending order of their number.
        outliers, residual, converged: (B,).
        solver: of each image's eigenproblem; ``ward`` where there was none.
    """

    trees: list[Tree]
    prototypes: list[NDArray[np.float32]]
    features: list[NDArray[np.float32]]
    others: list[dict[str, Regions]]
    outliers: Tensor
    residual: Tensor
    converged: Tensor
    solver: list[str]


class HierarchyWorker(ImageWorker[Trees]):
    """Grows the trees of batches of images, refines their leaves, and scores those that have a truth."""

    def __init__(self, stage: HierarchyStage, beat: Callable[[], None]) -> None:
        super().__init__(stage, beat)
        self._options, self._fold = stage.options, stage.fold
        self._truth = TruthReader(stage.resolved["truth"], self.limits)
        self._over = OverClustering(**stage.options.values_of("result", (Superpixels,)))
        self._rules = SplitRules(**stage.options.values_of("result", (settings.Tree,)))
        self._baselines = stage.options.baselines and self._fold.scores is not None
        self._refiner = make_refiner(stage.options, self.device.type)
        self.kept_side = None if self._refiner is None else self._options.refine_max_side
        self.keeps_whole = refines_whole(self._options.refine)
        self.may_wait = self._refiner.may_wait if self._refiner else 0

    def compute(self, pictures: Tensor, grid: tuple[int, int], seeds: Sequence[int]) -> Trees:
        """Grow the trees of a batch."""
        with torch.inference_mode():
            with self.timer.step("forward"):
                features = self.backbone(normalized(pictures, self.backbone.mean, self.backbone.std))
                valid = torch.ones_like(features.norms, dtype=torch.bool)
                if self._options.outlier_ratio:
                    valid = ~spike_mask(features.norms, self._options.outlier_ratio)
                rows = affinity.normalize_rows(features.descriptors)
            grown = self._merged if self._options.tree == "merge" else self._split
            trees, about = grown(rows, valid, seeds, grid)
            with self.timer.step("baselines"):
                others = self._others(rows, valid, seeds, grid)
        with self.timer.step("tree"):
            described, counted = features.descriptors.cpu().numpy(), valid.cpu().numpy()
            prototypes = [node_prototypes(*each) for each in zip(trees, described, counted, strict=True)]
            smooth = None
            if self._refiner is not None:
                smooth = fill_left_out(features.descriptors.mT, valid, grid).mT.cpu().numpy()
        self.timer.settle()
        return Trees(
            trees,
            prototypes,
            [] if smooth is None else list(smooth),
            others,
            (~valid).sum(1).cpu(),
            **about,
        )

    def _split(
        self, rows: Tensor, valid: Tensor, seeds: Sequence[int], grid: tuple[int, int]
    ) -> tuple[list[Tree], dict[str, Any]]:
        """Trees from the top down, and what is to be said of their eigenproblems."""
        with self.timer.step("superpixels"):
            superpixels, pairs = over_cluster(rows, valid, seeds, self._over, grid=grid)
        with self.timer.step("tree"):
            trees = grow_trees(superpixels, seeds, self._rules)
            if self._options.numbering == "upstream":
                trees = [with_upstream_numbering(tree) for tree in trees]
        about = {"residual": pairs.residual.cpu(), "converged": pairs.converged.cpu(), "solver": pairs.solver}
        return trees, about

    def _merged(
        self, rows: Tensor, valid: Tensor, seeds: Sequence[int], grid: tuple[int, int]
    ) -> tuple[list[Tree], dict[str, Any]]:
        """Trees from the patches up, which take no eigenproblem and nothing random."""
        del seeds
        with self.timer.step("tree"):
            trees = merge_trees(rows, valid, grid, self._options.leaves)
            finite = (torch.isfinite(rows).all(dim=2) | ~valid).all(dim=1).cpu()
        solver = ["ward" if usable else NOT_FINITE for usable in finite.tolist()]
        return trees, {"residual": torch.full((len(rows),), torch.nan), "converged": finite, "solver": solver}

    def _others(
        self, rows: Tensor, valid: Tensor, seeds: Sequence[int], grid: tuple[int, int]
    ) -> list[dict[str, Regions]]:
        if not self._baselines:
            return [{} for _ in seeds]
        usable = valid & torch.isfinite(rows).all(dim=2)
        by_count = kmeans_partitions(rows, usable, seeds, self._options.superpixels, grid)
        quarters = grid_tree(grid, self._options.superpixels)
        return [
            {"grid": quarters} | {f"kmeans_{k}": found[i] for k, found in by_count.items()} for i in range(len(seeds))
        ]

    def load_truth(
        self, record: dict[str, Any], image: images.Prepared, index: pixel_index.UpsampleIndex
    ) -> tuple[Any, str | None]:
        """The labels of the image's pixels, or its partitions, of the part that is scored."""
        del index
        truth, fault = self._truth.read(record["truth_uri"], image.full_size)
        return (truth.astype(np.uint8) if self._truth.kind == "object" and truth is not None else truth), fault

    def _scored(self, index: pixel_index.UpsampleIndex, size: tuple[int, int]) -> pixel_index.UpsampleIndex:
        """Of an index of all rows and columns of an image of a size (height, width), those that are scored."""
        rows, columns = self._truth.part(size)
        return index[0][rows], index[1][columns]

    def encode(self, item: Item, loaded: Loaded, found: Trees, i: int) -> Row | Later:
        """The row of an image, now or when the leaves of its tree are refined."""
        del item
        require_finite(found.solver[i])
        tree, image = found.trees[i], loaded.image
        if self._refiner is None or loaded.picture is None:
            return self._row(loaded, found, i, tree.superpixel.reshape(image.grid), loaded.index, None)
        # A leaf may hold no patch, as upstream's numbering leaves some: it gets no pixel either.
        leaves = np.flatnonzero(tree.leaf & (tree.hi > tree.lo))
        size = loaded.picture.shape[0], loaded.picture.shape[1]
        evidence = leaf_evidence(
            found.features[i].reshape(*image.grid, -1),
            found.prototypes[i][leaves],
            patch=self.backbone.patch,
            working_size=image.working_size,
            size=size,
        )
        return partial(self._refined_row, loaded, found, i, leaves, self._refiner.submit(loaded.picture, evidence))

    def _refined_row(
        self,
        loaded: Loaded,
        found: Trees,
        i: int,
        leaves: NDArray[np.intp],
        refined: Callable[[], NDArray[np.int32]],
    ) -> Row:
        with self.timer.on_host("refine"):
            labels = refined()
        with self.timer.on_host("encode"):
            size = labels.shape[0], labels.shape[1]
            index = pixel_index.upsample_index(size, 1, size, loaded.image.full_size)
            shown = [
                {"node": int(node), "mask_rle": run_lengths(labels == place, index)}
                for place, node in enumerate(leaves)
            ]
            # The first superpixel of a leaf stands for it: it lies in the same nodes.
            return self._row(loaded, found, i, found.trees[i].lo[leaves][labels], index, shown)

    def _row(
        self,
        loaded: Loaded,
        found: Trees,
        i: int,
        superpixels: NDArray[np.int32],
        index: pixel_index.UpsampleIndex,
        leaf_masks: list[dict[str, Any]] | None,
    ) -> Row:
        """Of an image whose pixels are of ``superpixels``, on cells that ``index`` finds for each of them."""
        tree = found.trees[i]
        leaves = int(tree.leaf.sum())
        state = self._fold.zero() | {
            "trees": 1,
            "nodes": len(tree.parent),
            "leaves": leaves,
            "root_only": int(len(tree.parent) == 1),
            "truth_errors": int(loaded.truth_error is not None),
        }
        columns: dict[str, Any] = {
            **self.image_columns(loaded),
            "outlier_tokens": int(found.outliers[i]),
            "superpixel_count": int(tree.hi[0]),
            "superpixel_map": tree.superpixel,
            "nodes": _nodes(tree, superpixels, index),
            "leaves": leaves,
            "depth": int(tree.depth.max()),
            "solver": found.solver[i],
            "converged": bool(found.converged[i]),
            "residual_max": finite_or_none(found.residual[i]),
            "leaf_masks": leaf_masks,
            "truth_error": loaded.truth_error,
        }
        if loaded.truth is not None:
            with self.timer.on_host("score"):
                pixels = superpixels[np.ix_(*self._scored(index, loaded.image.full_size))]
                columns["nmcovering"] = self._score(tree, pixels, loaded, found.others[i], state)
        return Row(columns, {"prototypes": found.prototypes[i].astype(np.float16)}, state)

    def _score(
        self,
        tree: Tree,
        superpixels: NDArray[np.int32],
        loaded: Loaded,
        others: dict[str, Regions],
        state: dict[str, Any],
    ) -> float | None:
        """Score a tree and the baselines against the truth of its image into ``state``; return the tree's covering."""
        assert self._fold.scores is not None  # noqa: S101  there is no truth otherwise
        nodes = TreeNodes(tree.parent, tree.lo, tree.hi, tree.depth)
        of_image = state["scores"] = self._fold.scores.of_image(superpixels, loaded.truth, nodes)
        index, grid = self._scored(loaded.index, loaded.image.full_size), loaded.image.grid
        coverings = baseline_coverings(self._fold.scores, loaded.truth, index, grid, others, len(tree.parent) - 1)
        state["baselines"] = {name: mean_of_one(value) for name, value in coverings.items()}
        covered = of_image["hierarchy"]["nmcovering"] if "hierarchy" in of_image else of_image["nmcovering"]
        return float(covered["sum"]) if covered["images"] else None


def _nodes(tree: Tree, superpixels: NDArray[np.int32], index: pixel_index.UpsampleIndex) -> list[dict[str, Any]]:
    """The nodes of a tree as a row holds them; boxes in pixels of the image, whose cells are of ``superpixels``."""
    left, top, right, bottom = node_boxes(tree, superpixels).T
    pixels = np.stack(
        [
            np.searchsorted(index[1], left),
            np.searchsorted(index[0], top),
            np.searchsorted(index[1], right),
            np.searchsorted(index[0], bottom),
        ],
        axis=1,
    )
    whole = {name: getattr(tree, name).tolist() for name in ("parent", "lo", "hi", "depth", "parts")}
    whole |= {name: _or_none(getattr(tree, name)) for name in _BESIDE_THE_TREE}
    whole |= {"patches": node_patches(tree).tolist(), "bbox_xyxy": pixels.tolist()}
    whole["outcome"] = [OUTCOMES[place] for place in tree.outcome.tolist()]
    return [dict(zip(whole, node, strict=True)) for node in zip(*whole.values(), strict=True)]


def _or_none(values: NDArray[np.float64]) -> list[float | None]:
    return [value if np.isfinite(value) else None for value in values.tolist()]


def _stages(job: Job) -> Stages:
    options: HierarchySettings = job.settings
    truth = truth_of(options, job.plan.source)
    if truth["kind"] == "boxes":
        job.note("trees are not scored: the truth of this dataset is one of boxes")
    of_trees = yield HierarchyStage(options, job.resolved | {"truth": truth}, job.plan)
    if options.clusters:
        check_enough(round(of_trees["metrics"].get("nodes_mean", 0) * of_trees["ok"]), "nodes", options)
        fitted = yield NodeClustersStage.of(options, job.folder)
        check_fitted(job.folder, NodeClustersStage.name, fitted)
        yield LabelsStage(options, {}, job.plan)


def _idle(options: HierarchySettings) -> Sequence[str]:
    return () if options.clusters else (NodeClustersStage.name, LabelsStage.name)


def _check(options: HierarchySettings) -> None:
    images.require_whole_images(options.resize)
    check_refinement(options)
    # for what is wrong with a file of labels
    truth_of(options)


STAGES = {HierarchyStage.name: HierarchyStage}
STEPS = Steps(_stages, HierarchyStage.name, check=_check, idle=_idle)
