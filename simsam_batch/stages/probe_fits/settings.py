"""The settings of what is fitted to patches."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import field_validator

from simsam_batch.settings import Component, result, split_at_commas
from simsam_batch.stages.subsets.settings import SubsetsSettings

Probe = Literal["linear", "knn", "kmeans", "ward"]


class Probes(Component, title="Probes"):
    """What is fitted to what."""

    probes: tuple[Probe, ...] = result(
        ("linear", "knn", "kmeans", "ward"), "what is fitted, several with commas: linear, knn, kmeans, ward"
    )
    combine: Literal["each", "concat", "both", "mean"] = result(
        "each", "of a facet of several blocks: each alone, all side by side, both, or their mean"
    )
    clusters: tuple[int, ...] = result(
        (100,), "clusters of kmeans and ward, several with commas; 0: as many as classes"
    )
    cluster_names: Literal["majority", "one-to-one", "distribution"] = result(
        "majority",
        "what a cluster stands for: the class of most of its train pixels, one class for each cluster (Hungarian), or "
        "all their classes by shares",
    )
    cluster_sample: int = result(200_000, "train patches that kmeans and ward are fitted on, at most", ge=1)
    cluster_passes: int = result(
        10, "of kmeans: passes over all train patches that improve clusters of a sample of them, at most", ge=0
    )
    micro_clusters: int = result(1000, "clusters of kmeans that ward merges, at most", ge=2, le=20_000)
    neighbours: int = result(30, "of knn", ge=1)
    bank: int = result(
        0, "of knn: patches kept of all train images together, of each image those of rare classes first; 0: all", ge=0
    )
    l2: float = result(1e-3, "of linear: weight of the squared norm", ge=0)
    iterations: int = result(100, "of linear: L-BFGS iterations at most", ge=1)

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


class ProbeFitsSettings(Probes, SubsetsSettings):
    """Subsets of labelled features, and what is fitted to them."""
