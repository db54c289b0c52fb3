"""Points found in another image: planted, by hand, and against a loop in fp64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from simsam_batch.correspondence.descriptors import BINS, unit, with_context
from simsam_batch.correspondence.matching import best_buddies, match, match_all, sampled


def noise(rows: int, columns: int, channels: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((rows, columns, channels)).astype(np.float32))


def centres(rows: int, columns: int) -> NDArray[np.float64]:
    down, right = np.mgrid[:rows, :columns]
    return np.stack([right.ravel(), down.ravel()], axis=1).astype(np.float64)


def by_loops(features: NDArray[np.float64]) -> NDArray[np.float64]:
    """Descriptors with context as the definition reads, one patch and one bin after the other."""
    rows, columns, channels = features.shape
    own = features / np.linalg.norm(features, axis=2, keepdims=True)
    mean = np.zeros_like(own)
    for y in range(rows):
        for x in range(columns):
            for j in range(max(0, y - 1), min(rows, y + 2)):
                for i in range(max(0, x - 1), min(columns, x + 2)):
                    mean[y, x] += own[j, i] / 9
    found = np.zeros((rows, columns, BINS * channels))
    for y in range(rows):
        for x in range(columns):
            parts = []
            for level, step in ((own, 1), (mean, 3)):
                for down in (-step, 0, step):
                    for right in (-step, 0, step):
                        if step == 3 and not down and not right:
                            continue
                        j, i = min(max(y + down, 0), rows - 1), min(max(x + right, 0), columns - 1)
                        parts.append(level[j, i])
            whole = np.concatenate(parts)
            found[y, x] = whole / np.linalg.norm(whole)
    return found


@pytest.mark.parametrize("shape", [(7, 5), (1, 4), (2, 2)])
def test_context_is_nine_neighbours_and_eight_means(shape: tuple[int, int]) -> None:
    features = noise(*shape, 3)
    found = with_context(features)
    assert found.shape == (*shape, 17 * 3)
    assert found.numpy() == pytest.approx(by_loops(features.numpy().astype(np.float64)), abs=1e-6)


def test_a_descriptor_between_patches_is_the_bilinear_mean_at_unit_length() -> None:
    grid = unit(noise(3, 4, 8))
    found = sampled(grid, np.array([[1.25, 0.5], [-3.0, 9.0], [2.0, 1.0]])).numpy()
    held = grid.numpy().astype(np.float64)
    mean = 0.5 * (0.75 * held[0, 1] + 0.25 * held[0, 2]) + 0.5 * (0.75 * held[1, 1] + 0.25 * held[1, 2])
    assert found[0] == pytest.approx(mean / np.linalg.norm(mean), abs=1e-6)
    # beyond the outermost centres the nearest patch speaks alone
    assert found[1] == pytest.approx(held[2, 0], abs=1e-6)
    assert found[2] == pytest.approx(held[1, 2], abs=1e-6)


@pytest.mark.parametrize("roll", [(0, 0), (2, 3), (-1, 4)])
def test_patches_that_were_moved_are_all_found_and_mutual(roll: tuple[int, int]) -> None:
    source = unit(noise(6, 9, 16))
    target = source.roll(roll, dims=(0, 1))
    points = centres(6, 9)
    found = match(source, target, points, radius=0, temperature=0.02)
    expected = np.stack([(points[:, 0] + roll[1]) % 9, (points[:, 1] + roll[0]) % 6], axis=1)
    assert np.array_equal(found.cells, expected)
    assert found.similarity == pytest.approx(np.ones(54), abs=1e-5)
    assert not found.returned.any()
    assert (found.margin > 0.05).all()
    assert found.maps is None


def test_the_window_is_a_softmax_of_cosines_and_blind_beyond_its_radius() -> None:
    rng = np.random.default_rng(1)
    source, target = unit(noise(4, 5, 6, 2)), unit(noise(5, 7, 6, 3))
    points = rng.uniform(0, 3, (8, 2))
    found = match(source, target, points, radius=1, temperature=0.05, keep=True)
    queries = sampled(source, points).numpy().astype(np.float64)
    held = target.numpy().astype(np.float64)
    assert found.maps is not None
    for i, query in enumerate(queries):
        cosines = held @ query
        assert found.maps[i] == pytest.approx(cosines, abs=1e-6)
        y, x = np.unravel_index(cosines.argmax(), cosines.shape)
        rows, columns = slice(max(0, y - 1), y + 2), slice(max(0, x - 1), x + 2)
        weights = np.exp((cosines[rows, columns] - cosines.max()) / 0.05)
        weights /= weights.sum()
        down, right = np.mgrid[rows.start : min(5, y + 2), columns.start : min(7, x + 2)]
        assert found.cells[i] == pytest.approx([(weights * right).sum(), (weights * down).sum()], abs=1e-4)
        outside = cosines.copy()
        outside[rows, columns] = -np.inf
        assert found.margin[i] == pytest.approx(cosines.max() - outside.max(), abs=1e-6)
        assert found.spread[i] == pytest.approx(np.ptp(cosines), abs=1e-6)
        back = (source.numpy().astype(np.float64) @ held[y, x]).argmax()
        assert found.returned[i] == pytest.approx(max(abs(back % 5 - points[i, 0]), abs(back // 5 - points[i, 1])))


def test_no_points_and_windows_as_large_as_the_image_are_answered() -> None:
    source, target = unit(noise(2, 3, 4)), unit(noise(2, 2, 4, 1))
    assert match(source, target, np.zeros((0, 2)), radius=2, temperature=0.02).cells.shape == (0, 2)
    whole = match(source, target, centres(2, 3), radius=5, temperature=0.02)
    # there is no patch outside the window, and so nothing that the best one could be compared with
    assert not whole.margin.any()
    assert np.isfinite(whole.cells).all()


def test_an_image_of_one_colour_spreads_nothing() -> None:
    flat = unit(torch.ones(4, 4, 6))
    found = match(unit(noise(3, 3, 6)), flat, centres(3, 3), radius=1, temperature=0.02)
    assert found.spread == pytest.approx(np.zeros(9), abs=1e-6)


def test_best_buddies_choose_each_other_the_most_similar_first_and_stay_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source, target = unit(noise(6, 7, 8)), unit(noise(5, 9, 8, 1))
    cosines = source.reshape(-1, 8).numpy().astype(np.float64) @ target.reshape(-1, 8).numpy().astype(np.float64).T
    forth, back = cosines.argmax(axis=1), cosines.argmax(axis=0)
    expected: list[list[int]] = []
    for i in sorted(range(42), key=lambda each: -cosines[each].max()):
        x, y = i % 7, i // 7
        if back[forth[i]] == i and all(max(abs(x - a), abs(y - b)) >= 2 for a, b in expected):
            expected.append([x, y])
    found = best_buddies(source, target, 100)
    assert found.tolist() == expected
    assert best_buddies(source, target, 2).tolist() == expected[:2]
    assert best_buddies(source, target, 0).shape == (0, 2)
    # a few rows of cosines at once
    monkeypatch.setattr("simsam_batch.correspondence.matching._AT_ONCE", 100)
    assert best_buddies(source, target, 100).tolist() == expected


def test_all_patches_are_matched_as_each_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = unit(noise(3, 4, 8)), unit(noise(5, 6, 8, 1))
    monkeypatch.setattr("simsam_batch.correspondence.matching._AT_ONCE", 100)
    found = match_all(source, target, radius=1, temperature=0.05)
    for number, cell in enumerate(centres(3, 4)):
        alone = match(source, target, cell[None], radius=1, temperature=0.05)
        assert found.cells[number] == pytest.approx(alone.cells[0], abs=1e-5)
        assert found.returned[number] == alone.returned[0]
