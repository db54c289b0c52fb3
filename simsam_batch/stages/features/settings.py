"""The settings of ``simsam features``."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import field_validator

from simsam_batch.settings import Component, Facet, NetworkSettings, result, split_at_commas

_WEIGHTLESS = {"backbone": ["descriptors"]}


class Taps(Component, title="Features"):
    """What is kept of the network's forward pass."""

    facets: tuple[Facet, ...] = result(
        ("key",), "vectors of each block, several with commas: key, query, value, token, norm-token"
    )
    blocks: tuple[int, ...] = result((-1,), "transformer blocks, from 0, several with commas; negative from the end")
    class_token: bool = result(False, "keep the class token's vectors too", idle=_WEIGHTLESS)
    registers: bool = result(False, "keep those of register tokens too", idle=_WEIGHTLESS)
    facet_norm: Literal["none", "final"] = result(
        "none",
        "final: key, query and value pass the network's final norm too, as published for probes of iBOT's features",
        idle=_WEIGHTLESS,
        unrecorded="none",
    )
    dtype: Literal["fp16", "fp32"] = result("fp16", "how features are stored")

    @field_validator("facets", "blocks", mode="before")
    @classmethod
    def _split_at_commas(cls, value: Any) -> Any:
        return split_at_commas(value)

    @field_validator("facets", "blocks")
    @classmethod
    def _are_some(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        if not value:
            msg = "facets, blocks: at least one of each is needed"
            raise ValueError(msg)
        return value


class FeaturesSettings(Taps, NetworkSettings):
    """Settings of ``simsam features``: arrays of patch features for each image."""


SETTINGS = FeaturesSettings
