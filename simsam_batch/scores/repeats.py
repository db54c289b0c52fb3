"""Scores of several repeats of the same thing."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any


def spread_of(results: Sequence[dict[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """Mean and sample standard deviation of metrics over repeats; nothing for a single one, or without scores."""
    if len(results) < 2:
        return {}
    spread: dict[str, Any] = {}
    for name in names:
        values = [each[name] for each in results if each.get(name) is not None]
        if len(values) == len(results):
            spread[f"{name}_mean"], spread[f"{name}_std"] = statistics.fmean(values), statistics.stdev(values)
    return spread | {"repeats": len(results)} if spread else {}
