"""Region trees as every format needs them: rows with their labels, and the pixels of each node."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simsam_batch.regions.intervals import deepest_nodes
from simsam_batch.regions.pixel_index import nearest, upsample_index
from simsam_batch.regions.run_lengths import RunLengths, decode, run_lengths
from simsam_batch.results.photographs import working_size


class RegionTree:
    """The tree of one row: nodes in pre-order, and which node every pixel ends in.

    A pixel ends in the deepest node that holds it, so that a node's region is what ends in it or below it: in nodes
    ``m`` to ``end[m] - 1``.

    Args:
        row: of `simsam_batch.results.label_maps.map_rows`, of an image that is ``ok``.
        settings: of its stage.

    Attributes:
        nodes: as the row holds them.
        children: of each node, in order.
        end: (M,) the first node after each node's descendants.
    """

    def __init__(self, row: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
        self._row, self._settings = row, settings
        self.nodes: list[dict[str, Any]] = row["nodes"]
        self.children: list[list[int]] = [[] for _ in self.nodes]
        self.end = list(range(1, len(self.nodes) + 1))
        for node in range(len(self.nodes) - 1, 0, -1):
            above = self.nodes[node]["parent"]
            self.children[above].insert(0, node)
            self.end[above] = max(self.end[above], self.end[node])

    def masks(self) -> list[RunLengths]:
        """Every node's region as COCO's run lengths at the image's full size."""
        from pycocotools import mask as coco

        found: list[dict[str, Any]] = [{}] * len(self.nodes)
        own = self._own_masks()
        for node in range(len(self.nodes) - 1, -1, -1):
            found[node] = coco.merge([own[node], *(found[child] for child in self.children[node])])
        return list(map(_decoded, found))

    def own_masks(self) -> list[RunLengths]:
        """Likewise of every node the pixels that end in it.

        These are all of a leaf's and none of another's, but for upstream's numbering, by which some end higher up.
        """
        return list(map(_decoded, self._own_masks()))

    def owners(self, size: tuple[int, int]) -> NDArray[np.int32]:
        """The node that every pixel ends in, with the image at a size (height, width); -1 for none."""
        row = self._row
        if self._refined is None:
            grid = row["grid_h"], row["grid_w"]
            index = upsample_index(grid, row["patch"], working_size(row, self._settings), size)
            return self._patches[np.ix_(*index)]
        return nearest(self._pixels, size)

    @cached_property
    def _refined(self) -> dict[int, dict[str, Any]] | None:
        """The masks of the leaves as pycocotools takes them; None where regions are made of patches."""
        if self._row.get("leaf_masks") is None:
            return None
        masks = {leaf["node"]: leaf["mask_rle"] for leaf in self._row["leaf_masks"]}
        return {node: _encoded(mask) for node, mask in masks.items()}

    @cached_property
    def _pixels(self) -> NDArray[np.int32]:
        """(height, width): the leaf whose refined mask holds a pixel; -1 for none."""
        pixels = np.full((self._row["height"], self._row["width"]), -1, dtype=np.int32)
        for leaf in self._row["leaf_masks"]:
            pixels[decode(leaf["mask_rle"])] = leaf["node"]
        return pixels

    @cached_property
    def _patches(self) -> NDArray[np.int32]:
        """(Hp, Wp): the node that every patch ends in; -1 for none."""
        row = self._row
        deepest = deepest_nodes([node["lo"] for node in self.nodes], [node["hi"] for node in self.nodes])
        return deepest[np.array(row["superpixel_map"], dtype=np.int64)].reshape(row["grid_h"], row["grid_w"])

    def _own_masks(self) -> list[dict[str, Any]]:
        row = self._row
        full = row["height"], row["width"]
        nothing = upsample_index((1, 1), 1, (1, 1), full)
        empty = _encoded(run_lengths(np.zeros((1, 1), dtype=np.bool_), nothing))
        if self._refined is not None:
            return [self._refined.get(node, empty) for node in range(len(self.nodes))]
        index = upsample_index((row["grid_h"], row["grid_w"]), row["patch"], working_size(row, self._settings), full)
        there = set(np.unique(self._patches).tolist())
        return [
            _encoded(run_lengths(self._patches == node, index)) if node in there else empty
            for node in range(len(self.nodes))
        ]


def measured(mask: RunLengths) -> tuple[int, list[int]]:
    """Pixels of a mask, and its tight box: left, top, width, height, all 0 if it is empty."""
    from pycocotools import mask as coco

    runs = _encoded(mask)
    return int(coco.area(runs)), [int(value) for value in coco.toBbox(runs)]


def _encoded(mask: RunLengths) -> dict[str, Any]:
    return {"size": mask["size"], "counts": mask["counts"].encode("ascii")}


def _decoded(mask: Mapping[str, Any]) -> RunLengths:
    return {"size": list(mask["size"]), "counts": mask["counts"].decode("ascii")}
