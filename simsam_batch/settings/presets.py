"""Published methods that cut by eigenvectors, in the settings that all commands share which do so.

Each command adds its own values, see the ``PRESETS`` beside its settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

_PUBLISHED: Mapping[str, Any] = {
    "precision": "fp32",
    "resize": "native",
    "decode": "exact",
    "block": -1,
    "outlier_ratio": 0.0,
    "island_share": 0.0,
    "floor": 0.0,
}
_UPSTREAM: Mapping[str, Any] = {**_PUBLISHED, "shift": "max/3", "kappa": 0.1, "center_head": False}

METHODS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "dsm": {**_PUBLISHED, "head": "none", "shift": "zero", "k": 5},
        "tokencut": {**_PUBLISHED, "head": "none", "affinity": "binary", "floor": 1e-5, "k": 2},
        "simsam-paper": {
            **_PUBLISHED,
            "head": "trained",
            "shift": "mean",
            "kappa": 0.1,
            "center_head": False,
            "patches_per_step": 2,
            "learning_rate": 0.06,
            "epochs": 10,
        },
        "simsam-cli": {**_UPSTREAM, "head": "upstream-cli"},
        "simsam-notebook": {
            **_UPSTREAM,
            "head": "upstream-notebook",
            "resize": "512x512",
            "patches_per_step": 2,
            "learning_rate": 0.06,
            "epochs": 10,
        },
    }
)
"""Values by the name of the method."""
