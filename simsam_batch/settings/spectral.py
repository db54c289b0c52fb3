"""How objects and regions are cut by eigenvectors."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from simsam_batch.settings.declare import Component, result
from simsam_batch.settings.features import FeatureSettings
from simsam_batch.settings.refinement import Refinement
from simsam_batch.settings.regions import Regions

_HEADLESS = {"head": ["none"]}
_UNTRAINED = {"head": ["none", "upstream-cli"]}


class Head(Component, title="Head"):
    """SimSAM's head, trained for every image alone."""

    head: Literal["none", "trained", "upstream-cli", "upstream-notebook"] = result(
        "trained", "none: Deep Spectral Methods; trained: SimSAM; upstream-*: what the published code computes"
    )
    patches_per_step: int = result(32, "patch pairs of one training step", idle=_UNTRAINED, ge=1)
    learning_rate: float = result(0.96, "of plain SGD; scale it with --patches-per-step", idle=_UNTRAINED, gt=0)
    epochs: int = result(5, "passes over an image's patches", idle=_UNTRAINED, ge=1)
    head_precision: Literal["fp32", "tf32", "bf16"] = result(
        "fp32",
        "of the products in the head's training; tf32 is fp32 on a CPU, bf16 needs a GPU to be fast",
        idle=_UNTRAINED,
    )


class Affinity(Component, title="Affinity"):
    """What joins two patches of the graph."""

    affinity: Literal["cosine", "binary"] = result("cosine", "binary: TokenCut's thresholded graph")
    shift: Literal["mean", "max/3", "zero"] = result(
        "max/3", "subtracted from the cosines before clipping", idle={"affinity": ["binary"]}
    )
    kappa: float = result(0.1, "weight of the head's affinity", idle=_HEADLESS, ge=0)
    center_head: bool = result(True, "subtract the mean of the head's affinity", idle=_HEADLESS)
    tau: float = result(
        0.2, "cosine above which two patches are joined in the binary graph", idle={"affinity": ["cosine"]}, ge=-1, le=1
    )
    color: Literal["knn", "random-walk"] = result("knn", "kind of colour affinity", idle={"color_weight": [0.0]})
    color_weight: float = result(0.0, "weight of the colour affinity; 0: none", ge=0)
    floor: float = result(1e-5, "least affinity between any two patches of the graph", ge=0, lt=1)
    island_share: float = result(
        0.05, "islands with at most this share of the patches stay out of the graph", ge=0, lt=0.5
    )


class Eigenproblem(Component, title="Eigenproblem"):
    """How the graph is solved."""

    k: int = result(15, "eigenpairs to keep, the constant one among them", ge=2)
    solver: Literal["auto", "block-lanczos", "arpack", "lobpcg", "eigh"] = result("auto", "auto: by device and size")
    tolerance: float = result(1e-4, "largest residual of a kept pair", gt=0)


class SpectralSettings(Regions, Refinement, Eigenproblem, Affinity, Head, FeatureSettings):
    """What the stages share that cut objects and regions by eigenvectors."""

    @model_validator(mode="after")
    def _combinations_make_sense(self) -> Self:
        if self.affinity == "binary" and self.head != "none":
            msg = "affinity: 'binary' knows no head; allowed with it: head 'none'"
            raise ValueError(msg)
        if self.affinity == "binary" and self.color_weight:
            msg = "affinity: 'binary' takes no colour; allowed with it: color_weight 0"
            raise ValueError(msg)
        if self.head.startswith("upstream") and self.center_head:
            msg = f"center_head: upstream's affinity is not centred; allowed with head {self.head!r}: false"
            raise ValueError(msg)
        return self
