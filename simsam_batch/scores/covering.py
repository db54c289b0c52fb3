"""How well the nodes of a region tree cover the regions of a truth that may itself be a hierarchy."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simsam_batch.scores.label_counts import LabelLookup
from simsam_batch.scores.means import exact_mean, mean_of_one, mean_result, merge_means, no_mean
from simsam_batch.scores.nodes import (
    UNMATCHED,
    Overlaps,
    TreeNodes,
    best_nodes,
    hierarchy_agreement,
    overlaps,
    upwards,
)


def merge_depths(a: list[float], b: list[float]) -> list[float]:
    """Add sums by depth. Below its leaves a tree's segmentation stays as it is: the shorter list goes on as it ends."""
    longer, shorter = (a, b) if len(a) >= len(b) else (b, a)
    last = shorter[-1] if shorter else 0.0
    return [x + y for x, y in zip(longer, shorter + [last] * (len(longer) - len(shorter)), strict=True)]


def covering_by_depth(table: NDArray[np.int64], pixels: NDArray[np.int64], tree: TreeNodes) -> list[float]:
    """The mean over regions of the best IoU with a segment of one depth, for each depth."""
    cuts = (np.flatnonzero(cut) for cut in tree.cuts())
    return [exact_mean(overlaps(table, pixels, tree, nodes).iou().max(axis=1).tolist()) for nodes in cuts]


class CoveringScores:
    """The fold of region trees over a set whose truth is label maps: a state for each image, merged by addition.

    States are plain JSON values. A region of the truth is a class or a group of classes that has a pixel in the image;
    all that is background is one region. Pixels that are ignored belong to no region and no node.

    Args:
        names: of the G regions that the labels know, each its own.
        parent: of each region, before it in the list; -1 where there is none. All -1 for classes without groups.
        region_of_label: the region of each value that the label maps hold.
        background: which region is background, if one is.
        ignore: values of pixels that do not count.
        exclusive: match every node to one region at most (see `best_nodes`), in each set of regions on its own.

    Raises:
        ValueError: regions or labels that do not fit together.
    """

    def __init__(
        self,
        names: Sequence[str],
        parent: Sequence[int],
        region_of_label: Mapping[int, int],
        *,
        background: int | None = None,
        ignore: Collection[int] = (),
        exclusive: bool = False,
    ) -> None:
        if len(names) != len(parent) or len(set(names)) < len(names):
            raise ValueError(f"{len(parent)} regions need as many different names, there are {len(set(names))}")
        if any(not -1 <= above < region for region, above in enumerate(parent)):
            raise ValueError("a region's parent is -1 or stands before it")
        if background is not None and (parent[background] != -1 or background in parent):
            raise ValueError(f"{names[background]!r} is background and can have neither a parent nor parts")
        if inner := sorted(set(region_of_label.values()) & set(parent)):
            raise ValueError(f"a label stands for {names[inner[0]]!r}, which has parts; give it a part of its own")
        self.names, self.parent, self.background, self.exclusive = tuple(names), tuple(parent), background, exclusive
        self.lookup = LabelLookup(len(names), region_of_label, ignore)
        depth = np.array([sum(1 for _ in upwards(region, parent)) for region in range(len(names))], dtype=np.int64)
        leaf = ~np.isin(np.arange(len(names)), parent)
        self.levels = [(depth == level) | (leaf & (depth < level)) for level in range(1, int(depth.max(initial=0)) + 1)]

    def zero(self) -> dict[str, Any]:
        """Return the state of no image."""
        return {
            "images_scored": 0,
            "images_without_truth": 0,
            "ignored_pixels": 0,
            "nhcovering": no_mean(),
            "nhcovering_distinct": no_mean(),
            "nfcovering": no_mean(),
            "nfcovering_sums": [],
            "hierarchy": _no_regions(),
            "levels": [_no_regions() for _ in self.levels],
        }

    def of_image(
        self, superpixels: NDArray[np.integer[Any]], truth: NDArray[np.integer[Any]], tree: TreeNodes
    ) -> dict[str, Any]:
        """Return the state of one image.

        Args:
            superpixels: (H, W), the superpixel of each pixel of the truth, numbered as the tree's are, or
                `simsam_batch.scores.label_counts.NO_SUPERPIXEL`. The scores are those at this size: a truth made
                smaller loses its small regions.
            truth: (H, W) labels.
            tree: of the image.

        Raises:
            ValueError: the shapes differ, a superpixel is not the tree's, or a label is unknown; it is named.
        """
        table, pixels, ignored = self._counts(superpixels, truth, tree)
        present = table.any(axis=1)
        state = self.zero() | {"ignored_pixels": ignored}
        if not present.any():
            return state | {"images_without_truth": 1}
        nodes = tree.candidates()
        found = overlaps(table, pixels, tree, nodes)
        state["images_scored"] = 1
        state["levels"] = [self._match(found, np.flatnonzero(level & present))[0] for level in self.levels]
        is_foreground = self._is_foreground()
        if (present & is_foreground).any():
            regions = np.flatnonzero(present)
            state["hierarchy"], columns, ious = self._match(found, regions)
            state |= self._agreement(regions, np.append(nodes, UNMATCHED)[columns].tolist(), ious, tree)
            depths = covering_by_depth(table[self.levels[-1] & present & is_foreground], pixels, tree)
            state |= {"nfcovering": mean_of_one(depths[-1]), "nfcovering_sums": depths}
        return state

    def best_ious(
        self, superpixels: NDArray[np.integer[Any]], truth: NDArray[np.integer[Any]], tree: TreeNodes
    ) -> list[NDArray[np.float64]]:
        """Return the IoU of each region of one image with the node that covers it best; ``nmcovering`` is their mean.

        Args:
            superpixels: as `of_image` takes them.
            truth: likewise.
            tree: likewise; it need not be that of the set's images.

        Returns:
            One array, for the one partition of the truth; none where the truth has no foreground.
        """
        table, pixels, _ = self._counts(superpixels, truth, tree)
        present = table.any(axis=1)
        if not (present & self._is_foreground()).any():
            return []
        return [overlaps(table[present], pixels, tree, tree.candidates()).iou().max(axis=1)]

    def _is_foreground(self) -> NDArray[np.bool_]:
        foreground: NDArray[np.bool_] = np.arange(len(self.names)) != self.background
        return foreground

    def _counts(
        self, superpixels: NDArray[np.integer[Any]], truth: NDArray[np.integer[Any]], tree: TreeNodes
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
        """Pixels of each region, groups included, in each superpixel; of each superpixel; and how many are ignored."""
        table, ignored = self.lookup.count(superpixels, truth, tree.superpixels)
        pixels = table.sum(axis=0)
        for region in range(len(self.names) - 1, -1, -1):
            if self.parent[region] >= 0:
                table[self.parent[region]] += table[region]
        return table, pixels, ignored

    def _match(
        self, found: Overlaps, regions: NDArray[np.intp]
    ) -> tuple[dict[str, Any], NDArray[np.intp], list[float]]:
        """The state of one set of regions, the column of each one's node, and their IoU."""
        among = Overlaps(found.shared[regions], found.region[regions], found.node)
        iou = np.pad(among.iou(), ((0, 0), (0, 1)))
        columns = best_nodes(iou[:, :-1], self.exclusive)
        # The column beyond the nodes, of zeros, is what a region without a node is matched to.
        rows = np.arange(len(regions))
        shared = np.pad(among.shared, ((0, 0), (0, 1)))[rows, columns]
        counts = np.stack([shared, np.append(among.node, 0)[columns] - shared, among.region - shared], axis=1)
        ious = iou[rows, columns].tolist()
        of_regions = dict(zip(map(str, regions.tolist()), counts.tolist(), strict=True))
        return {"nmcovering": mean_of_one(exact_mean(ious)), "regions": of_regions}, columns, ious

    def _agreement(
        self, regions: NDArray[np.intp], match: list[int], ious: list[float], tree: TreeNodes
    ) -> dict[str, Any]:
        place = {region: i for i, region in enumerate(regions.tolist())}
        parents = [place.get(self.parent[region], -1) for region in place]
        shares = (hierarchy_agreement(match, parents, tree.parent.tolist(), distinct) for distinct in (False, True))
        counted, distinct = (exact_mean([a * b for a, b in zip(ious, share, strict=True)]) for share in shares)
        return {"nhcovering": mean_of_one(counted), "nhcovering_distinct": mean_of_one(distinct)}

    def merge(self, a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
        """Add two states. Counts are exact in any order; sums of floats repeat if the order does."""
        counts = ("images_scored", "images_without_truth", "ignored_pixels")
        means = ("nhcovering", "nhcovering_distinct", "nfcovering")
        return {
            **{name: a[name] + b[name] for name in counts},
            **{name: merge_means(a[name], b[name]) for name in means},
            "nfcovering_sums": merge_depths(a["nfcovering_sums"], b["nfcovering_sums"]),
            "hierarchy": _merge_regions(a["hierarchy"], b["hierarchy"]),
            "levels": [_merge_regions(x, y) for x, y in zip(a["levels"], b["levels"], strict=True)],
        }

    def result(self, s: dict[str, Any]) -> dict[str, Any]:
        """Return the scores of the set; nothing if no image had a truth.

        Means over images, each with its interval ``_ci``, of means over the image's regions:

        - ``nmcovering``: the IoU of a region and the node that covers it best; over all classes and groups.
        - ``nhcovering``: the same, each IoU times `hierarchy_agreement`; and with its ``distinct``.
        - ``nfcovering``: the best IoU of a class that is not background with a *leaf* of the tree;
          ``nfcovering_by_depth`` with a segment of the tree cut at depth 1, 2, ... Not published as such: the name is
          HSG's (Ke et al., CVPR 2022), whose segmentations have a fixed number of segments.

        Over the set, from the pixels of every region and its best nodes: ``miou``, ``pixel_accuracy``,
        ``mean_accuracy``, ``frequency_weighted_iou`` and ``iou_by_region``. Best nodes of different regions may
        overlap, and they are chosen by the truth: these are bounds, not comparable to those of label maps.

        All of these leave out images with no foreground. ``levels`` has ``nmcovering`` and what follows it over the
        set for the classes and groups of each level of the labels, classes that end above it included, and all images;
        the last level is that of the classes.

        Source: Rossetti and Pirri, NeurIPS 2024.
        """
        if s["images_scored"] == 0:
            return {"images_without_truth": s["images_without_truth"]} if s["images_without_truth"] else {}
        foreground = s["nfcovering"]["images"]
        return {
            "protocol": "covering-exclusive" if self.exclusive else "covering",
            **self._of_regions(s["hierarchy"]),
            **mean_result(s["nhcovering"], "nhcovering"),
            **mean_result(s["nhcovering_distinct"], "nhcovering_distinct"),
            **mean_result(s["nfcovering"], "nfcovering"),
            "nfcovering_by_depth": [total / foreground for total in s["nfcovering_sums"]],
            "levels": [self._of_regions(level) for level in s["levels"]],
            "images_scored": s["images_scored"],
            "images_without_foreground": s["images_scored"] - foreground,
            "images_without_truth": s["images_without_truth"],
            "ignored_pixels": s["ignored_pixels"],
        }

    def _of_regions(self, s: dict[str, Any]) -> dict[str, Any]:
        held = sorted((int(region), counts) for region, counts in s["regions"].items())
        scores = mean_result(s["nmcovering"], "nmcovering")
        if not held:
            return scores
        true, false, missed = np.array([counts for _, counts in held], dtype=np.int64).T
        area, ious = true + missed, true / (true + false + missed)
        return scores | {
            "miou": exact_mean(ious.tolist()),
            "pixel_accuracy": int(true.sum()) / int(area.sum()),
            "mean_accuracy": exact_mean((true / area).tolist()),
            "frequency_weighted_iou": math.fsum((area * ious).tolist()) / int(area.sum()),
            "iou_by_region": {
                self.names[region]: value for (region, _), value in zip(held, ious.tolist(), strict=True)
            },
        }


def _no_regions() -> dict[str, Any]:
    return {"nmcovering": no_mean(), "regions": {}}


def _merge_regions(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    regions = dict(a["regions"])
    for name, counts in b["regions"].items():
        there = regions.get(name)
        regions[name] = [x + y for x, y in zip(there, counts, strict=True)] if there else counts
    return {"nmcovering": merge_means(a["nmcovering"], b["nmcovering"]), "regions": regions}
