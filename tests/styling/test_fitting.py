"""A network fitted by what a small frozen one sees: the loss falls, and nothing depends on how it is computed."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from simsam_batch.styling.crops import windows_of
from simsam_batch.styling.fitting import ContentNet, Fit, Procedure, Region, Seer

HOW = Procedure(steps=60, crops=8, together=8, patience=0)
SIDE = 64
TAKEN_AWAY = (".first.bias", ".second.bias")


@dataclass
class SmallSeer:
    """Features of a random convolution's means."""

    dtype: torch.dtype = torch.float32
    size: int = 32

    def __post_init__(self) -> None:
        torch.manual_seed(5)
        self.net = nn.Sequential(nn.Conv2d(3, 16, 5, 4), nn.Tanh(), nn.Conv2d(16, 24, 3, 2), nn.Tanh())
        self.net.to(self.dtype).requires_grad_(False)

    def encode(self, squares: Tensor) -> Tensor:
        return nn.functional.normalize(self.net(squares).mean(dim=(2, 3)), dim=1)


@dataclass
class SmallContent:
    """A random convolution."""

    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        torch.manual_seed(6)
        self.net = nn.Conv2d(3, 8, 3, 2).to(self.dtype).requires_grad_(False)

    def maps(self, images: Tensor) -> list[Tensor]:
        return [torch.relu(self.net(images))]


def fit(how: Procedure = HOW, dtype: torch.dtype = torch.float32, seed: int = 3) -> Fit:
    torch.manual_seed(0)
    image = nn.functional.interpolate(torch.rand(1, 3, 8, 8), (SIDE, SIDE), mode="bilinear").to(dtype)
    mask = np.zeros((SIDE, SIDE), bool)
    mask[10:50, 20:] = True
    direction = nn.functional.normalize(torch.randn(24, generator=torch.Generator().manual_seed(9)), dim=0).to(dtype)
    region = Region(torch.from_numpy(mask), direction, windows_of(mask, 16), how.crops)
    seer: Seer = SmallSeer(dtype)
    content: ContentNet = SmallContent(dtype)
    return Fit(image, region, seer, content, how, seed)


def steps(found: Fit, count: int) -> Fit:
    for _ in range(count):
        found.update()
    return found


def parameters(found: Fit) -> Tensor:
    return nn.utils.parameters_to_vector(found.net.parameters()).detach()


def trained(found: Fit) -> Tensor:
    """All but what a normalisation takes away again: Adam makes steps of the rounding of its gradient."""
    taken = [each.detach().flatten() for name, each in found.net.named_parameters() if not name.endswith(TAKEN_AWAY)]
    return torch.cat(taken)


def test_the_loss_falls_and_the_region_goes_the_way_of_the_text() -> None:
    found = steps(fit(), 100).history
    assert np.mean(found.total[-10:]) < 0.5 * np.mean(found.total[:10])
    assert np.mean(found.views[-10:]) < 0.5 * np.mean(found.views[:10])
    assert np.mean(found.patches[-10:]) < 0.9 * np.mean(found.patches[:10])


def test_without_a_style_what_is_kept_is_the_content() -> None:
    found = steps(fit(replace(HOW, patch=0, view=0, variation=0)), 30).history
    assert found.content[-1] < 0.5 * found.content[0]


def test_the_same_fit_is_the_same_to_the_bit_and_another_seed_is_another() -> None:
    one, other, third = (steps(fit(seed=seed), 5) for seed in (3, 3, 4))
    assert torch.equal(parameters(one), parameters(other))
    assert one.history.total == other.history.total
    assert not torch.equal(parameters(one), parameters(third))


def test_a_fit_that_goes_on_is_the_one_that_was_not_interrupted() -> None:
    whole = steps(fit(), 12)
    first = steps(fit(), 5)
    second = fit()
    second.go_on(first.state())
    assert second.step == 5
    steps(second, 7)
    assert torch.equal(parameters(whole), parameters(second))
    assert whole.history == second.history


def test_crops_in_groups_have_the_gradient_of_all_at_once() -> None:
    groups = [steps(fit(replace(HOW, together=together), torch.float64), 3) for together in (8, 3, 1)]
    for each in groups[1:]:
        assert torch.allclose(trained(groups[0]), trained(each), atol=1e-10)
        assert each.history.patches == pytest.approx(groups[0].history.patches, abs=1e-12)


def test_the_rate_is_halved_after_so_many_updates() -> None:
    found = fit(replace(HOW, halved_every=2))
    rates = []
    for _ in range(5):
        found.update()
        rates.append(found._adam.param_groups[0]["lr"])
    assert rates == [5e-4, 5e-4, 2.5e-4, 2.5e-4, 1.25e-4]


def test_it_stops_when_crops_get_no_better() -> None:
    found = fit(replace(HOW, patience=20))
    found.history.patches = [0.9 - 0.02 * n for n in range(20)]
    assert not found.stopped
    found.history.patches += [0.5] * 28
    assert not found.stopped
    found.history.patches += [0.5] * 20
    assert found.stopped
    assert found.over


def test_a_region_without_anything_in_it_to_see_ends_without_nan() -> None:
    found = fit()
    found._sight.inside.zero_()
    steps(found, 2)
    assert np.isfinite(found.history.total).all()
