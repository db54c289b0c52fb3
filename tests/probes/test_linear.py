"""Linear probes: their optimum against SciPy and scikit-learn, and what it does not depend on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from training_patches import cut, patches, probabilities, reference, standardised

from simsam_batch.probes import blocks as blocks_module
from simsam_batch.probes.blocks import Block
from simsam_batch.probes.linear import UNSEEN, LinearProbe, fit_linear

pytestmark = pytest.mark.usefixtures("one_thread")


def fit_one(whole: Block, l2: float, at: Sequence[int] = (), **options: float) -> LinearProbe:
    ((probe,),) = fit_linear(cut(whole, at), whole.targets.shape[1], [l2], **options)  # type: ignore[arg-type]
    return probe


@pytest.mark.parametrize("l2", [1e-1, 1e-3, 1e-4])
def test_the_optimum_is_that_of_scipy_in_float64(l2: float) -> None:
    whole = patches()
    value, expected = reference(whole, l2)
    probe = fit_one(whole, l2, [400, 1100])
    assert probe.converged
    assert probe.objective == pytest.approx(value, abs=1e-6)
    np.testing.assert_allclose(probabilities(probe, whole.features[0]), expected, atol=1e-4)


def test_hard_labels_give_the_optimum_of_scikit_learn() -> None:
    drawn = patches()
    labels = drawn.targets.argmax(dim=1)
    whole = replace(drawn, targets=torch.nn.functional.one_hot(labels, 4).float())
    # scikit-learn weighs the sum of losses by C against |W|^2 / 2; here their mean stands against l2 / 2 |W|^2.
    x = standardised(whole.features[0], whole.weights)
    theirs = LogisticRegression(C=1 / (1e-2 * float(whole.weights.double().sum())), tol=1e-8, max_iter=2000)
    theirs.fit(x, labels.numpy(), sample_weight=whole.weights.numpy().astype(np.float64))
    probe = fit_one(whole, 1e-2)
    np.testing.assert_allclose(probabilities(probe, whole.features[0]), theirs.predict_proba(x), atol=1e-4)


def test_soft_labels_are_as_good_as_a_row_for_every_class_with_its_share_as_weight() -> None:
    whole = patches(600)
    x = standardised(whole.features[0], whole.weights)
    rows = (whole.weights[:, None] * whole.targets).double().numpy()
    theirs = LogisticRegression(C=1 / (1e-2 * float(whole.weights.double().sum())), tol=1e-8, max_iter=2000)
    theirs.fit(x.repeat(4, axis=0), np.tile(np.arange(4), 600), sample_weight=rows.ravel())
    probe = fit_one(whole, 1e-2)
    np.testing.assert_allclose(probabilities(probe, whole.features[0]), theirs.predict_proba(x), atol=1e-4)


def test_soft_cross_entropy_is_that_of_all_pixels() -> None:
    # Patches of 20 pixels, some of them void: the mean over pixels that count, one at a time, at the fit's optimum.
    whole = patches(40)
    pixels = torch.round(whole.targets * 15 * whole.weights[:, None] + 0.3)
    pixels[:, 0] += 1
    counted = pixels.sum(dim=1)
    whole = Block(whole.features, pixels / counted[:, None], counted / 20)
    probe = fit_one(whole, 1e-1)
    logs = log_softmax(probe.logits(whole.features[0]).double().numpy(), axis=1)
    losses = [-logs[i, c] for i in range(40) for c in range(4) for _ in range(int(pixels[i, c]))]
    deviation = torch.from_numpy(
        np.sqrt(np.cov(whole.features[0].double().numpy().T, aweights=whole.weights.numpy(), ddof=0).diagonal())
    )
    penalty = 1e-1 / 2 * float((probe.weight.double() * deviation).square().sum())
    assert probe.objective == pytest.approx(np.mean(losses) + penalty, abs=1e-6)


def test_neither_the_order_of_rows_nor_their_blocks_move_the_optimum() -> None:
    whole = patches()
    one = fit_one(whole, 1e-2, tolerance=1e-12)
    order = torch.from_numpy(np.random.default_rng(5).permutation(len(whole.weights)))
    shuffled = Block([whole.features[0][order]], whole.targets[order], whole.weights[order])
    for other in (fit_one(shuffled, 1e-2, tolerance=1e-12), fit_one(whole, 1e-2, [1, 7, 700], tolerance=1e-12)):
        assert other.objective == pytest.approx(one.objective, abs=1e-6)
        np.testing.assert_allclose(
            probabilities(other, whole.features[0]), probabilities(one, whole.features[0]), atol=1e-5
        )


def test_where_the_rows_lie_in_memory_does_not_change_a_bit() -> None:
    whole = patches(500)

    def moved(tensor: Tensor) -> Tensor:
        room = torch.empty(tensor.numel() + 1, dtype=tensor.dtype)
        room[1:] = tensor.flatten()
        return room[1:].view(tensor.shape)

    def read_anew() -> Iterator[Block]:
        for part in cut(whole, [200])():
            yield Block([moved(f) for f in part.features], moved(part.targets), moved(part.weights))

    ((first,),), ((second,),) = (fit_linear(source, 4, [1e-3]) for source in (cut(whole, [200]), read_anew))
    assert torch.equal(first.weight, second.weight)
    assert torch.equal(first.bias, second.bias)
    assert first.objective == second.objective


def test_problems_fitted_together_are_those_fitted_alone() -> None:
    whole = patches(800)
    wide = torch.cat([whole.features[0], whole.features[0].square()], dim=1)
    both = replace(whole, features=[whole.features[0], wide.half()])
    found = fit_linear(cut(both, [300]), 4, [1e-1, 1e-3])
    for features, row in zip(both.features, found, strict=True):
        for l2, probe in zip([1e-1, 1e-3], row, strict=True):
            value, expected = reference(replace(whole, features=[features]), l2)
            assert probe.l2 == l2
            assert probe.objective == pytest.approx(value, abs=1e-6)
            np.testing.assert_allclose(probabilities(probe, features), expected, atol=2e-4)


def test_problems_that_have_ended_are_not_evaluated_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from simsam_batch.probes import linear

    whole = patches(300)
    sizes: list[int] = []
    held = linear.StackedClassifiers

    def counted(standard: object, parameters: Sequence[Tensor], device: torch.device) -> object:
        sizes.append(len(parameters))
        return held(standard, parameters, device)  # type: ignore[arg-type]

    monkeypatch.setattr(linear, "StackedClassifiers", counted)
    ((strong, weak),) = fit_linear(cut(whole, []), 4, [10.0, 1e-5])
    assert strong.iterations < weak.iterations
    assert sizes[0] == 2
    assert sizes[-1] == 1
    assert sizes == sorted(sizes, reverse=True)


def test_parts_of_a_block_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = patches(700)
    one = fit_one(whole, 1e-2)
    monkeypatch.setattr(blocks_module, "_ENTRIES_ON_CPU", 1)
    monkeypatch.setattr(blocks_module, "_FEWEST_ROWS", 64)
    assert fit_one(whole, 1e-2).objective == pytest.approx(one.objective, abs=1e-7)


def test_a_constant_channel_and_one_far_from_zero_do_no_harm() -> None:
    whole = patches(600)
    x = whole.features[0].clone()
    x[:, 3] = 7.1
    x[:, 5] = 1000 + x[:, 5]
    changed = replace(whole, features=[x])
    value, _ = reference(changed, 1e-2)
    probe = fit_one(changed, 1e-2)
    assert probe.objective == pytest.approx(value, abs=1e-6)
    np.testing.assert_allclose(probe.weight[:, 3], 0, atol=1e-6)


def test_a_class_that_no_patch_has_gets_no_probability_and_changes_nothing() -> None:
    whole = patches(400)
    wider = replace(whole, targets=torch.cat([whole.targets[:, :2], torch.zeros(400, 1), whole.targets[:, 2:]], dim=1))
    without, probe = fit_one(whole, 1e-2), fit_one(wider, 1e-2)
    assert probe.bias[2] == UNSEEN
    assert not probe.weight[2].any()
    shares = probabilities(probe, whole.features[0])
    assert (shares[:, 2] == 0).all()
    np.testing.assert_allclose(shares[:, [0, 1, 3, 4]], probabilities(without, whole.features[0]), atol=1e-4)


def test_one_class_alone_is_certain_at_once() -> None:
    whole = patches(50)
    alone = replace(whole, targets=torch.nn.functional.one_hot(torch.ones(50, dtype=torch.int64), 3).float())
    probe = fit_one(alone, 1e-2)
    assert (probe.iterations, probe.converged) == (0, True)
    assert probe.objective == pytest.approx(0, abs=1e-6)
    np.testing.assert_array_equal(probabilities(probe, whole.features[0]).argmax(axis=1), 1)


def test_features_without_information_leave_the_shares_of_the_classes() -> None:
    # Weighted shares by hand: (1 * 1 + 0.5 * 0.5) / 1.5 of class 0.
    targets = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    probe = fit_one(Block([torch.ones(2, 3)], targets, torch.tensor([1.0, 0.5])), 1e-3)
    np.testing.assert_allclose(probabilities(probe, torch.ones(1, 3)), [[1.25 / 1.5, 0.25 / 1.5]], atol=1e-6)


def test_a_fit_that_is_stopped_says_so() -> None:
    probe = fit_one(patches(300), 1e-4, iterations=3)
    assert (probe.iterations, probe.converged) == (3, False)


def test_large_logits_neither_overflow_nor_stop_the_descent() -> None:
    # Two classes apart by a single channel: without much penalty logits grow until they count for themselves.
    x = torch.linspace(-1, 1, 200)[:, None]
    targets = torch.nn.functional.one_hot((x[:, 0] > 0).long(), 2).float()
    whole = Block([x], targets, torch.ones(200))
    probe = fit_one(whole, 1e-7, iterations=500)
    value, _ = reference(whole, 1e-7)
    assert float(probe.logits(x).abs().max()) > 80
    assert probe.objective == pytest.approx(value, abs=1e-5)


def test_the_fit_shows_that_it_is_alive_after_every_block() -> None:
    beats: list[int] = []
    fit_linear(cut(patches(100), [30, 60]), 4, [1e-2], iterations=1, beat=lambda: beats.append(1))
    assert len(beats) >= 3 * 3
    assert len(beats) % 3 == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": torch.full((100, 4), 0.5)}, "block 0 .* no shares with the sum 1"),
        ({"targets": torch.full((100, 3), 1 / 3)}, "would fit together"),
        ({"weights": torch.zeros(100)}, "leave out patches of which no pixel counts"),
        ({"features": [torch.full((100, 2), torch.inf)]}, "block 0 .* not finite"),
        ({"features": [torch.ones(99, 2)]}, "would fit together"),
        ({"features": []}, "would fit together"),
    ],
)
def test_blocks_that_do_not_fit_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_linear(cut(replace(patches(100), **change), []), 4, [1e-2])  # type: ignore[arg-type]


def test_no_patch_and_no_penalty_are_refused() -> None:
    whole = patches(100)
    with pytest.raises(ValueError, match="no training patch"):
        fit_linear(list, 4, [1e-2])
    for l2 in ([], [0.0], [1e-2, -1.0], [float("nan")]):
        with pytest.raises(ValueError, match="above 0"):
            fit_linear(cut(whole, []), 4, l2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_finds_the_same_optimum() -> None:
    whole = patches()
    there = Block([f.cuda() for f in whole.features], whole.targets.cuda(), whole.weights.cuda())
    here, probe = fit_one(whole, 1e-3), fit_one(there, 1e-3)
    assert probe.objective == pytest.approx(here.objective, abs=1e-6)
    np.testing.assert_allclose(
        probabilities(probe, whole.features[0]), probabilities(here, whole.features[0]), atol=1e-4
    )
