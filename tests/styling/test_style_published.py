"""What the published programs compute, against worked examples, plain loops and NumPy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_fitting import SmallContent, SmallSeer
from torch import nn

from simsam_batch.styling.crops import draw_corners
from simsam_batch.styling.fitting import Procedure
from simsam_batch.styling.losses import patch_loss
from simsam_batch.styling.published import (
    PROGRAMS,
    Aim,
    PublishedFit,
    draw_windows,
    enhanced,
    holds_object,
    joint_variation,
    order_and_weights,
    rate,
    seen_of,
)

HOW = Procedure(steps=30, crops=10, together=10, patience=0, variation=0.002)
SIDE = 64


def mask() -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    found = np.zeros((SIDE, SIDE), bool)
    found[20:40, 30:50] = True
    return found


def direction(seed: int) -> torch.Tensor:
    return nn.functional.normalize(torch.randn(24, generator=torch.Generator().manual_seed(seed)).double(), dim=0)


def fit(program: str, how: Procedure = HOW, seed: int = 3, aim: Aim | None = None) -> PublishedFit:
    torch.manual_seed(0)
    image = nn.functional.interpolate(torch.rand(1, 3, 8, 8), (SIDE, SIDE), mode="bilinear").double()
    meant = aim or Aim(mask(), direction(1), [(~mask(), direction(1)), (mask(), direction(2))])
    dtype = torch.float64
    return PublishedFit(image, meant, SmallSeer(dtype), SmallContent(dtype), how, PROGRAMS[program], seed)


def trained(found: PublishedFit, steps: int) -> torch.Tensor:
    for _ in range(steps):
        found.update()
    return found.restyled()


def test_the_order_of_weights_is_not_that_of_crops() -> None:
    losses = torch.tensor([0.95, 0.70, 0.69, 1.20], dtype=torch.float64)
    order, weights = order_and_weights(torch.tensor([True, False, False, False]), 0.3)
    assert order.tolist() == [1, 2, 3, 0]
    assert float(patch_loss(losses[order], weights.double(), 0.7)) == pytest.approx(0.590000)
    _, equal = order_and_weights(torch.tensor([True, False, False, False]), PROGRAMS["clipstyler"].object_weight)
    assert float(patch_loss(losses[order], equal.double(), 0.7)) == pytest.approx(0.712500)


@pytest.mark.parametrize("grey", [[[0.2, 0.4], [0.6, 0.8]], [[0.40, 0.45], [0.50, 0.55]]])
def test_pictures_of_any_contrast_are_stretched_from_black_to_white(grey: list[list[float]]) -> None:
    found = enhanced(torch.tensor(grey).expand(1, 3, 2, 2))
    assert found[0, 1].flatten().tolist() == pytest.approx([0, 1 / 3, 2 / 3, 1], abs=1e-5)


def test_contrast_is_about_the_mean_brightness_and_cut_off() -> None:
    # luminance of red, green, blue and white, rounded as published
    mean = (0.2989 + 0.587 + 0.114 + 0.9999) / 4
    colours = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]]).T.reshape(1, 3, 2, 2)
    found = enhanced(0.5 * colours)
    # half of all, once and a half, less half of the mean: the darkest is below 0, the brightest .75 less a quarter mean
    low, high = max(0.0, -0.25 * mean), 0.75 - 0.25 * mean
    expected = (np.clip(0.75 * colours.numpy() - 0.25 * mean, 0, 1) - low) / (high - low)
    assert found.numpy() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("clipstyler", {0: 5e-4, 98: 5e-4, 99: 2.5e-4, 100: 2.5e-4, 199: 1.25e-4, 200: 1.25e-4}),
        (
            "sem-cs-single",
            {0: 5e-4, 98: 5e-4, 99: 5e-4, 100: 2.5e-4, 199: 2.5e-4, 200: 1.25e-4, 400: 3.125e-5},
        ),
    ],
)
def test_rates_are_halved_when_the_programs_do_so(program: str, expected: dict[int, float]) -> None:
    early = PROGRAMS[program].early
    assert {step: rate(step, Procedure(), early) for step in expected} == pytest.approx(expected)


def test_variation_of_a_batch_is_that_of_one_large_image() -> None:
    image = torch.tensor([[0.0, 1, 2], [3, 5, 4], [8, 6, 7]], dtype=torch.float64)[None, None]
    assert float(joint_variation(image)) == pytest.approx(23.418777, abs=2e-6)
    assert float(joint_variation(torch.cat([image, image]))) == pytest.approx(33.119148, abs=3e-6)


def test_windows_have_the_object_if_it_is_in_a_fifth_of_their_rows_at_the_bottom() -> None:
    drawn = np.random.default_rng(0).random((23, 31)) < 0.02
    found = holds_object(drawn, 10)
    expected = [[drawn[y + 8 : y + 10, x : x + 10].any() for x in range(22)] for y in range(14)]
    assert np.array_equal(found, expected)


def test_windows_are_as_likely_as_when_one_is_drawn_after_the_other() -> None:
    holding = np.array([[True, True, True], [True, False, True], [True, True, False]])
    found = torch.zeros(3)
    for seed in range(2000):
        windows, which = draw_windows(holding, 3, 1, torch.Generator().manual_seed(seed))
        assert [bool(holding[y, x]) for x, y in windows.tolist()] == which.tolist()
        found += which
    # the first has it by 7/9, the second if the first has not, the third if neither has
    assert (found / 2000).tolist() == pytest.approx([7 / 9, 2 / 9 * 7 / 9, (2 / 9) ** 2 * 7 / 9], abs=0.03)


def test_where_no_window_is_without_the_object_nothing_is_drawn() -> None:
    with pytest.raises(ValueError, match="every window has the object"):
        draw_windows(np.ones((5, 5), bool), 10, 2, torch.Generator())
    whole = Aim(np.ones((SIDE, SIDE), bool), direction(1), [(mask(), direction(1))])
    with pytest.raises(ValueError, match="every window has the object"):
        fit("sem-cs-single", aim=whole)
    assert torch.isfinite(trained(fit("clipstyler", aim=whole), 2)).all()


def test_crops_are_those_of_torchvision() -> None:
    from torchvision.transforms import functional as transforms

    image = torch.rand(1, 3, 40, 50)
    corners = torch.tensor([[[1.0, 2], [14, 0], [12, 15], [3, 13]], [[0.0, 0], [15, 0], [15, 15], [0, 15]]])
    found = seen_of(image, torch.tensor([[7, 9], [30, 20]]), corners, 16, 32)
    start = [[0, 0], [15, 0], [15, 15], [0, 15]]
    warped = transforms.perspective(image[:, :, 9:25, 7:23], start, corners[0].tolist(), fill=[0.0, 0.0, 0.0])
    assert torch.allclose(found[0], transforms.resize(warped, [32, 32], antialias=False)[0], atol=1e-6)
    still = image[:, :, 20:36, 30:46]
    assert torch.allclose(found[1], transforms.resize(still, [32, 32], antialias=False)[0], atol=1e-5)


@pytest.mark.parametrize("program", sorted(PROGRAMS))
def test_terms_equal_plain_numpy_and_their_gradient_finite_differences(program: str) -> None:
    # without the threshold the term is smooth, and half of the crops may have the object
    found, about = fit(program, replace(HOW, threshold=-1.0)), PROGRAMS[program]
    found._most = min(found._most, 5)
    leaf = found._sight.image.clone().mul_(0.9).requires_grad_()
    losses, term = found._look_at_crops(leaf, found._sight, torch.Generator().manual_seed(4))
    draw = torch.Generator().manual_seed(4)
    windows, holding = draw_windows(found._holding, 10, found._most, draw)
    corners = draw_corners(windows, 16, draw)
    resized = nn.functional.interpolate(
        seen_of(leaf.detach(), windows, corners, 16, about.crop_size), (32, 32), mode="bicubic"
    )
    seen = found._seer.encode(resized).numpy()
    image = nn.functional.interpolate(found._sight.image, (32, 32), mode="bicubic")
    source = found._seer.encode(image).numpy()[0]
    if program == "sem-cs-double":
        source = np.exp(source) / np.exp(source).sum()
    ways = (seen - source) / np.linalg.norm(seen - source, axis=1, keepdims=True)
    by_draw = 1 - ways @ direction(1).numpy()
    ordered = [*by_draw[~holding.numpy()], *by_draw[holding.numpy()]]
    weighed = np.where(holding.numpy() & (program != "clipstyler"), 0.3, 1.0)
    assert losses.numpy() == pytest.approx(ordered)
    assert float(term) == pytest.approx(float((weighed * ordered).sum() / 10))
    view = found._look_at_view(leaf, found._sight)
    way = torch.randn(leaf.shape, generator=torch.Generator().manual_seed(8)).double()
    sides = []
    for sign in (1, -1):
        moved = (leaf.detach() + sign * 1e-6 * way).requires_grad_()
        moved_term = found._look_at_crops(moved, found._sight, torch.Generator().manual_seed(4))[1]
        sides.append(HOW.patch * float(moved_term) + HOW.view * float(found._look_at_view(moved, found._sight)))
    assert leaf.grad is not None
    assert float((leaf.grad * way).sum()) == pytest.approx((sides[0] - sides[1]) / 2e-6, rel=1e-4)
    assert np.isfinite(float(view))


@pytest.mark.parametrize("program", sorted(PROGRAMS))
def test_crops_in_groups_have_the_gradient_of_all_at_once(program: str) -> None:
    groups = [fit(program, replace(HOW, together=together)) for together in (10, 3)]
    first, second = (trained(each, 2) for each in groups)
    assert groups[0].history.total == pytest.approx(groups[1].history.total, abs=1e-8)
    assert torch.allclose(first, second, atol=1e-6)


def test_the_picture_is_that_before_the_last_update() -> None:
    assert torch.equal(trained(fit("clipstyler", replace(HOW, steps=4)), 4), trained(fit("clipstyler"), 3))


def test_a_fit_that_goes_on_is_the_one_that_was_not_interrupted() -> None:
    whole, first, second = (fit("sem-cs-double") for _ in range(3))
    trained(first, 2)
    second.go_on(first.state())
    assert torch.equal(trained(whole, 4), trained(second, 2))
    assert whole.history == second.history


def test_the_loss_falls() -> None:
    found = fit("clipstyler", replace(HOW, steps=25, crops=6))
    trained(found, 25)
    assert np.mean(found.history.total[-5:]) < 0.8 * np.mean(found.history.total[:5])
