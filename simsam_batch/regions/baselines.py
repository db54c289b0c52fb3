"""What a region tree has to be better than: a regular grid cut in quarters, and k-means of the same features."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from simsam_batch.regions.kmeans import kmeans
from simsam_batch.regions.superpixels import labels_everywhere


@dataclass(frozen=True, slots=True)
class Regions:
    """Regions of one image that make a tree, as plain arrays over M nodes; see `simsam_batch.regions.tree.Tree`.

    Attributes:
        parent, lo, hi, depth: (M,) int32.
        superpixel: (N,) int32, of every patch.
    """

    parent: NDArray[np.int32]
    lo: NDArray[np.int32]
    hi: NDArray[np.int32]
    depth: NDArray[np.int32]
    superpixel: NDArray[np.int32]


def grid_tree(grid: tuple[int, int], superpixels: int) -> Regions:
    """Cut the grid into quarters, those into quarters, and so on until there are as many cells as wanted, or more.

    Cells are as equal as whole patches allow; a quarter that would hold no patch is left out (this project).

    Args:
        grid: (Hp, Wp).
        superpixels: cells wanted; one for each patch where there are fewer patches.
    """
    levels = 0
    # A side has no more parts than patches.
    while math.prod(min(2**levels, side) for side in grid) < min(superpixels, math.prod(grid)):
        levels += 1
    # The cell of a patch at the finest level, as a number whose binary digits name the quarters from the top.
    rows, columns = (np.arange(length) * 2**levels // length for length in grid)
    path = _interleaved(rows, levels)[:, None] * 2 + _interleaved(columns, levels)
    codes, superpixel = np.unique(path.ravel(), return_inverse=True)
    nodes: list[tuple[int, int, int, int]] = []
    above = np.full(len(codes), -1)
    for depth in range(levels + 1):
        quarter = codes >> (2 * (levels - depth))
        starts = np.flatnonzero(np.diff(quarter, prepend=-1))
        ends = np.append(starts[1:], len(codes))
        first = len(nodes)
        nodes += [(int(above[lo]), int(lo), int(hi), depth) for lo, hi in zip(starts, ends, strict=True)]
        above = first + np.repeat(np.arange(len(starts)), ends - starts)
    parent, lo, hi, depths = np.array(nodes, dtype=np.int32).T
    return Regions(parent, lo, hi, depths, superpixel.astype(np.int32))


def kmeans_partitions(
    features: Tensor, valid: Tensor, seeds: Sequence[int], superpixels: int, grid: tuple[int, int]
) -> dict[int, list[Regions]]:
    """Partition the patches of every image by k-means of their features, for k = 2, 4, 8, ... up to ``superpixels``.

    One restart each, as is usual. A partition is a tree of a root and its parts.

    Args:
        features: (B, N, C) float32, rows of unit length.
        valid: (B, N) bool; other patches go where the features of their neighbours lead them, as in `over_cluster`.
        seeds: one per image.
        superpixels: the largest k is the largest power of two that is not more.
        grid: (Hp, Wp).

    Returns:
        For each k the partitions of the images.
    """
    found = {}
    for k in (2**power for power in range(1, superpixels.bit_length())):
        clusters = kmeans(features, valid, torch.full((len(features),), k), seeds, restarts=1)
        labels = labels_everywhere(clusters, features.mT, valid, grid)
        found[k] = [_flat(each) for each in labels.to("cpu", torch.int32).numpy()]
    return found


def _flat(labels: NDArray[np.int32]) -> Regions:
    count = int(labels.max(initial=-1)) + 1
    parts = np.arange(count, dtype=np.int32)
    zero = np.zeros(1, dtype=np.int32)
    return Regions(
        parent=np.append(np.int32(-1), np.zeros(count, np.int32)).astype(np.int32),
        lo=np.append(zero, parts),
        hi=np.append(np.int32(count), parts + 1).astype(np.int32),
        depth=np.append(zero, np.ones(count, np.int32)),
        superpixel=labels,
    )


def _interleaved(places: NDArray[np.intp], digits: int) -> NDArray[np.intp]:
    """Binary digits with a zero after each: those of row and column can then be put side by side."""
    spread = np.zeros_like(places)
    for digit in range(digits):
        spread |= ((places >> digit) & 1) << (2 * digit)
    return spread
