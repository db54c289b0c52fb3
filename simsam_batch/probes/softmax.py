"""Cross-entropy of several linear classifiers on the same rows, and its gradients, by two products a tile.

With parameters V (C, D + 1) of rows x~ = ((x - m) / s, 1) and targets t that sum to 1,

    mean_i w_i CE(t_i, softmax(V x~_i)) = mean_i w_i log sum_c exp(V x~_i)_c - <V, T>,    T = mean_i w_i t_i x~_i^T

so that a pass over the rows needs no targets: `simsam_batch.probes.standard.Standard` holds T. Products, exponentials
and the sums within a tile are float32; what the tiles add up to is float64.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from simsam_batch.probes.standard import Standard
from simsam_batch.spectral.linear import cuda_tf32

# exp of this, or of this below 0, and sums of thousands of them are normal float32 numbers.
_SAFE_LOGIT = 80.0


class StackedClassifiers:
    """R classifiers of one feature set that are evaluated together: their parameters are one factor of each product.

    Args:
        standard: of the feature set, C classes and D channels.
        parameters: R of (C, D + 1) float64, for standardised rows, the bias last.
        device: of the rows.
    """

    def __init__(self, standard: Standard, parameters: Sequence[Tensor], device: torch.device) -> None:
        self._standard = standard
        # Rows are centred and not scaled: that is for the parameters, of which there are fewer.
        self._scale = torch.cat([standard.scale, standard.scale.new_ones(1)])
        self._rounded = (torch.stack(list(parameters)) / self._scale).float()
        self._stacked = self._rounded.flatten(0, 1).to(device)
        self._mean = standard.mean.to(device)
        self._loss = torch.zeros(len(parameters), dtype=torch.float64, device=device)
        self._gradient = torch.zeros(self._stacked.shape, dtype=torch.float64, device=device)

    def add(self, features: Tensor, weights: Tensor, room: Tensor) -> None:
        """Take in a tile.

        Args:
            features: (n, D) float16 or float32.
            weights: (n,) float32.
            room: memory for (n, D + 1) float32 or more.
        """
        count, width = features.shape
        classifiers, classes, _ = self._rounded.shape
        # In memory of one's own, products are summed in an order that is not that of where the features happened to be.
        rows = room[: count * (width + 1)].view(count, width + 1)
        torch.sub(features, self._mean, out=rows[:, :width])
        rows[:, width] = 1
        with cuda_tf32(features.device, allowed=False):
            flat = self._stacked @ rows.T
            logits = flat.view(classifiers, classes, count)
            least, greatest = torch.aminmax(flat)
            shift: Tensor | None = None
            if max(-least.item(), greatest.item()) > _SAFE_LOGIT:
                shift = logits.amax(dim=1, keepdim=True)
                logits -= shift
            sums = logits.exp_().sum(dim=1)
            found = sums.log()
            if shift is not None:
                found += shift[:, 0]
            self._loss += found.double() @ weights.double()
            logits *= (weights / sums)[:, None]
            self._gradient += flat @ rows

    def results(self) -> list[tuple[float, Tensor]]:
        """Mean cross-entropy of each classifier, and its gradient (C, D + 1) float64 in the parameters, on the CPU."""
        pull, total = self._standard.pull, self._standard.total
        gradients = self._gradient.cpu().view(self._rounded.shape) / total / self._scale - pull
        # The linear part is that of the same rounded parameters.
        linear = (self._rounded.double() * self._scale * pull).sum(dim=(1, 2))
        return list(zip((self._loss.cpu() / total - linear).tolist(), gradients, strict=True))
