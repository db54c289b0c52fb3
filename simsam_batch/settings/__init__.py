"""Typed, frozen settings: one declaration feeds the YAML file, the flags, ``--help`` and what a run records.

Here are the components that several commands share. The settings of a command stand beside its first stage, such as
`simsam_batch.stages.segment.settings`.
"""

from __future__ import annotations

from simsam_batch.settings.clusters import Clusters, ClusterSettings
from simsam_batch.settings.declare import (
    Component,
    Kind,
    Settings,
    given,
    kind_of,
    operation,
    presets_of,
    result,
    split_at_commas,
)
from simsam_batch.settings.features import Facet, Features, FeatureSettings, Network, NetworkSettings
from simsam_batch.settings.pairs import PairInput
from simsam_batch.settings.reading import read_yaml, resolve
from simsam_batch.settings.refinement import Refinement
from simsam_batch.settings.regions import Regions
from simsam_batch.settings.run import Images, Input, Limits, Numbers, Operation, RunSettings
from simsam_batch.settings.spectral import Affinity, Eigenproblem, Head, SpectralSettings
from simsam_batch.settings.trees import Growth, Numbering, Superpixels, Tree
from simsam_batch.settings.true_classes import TrueClasses
from simsam_batch.settings.words import allowed

__all__ = [
    "Affinity",
    "ClusterSettings",
    "Clusters",
    "Component",
    "Eigenproblem",
    "Facet",
    "FeatureSettings",
    "Features",
    "Growth",
    "Head",
    "Images",
    "Input",
    "Kind",
    "Limits",
    "Network",
    "NetworkSettings",
    "Numbering",
    "Numbers",
    "Operation",
    "PairInput",
    "Refinement",
    "Regions",
    "RunSettings",
    "Settings",
    "SpectralSettings",
    "Superpixels",
    "Tree",
    "TrueClasses",
    "allowed",
    "given",
    "kind_of",
    "operation",
    "presets_of",
    "read_yaml",
    "resolve",
    "result",
    "split_at_commas",
]
