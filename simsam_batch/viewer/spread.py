"""How numbers are spread, in bins whose edges are short decimals, and ranges of them as an address has them."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor, isfinite, log10
from typing import Any

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request

from simsam_batch.viewer.answers import RefusedError, text

MOST_BINS = 40

_STEPS = (1, 2, 5, 10, 20)


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers from ``low`` on and below ``high``; an end that is None is open."""

    low: float | None = None
    high: float | None = None

    def holds(self, values: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Which values are within; those that are NaN only if no end is given."""
        found = np.ones(len(values), np.bool_)
        if self.low is not None:
            found &= values >= self.low
        if self.high is not None:
            found &= values < self.high
        return found

    def __bool__(self) -> bool:
        return self.low is not None or self.high is not None


def range_of(request: Request, name: str) -> Range:
    """A range of the query, as ``0.1..0.5``, ``0.1..`` or ``..0.5``; not given: all numbers.

    Raises:
        RefusedError: it is none.
    """
    given = text(request, name, most=100)
    if not given:
        return Range()
    low, dots, high = given.partition("..")
    if not dots or not (low or high):
        raise RefusedError(400, f"{name}: give a range as 0.1..0.5, 0.1.. or ..0.5")
    return Range(*(_end(name, each) for each in (low, high)))


def _end(name: str, given: str) -> float | None:
    if not given:
        return None
    try:
        value = float(given)
    except ValueError:
        value = np.nan
    if not isfinite(value):
        raise RefusedError(400, f"{name}: {given[:40]!r} is no number")
    return value


def spread(values: NDArray[np.float64], taken: NDArray[np.bool_]) -> dict[str, Any]:
    """A histogram; each bin holds its lower edge, as `Range` does.

    Args:
        values: (N,), NaN where there is none.
        taken: (N,) those that are counted apart.

    Returns:
        ``edges``, one more than bins, 0 among them if values are on both sides of it; ``all`` and ``filtered``, how
        many of all and of those taken each bin holds; ``min`` and ``max``, None without values; ``missing``, how many
        have none.
    """
    there = np.isfinite(values)
    held = values[there]
    missing = int(len(values) - len(held))
    low, high = (float(held.min()), float(held.max())) if len(held) else (0.0, np.nan)
    if not isfinite(high - low):
        return {"edges": [], "all": [], "filtered": [], "min": None, "max": None, "missing": missing}
    edges = _edges(low, high, whole=bool((held == np.floor(held)).all()))
    bins = np.searchsorted(edges, held, side="right") - 1
    counts = [np.bincount(each, minlength=len(edges) - 1) for each in (bins, bins[taken[there]])]
    return {"edges": edges, "all": counts[0], "filtered": counts[1], "min": low, "max": high, "missing": missing}


def _edges(low: float, high: float, *, whole: bool) -> NDArray[np.float64]:
    """Multiples of 1, 2 or 5 by a power of ten, from at most ``low`` to above ``high``; of whole numbers whole ones."""
    apart = (high - low) or max(abs(high), 1.0)
    power = floor(log10(apart / MOST_BINS))
    power = max(power, 0) if whole else power
    # what is divided by a power of ten is the double nearest to the decimal, what is multiplied by one is not
    divisor = 10.0 ** max(-power, 0)
    for step in _STEPS:
        scale = step * 10.0 ** max(power, 0)
        first, last = floor(low * divisor / scale), ceil(high * divisor / scale)
        first, last = first - (first * scale / divisor > low), last + (last * scale / divisor <= high)
        if last - first <= MOST_BINS:
            break
    edges: NDArray[np.float64] = np.arange(first, last + 1).astype(np.float64) * scale / divisor
    return edges
