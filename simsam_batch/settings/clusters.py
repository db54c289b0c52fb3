"""How what all images have is clustered."""

from __future__ import annotations

from typing import Literal

from simsam_batch.settings.declare import Component, result
from simsam_batch.settings.features import FeatureSettings

_UNCLUSTERED = {"clusters": [0]}


class Clusters(Component, title="Clusters"):
    """The fit of the clusters."""

    clusters: int = result(0, "labels over the whole set", ge=0)
    pca_dim: int = result(0, "principal components kept before clustering; 0: all, no PCA", idle=_UNCLUSTERED, ge=0)
    cluster_method: Literal["kmeans", "minibatch"] = result(
        "kmeans", "minibatch: what published code uses", idle=_UNCLUSTERED
    )
    sample: int = result(1_000_000, "regions that the clusters are fitted on, at most", idle=_UNCLUSTERED, ge=1)


class ClusterSettings(Clusters, FeatureSettings):
    """How what all images have is clustered."""
