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
from typing import get_args

import torch
from torch import Generator, Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from simsam_batch.spectral.descent import Heads, Schedule, descend
from simsam_batch.spectral.linear import Precision, cuda_tf32
from simsam_batch.spectral.transfer import upload
from simsam_batch.spectral.views import random_affine, uniforms, upstream_view, warp

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
    precision: Precision = "fp32",
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
        precision: of the matrix products in the training. ``fp32``: the features' dtype, on CUDA without TF32 whatever
            the process has set. ``tf32``: TF32 on CUDA. It is a permission to round, as in torch, so that one set of
            settings serves all devices: a device without TF32, any CPU among them, computes what fp32 computes.
            ``bf16``: bf16 operands with the parameters, norms, cosines and updates in the features' dtype; for GPUs,
            slower than fp32 on a CPU without bf16 instructions. A trained head is always applied without TF32 or bf16.

    Returns:
        Outputs of all patches, invalid ones too. An image without a single pair keeps its initial head.

    Raises:
        ValueError: if shapes, seeds or counts do not fit together, or the precision is unknown.
    """
    _check(features, grid, seeds, patches_per_step, epochs, precision)
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
        beta = warp(view, grid, affine[part])
        cosines = descend(heads, view, beta, schedule, learning_rate, precision=precision)
        with cuda_tf32(view.device, allowed=False):
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
    precision: Precision = "fp32",
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
        precision: as in `train_head`; without training there is nothing that it changes.

    Returns:
        Outputs of all patches; without training both losses are NaN.

    Raises:
        ValueError: if shapes, seeds or counts do not fit together, or the precision is unknown.
    """
    _check(features, grid, seeds, patches_per_step, epochs, precision)
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
            beta = upstream_view(view, draws[part])
            cosines = descend(heads, view, beta, schedule, learning_rate, precision=precision)
            losses = _epoch_losses(cosines, schedule)
        with cuda_tf32(view.device, allowed=False):
            outputs = heads.predict(view)
        everything = torch.ones(outputs.shape[:2], dtype=torch.bool, device=outputs.device)
        done.append((outputs, mean_pairwise_cosine(outputs, everything), *losses))
    return HeadOutput(*(torch.cat(column) for column in zip(*done, strict=True)))


def initial_heads(generators: Sequence[Generator], like: Tensor) -> Heads:
    """Draw heads as PyTorch initialises linear layers: every number from ``U(-1/sqrt(C), 1/sqrt(C))``."""
    width = like.shape[-1]
    bound = width**-0.5

    def draw(rows: int) -> Tensor:
        drawn = [torch.empty(rows, width).uniform_(-bound, bound, generator=generator) for generator in generators]
        return upload(torch.stack(drawn).to(like.dtype), like.device)

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


def _epoch_losses(cosines: Tensor, schedule: Schedule) -> tuple[Tensor, Tensor]:
    """Mean loss of the first and of the last epoch, ``(B,)`` each."""
    used = (schedule.alpha >= 0).transpose(0, 1)
    step = torch.arange(len(used))[:, None]

    def mean(during: Tensor) -> Tensor:
        counted = upload((used & during[:, :, None]).to(cosines.dtype), cosines.device)[:, :, None]
        return -(cosines * counted).sum((0, 2, 3)) / (2.0 * counted.sum((0, 2, 3)))

    return mean(step < schedule.steps_per_epoch), mean(step >= (schedule.epochs - 1) * schedule.steps_per_epoch)


def _parts(features: Tensor, group: int | None) -> Iterator[slice]:
    """Slices of at most ``group`` images."""
    size = group or (1 if features.device.type == "cpu" else len(features))
    return (slice(start, start + size) for start in range(0, len(features), size))


def _check(
    features: Tensor,
    grid: tuple[int, int],
    seeds: Sequence[int],
    patches_per_step: int,
    epochs: int,
    precision: Precision,
) -> None:
    batch, count, _ = features.shape
    if batch == 0 or count != grid[0] * grid[1]:
        raise ValueError(
            f"features have the shape {tuple(features.shape)}; a grid of {grid} needs (B, {math.prod(grid)}, C)"
        )
    if len(seeds) != batch:
        raise ValueError(f"{len(seeds)} seeds for {batch} images; give one for each")
    if patches_per_step < 1 or epochs < 1:
        raise ValueError(f"patches_per_step={patches_per_step} and epochs={epochs} must both be at least 1")
    if precision not in get_args(Precision):
        raise ValueError(f"precision={precision!r} is none of {', '.join(get_args(Precision))}")
