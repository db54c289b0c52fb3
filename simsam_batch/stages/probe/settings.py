"""The settings of ``simsam probe``."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Literal

from simsam_batch.settings import Facet, result
from simsam_batch.stages.probe_maps.settings import ProbeMapsSettings

PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "hummingbird": {
            "resize": "512x512",
            "decode": "exact",
            "facets": ("norm-token",),
            "blocks": (-1,),
            "probes": ("knn",),
            "neighbours": 30,
            "temperature": 0.02,
            "fractions": (1.0,),
            "seeds": 1,
        },
        "ibot-legacy": {
            "resize": "crop:256:224",
            "decode": "exact",
            "facets": ("norm-token", "query", "key", "value"),
            "blocks": (-1,),
            "facet_norm": "final",
            "dtype": "fp32",
            "precision": "fp32",
            "truth_size": "working",
            "void": "background",
            "fractions": (0.01, 0.1, 0.5, 1.0),
            "seeds": 1,
            "subset": "head",
            "probes": ("linear", "knn", "kmeans", "ward"),
            "patch_labels": "coarse",
            "background_patches": "published",
            "solver": "sgd",
            "epochs": 50,
            "learning_rate": 1e-3,
            "neighbours": 20,
            "similarity": "inner",
            "vote": "uniform",
            "clusters": (20,),
            "cluster_start": "farthest",
            "cluster_sample": 300_000,
            "cluster_names": "majority",
            "unlabelled_clusters": "background",
            "ward": "chunks:15:150",
            "upsample": "nearest",
            "smooth": "patch8",
        },
    }
)
"""Whole sets of settings, as published. ``hummingbird``: dense retrieval, but for its augmented copies of images;
``ibot-legacy``: probes of iBOT's features on PASCAL VOC 2012, with the faults of their code that change its figures."""


class ProbeSettings(ProbeMapsSettings):
    """Settings of ``simsam probe``: how well patch features segment."""

    presets: ClassVar = PRESETS

    facets: tuple[Facet, ...] = result(
        ("norm-token", "query", "key", "value"),
        "vectors of each block, several with commas: key, query, value, token, norm-token",
    )
    mirrored: Literal[False] = result(False, "probes see pictures as they are", unrecorded=False)

    @classmethod
    def not_given(cls) -> list[str]:
        """Names of settings that have one value here."""
        return ["mirrored"]


SETTINGS = ProbeSettings
