"""The settings of ``simsam features``."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import field_validator

from simsam_batch.settings import Component, Facet, NetworkSettings, result, split_at_commas

_WITHOUT_TOKENS = {"backbone": ["descriptors", "diffusion"]}
_DIFFUSION = {"backbone": ["diffusion"]}


class Taps(Component, title="Features"):
    """What is kept of the network's forward pass."""

    facets: tuple[Facet, ...] = result(
        ("key",), "vectors of each block, several with commas: key, query, value, token, norm-token"
    )
    blocks: tuple[int, ...] = result(
        (-1,), "transformer blocks, or up blocks of diffusion, from 0, several with commas; negative from the end"
    )
    class_token: bool = result(False, "keep the class token's vectors too", idle=_WITHOUT_TOKENS)
    registers: bool = result(False, "keep those of register tokens too", idle=_WITHOUT_TOKENS)
    facet_norm: Literal["none", "final"] = result(
        "none",
        "final: key, query and value pass the network's final norm too, as published for probes of iBOT's features",
        idle=_WITHOUT_TOKENS,
        unrecorded="none",
    )
    mirrored: bool = result(
        False, "keep the features of the mirrored picture too, mirrored back: ways to face tell less", unrecorded=False
    )
    prompt: str = result("", "what diffusion is told that is to be seen", only=_DIFFUSION, unrecorded="")
    timestep: int = result(261, "of diffusion's noise, of 1000", only=_DIFFUSION, unrecorded=261, ge=0, lt=1000)
    draws: int = result(8, "of that noise, whose features are averaged", only=_DIFFUSION, unrecorded=8, ge=1)
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
