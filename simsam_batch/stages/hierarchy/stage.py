"""The worker of the ``hierarchy`` stage: patches to superpixels, superpixels to a tree, nodes against the truth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from simsam_batch import images
from simsam_batch.features.outliers import spike_mask
from simsam_batch.regions import masks
from simsam_batch.regions.baselines import Regions, grid_tree, kmeans_partitions
from simsam_batch.regions.leaf_refinement import leaf_evidence
from simsam_batch.regions.nodes import node_boxes, node_patches, node_prototypes
from simsam_batch.regions.refine import shrink
from simsam_batch.regions.run_lengths import run_lengths
from simsam_batch.regions.splitting import OUTCOMES, SplitRules
from simsam_batch.regions.superpixels import OverClustering, over_cluster
from simsam_batch.regions.tree import Tree, grow_trees, with_upstream_numbering
from simsam_batch.scores.means import exact_mean, mean_of_one
from simsam_batch.scores.nodes import TreeNodes
from simsam_batch.settings import Superpixels
from simsam_batch.settings import Tree as TreeSettings
from simsam_batch.spectral import affinity
from simsam_batch.spectral.laplacian import fill_left_out
from simsam_batch.stages.decomposition import normalized
from simsam_batch.stages.hierarchy.rows import HierarchyStage, TreeScores
from simsam_batch.storage import redact
from simsam_batch.workers.images import ImageWorker, Item, Loaded, Results, finite_or_none
from simsam_batch.workers.refinement import Refiner, refining_processes

_ANY_LABEL = 2**31
_BESIDE_THE_TREE = ("ncut", "gap", "perturbation", "mean_ncut")


@dataclass(frozen=True, slots=True)
class Trees:
    """What a batch of B images came to, on the CPU.

    Attributes:
        trees: of each image.
        prototypes: of each image (M, C) float32, the mean feature of each node scaled to unit length.
        features: of each image (N, C) float32, those of outliers filled in; if leaves are to be refined.
        others: for each image the regions of every baseline by its name, in ascending order of their number.
        outliers, residual, converged: (B,).
        solver: of each image's eigenproblem.
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
        self._options, self._scores = stage.options, stage.fold.scores
        self._truth = stage.resolved["truth"]
        self._over = OverClustering(**stage.options.values_of("result", (Superpixels,)))
        self._rules = SplitRules(**stage.options.values_of("result", (TreeSettings,)))
        self._baselines = stage.options.baselines and self._scores is not None
        self._refiner = (
            None
            if stage.options.refine == "none"
            else Refiner(refining_processes(stage.options.refine_processes, self.device.type))
        )
        self.may_wait = self._refiner.may_wait if self._refiner else 0

    def picture(self, rgb: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
        """What refinement looks at."""
        return None if self._refiner is None else shrink(rgb, self._options.refine_max_side)

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
            with self.timer.step("baselines"):
                others = self._others(rows, valid, seeds, grid)
        with self.timer.step("tree"):
            trees = grow_trees(superpixels, seeds, self._rules)
            described, counted = features.descriptors.cpu().numpy(), valid.cpu().numpy()
            if self._options.numbering == "upstream":
                trees = [with_upstream_numbering(tree) for tree in trees]
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
            pairs.residual.cpu(),
            pairs.converged.cpu(),
            pairs.solver,
        )

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
        self, record: dict[str, Any], image: images.Prepared, index: masks.UpsampleIndex
    ) -> tuple[Any, str | None]:
        """The labels of the image's pixels, or its partitions, of the part that is scored."""
        del index
        part = self._part(image)
        uri, kind = record["truth_uri"], self._truth["kind"]
        if uri is None or self._scores is None:
            return None, None
        try:
            if kind == "partitions":
                found = images.load_partitions(uri, self.limits, image.full_size)
                return [np.ascontiguousarray(each[part]) for each in found], None
            if kind == "object":
                return images.load_truth(uri, self.limits, image.full_size)[part].astype(np.uint8), None
            truth = images.load_labels(uri, self.limits, image.full_size, classes=_ANY_LABEL, ignore=None)
        except images.TruthError as error:
            return None, str(error)
        known = {int(label) for label in self._truth["region_of_label"]} | set(self._truth["ignore"])
        unknown = sorted(set(np.unique(truth).tolist()) - known)
        if unknown:
            return None, f"truth {redact(uri)}: nothing is said of its label {unknown[0]}"
        return np.ascontiguousarray(truth[part]), None

    def _part(self, image: images.Prepared) -> tuple[slice, slice]:
        """Rows and columns of an image that are scored."""
        return images.central_square(image.full_size) if self._truth["center_crop"] else (slice(None), slice(None))

    def _scored(self, index: masks.UpsampleIndex, image: images.Prepared) -> masks.UpsampleIndex:
        """Of an index of all rows and columns of an image, those that are scored."""
        rows, columns = self._part(image)
        return index[0][rows], index[1][columns]

    def encode(self, item: Item, loaded: Loaded, found: Trees, i: int, results: Results) -> None:
        """Fill one image's row, arrays and share of the statistics, now or when its leaves are refined."""
        tree, image = found.trees[i], loaded.image
        results.arrays[item.row] = {"prototypes": found.prototypes[i].astype(np.float16)}
        fill = partial(self._fill, item, loaded, found, i, results)
        if self._refiner is None or loaded.picture is None:
            fill(tree.superpixel.reshape(image.grid), loaded.index, None)
            return
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
        refined = self._refiner.submit(loaded.picture, evidence)
        results.pending.append(partial(self._fill_refined, fill, loaded, tree.lo[leaves], leaves, refined))

    def _fill_refined(
        self,
        fill: Callable[..., None],
        loaded: Loaded,
        first: NDArray[np.int32],
        leaves: NDArray[np.intp],
        refined: Callable[[], NDArray[np.int32]],
    ) -> None:
        with self.timer.step("refine"):
            labels = refined()
        with self.timer.step("encode"):
            size = labels.shape[0], labels.shape[1]
            index = masks.upsample_index(size, 1, size, loaded.image.full_size)
            shown = [{"node": int(node), "mask_rle": run_lengths(labels == i, index)} for i, node in enumerate(leaves)]
            # The first superpixel of a leaf stands for it: it lies in the same nodes.
            fill(first[labels], index, shown)

    def _fill(
        self,
        item: Item,
        loaded: Loaded,
        found: Trees,
        i: int,
        results: Results,
        superpixels: NDArray[np.int32],
        index: masks.UpsampleIndex,
        leaf_masks: list[dict[str, Any]] | None,
    ) -> None:
        """Fill in an image whose pixels are of ``superpixels``, on cells that ``index`` finds for each of them."""
        tree = found.trees[i]
        leaves = int(tree.leaf.sum())
        state = results.states[item.row] = self._stage.fold.zero() | {
            "trees": 1,
            "nodes": len(tree.parent),
            "leaves": leaves,
            "root_only": int(len(tree.parent) == 1),
            "truth_errors": int(loaded.truth_error is not None),
        }
        row: dict[str, Any] = {
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
            with self.timer.step("score"):
                pixels = superpixels[np.ix_(*self._scored(index, loaded.image))]
                row["nmcovering"] = self._score(tree, pixels, loaded, found.others[i], state)
        results.rows[item.row] = row

    def _score(
        self,
        tree: Tree,
        superpixels: NDArray[np.int32],
        loaded: Loaded,
        others: dict[str, Regions],
        state: dict[str, Any],
    ) -> float | None:
        """Score a tree and the baselines against the truth of its image into ``state``; return the tree's covering."""
        assert self._scores is not None  # noqa: S101  there is no truth otherwise
        nodes = TreeNodes(tree.parent, tree.lo, tree.hi, tree.depth)
        of_image = state["scores"] = self._scores.of_image(superpixels, loaded.truth, nodes)
        index, grid = self._scored(loaded.index, loaded.image), loaded.image.grid
        coverings = baseline_coverings(self._scores, loaded.truth, index, grid, others, len(tree.parent) - 1)
        state["baselines"] = {name: mean_of_one(value) for name, value in coverings.items()}
        covered = of_image["hierarchy"]["nmcovering"] if "hierarchy" in of_image else of_image["nmcovering"]
        return float(covered["sum"]) if covered["images"] else None


def baseline_coverings(
    scores: TreeScores,
    truth: Any,
    index: masks.UpsampleIndex,
    grid: tuple[int, int],
    others: Mapping[str, Regions],
    nodes: int,
) -> dict[str, float]:
    """The covering of every baseline of an image; nothing where its truth has no foreground.

    Beside those in ``others`` there are ``kmeans_all``, in which every region of the truth has the best part of any of
    the partitions by k-means, and ``kmeans``, the same with the coarsest partitions that have together at most as many
    parts as the tree has nodes (this project).

    Args:
        scores: of the set.
        truth: of the image, as the scores take it.
        index: patch row of every pixel row of the truth, and likewise of columns.
        grid: (Hp, Wp).
        others: regions by the name of the baseline; the partitions by k-means in ascending order of k.
        nodes: of the tree, without its root.
    """
    found: dict[str, list[NDArray[np.float64]]] = {}
    parts = 0
    for name, regions in others.items():
        tree = TreeNodes(regions.parent, regions.lo, regions.hi, regions.depth)
        ious = found[name] = scores.best_ious(regions.superpixel.reshape(grid)[np.ix_(*index)], truth, tree)
        if name == "grid":
            continue
        parts += len(tree.parent) - 1
        unions = ("kmeans", "kmeans_all") if parts <= nodes or "kmeans" not in found else ("kmeans_all",)
        for union in unions:
            so_far = found.get(union, ious)
            found[union] = [np.maximum(a, b) for a, b in zip(so_far, ious, strict=True)]
    best = {name: found[name] for name in (*others, "kmeans", "kmeans_all") if found.get(name)}
    return {name: fmean(map(exact_mean, map(np.ndarray.tolist, ious))) for name, ious in best.items()}


def _nodes(tree: Tree, superpixels: NDArray[np.int32], index: masks.UpsampleIndex) -> list[dict[str, Any]]:
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
