"""The peer that finds several objects, and the table both stand in, on features with objects planted in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks import maskcut, objects


def planted(*boxes: tuple[int, int, int, int], grid: tuple[int, int] = (12, 16)) -> NDArray[np.float64]:
    """Unit features of a ground and of things, each with a direction of its own that is a little the ground's."""
    rng = np.random.default_rng(0)
    thing = np.zeros(grid, dtype=int)
    for number, (left, top, right, bottom) in enumerate(boxes, 1):
        thing[top:bottom, left:right] = number
    directions = np.eye(len(boxes) + 1, 8)
    rows = directions[thing.ravel()] + 0.02 * rng.standard_normal((thing.size, 8))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def box_mask(box: tuple[int, int, int, int], grid: tuple[int, int] = (12, 16)) -> NDArray[np.bool_]:
    mask = np.zeros(grid, dtype=np.bool_)
    left, top, right, bottom = box
    mask[top:bottom, left:right] = True
    return mask


def test_maskcut_finds_one_thing_after_the_other() -> None:
    things = (2, 2, 7, 7), (10, 5, 14, 10)
    found = maskcut.masks(planted(*things), (12, 16))
    assert len(found) >= 2
    for box in things:
        assert any(np.array_equal(mask, box_mask(box)) for mask in found)
    assert sum(mask.astype(int) for mask in found).max() == 1
    assert len(maskcut.masks(planted(*things), (12, 16), rounds=1)) == 1


def test_maskcut_does_not_see_patches_that_take_no_part() -> None:
    features = planted((4, 3, 9, 8))
    # a spike: unlike everything, alone it is the cheapest cut
    features[0] = -features[0]
    valid = np.ones(len(features), dtype=np.bool_)
    valid[0] = False
    found = maskcut.masks(features, (12, 16), valid)
    assert np.array_equal(found[0], box_mask((4, 3, 9, 8)))
    assert not any(mask.flat[0] for mask in found)


def test_the_table_takes_what_any_method_found() -> None:
    pictures = objects.made_up()
    exact = [([picture.truth], [1.0]) for picture in pictures]
    none: list[objects.Found] = [([], []) for _ in pictures]
    assert objects.scores_of(pictures, exact)["mask_ap"] == pytest.approx(1.0)
    assert objects.scores_of(pictures, none)["mask_ap"] == 0.0
    states = [objects.states_of(pictures, found) for found in (exact, none)]
    assert objects.interval_of_difference(pictures, *states, "mask_ap", draws=20) == pytest.approx((1.0, 1.0))
    assert objects.interval_of_difference(pictures, states[0], states[0], "mask_ap", draws=20) == (0.0, 0.0)


def test_frames_of_a_video_are_in_one_half(test_data: Path) -> None:
    pictures = objects._masked(test_data / "davis_videos", "masks", by_video=True)
    halves = {
        group: {each.chosen_on for each in pictures if each.group == group} for group in {p.group for p in pictures}
    }
    assert len(halves) == 8
    assert sorted(len(half) for half in halves.values()) == [1] * 8
    assert sum(half == {True} for half in halves.values()) == 4


def test_a_car_is_all_its_parts(test_data: Path) -> None:
    pictures = objects._cars(test_data / "car_parts")
    assert len(pictures) == 56
    assert all(picture.truth.shape == (512, 512) for picture in pictures)
    assert all(0.05 < picture.truth.mean() < 0.9 for picture in pictures)
