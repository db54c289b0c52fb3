"""The settings of what is fitted to patches."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import field_validator

from simsam_batch.settings import Component, result, split_at_commas
from simsam_batch.stages.subsets.settings import SubsetsSettings

_BY_STEPS, _TO_OPTIMUM = {"solver": ["adamw", "sgd"]}, {"solver": ["lbfgs"]}
_CHUNKS = re.compile(r"chunks:([1-9]\d{0,5}):([1-9]\d{0,5})")

Probe = Literal["linear", "knn", "kmeans", "ward"]


class Probes(Component, title="Probes"):
    """What is fitted to what."""

    probes: tuple[Probe, ...] = result(
        ("linear", "knn", "kmeans", "ward"), "what is fitted, several with commas: linear, knn, kmeans, ward"
    )
    combine: Literal["each", "concat", "both", "mean"] = result(
        "each", "of a facet of several blocks: each alone, all side by side, both, or their mean"
    )
    patch_labels: Literal["soft", "coarse"] = result(
        "soft", "what a patch stands for: the shares of its classes, or the class of most of its pixels"
    )
    background_patches: Literal["all", "published"] = result(
        "all",
        "of linear and knn, how patches of class 0 alone are taken: all; published: as many of the first patches as "
        "there are of these, whatever they are",
    )
    clusters: tuple[int, ...] = result(
        (100,), "clusters of kmeans and ward, several with commas; 0: as many as classes"
    )
    cluster_start: Literal["drawn", "farthest"] = result(
        "drawn",
        "of kmeans: centres drawn by distance (k-means++), or always the patch farthest from all so far, as published",
    )
    cluster_names: Literal["majority", "one-to-one", "distribution"] = result(
        "majority",
        "what a cluster stands for: the class of most of its train pixels, one class for each cluster (Hungarian), or "
        "all their classes by shares",
    )
    unlabelled_clusters: Literal["overall", "background"] = result(
        "overall",
        "what a cluster without labels stands for: the commonest class, or class 0",
        idle={"cluster_names": ["one-to-one", "distribution"]},
    )
    cluster_sample: int = result(200_000, "train patches that kmeans and ward are fitted on, at most", ge=1)
    cluster_passes: int = result(
        10, "of kmeans: passes over all train patches that improve clusters of a sample of them, at most", ge=0
    )
    micro_clusters: int = result(1000, "clusters of kmeans that ward merges, at most", ge=2, le=20_000)
    ward: str = result(
        "tree",
        "tree: one, of micro-clusters; chunks:N:K: of each of N parts of the train patches one of all its patches, cut "
        "into K clusters, and a vote of the parts, as published",
    )
    neighbours: int = result(30, "of knn", ge=1)
    bank: int = result(
        0, "of knn: patches kept of all train images together, of each image those of rare classes first; 0: all", ge=0
    )
    solver: Literal["lbfgs", "adamw", "sgd"] = result(
        "lbfgs",
        "of linear: lbfgs to the optimum; steps of adamw on shuffled batches of standardised features; sgd as "
        "published: on raw features in their order, batches of 16 images of 196 patches, a rate of period 90",
    )
    l2: float = result(1e-3, "of linear: weight of the squared norm", idle=_BY_STEPS, gt=0)
    iterations: int = result(100, "of linear: L-BFGS iterations at most", idle=_BY_STEPS, ge=1)
    epochs: int = result(50, "of linear by steps: passes over its patches", idle=_TO_OPTIMUM, ge=1)
    learning_rate: float = result(1e-3, "of linear by steps: the highest", idle=_TO_OPTIMUM, gt=0)

    @field_validator("probes", "clusters", mode="before")
    @classmethod
    def _split_probes(cls, value: Any) -> Any:
        return split_at_commas(value)

    @field_validator("probes", "clusters")
    @classmethod
    def _are_probes(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        if not value or any(isinstance(each, int) and each < 0 for each in value):
            msg = "probes, clusters: at least one of each is needed, and no number of clusters is below 0"
            raise ValueError(msg)
        return value

    @field_validator("ward")
    @classmethod
    def _is_way_of_ward(cls, value: str) -> str:
        if value != "tree" and not _CHUNKS.fullmatch(value):
            msg = f"ward: {value!r} is not known; allowed are 'tree' and 'chunks:N:K' such as 'chunks:15:150'"
            raise ValueError(msg)
        return value

    @property
    def ward_chunks(self) -> tuple[int, int] | None:
        """Chunks and clusters of each; None for one tree."""
        found = _CHUNKS.fullmatch(self.ward)
        return None if found is None else (int(found[1]), int(found[2]))


class ProbeFitsSettings(Probes, SubsetsSettings):
    """Subsets of labelled features, and what is fitted to them."""
