"""Regions worked out by hand on small grids, and what holds for any."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.ndimage import label
from torch import Tensor

from simsam_batch.regions.boxes import region_boxes
from simsam_batch.regions.partition import background_first, eigengap_count, partition, split_components

VALUES = torch.tensor([[0.0, 0.1, 0.4]])


def labels_of(*rows: str) -> Tensor:
    """A region's id per patch; a dot is a patch that is not valid."""
    return torch.tensor([[-1 if cell == "." else int(cell) for row in rows for cell in row]])


def vectors_of(*entries: list[float]) -> Tensor:
    """One image's eigenvectors after the constant one, which is added."""
    return torch.tensor([[1.0] * len(entries[0]), *entries])[None]


@pytest.mark.parametrize(
    ("values", "count"),
    [
        ([0.0, 0.1, 0.2, 0.9, 1.0], 3),  # gaps .1 (left out) .1 .7 .1: the third, so 3
        ([0.0, 0.9, 0.95, 1.0], 2),  # the largest gap is the first, which is left out; .05 is largest of the rest
        ([0.0, 0.1, 0.3, 0.6, 1.0], 4),  # the last gap: K - 1
        ([0.0, 0.125, 0.25, 0.375, 0.5], 2),  # equal gaps: the first
        ([0.0, 0.1, 0.2, 0.9, math.nan, math.nan], 3),  # a graph of four patches
        ([0.0, 0.1, 0.4, math.nan], 2),
        ([0.0, 0.1, math.nan, math.nan], 2),  # a graph of two patches
        ([0.0, math.nan, math.nan], 1),
        ([math.nan, math.nan, math.nan], 1),  # not solved
        ([0.0, 0.1], 2),
        ([0.0], 1),
    ],
)
def test_the_eigengap_counts_the_regions(values: list[float], count: int) -> None:
    assert eigengap_count(torch.tensor([values])).tolist() == [count]


@given(st.lists(st.floats(0, 2, width=32), min_size=3, max_size=20))
def test_the_eigengap_is_that_of_a_plain_search(values: list[float]) -> None:
    ordered = np.sort(np.float32(values))
    gaps = np.diff(ordered)
    expected = max(range(1, len(gaps)), key=lambda i: (gaps[i], -i)) + 1
    count = int(eigengap_count(torch.from_numpy(ordered)[None]))
    assert count == expected
    assert 2 <= count <= len(values) - 1


def test_the_region_with_the_greatest_share_of_the_border_becomes_0() -> None:
    # Border of 3 x 4: 8 of rows, 6 of columns. Region 2 has its two of the top row and, as corner, one again.
    labels = labels_of("0112", "0112", "0111")
    # Counts: 0: rows 2, columns 3 = 5; 1: rows 2 + 3, columns 1 = 6; 2: rows 1, columns 2 = 3.
    assert background_first(labels, (3, 4)).tolist() == labels_of("1002", "1002", "1000").tolist()


def test_corners_count_twice_on_the_border() -> None:
    # Region 1 has the four corners only: 4 patches, counted 8. Region 0 has 6, 0 of them corners; 2 has 6 - 4 = 2.
    labels = labels_of("10001", "02220", "02220", "12221")
    # 0: rows 3, columns 4 = 7; 1: 8; 2: bottom row 3. Counted once each it would be 7 to 4, and 0 the background.
    assert background_first(labels, (4, 5)).tolist() == labels_of("01110", "12221", "12221", "02220").tolist()


def test_equal_shares_of_the_border_leave_the_lower_id() -> None:
    assert background_first(labels_of("22", "11"), (2, 2)).tolist() == labels_of("22", "00").tolist()
    assert background_first(labels_of("00", "11"), (2, 2)).tolist() == labels_of("00", "11").tolist()


def test_patches_that_are_not_valid_count_for_nothing_on_the_border() -> None:
    labels = labels_of("...", ".1.", "..0")
    assert background_first(labels, (3, 3)).tolist() == labels.tolist()
    nothing = labels_of("...", "...")
    assert background_first(nothing, (2, 3)).tolist() == nothing.tolist()


@given(seed=st.integers(0, 10**6), grid=st.tuples(st.integers(1, 7), st.integers(1, 7)), most=st.integers(1, 400))
def test_the_background_only_swaps_two_ids(seed: int, grid: tuple[int, int], most: int) -> None:
    labels = np.random.default_rng(seed).integers(0, most, (2, grid[0] * grid[1]))
    swapped = background_first(torch.from_numpy(labels), grid).numpy()
    for before, after in zip(labels, swapped, strict=True):
        plane = before.reshape(grid)
        border = np.concatenate([plane[0], plane[-1], plane[:, 0], plane[:, -1]])
        background = np.bincount(border).argmax()
        exchange = {0: background, background: 0}
        assert after.tolist() == [exchange.get(region, region) for region in before.tolist()]


def test_regions_are_the_values_that_eigenvectors_take() -> None:
    # Three values of (v_1, v_2): five patches of (-1, 0), two of (2, 1), one of (1, -2), noise far below.
    v1 = [-1.0, -1.0, -1.0, -1.0, 2.0, 2.01, -1.01, 1.0]
    v2 = [0.0, 0.01, 0.0, 0.0, 1.0, 1.0, 0.0, -2.0]
    # Grid 2 x 4: every patch is on the border; those of the first value are most.
    labels = partition(VALUES, vectors_of(v1, v2), (2, 4), [3], regions=3)
    assert labels.dtype == torch.int32
    assert labels[0, [0, 1, 2, 3, 6]].tolist() == [0] * 5
    assert labels[0, 4] == labels[0, 5] != labels[0, 7]
    assert set(labels[0].tolist()) == {0, 1, 2}


def test_vectors_used_leaves_the_later_ones_out() -> None:
    v1, v2 = [0.0, 0.0, 0.0, 1.0], [5.0, -5.0, 5.0, 5.0]
    first = partition(VALUES, vectors_of(v1, v2), (1, 4), [0], regions=2, vectors_used=1)
    assert first.tolist() == [[0, 0, 0, 1]]
    both = partition(VALUES, vectors_of(v1, v2), (1, 4), [0], regions=2, vectors_used=10**6)
    assert both.tolist() == [[0, 1, 0, 0]]


def test_the_constant_eigenvector_is_not_used() -> None:
    vectors = vectors_of([0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.0])
    vectors[0, 0] = torch.tensor([9.0, -9.0, 9.0, 9.0])
    assert partition(VALUES, vectors, (1, 4), [0], regions=2).tolist() == [[0, 0, 0, 1]]


@pytest.mark.parametrize("regions", [None, 4])
def test_a_flat_fiedler_vector_gives_one_region_and_no_box(regions: int | None) -> None:
    # A one-colour image beside a normal one: its vectors mean nothing, whatever they hold.
    noise = torch.randn(1, 3, 9, generator=torch.Generator().manual_seed(0))
    flat = noise.clone()
    flat[:, 1] = -1.0
    values = torch.tensor([[0.0, 0.1, 0.4], [0.0, 1.0, 1.0], [0.0, 0.1, 0.4]])
    labels = partition(values, torch.cat([flat, noise, noise]), (3, 3), [0, 1, 2], regions=regions)
    assert labels[:2].tolist() == [[0] * 9] * 2
    assert labels[2].unique().tolist() == list(range(regions or 2))
    pixels = np.arange(3), np.arange(3)
    assert region_boxes(labels[0].numpy().reshape(3, 3), pixels) == []


def test_an_image_that_was_not_solved_gives_one_region_and_costs_its_neighbour_nothing() -> None:
    values = torch.tensor([[math.nan] * 3, [0.0, 0.1, 0.4]])
    vectors = torch.cat([torch.zeros(1, 3, 4), vectors_of([0.0, 0.0, 0.0, 1.0], [0.0] * 4)])
    labels = partition(values, vectors, (2, 2), [0, 1], regions=2)
    assert labels.tolist() == [[0, 0, 0, 0], [0, 0, 0, 1]]


@pytest.mark.parametrize("k", [1, 2])
def test_a_graph_with_too_few_pairs_gives_the_regions_that_it_can(k: int) -> None:
    vectors = vectors_of([0.0, 0.0, 0.0, 1.0])[:, :k]
    labels = partition(VALUES[:, :k], vectors, (2, 2), [0], regions=3)
    assert labels.tolist() == ([[0, 0, 0, 0]] if k == 1 else [[0, 0, 0, 1]])


def test_fewer_distinct_patches_than_regions_give_fewer_regions() -> None:
    labels = partition(VALUES, vectors_of([0.0, 0.0, 1.0, 1.0], [0.0] * 4), (1, 4), [0], regions=15)
    assert set(labels[0].tolist()) == {0, 1}


def test_features_are_the_baseline_and_need_no_graph() -> None:
    features = torch.tensor([[[1.0, 0.0], [0.9, 0.0], [0.0, 5.0], [1.1, 0.0]]])
    flat = torch.zeros(1, 3, 4)
    labels = partition(VALUES, flat, (2, 2), [0], regions=2, features=features)
    assert labels.tolist() == [[0, 0, 1, 0]]


def test_patches_that_are_not_valid_have_no_region() -> None:
    features = torch.tensor([[[1.0], [math.nan], [5.0], [1.0]]])
    valid = torch.tensor([[True, False, True, True]])
    labels = partition(VALUES, torch.zeros(1, 3, 4), (2, 2), [0], regions=2, features=features, valid=valid)
    assert labels.tolist() == [[0, -1, 1, 0]]


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6), regions=st.sampled_from([None, 3, 6]), split=st.booleans())
def test_an_image_has_the_same_regions_alone_and_in_any_batch(seed: int, regions: int | None, split: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(4, 6, generator=generator).sort(dim=1).values
    vectors = torch.randn(4, 6, 20, generator=generator)
    seeds = [9, 8, 7, 6]
    together = partition(values, vectors, (4, 5), seeds, regions=regions, split=split)
    for image in range(4):
        one = slice(image, image + 1)
        alone = partition(values[one], vectors[one], (4, 5), seeds[one], regions=regions, split=split)
        assert torch.equal(together[one], alone)


def test_ids_over_255_survive() -> None:
    # 400 patches, all different, each a region: eight bits would clip the last 145 to one.
    features = torch.arange(400.0)[torch.randperm(400, generator=torch.Generator().manual_seed(0))][None, :, None]
    labels = partition(VALUES, torch.zeros(1, 3, 400), (20, 20), [0], regions=400, features=features, restarts=1)
    assert sorted(labels[0].tolist()) == list(range(400))
    boxes = region_boxes(labels[0].numpy().reshape(20, 20), (np.arange(20), np.arange(20)), dilate=0)
    assert [region for region, _ in boxes] == list(range(1, 400))


def test_regions_without_a_background_keep_the_numbers_of_their_clusters() -> None:
    vectors = vectors_of([0.0, 0.0, 0.0, 1.0], [0.0] * 4)
    found = [partition(VALUES, vectors, (2, 2), [s], regions=2, background=False)[0].tolist() for s in range(12)]
    assert {tuple(labels) for labels in found} == {(0, 0, 0, 1), (1, 1, 1, 0)}
    # Split, the parts are numbered from 0 in the order of their first patches.
    split = partition(VALUES, vectors, (2, 2), [0], regions=2, background=False, split=True)
    assert split.tolist() == [[0, 0, 0, 1]]


def test_connected_parts_are_numbered_by_their_first_patch() -> None:
    labels = labels_of("20010", "20110", "00000", "11.22")
    # Foreground in the order of first patches: the 2 at the left, the 1 at the top, the 1 and the 2 below.
    expected = labels_of("10020", "10220", "00000", "33.44")
    assert split_components(labels, (4, 5)).tolist() == expected.tolist()
    assert split_components(expected, (4, 5)).tolist() == expected.tolist()


def test_parts_of_the_background_are_split_where_there_is_none() -> None:
    # Seen in this order: the 2 at the left, the 0 beside it, the large 1, the 0 at the right, the 2 below.
    labels = labels_of("20010", "20110", "11111", "11.22")
    expected = labels_of("01123", "01223", "22222", "22.44")
    assert split_components(labels, (4, 5), first=0).tolist() == expected.tolist()


def test_corners_do_not_connect_parts() -> None:
    assert split_components(labels_of("10", "01"), (2, 2)).tolist() == labels_of("10", "02").tolist()


def components_one_by_one(plane: NDArray[np.int64], first: int) -> NDArray[np.int64]:
    parts = []
    for region in np.unique(plane[plane >= first]):
        numbered, count = label(plane == region)
        parts += [np.flatnonzero(numbered == part + 1) for part in range(count)]
    out = np.minimum(plane, first - 1).ravel()
    for number, patches in enumerate(sorted(parts, key=min)):
        out[patches] = number + first
    return out


@given(
    seed=st.integers(0, 10**6),
    grid=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    most=st.integers(1, 4),
    first=st.sampled_from([0, 1]),
)
def test_parts_are_those_found_region_by_region(seed: int, grid: tuple[int, int], most: int, first: int) -> None:
    labels = np.random.default_rng(seed).integers(-1, most, (3, grid[0] * grid[1]))
    split = split_components(torch.from_numpy(labels), grid, first=first)
    assert split.dtype == torch.int32
    for before, after in zip(labels, split.numpy(), strict=True):
        assert after.tolist() == components_one_by_one(before.reshape(grid), first).tolist()


def test_wrong_shapes_and_counts_are_refused() -> None:
    vectors = vectors_of([0.0, 0.0, 0.0, 1.0], [0.0] * 4)
    with pytest.raises(ValueError, match=r"grid of \(2, 3\)"):
        partition(VALUES, vectors, (2, 3), [0], regions=2)
    with pytest.raises(ValueError, match="vectors_used=0"):
        partition(VALUES, vectors, (2, 2), [0], regions=2, vectors_used=0)
    with pytest.raises(ValueError, match="at least 1"):
        partition(VALUES, vectors, (2, 2), [0], regions=0)
