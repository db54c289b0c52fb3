"""One network fitted to many images: its losses fall, its gradient is the mean of theirs, and a killed fit goes on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from test_fitting import SmallContent, SmallSeer, parameters
from torch import Tensor, nn

from simsam_batch.styling.crops import windows_of
from simsam_batch.styling.fitting import Fit, Procedure, Region
from simsam_batch.styling.run_fitting import FitOfRun, Scene, order, procedure_of_run

SIZES = [(32, 32), (32, 48), (40, 32)]
HOW = procedure_of_run(Procedure(), steps=40, crops=4)


def scene(number: int, dtype: torch.dtype = torch.float32) -> Scene:
    """An image of blurred noise, and a rectangle in it."""
    height, width = SIZES[number]
    chance = torch.Generator().manual_seed(number)
    coarse = torch.rand(1, 3, 5, 5, generator=chance)
    image = nn.functional.interpolate(coarse, (height, width), mode="bilinear").to(dtype)
    mask = np.zeros((height, width), bool)
    mask[4:28, 6 + number :] = True
    direction = nn.functional.normalize(torch.randn(24, generator=torch.Generator().manual_seed(9)), dim=0).to(dtype)
    return image, Region(torch.from_numpy(mask), direction, windows_of(mask, 8), HOW.crops)


def fit(how: Procedure = HOW, batch: int = 2, dtype: torch.dtype = torch.float32, seed: int = 3) -> FitOfRun:
    return FitOfRun(len(SIZES), batch, torch.zeros(1, dtype=dtype), SmallSeer(dtype), SmallContent(dtype), how, seed)


def coming(found: FitOfRun, unusable: Sequence[int] = ()) -> Iterator[tuple[int, Scene | None]]:
    for number in found.coming():
        yield number, None if number in unusable else scene(number)


def steps(found: FitOfRun, count: int) -> FitOfRun:
    scenes = coming(found)
    for _ in range(count):
        found.update(scenes)
    return found


def gradient(net: nn.Module) -> Tensor:
    return torch.cat([torch.zeros(1).double() if p.grad is None else p.grad.flatten() for p in net.parameters()])


def test_the_loss_of_three_images_falls() -> None:
    found = steps(fit(), HOW.steps).history
    assert np.mean(found.total[-10:]) < 0.8 * np.mean(found.total[:10])
    assert np.mean(found.views[-10:]) < 0.7 * np.mean(found.views[:10])


def test_images_at_once_give_the_mean_gradient_of_each_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    # each image is looked at alone with the chances that it has at its place of the step
    from simsam_batch.styling import fitting

    together = fit(batch=3, dtype=torch.float64)
    numbers = list(islice(together.coming(), 3))
    together.update(iter([(number, scene(number, torch.float64)) for number in numbers]))
    alone, totals = [], []
    for place, number in enumerate(numbers):
        drawn = fitting.draws_of
        with monkeypatch.context() as patch:
            patch.setattr(fitting, "draws_of", lambda seed, step, _, place=place, drawn=drawn: drawn(seed, step, place))
            one = Fit(*scene(number, torch.float64), SmallSeer(torch.float64), SmallContent(torch.float64), HOW, 3)
            one.update()
        alone.append(gradient(one.net))
        totals.append(one.history.total[0])
    assert torch.allclose(gradient(together.net), torch.stack(alone).mean(dim=0), atol=1e-9, rtol=1e-9)
    assert together.history.total[0] == pytest.approx(np.mean(totals), rel=1e-12)


def test_one_image_at_a_time_is_the_fit_of_that_image() -> None:
    of_run, alone = fit(batch=1), Fit(*scene(0), SmallSeer(), SmallContent(), HOW, 3)
    for _ in range(3):
        of_run.update(iter([(0, scene(0))]))
        alone.update()
    assert torch.equal(parameters(of_run), parameters(alone))
    assert of_run.history == alone.history


def test_every_pass_has_all_images_in_an_order_of_its_own() -> None:
    drawn = list(islice(order(40, 7), 120))
    passes = [drawn[start : start + 40] for start in (0, 40, 80)]
    assert all(sorted(each) == list(range(40)) for each in passes)
    assert passes[0] != passes[1] != passes[2]
    assert drawn != list(islice(order(40, 8), 120))
    assert drawn[50:] == list(islice(order(40, 7, 50), 70))


def test_the_rate_is_halved_three_times() -> None:
    found = fit(procedure_of_run(Procedure(), steps=8, crops=1), batch=1)
    scenes, rates = coming(found), []
    for _ in range(8):
        found.update(scenes)
        rates.append(found._adam.param_groups[0]["lr"])
    assert rates == [5e-4] * 2 + [2.5e-4] * 2 + [1.25e-4] * 2 + [6.25e-5] * 2
    assert found.over


def test_a_fit_that_goes_on_is_the_one_that_was_not_interrupted() -> None:
    whole, first, second = steps(fit(), 7), steps(fit(), 3), fit()
    second.go_on(first.state())
    steps(second, 4)
    assert torch.equal(parameters(whole), parameters(second))
    assert (whole.history, whole.drawn, whole.used) == (second.history, second.drawn, second.used)


def test_images_without_anything_to_restyle_are_passed_over() -> None:
    found = fit()
    scenes = coming(found, unusable=[1])
    for _ in range(3):
        found.update(scenes)
    assert found.used == {0, 2}
    assert found.drawn in (8, 9)
    found = fit()
    with pytest.raises(ValueError, match="in any of 3 images"):
        found.update(coming(found, unusable=[0, 1, 2]))
    assert found.step == 0


def test_another_seed_is_another_network() -> None:
    how = replace(HOW, steps=2)
    assert not torch.equal(parameters(steps(fit(how), 2)), parameters(steps(fit(how, seed=4), 2)))
