"""Boundary IoU worked out by hand and against the definition, pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion

from simsam_batch.scores.bits import packed
from simsam_batch.scores.boundary import band_width, border_band, boundary_iou


def band_by_definition(mask: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """Every pixel of the mask that has one outside it, or outside the image, within ``width`` rows and columns."""
    height, length = mask.shape
    band = np.zeros_like(mask)
    for y, x in np.argwhere(mask):
        around = [(y + i, x + j) for i in range(-width, width + 1) for j in range(-width, width + 1)]
        band[y, x] = not all(0 <= i < height and 0 <= j < length and mask[i, j] for i, j in around)
    return band


def test_the_width_is_two_hundredths_of_the_diagonal() -> None:
    # diagonals 500, 800, and 14.1, of which two hundredths are less than a pixel
    assert [band_width(size) for size in ((300, 400), (480, 640), (10, 10))] == [10, 16, 1]


def test_two_squares_by_hand() -> None:
    # In 60 x 60 the diagonal is 84.9 and the band 2 wide: of a square of 20, 400 - 16 * 16 = 144 pixels. One beside it
    # by a pixel shares what both bands hold: two rows of 19 above and below, and of the 16 rows between, columns 1 of
    # the left band (of columns 0 and 1) and 18 of the right one (of 18 and 19): 4 * 19 + 2 * 16 = 108.
    truth, prediction = np.zeros((2, 60, 60), bool)
    truth[20:40, 20:40] = prediction[20:40, 21:41] = True
    assert border_band(packed(truth), 2).count() == 144
    assert boundary_iou(packed(prediction), packed(truth)) == 108 / (144 + 144 - 108)
    assert boundary_iou(packed(truth), packed(truth)) == 1.0


def test_the_frame_of_the_image_is_a_border() -> None:
    assert border_band(packed(np.ones((7, 9), bool)), 2).count() == 7 * 9 - 3 * 5


def test_the_inside_of_a_large_object_does_not_hide_a_bad_border() -> None:
    truth = np.zeros((400, 400), bool)
    truth[40:360, 40:360] = True
    wider = np.zeros_like(truth)
    wider[20:380, 20:380] = True
    # 320 and 360 square overlap by 79 %; bands 11 wide that begin 20 apart share nothing.
    assert (wider & truth).sum() / (wider | truth).sum() > 0.79
    assert boundary_iou(packed(wider), packed(truth)) == 0.0


def test_two_empty_masks_have_no_overlap_and_masks_of_other_sizes_are_refused() -> None:
    empty = np.zeros((5, 6), bool)
    assert boundary_iou(packed(empty), packed(empty)) == 0.0
    with pytest.raises(ValueError, match=r"\(5, 6\), the truth \(5, 5\)"):
        boundary_iou(packed(empty), packed(empty[:, :5]))


masks = st.tuples(st.integers(1, 24), st.integers(1, 24), st.sampled_from([0.0, 0.5, 0.9, 0.98, 1.0]))


@settings(deadline=None)
@given(seed=st.integers(0, 10**6), shape=masks, width=st.integers(1, 6))
def test_bands_are_those_of_the_definition_and_of_repeated_erosion(
    seed: int, shape: tuple[int, int, float], width: int
) -> None:
    height, length, density = shape
    mask = np.random.default_rng(seed).random((height, length)) < density
    band = border_band(packed(mask), width).unpacked()
    assert np.array_equal(band, band_by_definition(mask, width))
    eroded = binary_erosion(np.pad(mask, 1), np.ones((3, 3)), iterations=width)[1:-1, 1:-1]
    assert np.array_equal(band, mask & ~eroded)


@settings(deadline=None)
@given(seed=st.integers(0, 10**6), shape=masks)
def test_boundary_iou_is_that_of_the_definition(seed: int, shape: tuple[int, int, float]) -> None:
    height, length, density = shape
    prediction, truth = np.random.default_rng(seed).random((2, height, length)) < density
    bands = [band_by_definition(mask, band_width((height, length))) for mask in (prediction, truth)]
    union = (bands[0] | bands[1]).sum()
    assert boundary_iou(packed(prediction), packed(truth)) == ((bands[0] & bands[1]).sum() / union if union else 0.0)
    assert boundary_iou(packed(truth), packed(prediction)) == boundary_iou(packed(prediction), packed(truth))
