"""Connected parts of masks on the patch grid, of whole batches at once."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import max_pool2d, pad

_ROUNDS = 4


def largest_parts(masks: Tensor, grid: tuple[int, int], count: int) -> Tensor:
    """The largest connected parts of masks; patches are connected along sides and corners.

    Args:
        masks: (M, N) bool, row-major.
        grid: (Hp, Wp).
        count: how many.

    Returns:
        (M, count, N) bool, by falling size, of equal size the one that ends later first; empty where a mask has fewer.
    """
    labels = label_parts(masks, grid)
    places = masks.shape[1] + 1
    sizes = torch.zeros(len(masks), places, dtype=torch.int64, device=masks.device)
    sizes.scatter_add_(1, labels, masks.to(torch.int64))
    # Size and place in one number: of equal ones none is left to chance.
    keys = torch.where(sizes > 0, sizes * places + torch.arange(places, device=masks.device), 0)
    largest = keys.topk(min(count, places), dim=1).values
    wanted = torch.where(largest > 0, largest % places, -1)
    return labels[:, None] == pad(wanted, (0, count - wanted.shape[1]), value=-1)[:, :, None]


def label_parts(masks: Tensor, grid: tuple[int, int]) -> Tensor:
    """Label the connected parts of masks: (M, N) int64, 1 plus the last patch of the part, 0 outside.

    Patches are connected along sides and corners. On a GPU the host waits once every four rounds of growing, of which
    masks of photographs need eight or so.

    Args:
        masks: (M, N) bool, row-major.
        grid: (Hp, Wp).
    """
    return label_by_growing(masks, grid) if masks.is_cuda else _label_on_host(masks, grid)


def label_by_growing(masks: Tensor, grid: tuple[int, int]) -> Tensor:
    """What `label_parts` gives, by operations on the whole batch alone.

    Every patch takes the greatest label around it, then that of the patch which this label names: so labels travel in
    ever longer steps, until none changes.
    """
    labels = torch.arange(1, masks.shape[1] + 1, device=masks.device).expand_as(masks) * masks
    while True:
        before = labels
        for _ in range(_ROUNDS):
            # Whole numbers up to 2^24 are exact in single precision.
            plane = labels.to(torch.float32).reshape(-1, 1, *grid)
            labels = max_pool2d(plane, 3, stride=1, padding=1).flatten(1).to(torch.int64) * masks
            labels = labels.gather(1, (labels - 1).clamp(min=0)) * masks
        if not bool((before != labels).any()):
            return labels


def _label_on_host(masks: Tensor, grid: tuple[int, int]) -> Tensor:
    from scipy.ndimage import label

    around = np.zeros((3, 3, 3), dtype=bool)
    around[1] = True
    numbers = np.zeros((len(masks), *grid), dtype=np.int32)
    count = label(masks.numpy().reshape(numbers.shape), structure=around, output=numbers)
    last = np.zeros(count + 1, dtype=np.int64)
    places = np.arange(1, masks.shape[1] + 1)
    # Of an index that comes several times the last value stays.
    last[numbers.ravel()] = np.tile(places, len(masks))
    last[0] = 0
    return torch.from_numpy(last[numbers].reshape(len(masks), -1))
