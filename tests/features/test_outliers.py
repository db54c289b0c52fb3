"""Outlier tokens by the norm of their residual stream."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from simsam_batch.features.outliers import spike_mask

norms = st.lists(st.floats(0.5, 100, width=32), min_size=1, max_size=40)


def test_only_tokens_over_four_medians_of_their_own_image_are_marked() -> None:
    first = [1.0, 1.0, 1.0, 4.0, 4.1, 40.0, 1.0]
    second = [10.0, 10.0, 10.0, 40.0, 39.0, 41.0, 10.0]
    expected = [[False] * 4 + [True, True, False], [False] * 5 + [True, False]]
    assert spike_mask(torch.tensor([first, second])).tolist() == expected


def test_the_ratio_is_a_setting() -> None:
    assert spike_mask(torch.tensor([[1.0, 1.0, 2.5]]), ratio=2.0).tolist() == [[False, False, True]]


@given(values=norms, scale=st.sampled_from([0.25, 2.0, 1024.0]))
def test_scaling_all_norms_changes_nothing_and_fewer_than_half_are_marked(values: list[float], scale: float) -> None:
    mask = spike_mask(torch.tensor([values]))
    assert torch.equal(mask, spike_mask(torch.tensor([values]) * scale))
    assert 2 * mask.sum() <= len(values)


def test_equal_norms_are_no_outliers_even_at_zero() -> None:
    assert not spike_mask(torch.zeros(2, 5)).any()
    assert not spike_mask(torch.ones(2, 1)).any()
