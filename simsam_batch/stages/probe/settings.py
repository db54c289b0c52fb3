"""The settings of ``simsam probe``."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from simsam_batch.settings import Facet, result
from simsam_batch.stages.probe_maps.settings import ProbeMapsSettings

PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "hummingbird": {
            "resize": "512x512",
            "facets": ("norm-token",),
            "blocks": (-1,),
            "probes": ("knn",),
            "neighbours": 30,
            "temperature": 0.02,
            "fractions": (1.0,),
            "seeds": 1,
        },
    }
)
"""Whole sets of settings, as published. ``hummingbird``: dense retrieval, but for its augmented copies of images."""


class ProbeSettings(ProbeMapsSettings):
    """Settings of ``simsam probe``: how well patch features segment."""

    presets: ClassVar = PRESETS

    facets: tuple[Facet, ...] = result(
        ("norm-token", "query", "key", "value"),
        "vectors of each block, several with commas: key, query, value, token, norm-token",
    )


SETTINGS = ProbeSettings
