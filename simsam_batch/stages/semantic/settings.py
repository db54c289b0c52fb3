"""The settings of ``simsam semantic``, and what published methods set them to."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Literal

from simsam_batch.settings import (
    Clusters,
    ClusterSettings,
    Component,
    TrueClasses,
    result,
)
from simsam_batch.settings.presets import METHODS
from simsam_batch.stages.regions.settings import RegionsSettings


class RegionClusters(Clusters):
    """Clusters of regions, fitted several times if asked for."""

    clusters: int = result(20, "labels over the whole set, background not counted", ge=1)
    repeats: int = result(1, "fits with different seeds; scores get a mean and a deviation", ge=1, le=100)


class LabelScoring(Component, title="Scores"):
    """How label maps are scored."""

    matching: Literal["hungarian", "majority"] = result(
        "hungarian", "clusters to classes: one to one, or each to its best class"
    )


_DESCRIBED: Mapping[str, Any] = {
    "region_source": "eigenvectors",
    "regions": 15,
    "background": True,
    "region_feature": "class-token",
    "crop_size": 0,
    "cluster_method": "minibatch",
}

PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {name: {**values, **_DESCRIBED} for name, values in METHODS.items()}
)
"""Whole sets of settings, as published."""


class SemanticSettings(LabelScoring, TrueClasses, RegionClusters, RegionsSettings, ClusterSettings):
    """Settings of ``simsam semantic``: regions of every image, clustered over the whole set."""

    presets: ClassVar = PRESETS

    region_source: Literal["eigenvectors", "features", "smoothed"] = result(
        "smoothed",
        "what k-means groups patches by; smoothed: features, smoothed along the graph; features: the baseline without "
        "a graph",
    )
    regions: int = result(80, "regions of an image, background included; 0: as many as the eigengap says", ge=0)
    background: bool = result(False, "take the region with the most border for background, label 0")


SETTINGS = SemanticSettings
