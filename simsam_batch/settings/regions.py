"""How images are cut into regions."""

from __future__ import annotations

from typing import Literal

from simsam_batch.settings.declare import Component, result

_UNCUT = {"regions": [-1]}


class Regions(Component, title="Regions"):
    """How images are cut into regions."""

    region_source: Literal["eigenvectors", "features", "smoothed"] = result(
        "eigenvectors",
        "what k-means groups patches by; smoothed: features, smoothed along the graph; features: the baseline without "
        "a graph",
        idle=_UNCUT,
    )
    region_vectors: int = result(0, "eigenvectors used for it, after the constant one; 0: all", idle=_UNCUT, ge=0)
    split_regions: bool = result(False, "make each connected part of a region a region of its own", idle=_UNCUT)
    background: bool = result(True, "take the region with the most border for background, label 0", idle=_UNCUT)
