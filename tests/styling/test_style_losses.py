"""Terms of the style against values computed by hand, and against plain NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from simsam_batch.styling.losses import (
    content_inside,
    content_loss,
    directions,
    patch_loss,
    text_direction,
    text_feature,
    total_variation,
)


def vector(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_a_direction_is_that_of_the_worked_example() -> None:
    source, restyled = vector(1, 0, 0, 0), vector(0.6, 0.8, 0, 0).requires_grad_()
    text = text_direction(vector(0, 2**-0.5, 2**-0.5, 0), vector(0, 0, 1, 0))
    assert text.tolist() == pytest.approx([0, 0.923880, -0.382683, 0], abs=1e-6)
    found = directions(restyled[None], source, text)
    assert float(found.cosines.detach()) == pytest.approx(0.826343, abs=1e-6)
    assert float(found.losses.detach()) == pytest.approx(0.173657, abs=1e-6)
    (gradient,) = torch.autograd.grad(found.losses.sum(), restyled)
    assert gradient.tolist() == pytest.approx([-0.413171, -0.206586, 0.427853, 0], abs=1e-6)


def test_what_has_not_moved_counts_one_and_pulls_nowhere() -> None:
    source = torch.nn.functional.normalize(torch.randn(3, 8, dtype=torch.float64), dim=1)
    restyled = (source + 1e-6).requires_grad_()
    found = directions(restyled, source, source[0])
    assert found.losses.tolist() == [1, 1, 1]
    assert not found.known.any()
    (gradient,) = torch.autograd.grad(found.losses.sum(), restyled)
    assert gradient.abs().max() == 0


def test_templates_count_the_same_unless_they_are_taken_raw() -> None:
    templates = torch.stack([vector(3, 0, 0, 4), vector(0, 2, 0, 0)])
    raw, clean = text_feature(templates, raw=True), text_feature(templates)
    assert raw.tolist() == pytest.approx([0.557086, 0.371391, 0, 0.742781], abs=1e-6)
    assert clean.tolist() == pytest.approx([0.424264, 0.707107, 0, 0.565685], abs=1e-6)
    assert float(raw @ clean) == pytest.approx(0.919145, abs=1e-6)


def test_texts_that_mean_the_same_have_no_direction() -> None:
    with pytest.raises(ValueError, match="same feature"):
        text_direction(vector(0.6, 0.8), vector(0.6, 0.8))


def test_a_weight_goes_with_its_crop() -> None:
    losses, weights = vector(0.95, 0.70, 0.69, 1.20), vector(0.3, 1, 1, 1)
    assert float(patch_loss(losses, weights, 0.7)) == pytest.approx(0.546250)
    assert float(patch_loss(losses, torch.ones(4), 0.7)) == pytest.approx(0.712500)
    for order in ([3, 1, 0, 2], [1, 2, 3, 0]):
        assert float(patch_loss(losses[order], weights[order], 0.7)) == pytest.approx(0.546250)


def test_variation_is_that_of_the_worked_example_and_each_image_has_its_own() -> None:
    image = torch.tensor([[0.0, 1, 2], [3, 5, 4], [8, 6, 7]], dtype=torch.float64)[None, None]
    assert float(total_variation(image)) == pytest.approx(23.418777, abs=2e-6)
    assert total_variation(torch.cat([image, 2 * image])).tolist() == pytest.approx([23.418777, 46.837554], abs=1e-5)


def test_a_flat_image_has_no_variation_and_no_gradient() -> None:
    image = torch.full((1, 3, 4, 5), 0.5, dtype=torch.float64, requires_grad=True)
    found = total_variation(image)
    (gradient,) = torch.autograd.grad(found.sum(), image)
    assert found.tolist() == [0]
    assert gradient.abs().max() == 0


def test_content_is_that_of_the_worked_example() -> None:
    source = torch.tensor([[1.0, 2], [3, 4]])[None, None]
    restyled = torch.tensor([[1.0, 4], [3, 0]])[None, None]
    mask = torch.tensor([[1, 0.25], [0, 1]])
    assert float(content_loss([restyled], [source])) == pytest.approx(5)
    assert float(content_inside(restyled, source, mask)) == pytest.approx(7.555556, abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), shape=st.sampled_from([(3, 5, 4), (1, 2, 2), (3, 2, 9)]))
def test_terms_equal_plain_numpy(seed: int, shape: tuple[int, int, int]) -> None:
    drawn = np.random.default_rng(seed)
    image = drawn.random(shape)
    shifted = [image[:, :, 1:] - image[:, :, :-1], image[:, 1:] - image[:, :-1]]
    shifted += [image[:, 1:, 1:] - image[:, :-1, :-1], image[:, 1:, :-1] - image[:, :-1, 1:]]
    expected = sum(np.sqrt((each**2).sum()) for each in shifted)
    assert float(total_variation(torch.from_numpy(image)[None])) == pytest.approx(expected)
    a, b, t = (each / np.linalg.norm(each) for each in drawn.standard_normal((3, 6)))
    cosine = (a - b) @ t / np.linalg.norm(a - b)
    found = directions(*(torch.from_numpy(each) for each in (a[None], b, t)))
    assert float(found.losses) == pytest.approx(1 - cosine)


def test_gradients_are_those_of_finite_differences() -> None:
    torch.manual_seed(0)
    text = torch.nn.functional.normalize(torch.randn(6, dtype=torch.float64), dim=0)
    source = torch.randn(6, dtype=torch.float64)
    image = torch.rand(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    source_map = torch.rand(2, 3, 4, 4, dtype=torch.float64)
    features = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: directions(x, source, text).losses, features)
    assert torch.autograd.gradcheck(total_variation, image)
    assert torch.autograd.gradcheck(lambda x: content_loss([x], [source_map]), image)
