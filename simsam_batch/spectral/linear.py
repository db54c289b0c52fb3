"""Linear layers of many heads at once, their short backward pass and their SGD step, at a chosen precision.

Three precisions, all of the matrix products alone; what lies between them is computed in the parameters' own dtype:

    fp32  the parameters' dtype, never TF32
    tf32  operands rounded to 10 bits of mantissa inside the product, by CUDA devices that have TF32
    bf16  operands and results rounded to 7 bits of mantissa, parameters and their updates not
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor

Precision = Literal["fp32", "tf32", "bf16"]


class Linear:
    """B layers ``y = x W + b`` that read their inputs from one buffer and change their parameters in place.

    Args:
        weight: ``(B, C, C)``, input dimension first.
        bias: ``(B, 1, C)``.
        inputs: ``(B, M, C)``, the buffer that holds ``x`` whenever `forward` is called, and still at the `step` after.
    """

    def __init__(self, weight: Tensor, bias: Tensor, inputs: Tensor) -> None:
        self.weight, self.bias, self.inputs = weight, bias, inputs
        self.weight_t, self.inputs_t = weight.mT, inputs.mT
        self.ones = inputs.new_ones(len(inputs), 1, inputs.shape[1])

    def forward(self, out: Tensor) -> None:
        """Write ``y``, ``(B, M, C)``, to ``out``."""
        torch.baddbmm(self.bias, self.inputs, self.weight, out=out)

    def step(self, gradient: Tensor, rate: float, *, back: Tensor | None = None) -> None:
        """Take one SGD step, ``W -= rate x^T dy`` and ``b -= rate sum dy``; ``dx = dy W^T`` goes to ``back`` first."""
        if back is not None:
            torch.bmm(gradient, self.weight_t, out=back)
        self.weight.baddbmm_(self.inputs_t, gradient, alpha=-rate)
        self.bias.baddbmm_(self.ones, gradient, alpha=-rate)


class RoundedLinear(Linear):
    """The same layers with the three large products in bf16: rounded copies of the operands, rounded results.

    Sums within a product are float32 on CUDA and in oneDNN. ``W`` and ``b`` stay as they are and take up the product
    in their own dtype, so that steps smaller than bf16's spacing are not lost.
    """

    def __init__(self, weight: Tensor, bias: Tensor, inputs: Tensor) -> None:
        super().__init__(weight, bias, inputs)
        self.rounded_inputs, self.rounded_gradient, self.product = (
            torch.empty_like(inputs, dtype=torch.bfloat16) for _ in range(3)
        )
        self.rounded_weight, self.update = (torch.empty_like(weight, dtype=torch.bfloat16) for _ in range(2))
        self.rounded_weight_t, self.rounded_inputs_t = self.rounded_weight.mT, self.rounded_inputs.mT

    def forward(self, out: Tensor) -> None:
        """Write ``y``, ``(B, M, C)``, to ``out``."""
        self.rounded_inputs.copy_(self.inputs)
        self.rounded_weight.copy_(self.weight)
        torch.bmm(self.rounded_inputs, self.rounded_weight, out=self.product)
        torch.add(self.product, self.bias, out=out)

    def step(self, gradient: Tensor, rate: float, *, back: Tensor | None = None) -> None:
        """Take one SGD step; ``dx`` and the update use the operands that the last `forward` rounded."""
        self.rounded_gradient.copy_(gradient)
        if back is not None:
            torch.bmm(self.rounded_gradient, self.rounded_weight_t, out=self.product)
            back.copy_(self.product)
        torch.bmm(self.rounded_inputs_t, self.rounded_gradient, out=self.update)
        self.weight.add_(self.update, alpha=-rate)
        self.bias.baddbmm_(self.ones, gradient, alpha=-rate)


@contextmanager
def cuda_tf32(device: torch.device, *, allowed: bool) -> Iterator[None]:
    """Allow or forbid TF32 in float32 products on a CUDA device, and put the process's setting back at the end.

    Does nothing for other devices. The setting is read when a product is launched, so nothing waits for the device.
    """
    if device.type != "cuda":
        yield
        return
    matmul = torch.backends.cuda.matmul
    # torch 2.9 renamed the setting, and reading the old name fails once anyone has set the new one.
    new = hasattr(matmul, "fp32_precision")
    name = "fp32_precision" if new else "allow_tf32"
    value = ("tf32" if allowed else "ieee") if new else allowed
    before = getattr(matmul, name)
    setattr(matmul, name, value)
    try:
        yield
    finally:
        setattr(matmul, name, before)
