"""Restyled regions in their images: nothing outside of them changes, and what does is measured."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from simsam_batch.styling.composite import alpha_of, composite, leak


def test_a_mixture_is_that_of_the_worked_example() -> None:
    image = np.array([[[10] * 3, [20] * 3, [30] * 3, [40] * 3]], np.uint8)
    alpha = np.array([[1, 0.5, 0, 0]], np.float32)
    found = composite(image, np.full_like(image, 200), alpha)
    assert found[0, :, 0].tolist() == [200, 110, 30, 40]


@pytest.mark.parametrize("feather", [0.0, 5.0])
def test_outside_of_a_mask_every_pixel_is_the_same_after_it_was_stored(feather: float) -> None:
    drawn = np.random.default_rng(0)
    image, restyled = drawn.integers(0, 256, (2, 61, 83, 3), np.uint8)
    mask = drawn.random((61, 83)) < 0.3
    stored = io.BytesIO()
    Image.fromarray(composite(image, restyled, alpha_of(mask, feather))).save(stored, "png")
    found = np.asarray(Image.open(stored))
    assert np.array_equal(found[~mask], image[~mask])
    assert not np.array_equal(found[mask], image[mask])


def test_a_ramp_lies_inside_of_the_mask_alone() -> None:
    mask = np.zeros((9, 20), bool)
    mask[:, 10:] = True
    assert alpha_of(mask, 4)[4].tolist() == [0] * 10 + [0.25, 0.5, 0.75] + [1] * 7
    assert np.array_equal(alpha_of(mask), mask)
    assert alpha_of(np.ones((3, 3), bool), 5).min() == 1


def test_a_leak_is_that_of_the_worked_example() -> None:
    image = np.full((4, 4, 3), 100, np.uint8)
    styled = np.zeros((4, 4), bool)
    styled[1:3, 1:3] = True
    changed = image.copy()
    changed[0, 0, 0] = 103
    changed[1, 1] = 0
    found = leak(image, changed, styled)
    assert (found.most, found.share) == (3, pytest.approx(0.083333, abs=1e-6))
    assert found.mean == pytest.approx(3.268e-4, abs=1e-7)
    assert leak(image, changed, np.ones((4, 4), bool)).most == 0


def test_sizes_that_differ_are_refused() -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(ValueError, match="alpha"):
        composite(image, image, np.ones((4, 5), np.float32))
