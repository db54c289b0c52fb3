"""Training patches made up for linear probes, and what SciPy finds for them in float64."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from torch import Tensor

from simsam_batch.probes.blocks import Block, Blocks
from simsam_batch.probes.linear import LinearProbe

Array = NDArray[np.float64]


def patches(count: int = 1500, channels: int = 12, classes: int = 4, seed: int = 0) -> Block:
    """Correlated features far from 0 and of unequal scales, soft targets that depend on them, unequal weights."""
    random = np.random.default_rng(seed)
    hidden = random.standard_normal((count, channels)) @ random.standard_normal((channels, channels))
    logits = 0.4 * hidden @ random.standard_normal((channels, classes))
    votes = np.array([random.multinomial(16, row) for row in softmax(logits, axis=1)])
    features = hidden * np.geomspace(0.1, 10, channels) + 20 * random.standard_normal(channels)
    weights = random.integers(1, 17, count) / 16
    return Block(
        [torch.from_numpy(features).float()], torch.from_numpy(votes / 16).float(), torch.from_numpy(weights).float()
    )


def cut(whole: Block, at: Sequence[int]) -> Blocks:
    edges = [0, *at, len(whole.weights)]
    parts = [slice(*edge) for edge in pairwise(edges)]
    return lambda: [Block([f[p] for f in whole.features], whole.targets[p], whole.weights[p]) for p in parts]


def standardised(features: Tensor, weights: Tensor) -> Array:
    x, w = features.numpy().astype(np.float64), weights.numpy().astype(np.float64)
    mean = np.average(x, axis=0, weights=w)
    deviation = np.sqrt(np.average((x - mean) ** 2, axis=0, weights=w))
    return (x - mean) / np.where(deviation > 1e-9, deviation, 1)


def reference(whole: Block, l2: float) -> tuple[float, Array]:
    """Least objective and the probabilities there, by SciPy in float64."""
    x = np.column_stack([standardised(whole.features[0], whole.weights), np.ones(len(whole.weights))])
    t, w = whole.targets.numpy().astype(np.float64), whole.weights.numpy().astype(np.float64)
    w = w / w.sum()

    def objective(flat: Array) -> tuple[float, Array]:
        v = flat.reshape(t.shape[1], -1)
        logs = log_softmax(x @ v.T, axis=1)
        penalised = np.column_stack([v[:, :-1], np.zeros(len(v))])
        value = -(w[:, None] * t * logs).sum() + l2 / 2 * (penalised**2).sum()
        gradient = (w[:, None] * (np.exp(logs) * t.sum(axis=1, keepdims=True) - t)).T @ x + l2 * penalised
        return float(value), gradient.ravel()

    start = np.zeros(t.shape[1] * x.shape[1])
    found = minimize(
        objective, start, jac=True, method="L-BFGS-B", options={"maxiter": 5000, "ftol": 1e-15, "gtol": 1e-9}
    )
    return float(found.fun), softmax(x @ found.x.reshape(t.shape[1], -1).T, axis=1)


def probabilities(probe: LinearProbe, features: Tensor) -> Array:
    return probe.logits(features).double().softmax(dim=1).numpy()
