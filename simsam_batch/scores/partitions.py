"""How well the nodes of a region tree cover the regions of several partitions of its image."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simsam_batch.scores.covering import covering_by_depth, merge_depths
from simsam_batch.scores.label_counts import LabelLookup
from simsam_batch.scores.means import exact_mean, mean_of_one, mean_result, merge_means, no_mean
from simsam_batch.scores.nodes import TreeNodes, overlaps


class PartitionScores:
    """The fold of region trees over a set whose truth is several partitions of each image, as of several people.

    States are plain JSON values, one for each image, merged by addition. The score of an image is the mean over its
    partitions, as segmentation covering has it for the Berkeley set (Arbelaez et al., TPAMI 2011, section 3.1.3).

    Args:
        ignore: values of pixels that do not count.
    """

    def __init__(self, ignore: Collection[int] = ()) -> None:
        self.ignore = tuple(ignore)

    def zero(self) -> dict[str, Any]:
        """Return the state of no image."""
        return {
            "images_scored": 0,
            "images_without_truth": 0,
            "partitions": 0,
            "nmcovering": no_mean(),
            "nfcovering": no_mean(),
            "nfcovering_sums": [],
        }

    def of_image(
        self, superpixels: NDArray[np.integer[Any]], partitions: Sequence[NDArray[np.integer[Any]]], tree: TreeNodes
    ) -> dict[str, Any]:
        """Return the state of one image.

        Args:
            superpixels: (H, W), as `CoveringScores.of_image` takes it.
            partitions: maps (H, W) of numbers that mean nothing but the same region; none of them for no truth.
            tree: of the image.

        Raises:
            ValueError: the shapes differ, or a superpixel is not the tree's.
        """
        coverings, depths = [], []
        for table, pixels in self._counts(superpixels, partitions, tree):
            iou = overlaps(table, pixels, tree, tree.candidates()).iou()
            coverings.append(exact_mean(iou.max(axis=1).tolist()))
            depths.append(covering_by_depth(table, pixels, tree))
        if not coverings:
            return self.zero() | {"images_without_truth": 1}
        by_depth = [exact_mean(values) for values in zip(*depths, strict=True)]
        return self.zero() | {
            "images_scored": 1,
            "partitions": len(coverings),
            "nmcovering": mean_of_one(exact_mean(coverings)),
            "nfcovering": mean_of_one(by_depth[-1]),
            "nfcovering_sums": by_depth,
        }

    def best_ious(
        self, superpixels: NDArray[np.integer[Any]], partitions: Sequence[NDArray[np.integer[Any]]], tree: TreeNodes
    ) -> list[NDArray[np.float64]]:
        """Return, for each partition, the IoU of each of its regions with the node that covers it best.

        Args:
            superpixels: as `of_image` takes them.
            partitions: likewise.
            tree: likewise.
        """
        counted = self._counts(superpixels, partitions, tree)
        return [overlaps(table, pixels, tree, tree.candidates()).iou().max(axis=1) for table, pixels in counted]

    def _counts(
        self, superpixels: NDArray[np.integer[Any]], partitions: Sequence[NDArray[np.integer[Any]]], tree: TreeNodes
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """For each partition that counts: pixels of each region in each superpixel, and of each superpixel."""
        for partition in partitions:
            # Their numbers mean nothing, and may be anything: places among them stay small.
            labels, places = np.unique(partition, return_inverse=True)
            counted = [place for place, label in enumerate(labels.tolist()) if label not in self.ignore]
            if counted:
                regions = {place: region for region, place in enumerate(counted)}
                lookup = LabelLookup(len(counted), regions, set(range(len(labels))) - set(counted))
                table, _ = lookup.count(superpixels, places.reshape(partition.shape), tree.superpixels)
                yield table, table.sum(axis=0)

    def merge(self, a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
        """Add two states. Counts are exact in any order; sums of floats repeat if the order does."""
        return {
            **{name: a[name] + b[name] for name in ("images_scored", "images_without_truth", "partitions")},
            **{name: merge_means(a[name], b[name]) for name in ("nmcovering", "nfcovering")},
            "nfcovering_sums": merge_depths(a["nfcovering_sums"], b["nfcovering_sums"]),
        }

    def result(self, s: dict[str, Any]) -> dict[str, Any]:
        """Return the scores of the set; nothing if no image had a truth.

        ``nmcovering``, ``nfcovering`` and ``nfcovering_by_depth`` are those of `CoveringScores.result`, every region
        of a partition being foreground.
        """
        images = s["images_scored"]
        if images == 0:
            return {"images_without_truth": s["images_without_truth"]} if s["images_without_truth"] else {}
        return {
            "protocol": "covering-partitions",
            **mean_result(s["nmcovering"], "nmcovering"),
            **mean_result(s["nfcovering"], "nfcovering"),
            "nfcovering_by_depth": [total / images for total in s["nfcovering_sums"]],
            "images_scored": images,
            "images_without_truth": s["images_without_truth"],
            "partitions": s["partitions"],
        }
