"""From eigenvectors to object masks: threshold, side, doubt."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

Threshold = Literal["zero", "mean"]
Side = Literal["smaller", "border", "largest-entry"]

ROUNDING = 1e-6
"""Eigenvalues of fp32 affinities are good to a few 1e-7: a smaller gap is no gap."""


def degenerate(values: Tensor, vectors: Tensor) -> Tensor:
    """Tell for each image whether its second eigenvector means nothing.

    So it is for a one-colour image, whose affinities are all equal: the eigenvalues after the first coincide, and any
    vector will do. True where the spectral gap mu_2 - mu_1, or the range of v_1, is at rounding level, and where there
    is no v_1. A graph of two patches has no mu_2; there the range alone decides. Rule of this project.

    Args:
        values: (B, K) ascending eigenvalues, NaN where the graph has fewer.
        vectors: (B, K, N) eigenvectors.

    Returns:
        (B,) bool.
    """
    if values.shape[1] < 2:
        return torch.ones(len(values), dtype=torch.bool, device=values.device)
    v1 = vectors[:, 1]
    low, high = v1.aminmax(dim=1)
    flat = high - low <= ROUNDING * v1.abs().amax(dim=1)
    if values.shape[1] > 2:
        flat = flat | (values[:, 2] - values[:, 1] <= ROUNDING)
    return flat


def fiedler_mask(vectors: Tensor, values: Tensor, *, threshold: Threshold) -> Tensor:
    """Cut each image in two at its Fiedler vector v_1: True above the threshold.

    Args:
        vectors: (B, K, N) on the whole grid, after the sign rule.
        values: (B, K) eigenvalues; a degenerate graph gets an empty mask.
        threshold: ``zero`` (Deep Spectral Methods) or ``mean`` of v_1's entries (TokenCut).

    Returns:
        (B, N) bool.
    """
    if vectors.shape[1] < 2:
        return torch.zeros_like(vectors[:, 0], dtype=torch.bool)
    v1 = vectors[:, 1]
    cut = v1.mean(dim=1, keepdim=True) if threshold == "mean" else torch.zeros_like(v1[:, :1])
    return (v1 > cut) & ~degenerate(values, vectors).unsqueeze(1)


def choose_side(mask: Tensor, vectors: Tensor, grid: tuple[int, int], *, side: Side) -> Tensor:
    """Decide which of the two sides is the object; invert the masks that hold the other one.

    Masks that are empty or full have no second side and stay as they are.

    Args:
        mask: (B, N) bool, row-major.
        vectors: (B, K, N), read by ``largest-entry`` only.
        grid: (Hp, Wp).
        side: ``smaller``: the object holds at most half of the patches (Deep Spectral Methods).
            ``border``: the background is the side with more patches on the border, a corner counting twice (background
            rule of Deep Spectral Methods); as it is where both have equally many.
            ``largest-entry``: the object holds the patch with the largest ``|v_1|`` (TokenCut).

    Returns:
        (B, N) bool.
    """
    batch, patches = mask.shape
    two_sided = mask.any(dim=1) & ~mask.all(dim=1)
    if side == "smaller":
        wrong = 2 * mask.sum(dim=1) > patches
    elif side == "border":
        plane = mask.reshape(batch, *grid)
        # Of a single row or column, the first is the last as well, and counts as both.
        edges = torch.cat([plane[:, 0], plane[:, -1], plane[:, :, 0], plane[:, :, -1]], dim=1)
        on_border = edges.sum(dim=1)
        wrong = on_border > sum(grid)
    elif vectors.shape[1] < 2:
        return mask
    else:
        seed = vectors[:, 1].abs().argmax(dim=1, keepdim=True)
        wrong = ~mask.gather(1, seed).squeeze(1)
    return mask ^ (wrong & two_sided).unsqueeze(1)


def component_of_peak(mask: Tensor, vectors: Tensor, grid: tuple[int, int]) -> Tensor:
    """Keep the part of each mask that is connected to the patch with the largest ``|v_1|`` (TokenCut).

    Patches are connected along their sides. A mask without that patch becomes empty.

    Args:
        mask: (B, N) bool, row-major.
        vectors: (B, K, N).
        grid: (Hp, Wp).

    Returns:
        (B, N) bool.
    """
    from scipy.ndimage import label

    if vectors.shape[1] < 2:
        return mask
    beside = np.zeros((3, 3, 3), dtype=bool)
    beside[1] = [[False, True, False], [True, True, True], [False, True, False]]
    labels = np.zeros((len(mask), *grid), dtype=np.int32)
    label(mask.cpu().numpy().reshape(labels.shape), structure=beside, output=labels)
    parts = torch.from_numpy(labels).flatten(1).to(mask.device)
    peak = vectors[:, 1].abs().argmax(dim=1, keepdim=True)
    return mask & (parts == parts.gather(1, peak))


def confidence(values: Tensor, vectors: Tensor, mask: Tensor) -> Tensor:
    """Estimate how clear-cut a mask is, from 0 (arbitrary) to 1. A formula of this project, no probability.

    ``margin * (1 - (mu_1 / mu_2)^2)``. The margin is the share of v_1's variance that lies between the two sides of
    the mask, near 1 where v_1 takes two values only. The second factor falls to 0 as the spectral gap closes, that is
    as another cut becomes as good.

    Args:
        values: (B, K) eigenvalues.
        vectors: (B, K, N) on the whole grid.
        mask: (B, N) bool.

    Returns:
        (B,) float32; 0 for degenerate graphs, one-sided masks, graphs in separate parts (mu_1 = 0: the cut marks a
        part, whatever it is), and where there is no mu_2.
    """
    if values.shape[1] < 3:
        return torch.zeros(len(values), device=values.device)
    unrivalled = 1 - (values[:, 1] / values[:, 2]) ** 2
    v1 = vectors[:, 1]
    inside = mask.to(v1)
    count = inside.sum(dim=1)
    outside_count = mask.shape[1] - count
    mean_inside = (v1 * inside).sum(dim=1) / count
    mean_outside = (v1 * (1 - inside)).sum(dim=1) / outside_count
    share = count / mask.shape[1]
    margin = share * (1 - share) * (mean_inside - mean_outside) ** 2 / v1.var(dim=1, correction=0)
    sure = (margin * unrivalled).clamp(0, 1)
    unfounded = degenerate(values, vectors) | (values[:, 1] <= ROUNDING) | ~torch.isfinite(sure)
    return torch.where(unfounded, torch.zeros_like(sure), sure)


def soft_map(vectors: Tensor, mask: Tensor) -> Tensor:
    """Rescale v_1 to 0..1 with the object's side high, for curves over thresholds.

    Args:
        vectors: (B, K, N) on the whole grid.
        mask: (B, N) bool, after `choose_side`. Where it is empty or full, the map is the mask itself.

    Returns:
        (B, N) float32.
    """
    flat = mask.to(torch.float32)
    if vectors.shape[1] < 2:
        return flat
    v1 = vectors[:, 1].to(torch.float32)
    low, high = v1.amin(dim=1, keepdim=True), v1.amax(dim=1, keepdim=True)
    count = mask.sum(dim=1, keepdim=True)
    usable = (high > low) & (count > 0) & (count < mask.shape[1])
    scaled = (v1 - low) / torch.where(usable, high - low, torch.ones_like(low))
    mean_inside = (scaled * flat).sum(dim=1, keepdim=True) / count.clamp(min=1)
    mean_outside = (scaled * (1 - flat)).sum(dim=1, keepdim=True) / (mask.shape[1] - count).clamp(min=1)
    scaled = torch.where(mean_inside < mean_outside, 1 - scaled, scaled)
    return torch.where(usable, scaled, flat)
