"""Heads against a plain PyTorch training loop, hand-made warps and derived distributions."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from simsam_batch.spectral.affinity import combine, feature_affinity, head_affinity, normalize_rows
from simsam_batch.spectral.descent import Heads, Schedule, descend
from simsam_batch.spectral.head import (
    initial_heads,
    mean_pairwise_cosine,
    paired_schedule,
    train_head,
    unpaired_schedule,
    upstream_head,
)
from simsam_batch.spectral.linear import Linear, Precision, RoundedLinear, cuda_tf32
from simsam_batch.spectral.views import random_affine, upstream_view, warp

GRID = (12, 16)


pytestmark = pytest.mark.usefixtures("one_thread")


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def objects_on_backgrounds(batch: int, width: int = 24, seed: int = 0) -> Tensor:
    """Unit features of images with four regions: neighbours look alike, as in a photograph; ``(B, 192, C)``."""
    source = torch.Generator().manual_seed(seed)
    rows, columns = torch.meshgrid(torch.arange(GRID[0]), torch.arange(GRID[1]), indexing="ij")
    region = (2 * (rows > 4) + (columns > 9)).flatten()
    centres = torch.randn(batch, 4, width, generator=source)
    noise = torch.randn(batch, region.numel(), width, generator=source)
    return functional.normalize(centres[:, region] + 0.3 * noise, dim=-1)


def masks(batch: int, seed: int = 5) -> Tensor:
    """A different number of valid patches in every image."""
    uniform = torch.rand(batch, math.prod(GRID), generator=torch.Generator().manual_seed(seed))
    return uniform > torch.linspace(0.0, 0.2, batch)[:, None]


def autograd_reference(
    heads: Heads, alpha: Tensor, beta: Tensor, order: list[tuple[list[int], list[int]]], learning_rate: float
) -> tuple[list[Tensor], list[float]]:
    """One image trained by autograd, as one would write it down from the paper; returns parameters and losses."""
    width = alpha.shape[1]
    psi, pi = nn.Linear(width, width, dtype=alpha.dtype), nn.Linear(width, width, dtype=alpha.dtype)
    with torch.no_grad():
        psi.weight.copy_(heads.projector[0].T)
        psi.bias.copy_(heads.projector_bias[0, 0])
        pi.weight.copy_(heads.predictor[0].T)
        pi.bias.copy_(heads.predictor_bias[0, 0])
    psi_sgd = torch.optim.SGD(psi.parameters(), lr=learning_rate)
    pi_sgd = torch.optim.SGD(pi.parameters(), lr=learning_rate)
    losses = []
    for alpha_rows, beta_rows in order:
        z_alpha, z_beta = functional.elu(psi(alpha[alpha_rows])), functional.elu(psi(beta[beta_rows]))
        p_alpha, p_beta = pi(z_alpha), pi(z_beta)
        loss = -0.5 * (
            functional.cosine_similarity(p_alpha, z_beta.detach(), dim=1).mean()
            + functional.cosine_similarity(p_beta, z_alpha.detach(), dim=1).mean()
        )
        psi_sgd.zero_grad()
        pi_sgd.zero_grad()
        loss.backward()
        psi_sgd.step()
        pi_sgd.step()
        losses.append(loss.item())
    return [psi.weight.T, psi.bias[None], pi.weight.T, pi.bias[None]], losses


def test_closed_form_descent_equals_autograd_in_double_precision_for_every_image_of_a_batch() -> None:
    batch, count, width, patches = 3, 23, 7, 4
    alpha, beta = torch.randn(2, batch, count, width, dtype=torch.float64, generator=generators(0)[0]).unbind(0)
    # Image b has 6 - b steps of its own, its last step is short; the two views visit different rows.
    orders = []
    for image in range(batch):
        draw = generators(image)[0]
        orders.append(
            [
                (torch.randperm(count, generator=draw)[:n].tolist(), torch.randperm(count, generator=draw)[:n].tolist())
                for n in [patches] * (5 - image) + [1 + image]
            ]
        )
    table = torch.full((2, batch, 6, patches), -1)
    for image, order in enumerate(orders):
        for step, rows in enumerate(order):
            for view in range(2):
                table[view, image, step, : len(rows[view])] = torch.tensor(rows[view])
    heads = initial_heads(generators(1, 2, 3), alpha)
    start = Heads(*(getattr(heads, name).clone() for name in Heads.__slots__))
    schedule = Schedule(table[0], table[1], torch.tensor([6, 5, 4]), 1)

    cosines = descend(heads, alpha, beta, schedule, learning_rate=0.5)

    for image, order in enumerate(orders):
        one = Heads(*(getattr(start, name)[image : image + 1] for name in Heads.__slots__))
        expected, losses = autograd_reference(one, alpha[image], beta[image], order, learning_rate=0.5)
        for name, parameter in zip(Heads.__slots__, expected, strict=True):
            torch.testing.assert_close(getattr(heads, name)[image], parameter.detach(), rtol=0, atol=1e-8)
        for step, (rows, _) in enumerate(order):
            assert -cosines[step, image, :, : len(rows)].mean().item() == pytest.approx(losses[step], abs=1e-10)


def test_the_default_training_equals_an_autograd_loop_over_the_same_draws() -> None:
    features, seed = objects_on_backgrounds(1).double(), 11
    valid = masks(2)[1:]
    output = train_head(features, GRID, valid, [seed], epochs=3)

    # The documented order of an image's random numbers: affine, A, a, G, g, permutations.
    draw = generators(seed)[0]
    affine = random_affine([draw], GRID, scale=(0.8, 1.2), translate=0.1, rotate=15.0, shear=0.0)
    bound = 24**-0.5
    heads = Heads(*(torch.empty(1, n, 24).uniform_(-bound, bound, generator=draw).double() for n in (24, 1, 24, 1)))
    beta = warp(features, GRID, affine)
    pairs = (valid[0] & (warp(valid[:, :, None].double(), GRID, affine)[0, :, 0] > 0.999)).nonzero()[:, 0]
    order = []
    for _ in range(3):
        shuffled = pairs[torch.randperm(len(pairs), generator=draw)]
        order += [(rows.tolist(), rows.tolist()) for rows in shuffled.split(32)]
    (a, a_bias, g, g_bias), losses = autograd_reference(heads, features[0], beta[0], order, learning_rate=0.96)

    expected = (functional.elu(features[0] @ a + a_bias) @ g + g_bias).detach()
    torch.testing.assert_close(output.outputs[0], expected, rtol=0, atol=1e-8)
    sizes = np.array([len(rows) for rows, _ in order], dtype=float)
    epoch = len(order) // 3
    assert output.loss_first.item() == pytest.approx(np.average(losses[:epoch], weights=sizes[:epoch]), abs=1e-8)
    assert output.loss_last.item() == pytest.approx(np.average(losses[-epoch:], weights=sizes[-epoch:]), abs=1e-8)


def test_training_lowers_the_loss_moves_the_parameters_and_does_not_collapse() -> None:
    features = objects_on_backgrounds(4)
    seeds = [1, 2, 3, 4]
    output = train_head(features, GRID, masks(4), seeds)
    assert bool((output.loss_last < output.loss_first - 0.02).all())
    assert bool((output.collapse < 0.99).all())
    still = train_head(features, GRID, masks(4), seeds, learning_rate=0.0)
    assert bool(((output.outputs - still.outputs).abs().amax((1, 2)) > 0.1).all())


def test_permuting_one_view_raises_the_loss_of_trained_heads() -> None:
    features = objects_on_backgrounds(6)
    seeds = range(6)
    affine = random_affine(generators(*seeds), GRID, scale=(0.9, 1.1), translate=0.05, rotate=10.0, shear=0.0)
    beta = warp(features, GRID, affine)
    schedule = paired_schedule(torch.ones(6, 192, dtype=torch.bool), generators(*seeds), 32, 10)
    heads = initial_heads(generators(*seeds), features)
    descend(heads, features, beta, schedule, 0.96)
    elsewhere = torch.randperm(192, generator=generators(7)[0])
    paired, permuted = (
        -descend(heads, features, view, schedule, 0.0).mean((0, 2, 3)) for view in (beta, beta[:, elsewhere])
    )
    assert bool((permuted > paired + 0.02).all())


def test_pairs_of_unrelated_patches_drive_heads_towards_collapse() -> None:
    # What upstream's two independent shuffles do, here with nothing else changed.
    features, everything = objects_on_backgrounds(6), torch.ones(6, 192, dtype=torch.bool)
    collapse = []
    for schedule in (
        paired_schedule(everything, generators(*range(6)), 2, 10),
        unpaired_schedule(192, generators(*range(6)), 2, 10),
    ):
        heads = initial_heads(generators(*range(6)), features)
        descend(heads, features, features, schedule, 0.06)
        collapse.append(mean_pairwise_cosine(heads.predict(heads.project(features)), everything))
    assert bool((collapse[1] > collapse[0] + 0.05).all())


def test_the_collapse_number_tells_published_rates_with_large_steps_from_the_defaults() -> None:
    features, valid, seeds = objects_on_backgrounds(6), torch.ones(6, 192, dtype=torch.bool), range(6)
    good = train_head(features, GRID, valid, seeds)
    bad = train_head(features, GRID, valid, seeds, patches_per_step=64, learning_rate=0.06)
    assert bad.collapse.mean() > good.collapse.mean() + 0.1


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_image_alone_gives_the_same_bits_as_in_a_batch_on_the_cpu_default(precision: Precision) -> None:
    features, valid, seeds = objects_on_backgrounds(5), masks(5), [9, 8, 7, 6, 5]
    together = train_head(features, GRID, valid, seeds, precision=precision)
    for image in range(5):
        one = slice(image, image + 1)
        alone = train_head(features[one], GRID, valid[one], seeds[one], precision=precision)
        for name in ("outputs", "collapse", "loss_first", "loss_last"):
            assert torch.equal(getattr(alone, name), getattr(together, name)[one])


def test_images_trained_as_one_group_differ_from_single_ones_by_rounding_only() -> None:
    features, valid, seeds = objects_on_backgrounds(5), masks(5), [9, 8, 7, 6, 5]
    single = train_head(features, GRID, valid, seeds)
    group = train_head(features, GRID, valid, seeds, group=5)
    for name in ("outputs", "collapse", "loss_first", "loss_last"):
        torch.testing.assert_close(getattr(group, name), getattr(single, name), rtol=1e-5, atol=1e-5)


def test_one_step_of_a_layer_rounds_operands_to_bf16_and_keeps_its_parameters() -> None:
    # bf16 has 7 bits of mantissa: 1 + 2^-9 becomes 1 as an operand; bias and parameters keep their 2^-12.
    odd, small = 1 + 2**-9, 2**-12
    for layer, y, dx, w in (
        # y = x w + b, dx = dy w, w - rate x dy with x = w = odd, b = rate = small, dy = 1; exact in float64.
        (Linear, odd * odd + small, odd, odd - small * odd),
        (RoundedLinear, 1 + small, 1.0, odd - small),
    ):
        weight, inputs = (torch.full((1, 1, 1), odd, dtype=torch.float64) for _ in range(2))
        bias, back, out = torch.full((3, 1, 1, 1), small, dtype=torch.float64).unbind(0)
        one = layer(weight, bias, inputs)
        one.forward(out=out)
        one.step(torch.ones_like(out), small, back=back)
        assert (out.item(), back.item(), weight.item(), bias.item()) == (y, dx, w, 0.0)


def pairwise_cosines(outputs: Tensor) -> Tensor:
    """Centred pairwise cosines of every image's patches, one row an image: what the affinity takes from a head."""
    unit = functional.normalize(outputs.double(), dim=-1)
    cosines = (unit @ unit.mT).flatten(1)
    return cosines - cosines.mean(1, keepdim=True)


def test_bf16_trains_heads_that_relate_patches_as_fp32_does_but_are_not_the_same() -> None:
    features, valid, seeds = objects_on_backgrounds(4), masks(4), [1, 2, 3, 4]
    fp32 = train_head(features, GRID, valid, seeds)
    bf16 = train_head(features, GRID, valid, seeds, precision="bf16")
    initial = train_head(features, GRID, valid, seeds, learning_rate=0.0)
    assert bf16.outputs.dtype == torch.float32
    assert bool(((bf16.outputs - fp32.outputs).abs().amax((1, 2)) > 1e-4).all())
    for name in ("loss_first", "loss_last", "collapse"):
        torch.testing.assert_close(getattr(bf16, name), getattr(fp32, name), rtol=0, atol=0.01)
    alike, before = (
        functional.cosine_similarity(pairwise_cosines(other.outputs), pairwise_cosines(fp32.outputs))
        for other in (bf16, initial)
    )
    # The bound is one that the initial heads miss by far.
    assert bool((alike > 0.999).all())
    assert bool((before < 0.98).all())


def test_the_loss_curve_in_bf16_follows_that_in_fp32() -> None:
    features = objects_on_backgrounds(3)
    schedule = paired_schedule(torch.ones(3, 192, dtype=torch.bool), generators(1, 2, 3), 32, 10)
    beta = features.roll(1, 1)
    curves = []
    precisions: tuple[Precision, ...] = ("fp32", "bf16")
    for precision in precisions:
        heads = initial_heads(generators(1, 2, 3), features)
        curves.append(-descend(heads, features, beta, schedule, 0.96, precision=precision).mean((2, 3)))
    assert bool((curves[0][-6:].mean(0) < curves[0][:6].mean(0) - 0.02).all())
    torch.testing.assert_close(curves[1], curves[0], rtol=0, atol=0.01)
    assert not torch.equal(curves[1], curves[0])


def test_steps_smaller_than_the_spacing_of_bf16_are_not_lost() -> None:
    # Parameters up to 24^-1/2 = 0.2 have neighbours 2^-10 away in bf16; sixty steps move them by less in all.
    features = objects_on_backgrounds(2)
    schedule = paired_schedule(torch.ones(2, 192, dtype=torch.bool), generators(1, 2), 32, 10)
    moved = []
    precisions: tuple[Precision, ...] = ("fp32", "bf16")
    for precision in precisions:
        heads = initial_heads(generators(1, 2), features)
        before = torch.cat((heads.projector, heads.predictor), 1)
        descend(heads, features, features.roll(1, 1), schedule, 1e-4, precision=precision)
        moved.append((torch.cat((heads.projector, heads.predictor), 1) - before).flatten(1))
    assert bool((moved[0].abs().amax(1) < 2**-10).all())
    assert bool((functional.cosine_similarity(*moved) > 0.999).all())


def test_on_a_cpu_tf32_is_fp32() -> None:
    features, valid = objects_on_backgrounds(2), masks(2)
    fp32, tf32 = (train_head(features, GRID, valid, [1, 2], precision=p) for p in ("fp32", "tf32"))
    assert torch.equal(fp32.outputs, tf32.outputs)


def test_the_notebooks_training_takes_the_precision_too() -> None:
    features = objects_on_backgrounds(1)
    fp32, bf16 = (upstream_head(features, GRID, [1], train=True, epochs=2, precision=p) for p in ("fp32", "bf16"))
    assert bool((fp32.outputs - bf16.outputs).abs().max() > 1e-4)
    torch.testing.assert_close(bf16.loss_last, fp32.loss_last, rtol=0, atol=0.01)


@pytest.mark.parametrize("process", [False, True])
@pytest.mark.parametrize("allowed", [False, True])
def test_tf32_is_as_asked_inside_and_as_the_process_has_it_after_an_exception(process: bool, allowed: bool) -> None:
    # The setting can be read and written without a CUDA device.
    def interrupted() -> None:
        with cuda_tf32(torch.device("cuda"), allowed=allowed):
            assert tf32_is_allowed() == allowed
            raise RuntimeError("in between")

    matmul = torch.backends.cuda.matmul
    original, matmul.allow_tf32 = matmul.allow_tf32, process
    try:
        with pytest.raises(RuntimeError, match="in between"):
            interrupted()
        assert matmul.allow_tf32 == tf32_is_allowed() == process
        with cuda_tf32(torch.device("cpu"), allowed=allowed):
            assert tf32_is_allowed() == process
    finally:
        matmul.allow_tf32 = original


@pytest.mark.parametrize(("precision", "allowed"), [("fp32", False), ("tf32", True), ("bf16", False)])
def test_products_of_a_cuda_device_are_launched_with_tf32_only_if_it_was_asked_for(
    precision: Precision, allowed: bool
) -> None:
    # Fake tensors say they are on a GPU and compute nothing, so this holds without one. They also refuse every read
    # of a number from the device, as the step loop must.
    class Recorder(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.products: list[tuple[bool, torch.dtype]] = []

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            if func.overloadpacket in (torch.ops.aten.bmm, torch.ops.aten.baddbmm, torch.ops.aten.baddbmm_):
                self.products.append((tf32_is_allowed(), args[-1].dtype))
            return func(*args, **(kwargs or {}))

    schedule = paired_schedule(torch.ones(2, 192, dtype=torch.bool), generators(1, 2), 32, 1)
    matmul = torch.backends.cuda.matmul
    original, matmul.allow_tf32 = matmul.allow_tf32, not allowed
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), Recorder() as recorder:
            features = torch.empty(2, 192, 24, device="cuda")
            heads = Heads(*(torch.empty(2, n, 24, device="cuda") for n in (24, 1, 24, 1)))
            descend(heads, features, features, schedule, 0.96, precision=precision)
    finally:
        matmul.allow_tf32 = original
    # Six steps of five products with matrices and two sums for the biases.
    assert len(recorder.products) == 6 * 7
    assert {found for found, _ in recorder.products} == {allowed}
    in_bf16 = sum(dtype == torch.bfloat16 for _, dtype in recorder.products)
    assert in_bf16 == (6 * 5 if precision == "bf16" else 0)


def tf32_is_allowed() -> bool:
    """What float32 products on CUDA do now, under either name of the setting."""
    matmul = torch.backends.cuda.matmul
    return matmul.fp32_precision == "tf32" if hasattr(matmul, "fp32_precision") else matmul.allow_tf32


def test_the_number_of_tensor_operations_does_not_grow_with_the_batch() -> None:
    class Counter(TorchDispatchMode):
        calls = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            self.calls += 1
            return func(*args, **(kwargs or {}))

    def calls(batch: int, epochs: int) -> int:
        features = objects_on_backgrounds(batch)
        heads = initial_heads(generators(*range(batch)), features)
        schedule = paired_schedule(torch.ones(batch, 192, dtype=torch.bool), generators(*range(batch)), 32, epochs)
        with Counter() as counter:
            descend(heads, features, features, schedule, 0.96)
        return counter.calls

    six_steps = [calls(batch, 2) - calls(batch, 1) for batch in (1, 8)]
    assert six_steps[0] == six_steps[1]
    assert six_steps[0] <= 6 * 45


def test_steps_without_a_patch_leave_an_images_head_as_it_is() -> None:
    features = objects_on_backgrounds(2)
    order = torch.arange(8).view(1, 2, 4).repeat(2, 1, 1)
    order[1] = -1
    heads = initial_heads(generators(1, 2), features)
    before = Heads(*(getattr(heads, name).clone() for name in Heads.__slots__))
    descend(heads, features, features, Schedule(order, order, torch.tensor([2, 0]), 1), 0.96)
    for name in Heads.__slots__:
        assert torch.equal(getattr(heads, name)[1], getattr(before, name)[1])
        assert not torch.equal(getattr(heads, name)[0], getattr(before, name)[0])


def test_an_image_without_a_pair_keeps_its_initial_head_and_reports_no_loss() -> None:
    features = objects_on_backgrounds(2)
    valid = torch.ones(2, 192, dtype=torch.bool)
    valid[1] = False
    for group in (1, 2):
        output = train_head(features, GRID, valid, [1, 2], group=group)
        assert output.loss_first.isnan().tolist() == [False, True]
        assert output.collapse.isnan().tolist() == [False, True]
        initial = train_head(features, GRID, valid, [1, 2], learning_rate=0.0)
        torch.testing.assert_close(output.outputs[1], initial.outputs[1], rtol=1e-5, atol=1e-6)


def test_invalid_patches_have_no_influence_on_the_others() -> None:
    features, valid = objects_on_backgrounds(2), masks(3)[1:]
    changed = torch.where(valid[:, :, None], features, functional.normalize(features.flip(2) - 0.3, dim=-1))
    a = train_head(features, GRID, valid, [3, 4])
    b = train_head(changed, GRID, valid, [3, 4])
    torch.testing.assert_close(a.outputs[valid], b.outputs[valid], rtol=0, atol=1e-4)
    torch.testing.assert_close(a.collapse, b.collapse, rtol=0, atol=1e-4)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**40), patches=st.integers(1, 40), epochs=st.integers(1, 3), share=st.floats(0.0, 1.0))
def test_every_epoch_visits_each_pair_once_and_never_drops_the_tail(
    seed: int, patches: int, epochs: int, share: float
) -> None:
    paired = torch.rand(3, 50, generator=generators(seed)[0]) < share
    schedule = paired_schedule(paired, generators(1, 2, 3), patches, epochs)
    assert schedule.alpha is schedule.beta
    for order, mask, steps in zip(schedule.alpha, paired, schedule.steps_per_epoch.tolist(), strict=True):
        places = mask.nonzero()[:, 0]
        assert steps == math.ceil(len(places) / patches)
        for epoch in range(epochs):
            taken = order[epoch * steps : (epoch + 1) * steps]
            assert torch.equal(taken[taken >= 0].sort().values, places)
        assert bool((order[epochs * steps :] == -1).all())


@pytest.mark.parametrize(("count", "steps"), [(10, 5), (11, 5)])
def test_upstreams_schedule_shuffles_the_views_apart_and_drops_the_last_patch_of_odd_counts(
    count: int, steps: int
) -> None:
    schedule = unpaired_schedule(count, generators(0), 2, 4)
    assert schedule.alpha.shape == schedule.beta.shape == (1, 4 * steps, 2)
    assert not torch.equal(schedule.alpha, schedule.beta)
    for order in (schedule.alpha, schedule.beta):
        for epoch in order[0].view(4, -1):
            assert len(epoch.unique()) == 10
            assert int(epoch.min()) >= 0


MAP = torch.arange(1.0, 10.0).view(1, 9, 1)  # 1 2 3 / 4 5 6 / 7 8 9
IDENTITY = [[1.0, 0.0], [0.0, 1.0]]
QUARTER_TURN = [[0.0, -1.0], [1.0, 0.0]]


def warped(values: Tensor, grid: tuple[int, int], matrix: list[list[float]], shift: tuple[float, float]) -> Tensor:
    affine = torch.cat((torch.tensor(matrix), torch.tensor(shift)[:, None]), 1).double()[None]
    return warp(values, grid, affine)[0, :, 0].view(grid)


def test_the_identity_leaves_a_map_unchanged() -> None:
    features = objects_on_backgrounds(1)
    affine = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]], dtype=torch.float64)
    torch.testing.assert_close(warp(features, GRID, affine), features, rtol=0, atol=1e-5)


def test_a_shift_by_one_patch_moves_rows_or_columns_and_brings_in_zeros() -> None:
    right = warped(MAP, (3, 3), IDENTITY, (0.0, 1.0))
    torch.testing.assert_close(right, torch.tensor([[2.0, 3, 0], [5, 6, 0], [8, 9, 0]]), rtol=0, atol=1e-5)
    down = warped(MAP, (3, 3), IDENTITY, (-1.0, 0.0))
    torch.testing.assert_close(down, torch.tensor([[0.0, 0, 0], [1, 2, 3], [4, 5, 6]]), rtol=0, atol=1e-5)
    half = warped(MAP, (3, 3), IDENTITY, (0.0, 0.5))
    torch.testing.assert_close(half, torch.tensor([[1.5, 2.5, 1.5], [4.5, 5.5, 3], [7.5, 8.5, 4.5]]), rtol=0, atol=1e-5)


def test_a_quarter_turn_about_the_centre_of_a_square_map() -> None:
    turned = warped(MAP, (3, 3), QUARTER_TURN, (0.0, 0.0))
    torch.testing.assert_close(turned, torch.tensor([[7.0, 4, 1], [8, 5, 2], [9, 6, 3]]), rtol=0, atol=1e-5)


def test_a_quarter_turn_of_a_wide_map_turns_patches_and_does_not_stretch() -> None:
    # 1..5 / 6..10 / 11..15: the central 3x3 turns, the outer columns would come from above and below the map.
    wide = torch.arange(1.0, 16.0).view(1, 15, 1)
    turned = warped(wide, (3, 5), QUARTER_TURN, (0.0, 0.0))
    expected = torch.tensor([[0.0, 12, 7, 2, 0], [0, 13, 8, 3, 0], [0, 14, 9, 4, 0]])
    torch.testing.assert_close(turned, expected, rtol=0, atol=1e-5)


def test_random_affines_stay_inside_their_ranges_and_fill_them() -> None:
    affine = random_affine(generators(*range(400)), (10, 20), scale=(0.8, 1.2), translate=0.1, rotate=15.0, shear=0.0)
    size = torch.linalg.det(affine[:, :, :2]).sqrt()
    angle = torch.rad2deg(torch.atan2(affine[:, 1, 0], affine[:, 0, 0]))
    for values, low, high in (
        (size, 0.8, 1.2),
        (angle, -15.0, 15.0),
        (affine[:, 0, 2], -1, 1),
        (affine[:, 1, 2], -2, 2),
    ):
        margin = 0.02 * (high - low)
        assert low - 1e-9 <= values.min().item() < low + margin
        assert high - margin < values.max().item() <= high + 1e-9
    gram = affine[:, :, :2] @ affine[:, :, :2].mT  # a rotation times a scale
    torch.testing.assert_close(gram, size.square()[:, None, None] * torch.eye(2, dtype=torch.float64))


def test_upstreams_view_resamples_the_matrix_of_patches_by_channels() -> None:
    # All draws in the middle: scale 1, no shift, angle 0: nothing changes.
    features = objects_on_backgrounds(1)
    torch.testing.assert_close(upstream_view(features, torch.full((1, 6), 0.5)), features, rtol=0, atol=1e-5)
    # Shifts of +2 and -1 (draws 0.6 and 0.45 of U(-10, 10)): row i, channel c shows row i + 2, channel c - 1.
    moved = upstream_view(features, torch.tensor([[0.5, 0.6, 0.45, 0.5, 0.5, 0.5]], dtype=torch.float64))
    torch.testing.assert_close(moved[0, :-2, 1:], features[0, 2:, :-1], rtol=0, atol=1e-4)
    assert not moved[0, -2:].any()
    # Angle 7.5 (draw .75) means 7.5 radians to upstream: cos = 0.3466, so row 100, channel 9 shows (34.66, 3.12).
    turned = upstream_view(torch.ones(1, 192, 24), torch.tensor([[0.5, 0.5, 0.5, 0.75, 0.5, 0.5]]))
    assert turned[0, 100, 9].item() == pytest.approx(1.0, abs=1e-5)
    rows = torch.arange(192.0)[None, :, None].expand(1, 192, 24)
    turned = upstream_view(rows, torch.tensor([[0.5, 0.5, 0.5, 0.75, 0.5, 0.5]]))
    assert turned[0, 100, 9].item() == pytest.approx(100 * math.cos(7.5), abs=0.01)


def test_about_a_third_of_upstreams_views_are_entirely_zero() -> None:
    draws = torch.rand(60, 6, dtype=torch.float64, generator=generators(0)[0])
    views = upstream_view(torch.ones(60, 900, 48), draws)
    zero = (views == 0).all(2).all(1).double().mean().item()
    assert 0.15 < zero < 0.55


def test_upstreams_command_line_applies_an_untrained_predictor_to_the_raw_features() -> None:
    features = objects_on_backgrounds(2)
    output = upstream_head(features, GRID, [5, 6], train=False)
    for image, seed in enumerate((5, 6)):
        draw = generators(seed)[0]
        torch.rand(6, dtype=torch.float64, generator=draw)
        bound = 24**-0.5
        _, _, g, g_bias = (torch.empty(n, 24).uniform_(-bound, bound, generator=draw) for n in (24, 1, 24, 1))
        torch.testing.assert_close(output.outputs[image], features[image] @ g + g_bias)
    assert output.loss_first.isnan().all()
    assert output.loss_last.isnan().all()


def test_upstreams_notebook_trains_the_predictor_but_leaves_the_projector_out_of_the_result() -> None:
    features, seed = objects_on_backgrounds(1).double(), 3
    output = upstream_head(features, GRID, [seed], train=True, epochs=2)
    draw = generators(seed)[0]
    draws = torch.rand(1, 6, dtype=torch.float64, generator=draw)
    bound = 24**-0.5
    heads = Heads(*(torch.empty(1, n, 24).uniform_(-bound, bound, generator=draw).double() for n in (24, 1, 24, 1)))
    alpha = torch.cat([torch.randperm(192, generator=draw) for _ in range(2)]).split(2)
    beta = torch.cat([torch.randperm(192, generator=draw) for _ in range(2)]).split(2)
    order = [(a.tolist(), b.tolist()) for a, b in zip(alpha, beta, strict=True)]
    parameters, losses = autograd_reference(heads, features[0], upstream_view(features, draws)[0], order, 0.06)
    expected = (features[0] @ parameters[2] + parameters[3]).detach()
    torch.testing.assert_close(output.outputs[0], expected, rtol=0, atol=1e-8)
    assert output.loss_last.item() == pytest.approx(np.mean(losses[96:]), abs=1e-8)


def check_untrained_head(features: Tensor, seeds: int) -> tuple[float, float, float, float]:
    """Hold W_SA of untrained predictors against its distribution; mean slope, intercept, correlation, residual sd.

    Every entry of G and g has mean 0 and variance v = 1 / (3 C) (uniform on +-1/sqrt(C)). For unit rows f_i, f_j with
    cosine c and one output channel, p_i = f_i G_k + g_k, so E p_i p_j = v c + v, and over C channels
    E W_SA = (c + 1) / 3: slope and intercept 1/3.
    Spread: with G's part nearly Gaussian, Var(p_i p_j) = v^2 [(1 + c^2) + (2 + 2 c) + 4/5] (products of two G parts;
    g times a G part; g^2, whose fourth moment is 9/5 v^2), summed over C channels: (3.8 + 2 c + c^2) / (9 C).
    """
    width = features.shape[-1]
    cosine = (features @ features.mT)[0].double()
    pairs = torch.triu_indices(*cosine.shape, offset=1)
    c = cosine[pairs[0], pairs[1]]
    repeated = features.expand(seeds, -1, -1)
    output = upstream_head(repeated, (1, features.shape[1]), range(seeds), train=False, group=seeds)
    everything = torch.ones(seeds, features.shape[1], dtype=torch.bool)
    w = head_affinity(output.outputs, everything, normalize=False, center=False)[:, pairs[0], pairs[1]].double()
    spread = ((3.8 + 2 * c + c.square()) / (9 * width)).sqrt()
    assert bool(((w.mean(0) - (c + 1) / 3).abs() < 5.5 * spread / seeds**0.5).all())

    slopes = ((w - w.mean(1, keepdim=True)) @ (c - c.mean())) / (c - c.mean()).square().sum()
    intercepts = w.mean(1) - slopes * c.mean()
    residual = w - slopes[:, None] * c - intercepts[:, None]
    correlation = torch.stack([torch.corrcoef(torch.stack((one, c)))[0, 1] for one in w])
    assert bool((residual.std(1) < spread.max()).all())
    return slopes.mean().item(), intercepts.mean().item(), correlation.mean().item(), residual.std(1).mean().item()


def test_an_untrained_head_is_the_cosine_again_slope_and_intercept_a_third() -> None:
    # Features of rank 12 with a common direction, cosines about -0.3 to 1.
    draw = generators(0)[0]
    low_rank = (torch.randn(1, 200, 12, generator=draw) + 0.8) @ torch.randn(12, 384, generator=draw)
    features = normalize_rows(low_rank)
    slope, intercept, correlation, residual = check_untrained_head(features, seeds=48)
    assert slope == pytest.approx(1 / 3, abs=0.03)
    assert intercept == pytest.approx(1 / 3, abs=0.03)
    assert correlation > 0.85
    assert residual < 0.05


def test_upstreams_command_line_moves_dsms_threshold_on_low_rank_features() -> None:
    # cos - 1/3 + 0.1 (cos + 1) / 3 = 1.033 cos - 0.3: "SimSAM" from the command line is DSM with its zero moved.
    draw = generators(1)[0]
    features = normalize_rows((torch.randn(1, 150, 12, generator=draw) + 0.8) @ torch.randn(12, 384, generator=draw))
    valid = torch.ones(32, 150, dtype=torch.bool)
    repeated = features.expand(32, -1, -1)
    output = upstream_head(repeated, (10, 15), range(32), train=False)
    w = combine(
        feature_affinity(repeated, valid, shift="max/3"),
        head_affinity(output.outputs, valid, normalize=False, center=False),
        0.1,
    ).mean(0)
    cosine = (features @ features.mT)[0]
    slope, intercept = np.polyfit(cosine.flatten().numpy(), w.flatten().numpy(), 1)
    assert slope == pytest.approx(1 + 0.1 / 3, abs=0.006)
    assert intercept == pytest.approx(-1 / 3 + 0.1 / 3, abs=0.006)


def test_an_untrained_head_on_the_keys_of_a_real_vit(test_data: Path, test_weights: Path) -> None:
    # C = 192 instead of 384: same slope and intercept, spread larger by sqrt(2).
    import timm

    model = timm.create_model("vit_tiny_patch16_224", pretrained=False).eval()
    model.load_state_dict(load_file(test_weights / "vit_tiny_patch16_224.supervised.safetensors"))
    photograph = min((test_data / "weizmann_horses" / "images").iterdir())
    with Image.open(photograph) as opened:
        pixels = np.asarray(opened.convert("RGB").resize((224, 224)), dtype=np.float32) / 127.5 - 1.0
    found: list[Tensor] = []
    handle = model.blocks[-1].attn.qkv.register_forward_hook(lambda _module, _inputs, result: found.append(result))
    with torch.no_grad():
        model(torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None])
    handle.remove()
    features = normalize_rows(found[0][:, 1:, 192:384])
    slope, intercept, correlation, residual = check_untrained_head(features, seeds=48)
    assert slope == pytest.approx(1 / 3, abs=0.05)
    assert intercept == pytest.approx(1 / 3, abs=0.05)
    assert correlation > 0.8
    assert residual < 0.06


def test_the_collapse_number_is_the_mean_cosine_of_different_valid_patches() -> None:
    outputs = torch.randn(2, 9, 5, generator=generators(0)[0]) + 0.5
    valid = torch.ones(2, 9, dtype=torch.bool)
    valid[1, :4] = False
    found = mean_pairwise_cosine(outputs, valid)
    for image in range(2):
        rows = outputs[image][valid[image]].double().numpy()
        cosines = [
            rows[i] @ rows[j] / np.linalg.norm(rows[i]) / np.linalg.norm(rows[j])
            for i in range(len(rows))
            for j in range(len(rows))
            if i != j
        ]
        assert found[image].item() == pytest.approx(np.mean(cosines), abs=1e-6)


def test_wrong_shapes_and_counts_are_refused_with_the_number_that_is_wrong() -> None:
    features, valid = objects_on_backgrounds(2), masks(2)
    with pytest.raises(ValueError, match="needs"):
        train_head(features, (12, 15), valid, [1, 2])
    with pytest.raises(ValueError, match="1 seeds for 2 images"):
        train_head(features, GRID, valid, [1])
    with pytest.raises(ValueError, match="valid has the shape"):
        train_head(features, GRID, valid[:1], [1, 2])
    with pytest.raises(ValueError, match="epochs=0"):
        train_head(features, GRID, valid, [1, 2], epochs=0)
    with pytest.raises(ValueError, match="patches_per_step=0"):
        upstream_head(features, GRID, [1, 2], train=True, patches_per_step=0)
    with pytest.raises(ValueError, match="precision='fp16' is none of fp32, tf32, bf16"):
        train_head(features, GRID, valid, [1, 2], precision="fp16")  # type: ignore[arg-type]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_gives_the_numbers_of_the_cpu() -> None:
    features, valid, seeds = objects_on_backgrounds(5), masks(5), [1, 2, 3, 4, 5]
    on_cpu = train_head(features, GRID, valid, seeds)
    on_gpu = train_head(features.cuda(), GRID, valid.cuda(), seeds)
    torch.testing.assert_close(on_gpu.outputs.cpu(), on_cpu.outputs, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(on_gpu.loss_last.cpu(), on_cpu.loss_last, rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_only_the_precision_asked_for_decides_about_tf32() -> None:
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("TF32 came with compute capability 8.0")
    features, valid, seeds = objects_on_backgrounds(5, width=64).cuda(), masks(5).cuda(), range(5)
    matmul = torch.backends.cuda.matmul
    original, found = matmul.allow_tf32, {}
    try:
        for process in (False, True):
            matmul.allow_tf32 = process
            for precision in ("fp32", "tf32"):
                found[precision, process] = train_head(features, GRID, valid, seeds, precision=precision)
                assert matmul.allow_tf32 == process
            heads = initial_heads(generators(0), features[:, :, :32])
            schedule = paired_schedule(torch.ones(1, 192, dtype=torch.bool), generators(0), 32, 1)
            with pytest.raises(RuntimeError):
                descend(heads, features[:1], features[:1], schedule, 0.96, precision="tf32")
            assert matmul.allow_tf32 == process
    finally:
        matmul.allow_tf32 = original
    on_cpu = train_head(features.cpu(), GRID, valid.cpu(), seeds)
    distance = {key: (one.outputs.cpu() - on_cpu.outputs).abs().max().item() for key, one in found.items()}
    # TF32 rounds operands to 2^-11 of themselves, float32 to 2^-24; sixty steps add up to more.
    for process in (False, True):
        assert distance["fp32", process] < 0.1 * distance["tf32", process]
        torch.testing.assert_close(found["tf32", process].loss_last.cpu(), on_cpu.loss_last, rtol=0, atol=0.01)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_bf16_on_a_gpu_relates_patches_as_bf16_on_a_cpu() -> None:
    features, valid, seeds = objects_on_backgrounds(4), masks(4), [1, 2, 3, 4]
    on_cpu = train_head(features, GRID, valid, seeds, precision="bf16")
    on_gpu = train_head(features.cuda(), GRID, valid.cuda(), seeds, precision="bf16")
    torch.testing.assert_close(on_gpu.loss_last.cpu(), on_cpu.loss_last, rtol=0, atol=0.01)
    alike = functional.cosine_similarity(pairwise_cosines(on_gpu.outputs.cpu()), pairwise_cosines(on_cpu.outputs))
    assert bool((alike > 0.999).all())
