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


_CUT: Mapping[str, Any] = {"cut": "fixed", "threshold": "zero", "side": "smaller"}
_CUT_OF: Mapping[str, Mapping[str, Any]] = {
    "tokencut": {"threshold": "mean", "side": "largest-entry", "component": "peak"}
}

PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {name: {**values, **_CUT, **_CUT_OF.get(name, {})} for name, values in METHODS.items()}
)
"""Whole sets of settings, as published."""


class SegmentSettings(Mask, RepeatedHead, RegionsBeside, StoredEigenvectors, SpectralSettings):
    """Settings of ``simsam segment``: one object mask and K eigenvectors for each image."""

    presets: ClassVar = PRESETS

    @model_validator(mode="after")
    def _repeats_are_comparable(self) -> Self:
        if self.repeats > 1 and self.refine != "none":
            msg = f"repeats: {self.repeats} heads are compared by unrefined masks; allowed with it: refine 'none'"
            raise ValueError(msg)
        return self


SETTINGS = SegmentSettings
