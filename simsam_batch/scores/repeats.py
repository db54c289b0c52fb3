"""Scores of several repeats of the same thing."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any


def spread_of(results: Sequence[dict[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """Over repeats the mean and sample standard deviation of metrics; nothing for a single one, or without scores.

    Returns:
        ``repeats``, how many there are, and under ``over_repeats`` for each metric ``mean`` and ``std``.
    """
    if len(results) < 2:
        return {}
    spread: dict[str, Any] = {}
    for name in names:
        values = [each[name] for each in results if each.get(name) is not None]
        if len(values) == len(results):
            spread[name] = {"mean": statistics.fmean(values), "std": statistics.stdev(values)}
    return {"repeats": len(results), "over_repeats": spread} if spread else {}
