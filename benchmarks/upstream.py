"""What a user of the published code would run for one image, written plainly."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import ArpackError, eigsh
from torch import Tensor, nn
from torch.nn import functional

PATCHES, LEARNING_RATE, EPOCHS = 2, 0.06, 10
"""Patches a step, learning rate and epochs of the published head."""


class Head:
    """SimSAM's projector and predictor, trained by autograd and two SGD optimisers.

    Batches are slices of a permutation. The published code draws them from two data loaders, which is slower.
    """

    def __init__(self, channels: int, device: torch.device, learning_rate: float = LEARNING_RATE) -> None:
        self.projector = nn.Sequential(nn.Linear(channels, channels), nn.ELU()).to(device)
        self.predictor = nn.Linear(channels, channels).to(device)
        parts = (self.projector, self.predictor)
        self._optimizers = [torch.optim.SGD(part.parameters(), lr=learning_rate) for part in parts]

    def train(self, alpha: Tensor, beta: Tensor, *, patches: int = PATCHES, epochs: int = EPOCHS) -> None:
        """Descend on two views (n, C), whose rows belong together."""
        for _ in range(epochs):
            for places in torch.split(torch.randperm(len(alpha), device=alpha.device), patches):
                z_alpha, z_beta = self.projector(alpha[places]), self.projector(beta[places])
                p_alpha, p_beta = self.predictor(z_alpha), self.predictor(z_beta)
                to_beta = functional.cosine_similarity(p_alpha, z_beta.detach()).mean()
                to_alpha = functional.cosine_similarity(p_beta, z_alpha.detach()).mean()
                loss = -0.5 * to_beta - 0.5 * to_alpha
                for optimizer in self._optimizers:
                    optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                for optimizer in self._optimizers:
                    optimizer.step()

    @torch.no_grad()
    def __call__(self, features: Tensor) -> Tensor:
        outputs: Tensor = self.predictor(self.projector(features))
        return outputs


def affinity(features: Tensor, outputs: Tensor, kappa: float = 0.1) -> NDArray[np.float32]:
    """Cosines less a third of the largest, plus the head's normalised affinity, without negative entries, over the max.

    Args:
        features: (N, C), rows of unit length.
        outputs: (N, C) of the head.
        kappa: weight of the head.

    Returns:
        (N, N).
    """
    cosines = features @ features.T
    outputs = functional.normalize(outputs, dim=-1)
    w = (cosines - cosines.max() / 3 + kappa * (outputs @ outputs.T)).clamp(min=0)
    found: NDArray[np.float32] = (w / w.max()).cpu().numpy()
    return found


def eigenpairs(w: NDArray[np.float32], k: int) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    """Solve (D - W) v = mu D v for the smallest mu by inverting D - W, with a dense D.

    D - W is singular, and on some processors its factors are so to the last bit: then without inverting, as published.

    Returns:
        (K,) values, ascending, and (N, K) vectors.
    """
    d = w.sum(axis=1)
    d[d < 1e-12] = 1.0
    degrees = np.diag(d)
    try:
        values, vectors = eigsh(degrees - w, k=k, sigma=0, which="LM", M=degrees)
    except (ValueError, ArpackError):
        values, vectors = eigsh(degrees - w, k=k, which="SM", M=degrees)
    order = np.argsort(values)
    return values[order], vectors[:, order]
