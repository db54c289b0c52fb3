"""From scores of classes on a patch grid to a class for every pixel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class BilinearIndex:
    """Between which patches each pixel row and column lies, and how near to the second: (L,) int64 and float32."""

    rows: tuple[Tensor, Tensor, Tensor]
    columns: tuple[Tensor, Tensor, Tensor]


def bilinear_index(
    grid: tuple[int, int],
    patch: int,
    working_size: tuple[int, int],
    full_size: tuple[int, int],
    corner: tuple[int, int] = (0, 0),
) -> BilinearIndex:
    """Where pixels lie between the centres of patches; beyond the outermost centres at these.

    A pixel y of the full image lies at (y + 1/2) h / H of the resized one, and the centre of patch i at (i + 1/2) p.

    Args:
        grid: (Hp, Wp).
        patch: p, side of a patch in pixels of the resized image.
        working_size: (h, w) of the resized image before cropping.
        full_size: (H, W) of the image.
        corner: top and left of the first patch, pixels of the resized image.
    """

    def along(patches: int, resized: int, full: int, start: int) -> tuple[Tensor, Tensor, Tensor]:
        places = (torch.arange(full, dtype=torch.float64) + 0.5) * (resized / full / patch) - 0.5 - start / patch
        places = places.clamp(0, patches - 1)
        low = places.floor().to(torch.int64)
        return low, (low + 1).clamp(max=patches - 1), (places - low).to(torch.float32)

    rows, columns = (along(*axis) for axis in zip(grid, working_size, full_size, corner, strict=True))
    return BilinearIndex(rows, columns)


def classes_between_patches(scores: Tensor, index: BilinearIndex) -> Tensor:
    """The class of the highest score of every pixel, scores interpolated bilinearly; the lower of two equal ones.

    One class after the other, so that what is held is a few maps of the image's size.

    Args:
        scores: (C, Hp, Wp) float32, on the CPU.
        index: of the image.

    Returns:
        (H, W) int64.
    """
    left, right, across = index.columns
    above, below, down = index.rows
    wide = torch.lerp(scores[:, :, left], scores[:, :, right], across)
    best = torch.full((len(above), len(left)), -torch.inf)
    found = torch.zeros(best.shape, dtype=torch.int64)
    for number, one in enumerate(wide):
        here = torch.lerp(one[above], one[below], down[:, None])
        found.masked_fill_(here > best, number)
        torch.maximum(best, here, out=best)
    return found
