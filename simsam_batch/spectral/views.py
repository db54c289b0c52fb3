"""Views of a feature map for SimSAM's head: random affines, and what published code makes of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Generator, Tensor
from torch.nn import functional

from simsam_batch.spectral.transfer import upload


def uniforms(generators: Sequence[Generator]) -> Tensor:
    """Draw the six numbers behind an affine, ``(B, 6)`` from U(0, 1): scale, two translations, angle, two shears."""
    return torch.stack([torch.rand(6, dtype=torch.float64, generator=generator) for generator in generators])


def random_affine(
    generators: Sequence[Generator],
    grid: tuple[int, int],
    *,
    scale: tuple[float, float],
    translate: float,
    rotate: float,
    shear: float,
) -> Tensor:
    """Draw one affine ``[M | t]`` per image for `warp`: ``M = scale * rotation * shear``.

    Returns:
        ``(B, 2, 3)`` float64 on the CPU, in patches, rows before columns.
    """
    draws = uniforms(generators)
    signed = 2.0 * draws - 1.0
    size = scale[0] + (scale[1] - scale[0]) * draws[:, 0]
    angle = torch.deg2rad(rotate * signed[:, 3])
    one = torch.ones_like(size)
    rotation = torch.stack((angle.cos(), -angle.sin(), angle.sin(), angle.cos()), 1).view(-1, 2, 2)
    shearing = torch.stack((one, shear * signed[:, 4], shear * signed[:, 5], one), 1).view(-1, 2, 2)
    shift = translate * signed[:, 1:3] * torch.tensor(grid)
    return torch.cat((size[:, None, None] * (rotation @ shearing), shift[:, :, None]), 2)


def warp(features: Tensor, grid: tuple[int, int], affine: Tensor) -> Tensor:
    """Resample feature maps bilinearly: the place ``o`` shows what was at ``c + M (o - c) + t``, ``c`` the centre.

    Args:
        features: ``(B, N, C)`` float.
        grid: ``(Hp, Wp)``.
        affine: ``(B, 2, 3)`` float64 on the CPU, ``[M | t]`` in patches, rows before columns.

    Returns:
        ``(B, N, C)``; what lies outside the map counts as zero.
    """
    size = torch.tensor(grid, dtype=torch.float64)
    places = torch.cartesian_prod(*(torch.arange(n, dtype=torch.float64) - (n - 1) / 2.0 for n in grid))
    source = places @ affine[:, :, :2].mT + affine[:, None, :, 2]
    # With align_corners=False the map's outer edges are -1 and 1: an offset of half its size is 1. x comes first.
    sampling = (2.0 * source / size).flip(-1).view(-1, *grid, 2).to(features.dtype)
    maps = features.mT.reshape(features.shape[0], -1, *grid)
    warped = functional.grid_sample(
        maps, upload(sampling, maps.device), mode="bilinear", padding_mode="zeros", align_corners=False
    )
    return warped.flatten(2).mT


def upstream_view(features: Tensor, draws: Tensor) -> Tensor:
    """Upstream's second view: scipy's affine of the ``N x C`` matrix, which mixes patch numbers with channels.

    The matrix is ``[[s cos, -h0 s sin, t0], [h1 s sin, s cos, t1]]`` with ``s`` from U(0.8, 1.2), ``t`` from
    U(-10, 10), ``h`` from U(-0.2, 0.2) and an angle from U(-15, 15) that upstream passes on as radians. Cubic spline,
    zeros outside: about a third of these views are zero altogether.

    Args:
        features: ``(B, N, C)``.
        draws: ``(B, 6)`` from U(0, 1): scale, two translations, angle, two shears.

    Returns:
        ``(B, N, C)``, dtype and device of ``features``.
    """
    from scipy.ndimage import affine_transform

    views = []
    for image, (scale, *signed) in zip(features.cpu().numpy(), draws.tolist(), strict=True):
        size = 0.8 + 0.4 * scale
        shift_0, shift_1, angle, shear_0, shear_1 = (2.0 * draw - 1.0 for draw in signed)
        cosine, sine = size * math.cos(15.0 * angle), size * math.sin(15.0 * angle)
        matrix = [
            [cosine, -0.2 * shear_0 * sine, 10.0 * shift_0],
            [0.2 * shear_1 * sine, cosine, 10.0 * shift_1],
            [0.0, 0.0, 1.0],
        ]
        views.append(torch.from_numpy(affine_transform(image, matrix)))
    return upload(torch.stack(views).to(features.dtype), features.device)
