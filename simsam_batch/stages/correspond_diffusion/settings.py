"""The settings of ``simsam correspond diffusion``."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from simsam_batch.stages.attention.settings import AttentionSettings

PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "hedlin-code": {
            "heads": "half",
            "timestep_found": 40,
            "noise": "uniform",
            "combine": "softmax",
            "gaussian": "published",
        }
    }
)


class CorrespondDiffusionSettings(AttentionSettings):
    """Settings of ``simsam correspond diffusion``: an embedding for every point, and where it is attended to."""

    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = PRESETS


SETTINGS = CorrespondDiffusionSettings
