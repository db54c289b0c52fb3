"""The heads' common descent: forward pass, closed-form gradient and SGD step of B heads by batched products."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from simsam_batch.spectral.linear import Linear, Precision, RoundedLinear, cuda_tf32
from simsam_batch.spectral.transfer import upload

# Lower bound of the norms in a cosine; torch's own default.
_EPS = 1e-8


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
def descend(
    heads: Heads,
    alpha: Tensor,
    beta: Tensor,
    schedule: Schedule,
    learning_rate: float,
    *,
    precision: Precision = "fp32",
) -> Tensor:
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
        precision: of the five products with matrices, see the text of `linear`; TF32 is ruled out or in for these
            products only, and the process's own setting is back afterwards.

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

    layer = RoundedLinear if precision == "bf16" else Linear
    projector = layer(heads.projector, heads.projector_bias, inputs)
    predictor = layer(heads.predictor, heads.predictor_bias, z)

    with cuda_tf32(alpha.device, allowed=precision == "tf32"):
        for row, weight, cosine in zip(rows.unbind(0), weights.unbind(0), cosines.unbind(0), strict=True):
            torch.index_select(views, 0, row, out=flat_inputs)
            projector.forward(out=z)
            # ELU in four vectorised passes; torch's own elu takes twice as long on a CPU.
            torch.clamp(z, max=0.0, out=negative).expm1_()
            z.clamp_(min=0.0).add_(negative)
            predictor.forward(out=p)

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

            predictor.step(gradient, learning_rate, back=hidden)
            hidden.addcmul_(hidden, negative)
            projector.step(hidden, learning_rate)
    return cosines[..., 0]


def _rows_and_weights(schedule: Schedule, count: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Row numbers in the stacked views ``(T, B 2 S)`` and loss weights ``-1 / (2 n)`` or 0, ``(T, B, 2, S, 1)``."""
    batch, steps, patches = schedule.alpha.shape
    rows = torch.stack((schedule.alpha, schedule.beta + count), 2)
    rows = rows.clamp_(min=0) + (2 * count * torch.arange(batch))[:, None, None, None]
    used = (schedule.alpha >= 0).to(like.dtype)
    weights = -used / (2.0 * used.sum(2, keepdim=True).clamp_min(1.0))
    weights = weights.transpose(0, 1)[:, :, None, :, None].expand(steps, batch, 2, patches, 1)
    rows = rows.transpose(0, 1).reshape(steps, batch * 2 * patches)
    return upload(rows, like.device), upload(weights.contiguous(), like.device)
