"""Affinities and graphs against hand computation and plain NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from simsam_batch.spectral.affinity import (
    Shift,
    binary_affinity,
    combine,
    feature_affinity,
    graph,
    head_affinity,
    normalize_rows,
)


def unit_features(batch: int, count: int, width: int, seed: int) -> Tensor:
    drawn = torch.randn(batch, count, width, generator=torch.Generator().manual_seed(seed))
    return drawn / drawn.norm(dim=-1, keepdim=True)


def all_valid(batch: int, count: int) -> Tensor:
    return torch.ones(batch, count, dtype=torch.bool)


def test_rows_get_unit_length_and_keep_their_direction() -> None:
    rows = normalize_rows(torch.tensor([[[3.0, 4.0], [0.0, -2.0]]]))
    torch.testing.assert_close(rows, torch.tensor([[[0.6, 0.8], [0.0, -1.0]]]))


def test_zero_rows_all_become_the_same_unit_vector() -> None:
    rows = normalize_rows(torch.zeros(2, 3, 4))
    assert torch.equal(rows, torch.full((2, 3, 4), 0.5))


# Three patches in the plane: f = (1, 0), (0, 1), (-1, 0). F F^T = [[1, 0, -1], [0, 1, 0], [-1, 0, 1]], its mean is
# |(0, 1)|^2 / 9 = 1/9, its maximum 1.
PLANE = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]])
PLANE_GRAM = torch.tensor([[[1.0, 0.0, -1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 1.0]]])


@pytest.mark.parametrize(("shift", "amount"), [("mean", 1 / 9), ("max/3", 1 / 3), ("zero", 0.0)])
def test_each_shift_subtracts_its_number(shift: Shift, amount: float) -> None:
    torch.testing.assert_close(feature_affinity(PLANE, all_valid(1, 3), shift=shift), PLANE_GRAM - amount)


def test_an_invalid_patch_has_no_affinity_and_no_say_in_the_mean() -> None:
    # Without the third patch F F^T is the 2x2 identity with mean 1/2.
    features = PLANE.clone()
    features[0, 2] = torch.nan
    w = feature_affinity(features, torch.tensor([[True, True, False]]), shift="mean")
    assert w.tolist() == [[[0.5, -0.5, 0.0], [-0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]]


@pytest.mark.parametrize("shift", ["mean", "max/3", "zero"])
def test_feature_affinity_equals_the_plain_double_precision_formula(shift: Shift) -> None:
    features = 0.7 * unit_features(2, 17, 5, seed=1)  # shorter rows, as after resizing a feature map
    valid = all_valid(2, 17)
    valid[0, 3] = valid[1, 0] = valid[1, 16] = False
    w = feature_affinity(features, valid, shift=shift).double().numpy()
    for image in range(2):
        keep = valid[image].numpy()
        f = features[image].double().numpy()[keep]
        gram = f @ f.T
        expected = gram - {"mean": gram.mean(), "max/3": gram.max() / 3, "zero": 0.0}[shift]
        np.testing.assert_allclose(w[image][np.ix_(keep, keep)], expected, atol=1e-6)
        assert not w[image][~keep].any()
        assert not w[image][:, ~keep].any()


def test_an_unknown_shift_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="median"):
        feature_affinity(PLANE, all_valid(1, 3), shift="median")  # type: ignore[arg-type]


def test_head_affinity_normalises_and_centres_on_request() -> None:
    # Rows (2, 0) and (0, 3): raw products diag(4, 9); normalised diag(1, 1) with mean 1/2; raw mean 13/4.
    outputs, valid = torch.tensor([[[2.0, 0.0], [0.0, 3.0]]]), all_valid(1, 2)
    found = {
        (normalize, center): head_affinity(outputs, valid, normalize=normalize, center=center)[0].tolist()
        for normalize in (False, True)
        for center in (False, True)
    }
    assert found[False, False] == [[4.0, 0.0], [0.0, 9.0]]
    assert found[False, True] == [[0.75, -3.25], [-3.25, 5.75]]
    assert found[True, False] == [[1.0, 0.0], [0.0, 1.0]]
    assert found[True, True] == [[0.5, -0.5], [-0.5, 0.5]]


def test_head_affinity_leaves_invalid_patches_out() -> None:
    outputs = torch.tensor([[[2.0, 0.0], [torch.inf, 1.0], [0.0, 3.0]]])
    w = head_affinity(outputs, torch.tensor([[True, False, True]]), normalize=True, center=True)
    assert w.tolist() == [[[0.5, 0.0, -0.5], [0.0, 0.0, 0.0], [-0.5, 0.0, 0.5]]]


def test_combine_weighs_the_heads_affinity() -> None:
    w = combine(torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[10.0, -10.0]]]), 0.1)
    torch.testing.assert_close(w, torch.tensor([[[2.0, 1.0]]]))


def test_graph_clips_scales_adds_colour_and_then_raises_to_the_floor() -> None:
    # Clip: [[4, 2, 0], [2, 4, 0], [0, 0, 1]]; over the largest entry 4; plus 0.5 * colour (1 between patches 0 and
    # 2); the one pair still at zero (1, 2) is raised to the floor.
    w = torch.tensor([[[4.0, 2.0, -3.0], [2.0, 4.0, -1.0], [-3.0, -1.0, 1.0]]])
    color = torch.tensor([[[0.0, 0.0, 1.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]])
    result = graph(w, all_valid(1, 3), floor=0.01, color=color, color_weight=0.5)
    expected = torch.tensor([[[1.0, 0.5, 0.5], [0.5, 1.0, 0.01], [0.5, 0.01, 0.25]]])
    torch.testing.assert_close(result, expected)


def test_graph_keeps_invalid_patches_at_exactly_zero_despite_colour_and_floor() -> None:
    valid = torch.tensor([[True, False, True]])
    result = graph(torch.full((1, 3, 3), 9.0), valid, floor=0.1, color=torch.ones(1, 3, 3), color_weight=2.0)
    assert result.tolist() == [[[3.0, 0.0, 3.0], [0.0, 0.0, 0.0], [3.0, 0.0, 3.0]]]


def test_a_graph_without_a_positive_entry_is_empty_or_at_its_floor() -> None:
    negative = torch.full((1, 2, 2), -1.0)
    assert graph(negative.clone(), all_valid(1, 2), floor=0.0).tolist() == [[[0.0, 0.0], [0.0, 0.0]]]
    floored = graph(negative.clone(), all_valid(1, 2), floor=0.25)
    assert floored.tolist() == [[[0.25, 0.25], [0.25, 0.25]]]


@pytest.mark.parametrize("level", [0.0, 0.3])
def test_rounding_noise_of_a_one_colour_image_is_not_blown_up_into_a_graph(level: float) -> None:
    features = normalize_rows(torch.full((1, 300, 192), level))
    w = graph(feature_affinity(features, all_valid(1, 300), shift="mean"), all_valid(1, 300), floor=1e-5)
    assert torch.equal(w, torch.full((1, 300, 300), 1e-5))


def test_each_image_of_a_batch_is_scaled_by_its_own_largest_entry() -> None:
    w = torch.tensor([[[2.0, 1.0], [1.0, 2.0]], [[8.0, 2.0], [2.0, 8.0]]])
    result = graph(w, all_valid(2, 2), floor=0.0)
    assert result.tolist() == [[[1.0, 0.5], [0.5, 1.0]], [[1.0, 0.25], [0.25, 1.0]]]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    count=st.sampled_from([1, 2, 7, 65, 300]),
    floor=st.sampled_from([0.0, 1e-5, 0.2]),
    shift=st.sampled_from(["mean", "max/3", "zero"]),
)
def test_graphs_are_symmetric_to_the_bit_bounded_and_blind_to_invalid_patches(
    seed: int, count: int, floor: float, shift: Shift
) -> None:
    features = unit_features(2, count, 6, seed)
    valid = torch.rand(2, count, generator=torch.Generator().manual_seed(seed)) > 0.3
    w = graph(feature_affinity(features, valid, shift=shift), valid, floor=floor)
    pair = valid[:, :, None] & valid[:, None, :]
    assert torch.equal(w, w.mT)
    assert not w[~pair].any()
    assert bool((w[pair] >= floor).all())
    assert bool((w <= 1.0 + 1e-6).all())


def test_tokencuts_graph_is_one_above_tau_and_the_floor_elsewhere() -> None:
    # Cosines of the patches at 0, 60 and 90 degrees: 1/2, 0 and sqrt(3)/2; the last patch is left out.
    angles = torch.deg2rad(torch.tensor([0.0, 60.0, 90.0, 45.0]))
    features = torch.stack((angles.cos(), angles.sin()), -1)[None]
    valid = torch.tensor([[True, True, True, False]])
    w = binary_affinity(features, valid)
    low = torch.tensor(1e-5).item()
    assert w.tolist() == [[[1.0, 1.0, low, 0.0], [1.0, 1.0, 1.0, 0.0], [low, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]]]
    higher = binary_affinity(features, valid, tau=0.6, floor=0.0)
    assert higher[0, :3, :3].tolist() == [[1.0, 0.0, 0.0], [0.0, 1.0, 1.0], [0.0, 1.0, 1.0]]
