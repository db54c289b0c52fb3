"""Which part of an image is its object: cuts of eigenvectors at several levels, judged by the features they divide.

One threshold on the Fiedler vector suits some images and fails on others. Here every level, side and connected part of
the first eigenvectors is a candidate, and the one is taken that divides the features best and keeps off the border.
Rules of this project, found on photographs; figures in ``docs/measured.md``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product

import torch
from torch import Tensor
from torch.nn.functional import interpolate, max_pool2d, normalize

from simsam_batch.regions.parts import largest_parts

VECTORS = 3
"""Eigenvectors after the constant one that are cut, at most."""

LEVELS = (0.0, 0.15, 0.3, 0.45, 0.6, 0.75)
"""Where they are cut, evenly spaced: this share of the way from the mean of the entries to the largest, and to the
smallest."""

PARTS = 2
"""Of each cut so many of its largest connected parts are candidates beside the whole."""

CELLS = 4
"""Cells along the side of a patch that a mask is made of: between patches the eigenvector is interpolated."""

_BORDER_WEIGHT = 4.0
_INSIDE = 0.55
_SAME_OBJECT = 0.5
_LEAST_PATCHES = 3


@dataclass(frozen=True, slots=True)
class Cut:
    """How a candidate is cut, the same for every image.

    Attributes:
        vector: the number of the eigenvector, from 1.
        sign: 1 for the side of its large entries, -1 for that of its small ones.
        level: see `LEVELS`.
        part: 0 for all of that side, else the place of the connected part among them by size, from 1.
    """

    vector: int
    sign: int
    level: float
    part: int


@dataclass(frozen=True, slots=True)
class Candidates:
    """What could be the object of each of B images with N patches: M cuts.

    Attributes:
        cuts: M, the same ones for all images.
        masks: (B, M, N) bool.
        explained: (B, M) float32, share of the features' variance that lies between the two sides.
        border: (B, M) float32, share of the border that the candidate takes, a corner counting twice.
        score: (B, M) float32, ``explained / max(explained) - 4 border``, at most 1; -inf for what is no candidate:
            too small on one of its sides, or cut by an eigenvector that the graph has not.
    """

    cuts: list[Cut]
    masks: Tensor
    explained: Tensor
    border: Tensor
    score: Tensor

    def without(self, images: Tensor) -> Candidates:
        """The same, but nothing is a candidate in some of the images, (B,) bool."""
        return replace(self, score=self.score.masked_fill(images[:, None], -torch.inf))


def candidates(vectors: Tensor, values: Tensor, rows: Tensor, valid: Tensor, grid: tuple[int, int]) -> Candidates:
    """Cut each image at several levels of its eigenvectors, and judge the parts.

    The variance that a division into two explains is what k-means with two clusters maximises; here the clusters are
    held to what the graph offers. Its scale differs from network to network, so that it is compared with the best of
    the image. What other weights of the border came to stands in ``docs/measured.md``.

    Args:
        vectors: (B, K, N) float32, after the sign rule, filled in where patches are left out.
        values: (B, K) eigenvalues, NaN where the graph has fewer.
        rows: (B, N, C) float32, unit descriptors.
        valid: (B, N) bool, patches whose descriptors count.
        grid: (Hp, Wp), N their product.
    """
    there = torch.isfinite(values[:, 1 : 1 + VECTORS])
    cut = vectors[:, 1 : 1 + VECTORS]
    patches = cut.shape[2]
    oriented = torch.stack([cut, -cut], dim=2)  # (B, V, 2, N)
    mean, top = oriented.mean(dim=3, keepdim=True), oriented.amax(dim=3, keepdim=True)
    # made on the device: a copy from the host would have it wait
    levels = torch.linspace(LEVELS[0], LEVELS[-1], len(LEVELS), dtype=oriented.dtype, device=oriented.device)
    at = mean + levels * (top - mean)
    sides = (oriented[:, :, :, None] > at[..., None]).flatten(1, 3)  # (B, V * 2 * L, N)
    parts = largest_parts(sides.flatten(0, 1), grid, PARTS).reshape(*sides.shape[:2], PARTS, patches)
    masks = torch.cat([sides[:, :, None], parts], dim=2).flatten(1, 2)
    explained, border = explained_variance(masks, rows, valid), border_share(masks, grid)
    size, least = masks.sum(dim=2), max(1, min(_LEAST_PATCHES, patches // 8))
    possible = (size >= least) & (size <= patches - least)
    possible &= there.repeat_interleave(2 * len(LEVELS) * (1 + PARTS), dim=1)
    best = explained.masked_fill(~possible, 0).amax(dim=1, keepdim=True)
    score = explained / best.clamp(min=torch.finfo(best.dtype).tiny) - _BORDER_WEIGHT * border
    cuts = [Cut(1 + v, s, a, p) for v, s, a, p in product(range(cut.shape[1]), (1, -1), LEVELS, range(1 + PARTS))]
    return Candidates(cuts, masks, explained, border, score.masked_fill(~possible, -torch.inf))


def explained_variance(masks: Tensor, rows: Tensor, valid: Tensor) -> Tensor:
    """Share of the variance of descriptors that lies between a mask and the rest (eta squared).

    Args:
        masks: (B, M, N) bool.
        rows: (B, N, C) float32.
        valid: (B, N) bool, patches that count.

    Returns:
        (B, M) float32 in 0..1; 0 where a side is empty or all descriptors are equal.
    """
    weight = valid.to(rows.dtype)[:, :, None]
    total = weight.sum(dim=1)
    centred = (rows - (rows * weight).sum(dim=1, keepdim=True) / total.clamp(min=1)[:, None]) * weight
    inside = masks.to(rows.dtype)
    count = (inside @ weight).squeeze(2)
    # About the mean of all, the sums of the two sides are opposite.
    between = (inside @ centred).square().sum(dim=2) * total / (count * (total - count)).clamp(min=1)
    variance = centred.square().sum(dim=(1, 2))[:, None]
    two_sided = (count > 0) & (count < total) & (variance > 0)
    return torch.where(two_sided, between / variance.clamp(min=torch.finfo(rows.dtype).tiny), 0.0).clamp(0, 1)


def border_share(masks: Tensor, grid: tuple[int, int]) -> Tensor:
    """Share of the border's patches that lie in each mask, a corner counting twice.

    Args:
        masks: (B, M, N) bool, row-major.
        grid: (Hp, Wp).

    Returns:
        (B, M) float32 in 0..1.
    """
    plane = masks.reshape(*masks.shape[:2], *grid)
    down = plane[:, :, 0].sum(dim=2) + plane[:, :, -1].sum(dim=2)
    across = plane[..., 0].sum(dim=2) + plane[..., -1].sum(dim=2)
    return (down + across) / (2.0 * sum(grid))


def overlaps(masks: Tensor, one: Tensor) -> Tensor:
    """IoU (B, M) float32 of masks (B, M, N) bool with one mask of each image (B, N) bool; 0 where both are empty."""
    both = (masks.to(torch.float32) @ one.to(torch.float32)[:, :, None]).squeeze(2)
    either = masks.sum(dim=2) + one.sum(dim=1, keepdim=True) - both
    return both / either.clamp(min=1)


def pick(found: Candidates, count: int) -> tuple[Tensor, Tensor]:
    """The best candidates of each image that are different objects: greedily, each of an IoU under 1/2 with the others.

    Args:
        found: of the images.
        count: how many.

    Returns:
        Their places (B, count) int64 among the cuts and their scores (B, count) float32, falling; -inf where an image
        has no more.
    """
    scores, places, left = [], [], found.score
    while True:
        score, place = left.max(dim=1)
        scores.append(score)
        places.append(place)
        if len(places) == count:
            break
        left = left.masked_fill(overlaps(found.masks, _row(found.masks, place)) >= _SAME_OBJECT, -torch.inf)
    return torch.stack(places, dim=1), torch.stack(scores, dim=1)


@dataclass(frozen=True, slots=True)
class Objects:
    """One candidate of each of B images as an object, on the cells of patches.

    Attributes:
        mask: (B, CELLS * Hp, CELLS * Wp) bool; empty where there is no candidate.
        wide: likewise, with all of the candidate's patches, for what refines it: a border that is drawn a little too
            far out is brought in to an edge more often than one too far in is brought out (``docs/measured.md``).
        soft: (B, CELLS * Hp, CELLS * Wp) float32, the eigenvector from its least entry at 0 to its largest at 1, the
            object's side high; 0 where there is no candidate.
        confidence: (B,) float32, see `objects_of`; 0 where there is no candidate.
        share: (B,) float32, what the candidate explains over what the best one does; 0 where there is none.
    """

    mask: Tensor
    wide: Tensor
    soft: Tensor
    confidence: Tensor
    share: Tensor


def objects_of(
    found: Candidates, index: Tensor, vectors: Tensor, rows: Tensor, valid: Tensor, grid: tuple[int, int]
) -> Objects:
    """Draw a candidate of each image finer than its patches, and estimate how right it is.

    Its eigenvector is interpolated between patches, and the object is where it is over 0.55 of the way between the
    means of the two sides, on the candidate's patches and those next to them: interpolation smears what is small, so
    that a little over the middle is nearer to its outline than the middle is.

    The confidence is ``margin * agreement * (1 - border)``, no probability. The margin is the share of the
    eigenvector's variance that lies between the two sides, near 1 where it takes two values only. The agreement is the
    IoU of the mask with what the features say by themselves: the cells nearer to the mean direction of the candidate's
    descriptors than to that of the others. Figures in ``docs/measured.md``.

    Args:
        found: of the images.
        index: (B,) int64, which candidate.
        vectors: (B, K, N) float32, as they were cut.
        rows: (B, N, C) float32, unit descriptors.
        valid: (B, N) bool, patches whose descriptors count.
        grid: (Hp, Wp).
    """
    of_vector, of_side = 2 * len(LEVELS) * (1 + PARTS), len(LEVELS) * (1 + PARTS)
    which, sign = 1 + index // of_vector, 1 - 2 * (index // of_side % 2)
    score = _entry(found.score, index)
    there = score > -torch.inf
    mask = _row(found.masks, index) & there[:, None]
    entries = _row(vectors, which) * sign[:, None]
    inside = mask.to(entries.dtype)
    share = inside.mean(dim=1)
    high = (entries * inside).mean(dim=1) / share
    low = (entries * (1 - inside)).mean(dim=1) / (1 - share)
    scaled = torch.where(there[:, None], (entries - low[:, None]) / (high - low)[:, None], 0.0)
    soft = _on_cells(scaled, grid)
    around = max_pool2d(inside.reshape(-1, 1, *grid), 3, stride=1, padding=1)
    cells = (soft > _INSIDE) & _in_cells(around)
    wide = cells | _in_cells(inside.reshape(-1, 1, *grid))
    margin = share * (1 - share) / scaled.var(dim=1, correction=0).clamp(min=torch.finfo(scaled.dtype).tiny)
    said = _on_cells(_leaning(rows, valid, mask), grid) > 0
    agreement = (cells & said).sum(dim=(1, 2)) / (cells | said).sum(dim=(1, 2)).clamp(min=1)
    border = _entry(found.border, index)
    sure = (margin * agreement * (1 - border)).clamp(0, 1)
    least, most = soft.amin(dim=(1, 2), keepdim=True), soft.amax(dim=(1, 2), keepdim=True)
    levels = (soft - least) / (most - least).clamp(min=torch.finfo(soft.dtype).tiny)
    explains = torch.where(there, score + _BORDER_WEIGHT * border, 0.0)
    return Objects(cells, wide, levels, torch.where(there & torch.isfinite(sure), sure, 0.0), explains)


def _leaning(rows: Tensor, valid: Tensor, mask: Tensor) -> Tensor:
    """How much nearer each patch (B, N) is to the mean direction of a mask's descriptors than to that of the others."""
    directions = [normalize((rows * (side & valid)[:, :, None]).sum(dim=1), dim=1, eps=1e-12) for side in (mask, ~mask)]
    return (rows @ (directions[0] - directions[1])[:, :, None]).squeeze(2)


def _on_cells(entries: Tensor, grid: tuple[int, int]) -> Tensor:
    """Values of patches (B, N) on cells, (B, CELLS * Hp, CELLS * Wp), in between bilinear."""
    plane = entries.reshape(-1, 1, *grid)
    return interpolate(plane, scale_factor=CELLS, mode="bilinear", align_corners=False).squeeze(1)


def _in_cells(patches: Tensor) -> Tensor:
    """The cells (B, CELLS * Hp, CELLS * Wp) of patches (B, 1, Hp, Wp) that are not 0."""
    return patches.repeat_interleave(CELLS, dim=2).repeat_interleave(CELLS, dim=3).squeeze(1) > 0


def _row(of_each: Tensor, index: Tensor) -> Tensor:
    """Rows (B, N) by their places (B,) in (B, M, N)."""
    return of_each.gather(1, index[:, None, None].expand(-1, 1, of_each.shape[2])).squeeze(1)


def _entry(of_each: Tensor, index: Tensor) -> Tensor:
    """Entries (B,) by their places (B,) in (B, M)."""
    return of_each.gather(1, index[:, None]).squeeze(1)
