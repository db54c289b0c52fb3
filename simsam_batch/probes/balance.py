"""Fewer patches of background: which rows of the training patches are kept, as published and as meant."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray


def balanced(background: NDArray[np.bool_], share: float, seed: int) -> NDArray[np.int64]:
    """Keep all foreground, and a part of the background that the seed draws.

    Args:
        background: (n,) bool, patches of which every pixel is background.
        share: of the background that is kept, 0 to 1, taken as the decimal number that it is written as: 0.29 of 100
            patches are 29, though the nearest binary number is a little less.
        seed: of the draw; all of the background needs none.

    Returns:
        Row numbers, ascending, each once: all foreground and exactly ``floor(share * background)`` others, int64.

    Raises:
        ValueError: for a share that is not between 0 and 1, or ``background`` that is no bool vector.
    """
    _check(background, share)
    places = np.flatnonzero(background)
    kept = np.random.default_rng(seed).permutation(places)[: int(Fraction(repr(float(share))) * len(places))]
    return np.sort(np.concatenate([np.flatnonzero(~background), kept])).astype(np.int64)


def published_balance(background: NDArray[np.bool_], share: float) -> NDArray[np.int64]:
    """Compute what published code for probes of iBOT's features keeps, which is not what its option says.

    It means to draw from the background, and takes the first patches of the set, whatever they are: foreground among
    them comes twice, background behind them never.

    Args:
        background: (n,) bool, of which m are true.
        share: 0 to 1.

    Returns:
        Row numbers, int64: all foreground, then ``0..int(share * m) - 1``.

    Raises:
        ValueError: as `balanced`.
    """
    _check(background, share)
    first = np.arange(int(share * int(background.sum())))
    return np.concatenate([np.flatnonzero(~background), first]).astype(np.int64)


def _check(background: NDArray[np.bool_], share: float) -> None:
    if background.ndim != 1 or background.dtype != np.bool_:
        raise ValueError(
            f"background has shape {background.shape} and type {background.dtype}; a bool vector is needed"
        )
    if not 0 <= share <= 1:
        raise ValueError(f"a share of {share} of the background is not between 0 and 1")
