"""The settings of ``simsam segment``, and what published methods set them to."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Self

from pydantic import model_validator

from simsam_batch.settings import Component, Eigenproblem, Head, Regions, SpectralSettings, result
from simsam_batch.settings.presets import METHODS


class StoredEigenvectors(Eigenproblem):
    """What is kept of the eigenproblem."""

    eigenvectors: Literal["none", "fp16", "fp32"] = result("fp16", "how eigenvectors are stored")


class RegionsBeside(Regions):
    """Regions beside the object's mask."""

    regions: int = result(
        -1,
        "further cut each image into so many regions, background included; 0: as the eigengap says; -1: do not",
        ge=-1,
    )


class RepeatedHead(Head):
    """Heads that differ by their seeds alone."""

    repeats: int = result(
        1, "heads with different seeds; scores get a mean and a deviation", idle={"head": ["none"]}, ge=1, le=100
    )


_FIXED: Mapping[str, Any] = {"cut": ["fixed"]}


class Mask(Component, title="Mask"):
    """How the object is cut out by eigenvectors."""

    cut: Literal["chosen", "fixed"] = result(
        "chosen",
        "chosen: of many cuts by the second to fourth eigenvector the one that divides the features best; fixed: the "
        "second alone, as the next three say",
        unrecorded="fixed",
    )
    threshold: Literal["zero", "mean"] = result("mean", "of the second eigenvector", only=_FIXED)
    side: Literal["smaller", "border", "largest-entry"] = result(
        "border", "which side is the object: the smaller, the one off the border, or that of the peak", only=_FIXED
    )
    component: Literal["all", "peak"] = result(
        "all", "keep all of that side, or the part connected to the peak of the second eigenvector", only=_FIXED
    )


class Objects(Component, title="Objects"):
    """Several objects of one image."""

    objects: int = result(
        0,
        "look for up to so many objects, each with a mask, a box and a score; 0: for the one mask alone",
        ge=0,
        le=20,
        unrecorded=0,
    )
    least_score: float = result(
        0.25, "objects with a lower score are left out", idle={"objects": [0]}, ge=0, le=1, unrecorded=0.25
    )


_CUT: Mapping[str, Any] = {"refine": "none", "cut": "fixed", "threshold": "zero", "side": "smaller"}
_CUT_OF: Mapping[str, Mapping[str, Any]] = {
    "tokencut": {"threshold": "mean", "side": "largest-entry", "component": "peak"}
}

PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {name: {**values, **_CUT, **_CUT_OF.get(name, {})} for name, values in METHODS.items()}
)
"""Whole sets of settings, as published."""


class SegmentSettings(Objects, Mask, RepeatedHead, RegionsBeside, StoredEigenvectors, SpectralSettings):
    """Settings of ``simsam segment``: one object mask and K eigenvectors for each image."""

    presets: ClassVar = PRESETS

    refine: Literal["none", "guided", "crf", "crf-upstream"] = result(
        "guided",
        "guided: masks follow edges near their borders, by a guided filter; crf: by a dense CRF, which needs an extra; "
        "crf-upstream: with the published energy; none: masks of the cells of patches",
    )

    @model_validator(mode="after")
    def _repeats_are_comparable(self) -> Self:
        if self.repeats > 1 and self.refine != "none":
            msg = f"repeats: {self.repeats} heads are compared by unrefined masks; allowed with it: refine 'none'"
            raise ValueError(msg)
        return self


SETTINGS = SegmentSettings
