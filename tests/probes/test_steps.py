"""Probes trained by steps: schedules, batches, balancing, and where they end."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from training_patches import cut, patches, probabilities, reference

from simsam_batch.probes import steps as steps_module
from simsam_batch.probes.balance import balanced, published_balance
from simsam_batch.probes.blocks import Block
from simsam_batch.probes.steps import IBOT_LEGACY, Steps, cosine_rate, fit_by_steps, published_rate

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_published_schedule_peaks_where_it_should_have_ended() -> None:
    rates = [published_rate(step) for step in range(4600)]
    peaks = [i for i in range(1, 200) if rates[i] > rates[i - 1] and rates[i] >= rates[i + 1]]
    assert peaks == [4, 95, 185]
    np.testing.assert_allclose([rates[i] for i in peaks], 1e-3)
    np.testing.assert_allclose(rates[:5], [0, 2.5e-4, 5e-4, 7.5e-4, 1e-3])
    assert rates[50] == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(rates[140:230], rates[50:140], atol=1e-12)
    assert np.mean(rates[:200]) == pytest.approx(5.3e-4, abs=0.05e-4)
    # Of runs of 500, 2300 and 4600 steps the first two end near 0 and the last near the top.
    assert [round(rates[i], 6) for i in (499, 2299)] == [1e-6, 1e-6]
    assert rates[4599] == pytest.approx(0.98e-3, abs=0.005e-3)


def test_the_published_schedule_is_that_of_its_recursion() -> None:
    # As published: each rate from the one before it, with lengths of 5 and 50 and a start and an end of 0.
    rate, rates = 0.0, []
    for step in range(400):
        if step in (0, 5):
            rate = 1e-3 * (step == 5)
        elif step < 5:
            rate += 1e-3 / 4
        elif (step - 1 - 50) % 90 == 0:
            rate += 1e-3 * (1 - np.cos(np.pi / 45)) / 2
        else:
            rate *= (1 + np.cos(np.pi * (step - 5) / 45)) / (1 + np.cos(np.pi * (step - 6) / 45))
        rates.append(rate)
    np.testing.assert_allclose([published_rate(step) for step in range(400)], rates, atol=1e-9)


def test_the_cosine_schedule_rises_over_its_warm_up_and_falls_once() -> None:
    rates = [cosine_rate(step, 50, 5, 2.0) for step in range(51)]
    np.testing.assert_allclose(rates[:6], [0.4, 0.8, 1.2, 1.6, 2.0, 2.0])
    assert (np.diff(rates[5:]) < 0).all()
    assert rates[50] == pytest.approx(0)
    assert cosine_rate(0, 10, 0, 1.0) == 1.0


def test_published_balancing_takes_the_first_patches_of_the_set() -> None:
    # 300 patches of foreground before 700 of background: the first 700 rows hold 300 and 400 of them.
    background = np.arange(1000) >= 300
    rows = published_balance(background, 1.0)
    assert rows.tolist() == [*range(300), *range(700)]
    assert (~background[rows]).sum() == 600
    assert background[rows].sum() == 400
    assert len(set(range(1000)) - set(rows.tolist())) == 300
    assert not background[published_balance(background, 0.2)].any()


@pytest.mark.parametrize(("share", "kept"), [(0.0, 0), (0.29, 29), (0.5, 50), (0.999, 99)])
def test_balancing_keeps_all_foreground_and_the_floor_of_the_share(share: float, kept: int) -> None:
    background = np.arange(130) % 13 >= 3
    assert background.sum() == 100
    rows = balanced(background, share, 7)
    assert background[rows].sum() == kept
    assert (~background[rows]).sum() == 30
    assert (np.diff(rows) > 0).all()
    np.testing.assert_array_equal(rows, balanced(background, share, 7))


def test_balancing_keeps_every_row_at_a_share_of_1_and_draws_by_the_seed() -> None:
    background = np.random.default_rng(0).random(400) < 0.7
    np.testing.assert_array_equal(balanced(background, 1.0, 3), np.arange(400))
    assert balanced(background, 0.5, 3).tolist() != balanced(background, 0.5, 4).tolist()
    # Each patch of background is as likely as another: 200 draws of a half, deviations of 7.
    drawn = sum(np.isin(np.arange(400), balanced(background, 0.5, seed)) for seed in range(200))
    assert abs(drawn[background] - 100).max() < 36


def test_a_share_that_is_none_is_refused() -> None:
    for share in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="not between 0 and 1"):
            balanced(np.ones(3, dtype=np.bool_), share, 0)
    with pytest.raises(ValueError, match="a bool vector"):
        published_balance(np.ones(3), 1.0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "how", [Steps(learning_rate=0.05, batch=64), Steps(solver="sgd", learning_rate=0.3, weight_decay=0.0, batch=64)]
)
def test_both_solvers_come_near_the_optimum_without_penalty(how: Steps) -> None:
    whole = patches(600, channels=6)
    (probe,) = fit_by_steps(cut(whole, [200, 500]), 4, how, seed=0)
    least, expected = reference(whole, 1e-6)
    logs = probe.logits(whole.features[0]).log_softmax(dim=1)
    loss = float(-(whole.weights[:, None] * whole.targets * logs).sum() / whole.weights.sum())
    assert least - 1e-3 <= loss < least + 0.02
    assert np.abs(probabilities(probe, whole.features[0]) - expected).mean() < 0.02
    assert probe.iterations == 50 * 10
    assert probe.objective == pytest.approx(loss, abs=0.02)


def test_legacy_steps_are_those_of_pytorchs_own_layer_and_optimiser() -> None:
    whole = patches(70)
    calm = Block([whole.features[0] / 20], whole.targets, torch.ones(70))
    how = replace(IBOT_LEGACY, batch=30, epochs=4, warm_up_epochs=0)
    (probe,) = fit_by_steps(cut(calm, [11, 50]), 4, how, seed=3)
    generator = torch.Generator().manual_seed(3)
    layer = torch.nn.Linear(12, 4)
    for parameter in (layer.weight, layer.bias):
        parameter.data.uniform_(-(12**-0.5), 12**-0.5, generator=generator)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.0, momentum=0.9)
    # 70 rows make three parts of at most 24.
    for step in range(12):
        part = slice(24 * (step % 3), 24 * (step % 3) + 24)
        optimizer.param_groups[0]["lr"] = published_rate(step)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(layer(calm.features[0][part]), calm.targets[part]).backward()
        optimizer.step()
    assert probe.iterations == 12
    np.testing.assert_allclose(probe.weight, layer.weight.detach(), atol=1e-6)
    np.testing.assert_allclose(probe.bias, layer.bias.detach(), atol=1e-6)


def test_legacy_is_as_published() -> None:
    assert (IBOT_LEGACY.solver, IBOT_LEGACY.momentum, IBOT_LEGACY.weight_decay) == ("sgd", 0.9, 0.0)
    assert (IBOT_LEGACY.learning_rate, IBOT_LEGACY.epochs, IBOT_LEGACY.batch) == (1e-3, 50, 3136)
    assert (IBOT_LEGACY.schedule, IBOT_LEGACY.shuffle, IBOT_LEGACY.standardise) == ("published", False, False)


def test_equal_seeds_give_equal_bits_and_others_do_not() -> None:
    whole = patches(200)
    how = Steps(batch=32, epochs=2, warm_up_epochs=1)
    one, again, other = (fit_by_steps(cut(whole, [90]), 4, how, seed=seed)[0] for seed in (0, 0, 1))
    assert torch.equal(one.weight, again.weight)
    assert not torch.equal(one.weight, other.weight)


@pytest.mark.parametrize("shuffle", [True, False])
def test_every_row_comes_once_an_epoch_and_only_the_last_batch_is_smaller(
    shuffle: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps_module, "POOL_ROWS", 60)
    numbers = torch.arange(250.0)
    whole = Block([numbers[:, None]], torch.ones(250, 1), numbers + 1)
    generator = torch.Generator().manual_seed(0) if shuffle else None
    found = list(steps_module._batches(cut(whole, [3, 100, 101, 199]), 16, generator, lambda: None))
    assert [len(batch.weights) for batch in found] == [16] * 15 + [10]
    rows = torch.cat([batch.features[0][:, 0] for batch in found])
    assert torch.equal(rows.sort().values, numbers)
    assert torch.equal(rows, numbers) != shuffle
    assert torch.equal(torch.cat([batch.weights for batch in found]), rows + 1)


@pytest.mark.parametrize(
    "change", [{"solver": "adam"}, {"schedule": "linear"}, {"batch": 0}, {"epochs": 0}, {"warm_up_epochs": 51}]
)
def test_steps_that_make_no_sense_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"batch=|solver="):
        Steps(**change)  # type: ignore[arg-type]
