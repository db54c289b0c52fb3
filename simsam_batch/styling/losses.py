"""What a restyled image is judged by: directions between features, smoothness, content. Pure; any float dtype.

Features e are of unit length. For two images a and b with features e(a) and e(b) the direction is

    delta(a, b) = (e(a) - e(b)) / |e(a) - e(b)|

and every term of the style is 1 - delta(restyled, source) . T, with T the direction between two texts.

Sources: Gal et al., StyleGAN-NADA, 2022 (directions); Kwon and Ye, CLIPstyler, 2022 (patches, their threshold).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

LEAST_DIFFERENCE = 1e-4
"""Features that differ by less than this have no direction: rounding would be blown up to unit length."""


@dataclass(frozen=True, slots=True)
class Directions:
    """Directions from source to restyled features.

    Attributes:
        cosines: (B,) with the direction between the texts; 0 without gradient where there is none.
        known: (B,) bool, whether there is one.
    """

    cosines: Tensor
    known: Tensor

    @property
    def losses(self) -> Tensor:
        """(B,) 1 - cosine; the constant 1 where there is no direction."""
        return 1 - self.cosines


def directions(restyled: Tensor, source: Tensor, text: Tensor) -> Directions:
    """How well restyled images went the way between two texts.

    Args:
        restyled: (B, D) features of unit length.
        source: (B, D) or (D,), likewise.
        text: (D,) or (B, D), of unit length.
    """
    difference = restyled - source
    lengths = difference.detach().norm(dim=-1)
    known = lengths >= LEAST_DIFFERENCE
    # where nothing is known nothing is divided, so that no gradient comes from there either
    held = torch.where(known[:, None], difference, torch.ones_like(difference))
    cosines = (functional.normalize(held, dim=-1) * text).sum(dim=-1)
    return Directions(torch.where(known, cosines, torch.zeros_like(cosines)), known)


def text_feature(templates: Tensor, *, raw: bool = False) -> Tensor:
    """(D,) the feature of a text, over several templates that it was put into.

    Args:
        templates: (P, D) features as the network gives them.
        raw: their mean as they are, as published for this purpose; otherwise each counts the same.
    """
    given = templates if raw else functional.normalize(templates, dim=-1)
    return functional.normalize(given.mean(dim=0), dim=-1)


def text_direction(target: Tensor, source: Tensor) -> Tensor:
    """(D,) from one text to another.

    Raises:
        ValueError: they mean the same to the network.
    """
    difference = target - source
    if float(difference.norm()) < LEAST_DIFFERENCE:
        raise ValueError("the two texts have the same feature")
    return functional.normalize(difference, dim=-1)


def patch_loss(losses: Tensor, weights: Tensor, threshold: float) -> Tensor:
    """The mean over crops of what each counts, of those that are above a threshold.

    Args:
        losses: (n,) of the crops.
        weights: (n,) of the same crops.
        threshold: a crop whose loss is below counts nothing: it has enough of the style.
    """
    return (weights * torch.where(losses >= threshold, losses, torch.zeros_like(losses))).sum() / len(losses)


def total_variation(images: Tensor) -> Tensor:
    """(B,) lengths of the differences between neighbours, in four directions, added up; of each image by itself.

    Args:
        images: (B, C, H, W).
    """
    right = images[..., :, 1:] - images[..., :, :-1]
    down = images[..., 1:, :] - images[..., :-1, :]
    falling = images[..., 1:, 1:] - images[..., :-1, :-1]
    rising = images[..., 1:, :-1] - images[..., :-1, 1:]
    return torch.stack([_length(each) for each in (right, down, falling, rising)]).sum(dim=0)


def variation_scale(channels: int, height: int, width: int) -> float:
    """What a `total_variation` is divided by, so that it does not grow with the image."""
    return math.sqrt(channels * height * width)


def _length(differences: Tensor) -> Tensor:
    squares = differences.flatten(1).square().sum(dim=1)
    # the slope of a root at nothing is infinite, and that of this length is nothing
    there = squares > 0
    return torch.where(there, torch.where(there, squares, torch.ones_like(squares)).sqrt(), torch.zeros_like(squares))


def content_loss(restyled: Sequence[Tensor], source: Sequence[Tensor]) -> Tensor:
    """(B,) mean squared differences of feature maps (B, C, H, W), one term a layer."""
    return torch.stack([(a - b).square().flatten(1).mean(dim=1) for a, b in zip(restyled, source, strict=True)]).sum(0)


def content_inside(restyled: Tensor, source: Tensor, mask: Tensor) -> Tensor:
    """(B,) mean squared difference of feature maps where a mask is, each place by its share; NaN without any.

    Args:
        restyled: (B, C, H, W).
        source: likewise.
        mask: (B, H, W) or (H, W), shares of 0..1.
    """
    shares = mask.expand(restyled.shape[0], *restyled.shape[2:])
    squares = (restyled - source).square().mean(dim=1)
    return (shares * squares).flatten(1).sum(dim=1) / shares.flatten(1).sum(dim=1)
