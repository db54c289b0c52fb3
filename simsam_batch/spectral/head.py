"""SimSAM's head (arXiv 2406.07986): a projector and a predictor, trained afresh on the patches of every image.

    z = ELU(x A + a)        projector A (C, C), a (C,)
    p = z G + g             predictor G (C, C), g (C,)
    loss = 1/2 D(p_alpha, sg z_beta) + 1/2 D(p_beta, sg z_alpha),    D(p, z) = -mean_i cos(p_i, z_i)

alpha and beta are two views of the feature map, ``sg`` stops the gradient. Through two linear layers this loss has a
short gradient in closed form, so the heads of a whole batch descend together as ``(B, C, C)`` products: no autograd
graph, no loop over images. All random numbers of an image come from a CPU generator with the image's own seed, in this
order: six for the affine; A, a, G, g; the permutations. They are the same on every device and do not depend on the
other images of the batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from simsam_batch.spectral.views import random_affine, uniforms, upstream_view, warp

# Lower bound of the norms in a cosine; torch's own default.
_EPS = 1e-8
# A warped place counts if invalid or missing patches make up less than this share of it: float32 coordinates are off
# by about 1e-6 patches.
_BLEND_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class HeadOutput:
    """What the heads of a batch say about their images.

    Attributes:
        outputs: ``(B, N, C)`` float32, the prediction of every patch, rows not normalised.
        collapse: ``(B,)`` mean cosine between the outputs of two different valid patches. Near 1 the head maps
            everything to one direction and carries no information; NaN with fewer than two valid patches.
        loss_first: ``(B,)`` mean loss during the first epoch, in [-1, 1]; NaN if nothing was trained.
        loss_last: ``(B,)`` the same during the last epoch.
    """

    outputs: Tensor
    collapse: Tensor
    loss_first: Tensor
    loss_last: Tensor


@dataclass(frozen=True, slots=True)
class Heads:
    """Parameters of B heads, input dimension first: ``(B, C, C)`` matrices and ``(B, 1, C)`` biases."""

    projector: Tensor
    projector_bias: Tensor
    predictor: Tensor
    predictor_bias: Tensor

    def project(self, x: Tensor) -> Tensor:
        """``z`` of ``(B, M, C)`` rows."""
        return functional.elu(torch.baddbmm(self.projector_bias, x, self.projector), inplace=True)

    def predict(self, z: Tensor) -> Tensor:
        """``p`` of ``(B, M, C)`` rows."""
        return torch.baddbmm(self.predictor_bias, z, self.predictor)


@dataclass(frozen=True, slots=True)
class Schedule:
    """Which patches of the two views meet at which step.

    Attributes:
        alpha: ``(B, T, S)`` int64, row numbers of S patches a step; -1 where an image has no patch to take.
        beta: the same for the other view, -1 in the same places.
        steps_per_epoch: ``(B,)`` int64; an image with fewer pairs has fewer steps and rests at the end.
        epochs: how many.
    """

    alpha: Tensor
    beta: Tensor
    steps_per_epoch: Tensor
    epochs: int


@torch.no_grad()
def train_head(
    features: Tensor,
    grid: tuple[int, int],
    valid: Tensor,
    seeds: Sequence[int],
    *,
    patches_per_step: int = 32,
    learning_rate: float = 0.96,
    epochs: int = 10,
    scale: tuple[float, float] = (0.8, 1.2),
    translate: float = 0.1,
    rotate: float = 15.0,
    shear: float = 0.0,
    group: int | None = None,
) -> HeadOutput:
    """Train one head per image as the paper describes it and apply it: ``p = predictor(projector(F))``.

    View alpha is the feature map itself, view beta the map under a random affine about its centre. A pair is the same
    place in both views; places whose sample leaves the map or touches an invalid patch are dropped. Plain SGD; every
    epoch visits each pair once, its last step may be smaller. Learning rate and patches per step belong together:
    32 at 0.96 do as well as published code's 2 at 0.06 (measured, this project), while 16 or 64 at 0.06 collapse.

    Args:
        features: ``(B, N, C)`` float32, rows of unit length, any device.
        grid: ``(Hp, Wp)`` patches, row-major, ``N = Hp Wp``.
        valid: ``(B, N)`` bool, patches that take part.
        seeds: one per image, see the module's text.
        patches_per_step: pairs per SGD step.
        learning_rate: of both layers.
        epochs: passes over an image's pairs.
        scale: range of the uniform scale.
        translate: largest translation, as a share of ``Hp`` and of ``Wp``.
        rotate: largest rotation in degrees.
        shear: largest shear, per axis.
        group: train at most so many images together. None is 1 on the CPU, where the weights of more images leave
            the cache, and the whole batch elsewhere.

    Returns:
        Outputs of all patches, invalid ones too. An image without a single pair keeps its initial head.

    Raises:
        ValueError: if shapes, seeds or counts do not fit together.
    """
    _check(features, grid, seeds, patches_per_step, epochs)
    if valid.shape != features.shape[:2]:
        raise ValueError(f"valid has the shape {tuple(valid.shape)}, these features need {tuple(features.shape[:2])}")
    generators = [Generator("cpu").manual_seed(seed) for seed in seeds]
    affine = random_affine(generators, grid, scale=scale, translate=translate, rotate=rotate, shear=shear)
    # The mask decides how many numbers an image draws, so it is computed where the generators live.
    valid_on_cpu = valid.cpu()
    blend = warp(valid_on_cpu[:, :, None].to(torch.float32), grid, affine)[:, :, 0]
    paired = valid_on_cpu & (blend > 1.0 - _BLEND_TOLERANCE)
    done = []
    for part in _parts(features, group):
        view = features[part]
        heads = initial_heads(generators[part], view)
        schedule = paired_schedule(paired[part], generators[part], patches_per_step, epochs)
        cosines = descend(heads, view, warp(view, grid, affine[part]), schedule, learning_rate)
        outputs = heads.predict(heads.project(view))
        collapse = mean_pairwise_cosine(outputs, valid[part])
        done.append((outputs, collapse, *_epoch_losses(cosines, schedule)))
    return HeadOutput(*(torch.cat(column) for column in zip(*done, strict=True)))


@torch.no_grad()
def upstream_head(
    features: Tensor,
    grid: tuple[int, int],
    seeds: Sequence[int],
    *,
    train: bool,
    patches_per_step: int = 2,
    learning_rate: float = 0.06,
    epochs: int = 10,
    group: int | None = None,
) -> HeadOutput:
    """Compute what SimSAM's published code computes, which is not what its paper describes.

    The projector is skipped in the result: ``p = F G + g``. From the command line gradients are switched off and the
    head stays as it was drawn (``train=False``); the notebook trains it (``train=True``), but on pairs of unrelated
    patches (two independent shuffles) and against a second view made by `upstream_view`. An odd number of patches
    loses the incomplete step of each epoch. Random numbers come per image in the order of the module's text, so the
    distribution is upstream's and the single numbers are not (upstream sets no seed).

    Args:
        features: ``(B, N, C)`` float32, rows of unit length, any device.
        grid: ``(Hp, Wp)``; upstream ignores the places of patches, here it only has to fit ``N``.
        seeds: one per image.
        train: notebook (True) or command line (False).
        patches_per_step: patches per SGD step and view.
        learning_rate: of both layers.
        epochs: passes over the patches.
        group: as in `train_head`.

    Returns:
        Outputs of all patches; without training both losses are NaN.

    Raises:
        ValueError: if shapes, seeds or counts do not fit together.
    """
    _check(features, grid, seeds, patches_per_step, epochs)
    generators = [Generator("cpu").manual_seed(seed) for seed in seeds]
    draws = uniforms(generators)
    count = features.shape[1]
    done = []
    for part in _parts(features, group):
        view = features[part]
        heads = initial_heads(generators[part], view)
        losses = (view.new_full((len(view),), math.nan),) * 2
        if train:
            schedule = unpaired_schedule(count, generators[part], patches_per_step, epochs)
            cosines = descend(heads, view, upstream_view(view, draws[part]), schedule, learning_rate)
            losses = _epoch_losses(cosines, schedule)
        outputs = heads.predict(view)
        everything = torch.ones(outputs.shape[:2], dtype=torch.bool, device=outputs.device)
        done.append((outputs, mean_pairwise_cosine(outputs, everything), *losses))
    return HeadOutput(*(torch.cat(column) for column in zip(*done, strict=True)))


@torch.no_grad()
def descend(heads: Heads, alpha: Tensor, beta: Tensor, schedule: Schedule, learning_rate: float) -> Tensor:
    """Take all SGD steps of a schedule for all heads at once; ``heads`` are changed in place.

    With ``n`` pairs at a step, ``t`` the other view's ``z`` and ``c = cos(p, t)``::

        dp = -(t / (|p| |t|) - c p / |p|^2) / (2 n)
        dG = z^T dp,  dg = sum dp,  dz = dp G^T  (the target passes no gradient)
        dh = dz ELU'(h),  ELU'(h) = 1 + min(z, 0)
        dA = x^T dh,  da = sum dh

    A step without pairs leaves an image's head as it is. The loop reuses its buffers and never waits for
    the device.

    Args:
        heads: B heads, float32 or float64.
        alpha: ``(B, N, C)`` first view, dtype and device of the heads.
        beta: ``(B, N, C)`` second view.
        schedule: which rows meet.
        learning_rate: of both layers.

    Returns:
        ``(T, B, 2, S)`` cosines before each step, alpha's predictions first; meaningless where the schedule is -1.
    """
    batch, count, width = alpha.shape
    steps, patches = schedule.alpha.shape[1:]
    both = 2 * patches
    views = torch.cat((alpha, beta), 1).view(-1, width)
    rows, weights = _rows_and_weights(schedule, count, alpha)
    cosines = alpha.new_empty(steps, batch, 2, patches, 1)

    inputs = alpha.new_empty(batch, both, width)
    activations = alpha.new_empty(2, batch, both, width)
    norms = alpha.new_empty(2, batch, both, 1)
    gradient, hidden, negative = alpha.new_empty(3, batch, both, width)
    dots, product, toward, along = alpha.new_empty(4, batch, 2, patches, 1)
    ones = alpha.new_ones(batch, 1, both)
    flat_inputs = inputs.view(-1, width)
    z, p = activations
    z_norm, p_norm = norms.view(2, batch, 2, patches, 1)
    z_norm_alpha, z_norm_beta = z_norm.unbind(1)
    p_norm_alpha, p_norm_beta = p_norm.unbind(1)
    product_alpha, product_beta = product.unbind(1)
    z_alpha, z_beta = z.view(batch, 2, patches, width).unbind(1)
    p_alpha, p_beta = p.view(batch, 2, patches, width).unbind(1)
    gradient_by_view = gradient.view(batch, 2, patches, width)
    gradient_alpha, gradient_beta = gradient_by_view.unbind(1)
    toward_alpha, toward_beta = toward.unbind(1)
    along_rows = along.view(batch, both, 1)
    x_t, z_t, predictor_t = inputs.mT, z.mT, heads.predictor.mT

    for row, weight, cosine in zip(rows.unbind(0), weights.unbind(0), cosines.unbind(0), strict=True):
        torch.index_select(views, 0, row, out=flat_inputs)
        torch.baddbmm(heads.projector_bias, inputs, heads.projector, out=z)
        # ELU in four vectorised passes; torch's own elu takes twice as long on a CPU.
        torch.clamp(z, max=0.0, out=negative).expm1_()
        z.clamp_(min=0.0).add_(negative)
        torch.baddbmm(heads.predictor_bias, z, heads.predictor, out=p)

        torch.linalg.vector_norm(activations, dim=-1, keepdim=True, out=norms)
        norms.clamp_(min=_EPS)
        torch.mul(p_norm_alpha, z_norm_beta, out=product_alpha)
        torch.mul(p_norm_beta, z_norm_alpha, out=product_beta)
        torch.mul(p_alpha, z_beta, out=gradient_alpha)
        torch.mul(p_beta, z_alpha, out=gradient_beta)
        torch.sum(gradient_by_view, -1, keepdim=True, out=dots)
        torch.div(dots, product, out=cosine)

        torch.div(weight, product, out=toward)
        torch.mul(weight, cosine, out=along)
        along.div_(p_norm).div_(p_norm)
        torch.mul(toward_alpha, z_beta, out=gradient_alpha)
        torch.mul(toward_beta, z_alpha, out=gradient_beta)
        gradient.addcmul_(along_rows, p, value=-1.0)

        torch.bmm(gradient, predictor_t, out=hidden)
        heads.predictor.baddbmm_(z_t, gradient, alpha=-learning_rate)
        heads.predictor_bias.baddbmm_(ones, gradient, alpha=-learning_rate)
        hidden.addcmul_(hidden, negative)
        heads.projector.baddbmm_(x_t, hidden, alpha=-learning_rate)
        heads.projector_bias.baddbmm_(ones, hidden, alpha=-learning_rate)
    return cosines[..., 0]


def initial_heads(generators: Sequence[Generator], like: Tensor) -> Heads:
    """Draw heads as PyTorch initialises linear layers: every number from ``U(-1/sqrt(C), 1/sqrt(C))``."""
    width = like.shape[-1]
    bound = width**-0.5

    def draw(rows: int) -> Tensor:
        drawn = [torch.empty(rows, width).uniform_(-bound, bound, generator=generator) for generator in generators]
        return torch.stack(drawn).to(like)

    return Heads(draw(width), draw(1), draw(width), draw(1))


def paired_schedule(paired: Tensor, generators: Sequence[Generator], patches: int, epochs: int) -> Schedule:
    """Shuffle each image's pairs anew every epoch, the same way for both views; ``paired`` is ``(B, N)`` bool, CPU."""
    orders = []
    for mask, generator in zip(paired, generators, strict=True):
        places = mask.nonzero()[:, 0]
        orders.append(_shuffled(places, generator, patches, epochs).flatten(0, 1))
    order = pad_sequence(orders, batch_first=True, padding_value=-1)
    return Schedule(order, order, -(-paired.sum(1) // patches), epochs)


def unpaired_schedule(count: int, generators: Sequence[Generator], patches: int, epochs: int) -> Schedule:
    """Shuffle all patches of both views independently, as upstream does; odd counts drop an incomplete step."""
    places = torch.arange(count)
    steps = count // patches if count % 2 else -(-count // patches)
    alpha, beta = (
        torch.stack([_shuffled(places, g, patches, epochs)[:, :steps].flatten(0, 1) for g in generators])
        for _ in ("alpha", "beta")
    )
    return Schedule(alpha, beta, torch.full((len(generators),), steps), epochs)


def mean_pairwise_cosine(outputs: Tensor, valid: Tensor) -> Tensor:
    """Mean cosine over pairs of different valid patches, ``(B,)``: ``(|sum u|^2 - sum |u|^2) / (n (n - 1))``."""
    unit = functional.normalize(outputs, dim=-1).masked_fill(~valid[:, :, None], 0.0)
    count = valid.sum(1).to(outputs.dtype)
    return (unit.sum(1).square().sum(-1) - unit.square().sum((1, 2))) / (count * (count - 1.0)).clamp_min(0.0)


def _shuffled(places: Tensor, generator: Generator, patches: int, epochs: int) -> Tensor:
    """One permutation of ``places`` per epoch, cut into steps: ``(epochs, steps, patches)``, filled up with -1."""
    count = len(places)
    steps = -(-count // patches)
    order = torch.full((epochs, steps * patches), -1)
    for epoch in order:
        epoch[:count] = places[torch.randperm(count, generator=generator)]
    return order.view(epochs, steps, patches)


def _rows_and_weights(schedule: Schedule, count: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Row numbers in the stacked views ``(T, B 2 S)`` and loss weights ``-1 / (2 n)`` or 0, ``(T, B, 2, S, 1)``."""
    batch, steps, patches = schedule.alpha.shape
    rows = torch.stack((schedule.alpha, schedule.beta + count), 2)
    rows = rows.clamp_(min=0) + (2 * count * torch.arange(batch))[:, None, None, None]
    used = (schedule.alpha >= 0).to(like.dtype)
    weights = -used / (2.0 * used.sum(2, keepdim=True).clamp_min(1.0))
    weights = weights.transpose(0, 1)[:, :, None, :, None].expand(steps, batch, 2, patches, 1)
    return rows.transpose(0, 1).reshape(steps, batch * 2 * patches).to(like.device), weights.contiguous().to(
        like.device
    )


def _epoch_losses(cosines: Tensor, schedule: Schedule) -> tuple[Tensor, Tensor]:
    """Mean loss of the first and of the last epoch, ``(B,)`` each."""
    used = (schedule.alpha >= 0).transpose(0, 1)
    step = torch.arange(len(used))[:, None]

    def mean(during: Tensor) -> Tensor:
        counted = (used & during[:, :, None]).to(cosines)[:, :, None]
        return -(cosines * counted).sum((0, 2, 3)) / (2.0 * counted.sum((0, 2, 3)))

    return mean(step < schedule.steps_per_epoch), mean(step >= (schedule.epochs - 1) * schedule.steps_per_epoch)


def _parts(features: Tensor, group: int | None) -> Iterator[slice]:
    """Slices of at most ``group`` images."""
    size = group or (1 if features.device.type == "cpu" else len(features))
    return (slice(start, start + size) for start in range(0, len(features), size))


def _check(features: Tensor, grid: tuple[int, int], seeds: Sequence[int], patches_per_step: int, epochs: int) -> None:
    batch, count, _ = features.shape
    if batch == 0 or count != grid[0] * grid[1]:
        raise ValueError(
            f"features have the shape {tuple(features.shape)}; a grid of {grid} needs (B, {math.prod(grid)}, C)"
        )
    if len(seeds) != batch:
        raise ValueError(f"{len(seeds)} seeds for {batch} images; give one for each")
    if patches_per_step < 1 or epochs < 1:
        raise ValueError(f"patches_per_step={patches_per_step} and epochs={epochs} must both be at least 1")
