"""Means over images that merge by addition, each with its interval."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

from simsam_batch.scores.bootstrap import bin_of, interval_of_mean, merge_bins


def exact_mean(values: Collection[float]) -> float:
    """The mean by the exact sum, so that the order of the values cannot change a bit."""
    return math.fsum(values) / len(values)


def no_mean() -> dict[str, Any]:
    """The state of no image, as plain JSON values."""
    return {"images": 0, "sum": 0.0, "bins": {}}


def mean_of_one(value: float) -> dict[str, Any]:
    """The state of one image, whose value is in 0..1."""
    return {"images": 1, "sum": value, "bins": bin_of(value)}


def merge_means(a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    """Add two states. Counts are exact in any order; sums of floats repeat if the order does."""
    bins = merge_bins(a["bins"], b["bins"])
    return {"images": a["images"] + b["images"], "sum": a["sum"] + b["sum"], "bins": bins}


def mean_result(s: dict[str, Any], name: str) -> dict[str, Any]:
    """The mean under ``name`` and its 95 % interval under ``name_ci``; None for no image."""
    if not s["images"]:
        return {name: None, f"{name}_ci": None}
    mean = s["sum"] / s["images"]
    return {name: mean, f"{name}_ci": interval_of_mean(s["bins"], mean)}
