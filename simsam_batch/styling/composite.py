"""A restyled region put back into its image: what is outside is copied, not computed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Pixels = NDArray[np.uint8]


def alpha_of(mask: NDArray[np.bool_], feather: float = 0.0) -> NDArray[np.float32]:
    """(H, W) 0 outside of a mask and 1 inside; near its edge a ramp inside of it.

    Args:
        mask: (H, W).
        feather: how many pixels from the edge it is 1; 0 for no ramp.
    """
    if feather <= 0 or mask.all():
        return mask.astype(np.float32)
    distance = ndimage.distance_transform_edt(mask)
    return np.clip(distance / feather, 0, 1).astype(np.float32)


def composite(image: Pixels, restyled: Pixels, alpha: NDArray[np.float32]) -> Pixels:
    """(H, W, 3) the restyled pixels where alpha is 1, the image's own where it is 0, and between them a mixture.

    Raises:
        ValueError: the sizes differ.
    """
    if not image.shape == restyled.shape == (*alpha.shape, 3):
        raise ValueError(f"an image of {image.shape}, restyled {restyled.shape}, and alpha of {alpha.shape}")
    share = alpha[..., None]
    mixed = np.rint(share * restyled + (1 - share) * image).astype(np.uint8)
    return np.where(share > 0, mixed, image)


@dataclass(frozen=True, slots=True)
class Leak:
    """What has changed where nothing should.

    Attributes:
        most: the greatest difference of a channel, of 255.
        mean: of all channels, as a share of 255; NaN if nothing lies outside.
        share: of the pixels there, those that differ at all.
    """

    most: int
    mean: float
    share: float


def leak(image: Pixels, restyled: Pixels, styled: NDArray[np.bool_]) -> Leak:
    """What differs outside of what was styled.

    Args:
        image: (H, W, 3).
        restyled: likewise, as it is delivered.
        styled: (H, W), where alpha is above 0.
    """
    outside = np.abs(image.astype(np.int16) - restyled)[~styled]
    if not outside.size:
        return Leak(0, float("nan"), float("nan"))
    return Leak(int(outside.max()), float(outside.mean() / 255), float(outside.any(axis=1).mean()))
