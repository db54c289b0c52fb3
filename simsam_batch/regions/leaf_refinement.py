"""The leaves of a region tree at the size of the picture: soft by their features, then along its edges by a dense CRF.

Last step of hierarchy-agnostic segmentation (Rossetti and Pirri, NeurIPS 2024), in their published code: a pixel's
feature is interpolated from those of the patches, its odds for every leaf come from the cosine with the leaf's mean
feature, and a CRF settles them. The tree stays as it is; an inner node is the union of its leaves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from simsam_batch.regions.refine import CrfParameters, mean_field

TEMPERATURE = 0.1
"""Cosines are divided by it before the softmax."""

LEAF_CRF = CrfParameters(
    bilateral_weight=4.0, bilateral_xy=67.0, bilateral_rgb=3.0, gaussian_weight=3.0, gaussian_xy=1.0, iterations=10
)
"""As published; lengths are pixels of the picture as it is."""

_A = -0.75


@dataclass(frozen=True, slots=True)
class LeafEvidence:
    """What speaks for each of L leaves at each pixel of a picture (H, W), kept as small as it can be.

    The cosine of a pixel's feature and a prototype p is sum_ij r_i c_j f_ij p / norm: interpolation is linear, so
    that products with the prototypes are made at the patches, and only the norm needs the pixels' own features.

    Attributes:
        products: (L, Hp, Wp) float32, of the patches' features and the leaves' unit prototypes.
        norms: (H, W) float32, of the pixels' interpolated features.
        rows: (H, Hp) float32, weights of the interpolation down the picture.
        columns: (W, Wp) float32, and across.
    """

    products: NDArray[np.float32]
    norms: NDArray[np.float32]
    rows: NDArray[np.float32]
    columns: NDArray[np.float32]

    def cosines(self) -> NDArray[np.float32]:
        """Return (L, H, W) float32; 0 where a pixel has no feature."""
        sums = self.rows @ self.products @ self.columns.T
        cosines: NDArray[np.float32] = np.divide(sums, self.norms, out=np.zeros_like(sums), where=self.norms > 0)
        return cosines


def leaf_evidence(
    features: NDArray[np.floating[Any]],
    prototypes: NDArray[np.floating[Any]],
    *,
    patch: int,
    working_size: tuple[int, int],
    size: tuple[int, int],
) -> LeafEvidence:
    """Gather what the features of patches say of the leaves.

    Args:
        features: (Hp, Wp, C), as the backbone gave them.
        prototypes: (L, C), mean features of the leaves, of unit length.
        patch: side of a patch, pixels of the resized image.
        working_size: (h, w) of the resized image, before what does not fill a patch was cropped.
        size: (H, W) of the picture that is to be labelled.
    """
    lengths = zip(features.shape[:2], working_size, size, strict=True)
    rows, columns = (cubic_weights(patches, patch, working, full) for patches, working, full in lengths)
    own = np.asarray(features, dtype=np.float32)
    norms = _norms(own, rows, columns)
    products = np.ascontiguousarray(np.moveaxis(own @ np.asarray(prototypes, np.float32).T, 2, 0))
    return LeafEvidence(products, norms, rows, columns)


def _norms(
    features: NDArray[np.float32], rows: NDArray[np.float32], columns: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Norms (H, W) of the interpolated features (Hp, Wp, C), which are never made: at full size they are gigabytes.

    The square of a sum of patches is a sum over pairs of patches, and no pair lies further apart than the kernel is
    wide: its products are made at the patches, once for each of the 25 distances, and interpolated.
    """
    wide, height, width = 4, *features.shape[:2]
    exact, down, across = (each.astype(np.float64) for each in (features, rows, columns))
    squares = np.zeros((len(rows), len(columns)))
    for dy in range(min(wide, height)):
        first, below = exact[: height - dy], exact[dy:]
        of_rows = down[:, : height - dy] * down[:, dy:]
        for dx in range(-min(wide, width) + 1 if dy else 0, min(wide, width)):
            left, right = slice(max(0, -dx), width - max(0, dx)), slice(max(0, dx), width - max(0, -dx))
            products = np.einsum("ijc,ijc->ij", first[:, left], below[:, right])
            # Each pair comes once here and twice in the square, but for a patch with itself.
            products *= 1 + bool(dy or dx)
            squares += of_rows @ products @ (across[:, left] * across[:, right]).T
    norms: NDArray[np.float32] = np.sqrt(squares.clip(min=0)).astype(np.float32)
    return norms


def refine_leaves(
    rgb: NDArray[np.uint8], evidence: LeafEvidence, parameters: CrfParameters = LEAF_CRF
) -> NDArray[np.int32]:
    """Give every pixel of a picture to a leaf.

    Time and memory grow with pixels times leaves: 20 bytes a pixel and leaf at the peak.

    Args:
        rgb: (H, W, 3) uint8.
        evidence: of L leaves, for a picture of this size.
        parameters: of the CRF.

    Returns:
        (H, W) int32, 0 to L - 1; a leaf may lose all its pixels.

    Raises:
        ValueError: the picture is not of the size of the evidence.
        SettingsError: pydensecrf2 is not installed.
    """
    if rgb.shape[:2] != evidence.norms.shape:
        raise ValueError(f"the picture has {rgb.shape[:2]} pixels, the evidence is of {evidence.norms.shape}")
    count = len(evidence.products)
    if count == 1:
        return np.zeros(evidence.norms.shape, dtype=np.int32)
    # One thread, whatever the process is set to: their number changes the last bits.
    with threadpool_limits(1):
        cosines = evidence.cosines()
    # -log softmax, but for what is the same for all leaves of a pixel.
    energies = cosines.reshape(count, -1) / np.float32(-TEMPERATURE)
    energies -= energies.min(axis=0)
    beliefs = mean_field(rgb, energies, parameters)
    leaves: NDArray[np.int32] = beliefs.argmax(axis=0).reshape(evidence.norms.shape).astype(np.int32)
    return leaves


def cubic_weights(patches: int, patch: int, working: int, full: int) -> NDArray[np.float32]:
    """Weights that interpolate values at the centres of patches at the centres of pixels, along one side.

    The cubic convolution of Keys (1981) with a = -0.75, as torch interpolates; beyond the outermost centres their
    values go on.

    Args:
        patches: along this side.
        patch: side of a patch, pixels of the resized image.
        working: length of this side of the resized image.
        full: pixels along this side of the picture.

    Returns:
        (full, patches); each row adds up to 1.
    """
    place = (np.arange(full) + 0.5) * working / (full * patch) - 0.5
    # What was cropped beyond the last patch belongs to it.
    place = np.clip(place, -0.5, patches - 0.5)
    base = np.floor(place).astype(np.int64)
    part = place - base
    near, far = (1 - part, part), (1 + part, 2 - part)
    taps = [_far(far[0]), _near(near[1]), _near(near[0]), _far(far[1])]
    weights = np.zeros((full, patches))
    for offset, tap in zip((-1, 0, 1, 2), taps, strict=True):
        np.add.at(weights, (np.arange(full), np.clip(base + offset, 0, patches - 1)), tap)
    return weights.astype(np.float32)


def _near(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """The kernel at a distance of at most 1."""
    return ((_A + 2) * distance - (_A + 3)) * distance**2 + 1


def _far(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """The kernel at a distance from 1 to 2."""
    return ((distance - 5) * distance + 8) * _A * distance - 4 * _A
