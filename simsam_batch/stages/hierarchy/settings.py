"""The settings of ``simsam hierarchy``, and what was published."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Literal

from simsam_batch.settings import (
    ClusterSettings,
    Component,
    Facet,
    Growth,
    Numbering,
    Superpixels,
    Tree,
    operation,
    result,
)

_UNREFINED = {"refine": ["none"]}


class LeafRefinement(Component, title="Refinement"):
    """How leaves are made to follow the edges of pictures."""

    refine: Literal["none", "crf"] = result(
        "none", "crf: leaves in pixels, along the edges of the picture, by their features and a dense CRF"
    )
    refine_max_side: int = result(
        512,
        "longest side in pixels that refinement works at; it takes time by pixels x leaves",
        idle=_UNREFINED,
        ge=16,
    )
    refine_processes: int = operation(
        0,
        "processes of one worker that refine; 0: the worker itself, beside a GPU 8 or one per core",
        idle=_UNREFINED,
        ge=0,
    )


class TreeScoring(Component, title="Scores"):
    """How trees are scored."""

    label_hierarchy: str | None = operation(
        None,
        "which labels of the truth are parts of what: a dataset's name or a YAML file; none: as the dataset has it, "
        "else all stand alone",
    )
    ignore_label: int = result(-1, "label in the truth that is not scored; -1: none", ge=-1)
    baselines: bool = result(
        False, "score a regular grid, cut in quarters, and k-means of the same features beside the trees"
    )


# As in all published configurations but for Cityscapes, which takes 840x1680 and 300 superpixels.
_TREES: Mapping[str, Any] = {
    "precision": "fp32",
    "backbone": "vit_base_patch14_reg4_dinov2.lvd142m",
    "resize": "840x840",
    "decode": "exact",
    "block": -1,
    "facet": "norm-token",
    "outlier_ratio": 0.0,
    "tree": "split",
    "form": "dense",
    "superpixels": 200,
    "max_perturbation": 80.0,
}

PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "hierarchy-paper": _TREES,
        "hierarchy-code": {**_TREES, "max_perturbation": 50.0, "numbering": "upstream"},
    }
)
"""Whole sets of settings, as published."""


class HierarchySettings(TreeScoring, LeafRefinement, Numbering, Tree, Superpixels, Growth, ClusterSettings):
    """Settings of ``simsam hierarchy``: a tree of regions for every image."""

    presets: ClassVar = PRESETS

    facet: Facet = result(
        "norm-token",
        "which vector of the block; norm-token: token after the network's final norm",
        idle={"backbone": ["descriptors"]},
    )
    clusters: int = result(
        0, "labels that the nodes of all trees get by their features, alike ones the same; 0: none", ge=0
    )


SETTINGS = HierarchySettings
