"""Rows of features in fixed point, whose dot products are exact.

Every row is rounded to whole numbers of a power of two, no longer than 2^26 as a vector. By Cauchy-Schwarz no partial
sum of a dot product exceeds 2^52, and float64 adds whole numbers up to 2^53 without rounding, in whatever order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Metric = Literal["cosine", "inner"]

TINIEST = 2.0**-100
"""Products of very short rows may vanish in float32; they are off by less than this."""

_BITS = 26
# Whole numbers up to 2^24 are float32 as well.
_FLOAT_BITS = 24
_LONGEST = 2.0**60
# Entries of float64 in what is rounded at a time: 2 MiB, which the allocator keeps.
_ROUNDED = 2**18
# Relative error of an operand of a product, by torch's setting for it: float32, TF32 and bfloat16.
_OPERAND_ERRORS = {"highest": 0.0, "high": 2.0**-11, "medium": 2.0**-8}


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows in fixed point: a similarity is ``whole_i . whole_j * scale_i * scale_j``, its dot product exact.

    Attributes:
        whole: (M, D) float32, whole numbers.
        scale: (M,) float64: one by the length of ``whole`` (cosine), or the unit of the whole numbers (inner).
        rough: (M, D) float32, ``whole * scale``.
        length: (M,) float64, of ``rough``.
    """

    whole: Tensor
    scale: Tensor
    rough: Tensor
    length: Tensor

    def __getitem__(self, rows: slice) -> Rows:
        return Rows(self.whole[rows], self.scale[rows], self.rough[rows], self.length[rows])

    def __len__(self) -> int:
        return len(self.whole)


def in_fixed_point(features: Tensor, metric: Metric, what: str, first: int = 0) -> Rows:
    """Round rows to whole numbers, 22 bits or more for the largest entry of a row of up to 256; every row by itself.

    Args:
        features: (M, D) floating point, any device.
        metric: what the scale is for. By ``cosine`` a row of zeros has similarity 0 to everything.
        what: the rows' name, for messages.
        first: number of the first row, for messages.

    Raises:
        ValueError: if ``features`` is no matrix, or for a row that is not finite or, for inner products, too long.
    """
    if features.ndim != 2 or 0 in features.shape:
        raise ValueError(f"{what} features have shape {tuple(features.shape)}; a matrix with rows is needed")
    count, width = features.shape
    exponent = max(math.ceil(math.log2(width) / 2) - _BITS, -_FLOAT_BITS)
    rows = Rows(
        torch.empty(count, width, device=features.device),
        torch.empty(count, dtype=torch.float64, device=features.device),
        torch.empty(count, width, device=features.device),
        torch.empty(count, dtype=torch.float64, device=features.device),
    )
    for start in range(0, count, max(_ROUNDED // width, 1)):
        part = slice(start, start + max(_ROUNDED // width, 1))
        reach = features[part].abs().amax(dim=1).double()
        if not reach.isfinite().all():
            raise ValueError(f"{what} {first + start + int((~reach.isfinite()).int().argmax())} is not finite")
        # reach = mantissa * 2^exponent, the mantissa in [1/2, 1): the quotient is the power of two above it, exactly.
        step = torch.where(reach > 0, reach / torch.frexp(reach).mantissa, 1.0) * 2.0**exponent
        points = features[part].double().mul_(1 / step[:, None]).round_()
        rows.whole[part] = points
        length = points.square().sum(dim=1).sqrt()
        scale = torch.where(length > 0, 1 / length, 0.0) if metric == "cosine" else step
        rows.rough[part] = points.mul_(scale[:, None])
        rows.scale[part], rows.length[part] = scale, length * scale
    longest = float(rows.length.max())
    if longest > _LONGEST:
        raise ValueError(f"a {what} has length {longest:.3g}; inner products of such rows leave float32")
    return rows


def rough_error(queries: Rows) -> Tensor:
    """How far a product of ``rough`` may be from the exact similarity, for bank rows of length 1; (Q,) float64.

    A product of D terms, added in any order, is off by at most ``D u`` times the product of the lengths (Higham,
    Accuracy and Stability of Numerical Algorithms, section 3.1), u = 2^-24; the rows' own rounding, that of the exact
    similarity to float32 and second-order terms add less than ``8 u + D u / 100``.
    """
    operand = _OPERAND_ERRORS[torch.get_float32_matmul_precision()]
    return ((1.01 * queries.whole.shape[1] + 8) * 2.0**-24 + 2.1 * operand) * queries.length
