"""How patches are described by a network."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import field_validator

from simsam_batch.features.names import recorded_name
from simsam_batch.settings.declare import Component, operation, result
from simsam_batch.settings.run import RunSettings

Facet = Literal["key", "query", "value", "token", "norm-token"]
CheckpointPart = Literal["auto", "teacher", "student"]

_WEIGHTLESS: dict[str, list[Any]] = {"backbone": ["descriptors"]}


class Network(Component, title="Features"):
    """The network."""

    backbone: str = result(
        "dino_vits16",
        "a ViT by timm's name or a known one, such as dinov2-base or facebook/dinov2-base; 'descriptors' (no weights); "
        "or 'diffusion' (a folder of them)",
    )
    weights: str | None = operation(
        None,
        "weights file or URL (safetensors, or torch in timm, DINO or iBOT layout); none: timm fetches them; of "
        "diffusion a folder in diffusers' layout",
        idle=_WEIGHTLESS,
        place=True,
    )
    checkpoint_part: CheckpointPart = result(
        "auto",
        "which network of a weights file with several; auto: the teacher, if there is one",
        idle={"backbone": ["descriptors", "diffusion"], "weights": [None]},
        unrecorded="auto",
    )

    @field_validator("backbone")
    @classmethod
    def _by_one_name(cls, value: str) -> str:
        return recorded_name(value)


class Features(Component, title="Features"):
    """What describes a patch."""

    block: int = result(-1, "transformer block, from 0; negative counts from the end", idle=_WEIGHTLESS)
    facet: Facet = result(
        "key", "which vector of the block; norm-token: token after the network's final norm", idle=_WEIGHTLESS
    )
    outlier_ratio: float = result(
        4.0,
        "tokens with a norm over this many medians stay out of the graph; 0: keep all",
        idle=_WEIGHTLESS,
        ge=0,
    )

    @field_validator("outlier_ratio")
    @classmethod
    def _leaves_most_tokens(cls, value: float) -> float:
        if 0 < value < 1:
            msg = f"outlier_ratio: {value:g} medians would leave out most tokens; it is 0, or at least 1"
            raise ValueError(msg)
        return value


class NetworkSettings(Network, RunSettings):
    """What all commands share that look at images by a network."""


class FeatureSettings(Features, NetworkSettings):
    """What all stages share that describe each patch by one vector of a network."""
