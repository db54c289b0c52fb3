"""Labels that follow the picture's edges without a compiler: a mean field whose messages come by a guided filter."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
from numpy.typing import NDArray
from PIL import Image


@dataclass(frozen=True, slots=True, kw_only=True)
class GuidedParameters:
    """How a guided filter refines a label map.

    Attributes:
        certainty_xy: distance from the nearest border in the map over which the odds of a pixel's own label grow by a
            factor of e, in hundredths of a picture's shorter side; at the border they are even.
        radius: of the square windows in which labels are explained by colours, in hundredths of the shorter side.
        epsilon: over 0, what is added to the variances of colours of 0..1, their squares and products, before they
            divide: the larger, the less a faint edge counts.
        weight: of what the filter says, in the same measure as the logarithm of the odds.
        iterations: of mean-field inference.
        side: longest shorter side, in pixels, that the filter's coefficients are computed at.
        least_part: hundredths of a picture that a connected part of a label takes at least, but for its largest one.
    """

    certainty_xy: float = 1.0
    radius: float = 10.0
    epsilon: float = 1e-5
    weight: float = 15.0
    iterations: int = 8
    side: int = 64
    least_part: float = 0.05


GUIDED = GuidedParameters()
"""Chosen on halves of three sets of photographs, ``docs/measured.md`` (this project)."""


def guided_labels(
    rgb: NDArray[np.uint8], energies: NDArray[np.float32], parameters: GuidedParameters = GUIDED
) -> NDArray[np.intp]:
    """Settle which label each pixel of a picture has.

    Beliefs q in each label and what colours make of them take turns: q' is proportional to exp(-energy + weight * m),
    where m is q as a quadratic function of the colour, fitted by least squares in the square window around each pixel,
    these functions averaged over the windows that hold the pixel. That is the guided filter (He, Sun and Tang 2013,
    eq. 14 to 16) with colours, their squares and products as its guide, as messages of a mean field with Potts
    compatibility. Colours that are found on both sides of a border leave specks, which become what is around them. Fits
    are made on a small picture, and their coefficients enlarged (He and Sun 2015). One thread, and the same bits every
    time; about 90 bytes a pixel, and 7 more for each label.

    Args:
        rgb: (H, W, 3) uint8.
        energies: (L, H, W) float32 of L >= 2 labels, -log of the probability of each at each pixel, whatever is added
            at a pixel to all of them.
        parameters: of the filter and the mean field.

    Returns:
        (H, W), 0 to L - 1.
    """
    height, width = rgb.shape[:2]
    scale = min(1.0, parameters.side / min(height, width))
    size = max(1, round(scale * height)), max(1, round(scale * width))
    small = np.array(Image.fromarray(rgb).resize((size[1], size[0]), Image.Resampling.BOX))
    fit = _Fit(_guide(small).astype(np.float64), max(1, round(parameters.radius / 100 * min(size))), parameters.epsilon)
    prior = np.stack([-_resized(energy, size, Image.Resampling.BOX) for energy in energies]).astype(np.float64)
    field = prior
    for _ in range(parameters.iterations):
        beliefs = np.exp(field - field.max(axis=0))
        beliefs /= beliefs.sum(axis=0)
        coefficients = [fit.coefficients(belief) for belief in beliefs[:-1]]
        messages = [fit.apply(each) for each in coefficients]
        field = prior + parameters.weight * np.stack([*messages, 1 - np.sum(messages, axis=0)])
    best = _best(_guide(rgb), energies, coefficients, parameters.weight)
    return _without_specks(best, parameters.least_part / 100 * best.size)


def _best(
    guide: NDArray[np.float32],
    energies: NDArray[np.float32],
    coefficients: list[NDArray[np.float64]],
    weight: float,
) -> NDArray[np.intp]:
    """The label (H, W) of the largest field at each pixel, from coefficients of all labels but the last, enlarged."""
    size = energies.shape[1], energies.shape[2]
    labels = np.zeros(size, dtype=np.intp)
    highest = np.full(size, -np.inf, dtype=np.float32)
    # all labels' messages add up to 1
    left = np.ones(size, dtype=np.float32)
    for label, energy in enumerate(energies):
        message = left
        if label < len(coefficients):
            *slopes, offset = (_resized(plane, size, Image.Resampling.BILINEAR) for plane in coefficients[label])
            message = offset
            for slope, channel in zip(slopes, guide, strict=True):
                message += slope * channel
            left -= message
        field = np.float32(weight) * message - energy
        better = field > highest
        labels[better] = label
        highest = np.where(better, field, highest)
    return labels


def _without_specks(labels: NDArray[np.intp], least: float) -> NDArray[np.intp]:
    """Labels (H, W) of which no part, connected by the sides of pixels, is smaller than so many pixels.

    Smaller ones take the label of the nearest pixel that is in none; the largest part of a label stays.
    """
    from scipy.ndimage import distance_transform_edt, label

    speck = np.zeros(labels.shape, dtype=bool)
    for each in np.unique(labels):
        parts, count = label(labels == each)
        if count > 1:
            areas = np.bincount(parts.ravel())
            small = areas < least
            small[[0, 1 + int(areas[1:].argmax())]] = False
            speck |= small[parts]
    if not speck.any():
        return labels
    down, across = distance_transform_edt(speck, return_distances=False, return_indices=True)
    return np.asarray(labels[down, across])


class _Fit:
    """Least squares of any map on a guide (C, h, w) in each square window of a picture, a ridge of epsilon added."""

    def __init__(self, guide: NDArray[np.float64], radius: int, epsilon: float) -> None:
        self._guide, self._side = guide, 2 * radius + 1
        self._mean = self._box(guide)
        channels = len(guide)
        covariance = np.empty((*guide.shape[1:], channels, channels))
        for i in range(channels):
            products = self._box(guide[i] * guide[i:]) - self._mean[i] * self._mean[i:]
            covariance[..., i, i:] = covariance[..., i:, i] = np.moveaxis(products, 0, -1)
        covariance[..., range(channels), range(channels)] += epsilon
        self._inverse = np.ascontiguousarray(np.moveaxis(np.linalg.inv(covariance), (2, 3), (0, 1)))

    def coefficients(self, target: NDArray[np.float64]) -> NDArray[np.float64]:
        """Slopes and offset (C + 1, h, w) at each pixel, averaged over the windows that hold it; of a map (h, w)."""
        mean = self._box(target[None])[0]
        together = self._box(self._guide * target) - self._mean * mean
        slopes = np.einsum("ijhw,jhw->ihw", self._inverse, together)
        offset = mean - np.einsum("chw,chw->hw", slopes, self._mean)
        return self._box(np.concatenate([slopes, offset[None]]))

    def apply(self, coefficients: NDArray[np.float64]) -> NDArray[np.float64]:
        """The map (h, w) that coefficients make of the guide."""
        return np.asarray(np.einsum("chw,chw->hw", coefficients[:-1], self._guide) + coefficients[-1])

    def _box(self, planes: NDArray[np.float64]) -> NDArray[np.float64]:
        from scipy.ndimage import uniform_filter

        return np.asarray(uniform_filter(planes, size=(1, self._side, self._side), mode="reflect"))


def _guide(rgb: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Colours of 0..1, their squares and products (9, H, W) of a picture (H, W, 3)."""
    colours = np.moveaxis(rgb, 2, 0).astype(np.float32) / np.float32(255)
    guide = np.empty((9, *rgb.shape[:2]), dtype=np.float32)
    guide[:3] = colours
    for place, (i, j) in enumerate(combinations_with_replacement(range(3), 2), 3):
        np.multiply(colours[i], colours[j], out=guide[place])
    return guide


def _resized(plane: NDArray[np.floating], size: tuple[int, int], how: Image.Resampling) -> NDArray[np.float32]:
    image = Image.fromarray(np.ascontiguousarray(plane, dtype=np.float32))
    return np.array(image.resize((size[1], size[0]), how))
