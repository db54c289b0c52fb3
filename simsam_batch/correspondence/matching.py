"""Points of one grid of descriptors in another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from simsam_batch.correspondence.descriptors import unit
from simsam_batch.correspondence.grids import Points

_AT_ONCE = 1 << 22
"""Cosines that are held at once, several times over."""


@dataclass(frozen=True, slots=True)
class Matches:
    """What N points of one image came to in another.

    Attributes:
        cells: (N, 2) float64: x and y on the grid of the other image.
        similarity: (N,) float32: cosine with the best patch.
        margin: (N,) float32: by how much that is above the best patch outside the window around it.
        returned: (N,) float64: how many patches, along the farther axis, from the point the best patch's own best
            match lies; up to 1 the two choose each other, but for the point's place in its patch.
        spread: (N,) float32: by how much the best patch is above the worst one.
        maps: (N, Ht, Wt) float32, the cosines with all patches; None if nobody asked for them.
    """

    cells: Points
    similarity: NDArray[np.float32]
    margin: NDArray[np.float32]
    returned: NDArray[np.float64]
    spread: NDArray[np.float32]
    maps: NDArray[np.float32] | None

    def with_those_of(self, others: Matches, which: NDArray[np.bool_]) -> Matches:
        """These, but of the points named (N,) the others'."""
        chosen = {name: np.array(getattr(self, name)) for name in _OF_POINTS}
        for name, values in chosen.items():
            values[which] = getattr(others, name)[which]
        maps = self.maps
        if maps is not None and others.maps is not None:
            maps = np.where(which[:, None, None], others.maps, maps)
        return Matches(maps=maps, **chosen)


_OF_POINTS = ("cells", "similarity", "margin", "returned", "spread")


def likeness(source: torch.Tensor, target: torch.Tensor) -> float:
    """How much two images are alike: the mean over patches of the source of the cosine with the most similar one.

    Args:
        source: (Hs, Ws, C) descriptors of unit length.
        target: (Ht, Wt, C) likewise.
    """
    patches, others = source.flatten(0, 1), target.flatten(0, 1)
    at_once = max(_AT_ONCE // len(others), 1)
    starts = range(0, len(patches), at_once)
    best = [(patches[start : start + at_once] @ others.T).amax(dim=1) for start in starts]
    return float(torch.cat(best).double().mean())


def sampled(descriptors: torch.Tensor, cells: Points) -> torch.Tensor:
    """(N, C) float32 of unit length: descriptors between the centres of patches, bilinearly; beyond them the nearest.

    Args:
        descriptors: (Hp, Wp, C) of unit length.
        cells: (N, 2) places on the grid.
    """
    rows, columns, _ = descriptors.shape
    place = torch.from_numpy(cells).to(descriptors.device)
    x, y = place[:, 0].clamp(0, columns - 1), place[:, 1].clamp(0, rows - 1)
    left, top = x.floor().long().clamp_max(max(columns - 2, 0)), y.floor().long().clamp_max(max(rows - 2, 0))
    right, below = (left + 1).clamp_max(columns - 1), (top + 1).clamp_max(rows - 1)
    along, down = (x - left).float()[:, None], (y - top).float()[:, None]
    upper = descriptors[top, left] * (1 - along) + descriptors[top, right] * along
    lower = descriptors[below, left] * (1 - along) + descriptors[below, right] * along
    return unit(upper * (1 - down) + lower * down)


def match(
    source: torch.Tensor, target: torch.Tensor, cells: Points, *, radius: int, temperature: float, keep: bool = False
) -> Matches:
    """Find points of one image in another.

    Of each the patch of the target with the highest cosine is found; then the mean place of the patches around it,
    weighted by the softmax of their cosines.

    Args:
        source: (Hs, Ws, C) descriptors of unit length.
        target: (Ht, Wt, C) likewise.
        cells: (N, 2) places on the source's grid.
        radius: patches to each side of the best one that count; 0 takes that one's centre.
        temperature: of the softmax, in cosines.
        keep: whether all cosines are wanted.
    """
    rows, columns, channels = target.shape
    similarity = sampled(source, cells) @ target.reshape(-1, channels).T
    peak, best = similarity.max(dim=1)
    near = _near(best, rows, columns, radius)
    weights = torch.softmax(similarity.masked_fill(~near, -torch.inf).double() / temperature, dim=1)
    number = torch.arange(rows * columns, device=target.device)
    places = weights @ torch.stack([number % columns, number // columns], dim=1).double()
    elsewhere = similarity.masked_fill(near, -torch.inf).amax(dim=1)
    back = _best_of(target.reshape(-1, channels)[best], source).cpu().numpy()
    found = {
        "similarity": peak,
        # where the window is the whole image there is no other
        "margin": torch.where(elsewhere.isinf(), 0.0, peak - elsewhere),
        "spread": peak - similarity.amin(dim=1),
    }
    return Matches(
        cells=places.cpu().numpy(),
        returned=np.abs(back - cells).max(axis=1, initial=0.0),
        maps=similarity.reshape(-1, rows, columns).cpu().numpy() if keep else None,
        **{name: values.cpu().numpy() for name, values in found.items()},
    )


def best_buddies(source: torch.Tensor, target: torch.Tensor, most: int, *, apart: int = 2) -> NDArray[np.int64]:
    """Patches of one image that choose each other with one of another: the most similar first, some way apart.

    Args:
        source: (Hs, Ws, C) descriptors of unit length.
        target: (Ht, Wt, C) likewise.
        most: how many at most.
        apart: patches along the farther axis between any two of them, at least.

    Returns:
        (N, 2) x and y on the source's grid.

    Source: Amir et al., Deep ViT features as dense visual descriptors, 2021; there clusters keep them apart.
    """
    columns = source.shape[1]
    forth, similarity, back = _nearest_both_ways(source.flatten(0, 1), target.flatten(0, 1))
    number = torch.arange(len(forth), device=forth.device)
    mutual = (back[forth] == number).cpu().numpy()
    order = np.argsort(-similarity.cpu().numpy(), kind="stable")
    chosen: list[tuple[int, int]] = []
    for each in order[mutual[order]].tolist():
        if len(chosen) == most:
            break
        x, y = each % columns, each // columns
        if all(max(abs(x - i), abs(y - j)) >= apart for i, j in chosen):
            chosen.append((x, y))
    return np.array(chosen, np.int64).reshape(-1, 2)


def _nearest_both_ways(source: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(N,) the best of M for each, and its cosine; (M,) the best of N for each; a few rows of cosines at once."""
    rows = max(1, _AT_ONCE // max(len(target), 1))
    forth, similarity = [], []
    best = torch.full((len(target),), -torch.inf, device=source.device)
    back = torch.zeros(len(target), dtype=torch.long, device=source.device)
    for start in range(0, len(source), rows):
        cosines = source[start : start + rows] @ target.T
        values, places = cosines.max(dim=1)
        forth.append(places)
        similarity.append(values)
        values, places = cosines.max(dim=0)
        better = values > best
        best, back = torch.where(better, values, best), torch.where(better, places + start, back)
    return torch.cat(forth), torch.cat(similarity), back


def match_all(source: torch.Tensor, target: torch.Tensor, *, radius: int, temperature: float) -> Matches:
    """The matches of all patches of the source, row by row; see `match`."""
    rows, columns, _ = source.shape
    down, along = np.mgrid[:rows, :columns]
    cells = np.stack([along.ravel(), down.ravel()], axis=1).astype(np.float64)
    at_once = max(1, _AT_ONCE // (target.shape[0] * target.shape[1]))
    parts = [
        match(source, target, cells[start : start + at_once], radius=radius, temperature=temperature)
        for start in range(0, len(cells), at_once)
    ]
    joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in _OF_POINTS}
    return Matches(maps=None, **joined)


def _best_of(queries: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    """(N, 2) float64: x and y of the patch most like each query."""
    columns = source.shape[1]
    best = (queries @ source.reshape(-1, source.shape[2]).T).argmax(dim=1)
    return torch.stack([best % columns, best // columns], dim=1).double()


def _near(best: torch.Tensor, rows: int, columns: int, radius: int) -> torch.Tensor:
    """(N, Hp * Wp) whether each patch lies in the window around the best one."""
    down = (torch.arange(rows, device=best.device) - (best // columns)[:, None]).abs() <= radius
    along = (torch.arange(columns, device=best.device) - (best % columns)[:, None]).abs() <= radius
    return (down[:, :, None] & along[:, None, :]).reshape(len(best), rows * columns)
