"""Where an image is looked at: windows of a region, each seen in a perspective of its own, drawn in one go.

Source: the crops of CLIPstyler; which of them are of a region is decided by how much of a window the region has.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

LEAST_SHARE = 0.5
"""Of a window that a region must have, for the window to be of the region."""

DISTORTION = 0.5


def draws_of(seed: int, *where: int) -> torch.Generator:
    """What chances are drawn from: of one step of a fit, say.

    Args:
        seed: below 2**63.
        where: numbers that tell it from others of this seed.
    """
    # torch takes the lower half of a seed alone
    mixed = np.random.SeedSequence([seed, *where]).generate_state(1, np.uint32)
    return torch.Generator().manual_seed(int(mixed[0]))


def window_shares(mask: NDArray[np.bool_], side: int) -> NDArray[np.float64]:
    """(H - side + 1, W - side + 1): the share of each window that a mask has, by its upper left corner.

    Args:
        mask: (H, W).
        side: of a window; no more than those of the mask.
    """
    sums = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1), np.int64)
    sums[1:, 1:] = mask.cumsum(axis=0, dtype=np.int64).cumsum(axis=1)
    inside = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    found: NDArray[np.float64] = inside / side**2
    return found


def windows_of(mask: NDArray[np.bool_], side: int) -> NDArray[np.int64]:
    """(n, 2) x and y of all windows that are of a region: at least half is; else those with most of it.

    Args:
        mask: (H, W), with something in it.
        side: of a window.
    """
    shares = window_shares(mask, side)
    y, x = np.nonzero(shares >= min(LEAST_SHARE, shares.max()))
    return np.stack([x, y], axis=1)


def draw_windows(windows: NDArray[np.int64], count: int, draw: torch.Generator) -> Tensor:
    """(count, 2) some of them, each as likely, with repetitions."""
    which = torch.randint(len(windows), (count,), generator=draw)
    return torch.from_numpy(windows)[which]


def draw_corners(windows: Tensor, side: int, draw: torch.Generator) -> Tensor:
    """Where the corners of windows are seen: each has moved inwards by chance along either axis.

    Args:
        windows: (n, 2) x and y of their upper left corners.
        side: of a window, in pixels.
        draw: of the chances, by `DISTORTION`.

    Returns:
        (n, 4, 2) x and y in pixels of the window, clockwise from the upper left.
    """
    most = int(DISTORTION * side / 2)
    moved = torch.randint(most + 1, (len(windows), 4, 2), generator=draw).double()
    last = float(side - 1)
    start = torch.tensor([[0.0, 0.0], [last, 0.0], [last, last], [0.0, last]], dtype=torch.float64)
    inwards = torch.tensor([[1.0, 1.0], [-1.0, 1.0], [-1.0, -1.0], [1.0, -1.0]], dtype=torch.float64)
    return start + inwards * moved


def homographies(seen: Tensor, side: int) -> Tensor:
    """(n, 3, 3) float64: from a pixel of what is seen to the pixel of the window that is there.

    Args:
        seen: (n, 4, 2) of `draw_corners`.
        side: of a window.
    """
    last = float(side - 1)
    start = seen.new_tensor([[0.0, 0.0], [last, 0.0], [last, last], [0.0, last]]).expand_as(seen)
    x, y = seen[..., 0], seen[..., 1]
    one, nothing = torch.ones_like(x), torch.zeros_like(x)
    rows = []
    for axis in (0, 1):
        to = start[..., axis]
        own = [x, y, one] if axis == 0 else [nothing] * 3
        other = [nothing] * 3 if axis == 0 else [x, y, one]
        rows.append(torch.stack([*own, *other, -to * x, -to * y], dim=-1))
    matrix, wanted = torch.cat(rows, dim=1), torch.cat([start[..., 0], start[..., 1]], dim=1)
    solved = torch.linalg.solve(matrix, wanted)
    return torch.cat([solved, torch.ones_like(solved[:, :1])], dim=1).reshape(-1, 3, 3)


def looked_at(image: Tensor, windows: Tensor, seen: Tensor, side: int, size: int) -> Tensor:
    """(n, C, size, size): windows of an image in their perspectives, resized, all by one interpolation.

    What lies outside of a window is black, as what is seen beyond its corners.

    Args:
        image: (1, C, H, W).
        windows: (n, 2) x and y of their upper left corners.
        seen: (n, 4, 2) of `draw_corners`.
        side: of a window.
        size: of what comes.
    """
    height, width = image.shape[-2:]
    to_window = homographies(seen, side)
    along = (torch.arange(size, dtype=torch.float64) + 0.5) * side / size - 0.5
    pixels = torch.stack([*torch.meshgrid(along, along, indexing="xy"), torch.ones(size, size, dtype=torch.float64)])
    found = (to_window @ pixels.flatten(1)).reshape(-1, 3, size, size)
    places = found[:, :2] / found[:, 2:]
    inside = ((places >= -0.5) & (places <= side - 0.5)).all(dim=1, keepdim=True)
    places = places.clamp(0, side - 1) + windows.double()[:, :, None, None]
    scale = torch.tensor([2 / width, 2 / height], dtype=torch.float64)[:, None, None]
    grid = ((places + 0.5) * scale - 1).permute(0, 2, 3, 1).to(image)
    # one image for all windows: one behind the other they are one grid, and the image is not copied
    flat = grid.reshape(1, -1, size, 2)
    taken = functional.grid_sample(image, flat, mode="bilinear", padding_mode="border", align_corners=False)
    views = taken.reshape(image.shape[1], -1, size, size).transpose(0, 1)
    return views * inside.to(image)
