"""The guided filter as messages of a mean field, beside the same written out window by window."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import label

from simsam_batch.regions.guided import GUIDED, GuidedParameters, _without_specks, guided_labels
from simsam_batch.regions.refine import refine


def noisy_scene(height: int = 24, width: int = 30, seed: int = 3) -> np.ndarray:
    """Three fields of colour, with noise."""
    rng = np.random.default_rng(seed)
    rgb = np.full((height, width, 3), (200, 60, 40))
    rgb[:, 17:] = (60, 90, 180)
    rgb[15:] = (70, 160, 80)
    return np.clip(rgb + rng.integers(-25, 26, rgb.shape), 0, 255).astype(np.uint8)


def windows_of(size: tuple[int, int], radius: int) -> dict[tuple[int, int], list[tuple[int, int]]]:
    """By the centre the pixels of each window, mirrored where it leaves the picture."""

    def mirrored(i: int, length: int) -> int:
        return -1 - i if i < 0 else 2 * length - 1 - i if i >= length else i

    reach = range(-radius, radius + 1)
    return {
        (y, x): [(mirrored(y + dy, size[0]), mirrored(x + dx, size[1])) for dy in reach for dx in reach]
        for y in range(size[0])
        for x in range(size[1])
    }


def guided_written_out(rgb: np.ndarray, energies: np.ndarray, radius: int, parameters: GuidedParameters) -> np.ndarray:
    """Each window's ridge regression by itself, by the normal equations with their means taken out (He et al. 2013)."""
    size = rgb.shape[:2]
    red, green, blue = np.moveaxis(rgb / 255, 2, 0)
    products = [red * red, red * green, red * blue, green * green, green * blue, blue * blue]
    guide = np.stack([red, green, blue, *products], axis=-1)
    windows = windows_of(size, radius)

    def message(belief: np.ndarray) -> np.ndarray:
        fits = {}
        for centre, pixels in windows.items():
            rows = np.array([guide[p] for p in pixels])
            target = np.array([belief[p] for p in pixels])
            offcentre = rows - rows.mean(0)
            ridge = parameters.epsilon * np.eye(9)
            slopes = np.linalg.solve(offcentre.T @ offcentre / len(rows) + ridge, offcentre.T @ target / len(rows))
            fits[centre] = (slopes, target.mean() - slopes @ rows.mean(0))
        found = np.empty(size)
        for centre, pixels in windows.items():
            slopes, offset = (np.mean([fits[p][part] for p in pixels], axis=0) for part in (0, 1))
            found[centre] = slopes @ guide[centre] + offset
        return found

    field = -energies.astype(float)
    for _ in range(parameters.iterations):
        beliefs = np.exp(field) / np.exp(field).sum(0)
        field = -energies + parameters.weight * np.stack([message(belief) for belief in beliefs])
    return field.argmax(0)


@pytest.mark.parametrize("count", [2, 3])
def test_labels_come_out_as_by_windows_written_out(count: int) -> None:
    rgb = noisy_scene()
    rough = np.zeros((24, 30), int)
    rough[:, 15:] = 1
    if count == 3:
        rough[13:] = 2
    wrong = np.random.default_rng(5).random(rough.shape) < 0.2
    rough[wrong] = (rough[wrong] + 1) % count
    energies = np.where(rough == np.arange(count)[:, None, None], 0, 0.5).astype(np.float32)
    parameters = GuidedParameters(epsilon=1e-3, iterations=3)
    found = guided_labels(rgb, energies, parameters)
    # a tenth of the shorter side of 24 pixels
    expected = guided_written_out(rgb, energies, 2, parameters)
    assert (found != rough).mean() > 0.1, "nothing to refine"
    assert np.array_equal(found, expected)


def test_specks_become_what_is_around_them() -> None:
    labels = np.zeros((20, 30), np.intp)
    labels[5:15, 5:15] = 1
    labels[:, 20:] = 2
    expected = labels.copy()
    labels[9:11, 9:11] = 0  # a hole
    labels[2, 2:5] = 1  # beside the object
    labels[10, 24] = 1  # in another label
    labels[15, 15] = 1  # at a corner of the object, which joins nothing
    found = _without_specks(labels, 5)
    np.testing.assert_array_equal(found, expected)
    # of its size or more a part stays, and so does the largest of a label however small it is
    np.testing.assert_array_equal(_without_specks(labels, 1), labels)
    single = np.zeros((20, 30), np.intp)
    single[3, 3] = 1
    np.testing.assert_array_equal(_without_specks(single, 5), single)


def test_a_refined_mask_has_no_specks() -> None:
    rng = np.random.default_rng(0)
    rgb = rng.integers(100, 116, (200, 240, 3)).astype(np.uint8)
    labels = np.zeros((200, 240), bool)
    labels[60:140, 80:180] = True
    rgb[labels] += np.uint8(60)
    # the object's colour elsewhere, and the ground's in it
    near = np.zeros_like(labels)
    near[40:160, 60:200] = True
    odd = (rng.random(labels.shape) < 0.03) & near
    rgb[odd & ~labels] += np.uint8(60)
    rgb[odd & labels] -= np.uint8(60)
    counts = {}
    for least in (0.0, GUIDED.least_part):
        refined = refine(rgb, labels, replace(GUIDED, certainty_xy=4.0, least_part=least))
        counts[least] = label(refined)[1] + label(~refined)[1]
    assert counts[0.0] > 2
    assert counts[GUIDED.least_part] == 2


def test_a_picture_of_one_colour_leaves_the_map_nearly_as_it_is() -> None:
    labels = np.zeros((200, 240), bool)
    labels[60:140, 80:180] = True
    refined = refine(np.full((200, 240, 3), 128, np.uint8), labels, GUIDED)
    # corners are rounded off
    assert not (refined & ~labels).any()
    assert refined[66:134, 100:160].all()
    assert refined[80:120, 86:174].all()


def test_a_larger_picture_of_the_same_scene_has_the_same_labels() -> None:
    """All lengths go by the shorter side, and coefficients are those of the small picture."""
    rgb, labels = noisy_scene(80, 100), np.zeros((80, 100), bool)
    labels[:, 14:] = True
    large = refine(*(np.repeat(np.repeat(each, 4, axis=0), 4, axis=1) for each in (rgb, labels)), GUIDED)
    assert (large[2::4, 2::4] != refine(rgb, labels, GUIDED)).mean() < 0.03
