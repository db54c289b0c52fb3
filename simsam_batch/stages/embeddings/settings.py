"""How embeddings are fitted to points."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import field_validator

from simsam_batch.settings import Component, Network, NetworkSettings, PairInput, result, split_at_commas


class Fitting(Component, title="Diffusion"):
    """How an embedding is fitted to a point."""

    layers: tuple[str, ...] = result(
        (
            "up_blocks.1.attentions.0",
            "up_blocks.1.attentions.1",
            "up_blocks.1.attentions.2",
            "up_blocks.2.attentions.0",
        ),
        "layers of the UNet whose cross-attention is looked at, several with commas",
    )
    heads: Literal["all", "half"] = result("all", "of each layer; half: the second half, as published code does")
    side: int = result(512, "images are squashed to a square of so many pixels", ge=64)
    starts: int = result(5, "random starts of each point", ge=1)
    steps: int = result(129, "steps of Adam for each start", ge=1)
    learning_rate: float = result(0.0023755632081200314, "of Adam", gt=0)
    crop: float = result(0.9316549294381423, "side of the crops, as a share of the square", gt=0.3, le=1)
    sigma: float = result(27.97853316316864 / 512, "of the Gaussian fitted to, as a share of the square", gt=0, lt=1)
    timestep: int = result(140, "of the noise, of 1000, when an embedding is fitted", ge=0, lt=1000)
    gaussian: Literal["centred", "published"] = result(
        "centred", "where pixels are taken to be; published: at their corners, half a pixel off"
    )
    noise: Literal["gaussian", "uniform"] = result("gaussian", "uniform: in 0 to 1, as published code has it")

    @field_validator("layers", mode="before")
    @classmethod
    def _split_at_commas(cls, value: Any) -> Any:
        return split_at_commas(value)

    @field_validator("layers")
    @classmethod
    def _are_some(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value:
            msg = "layers: at least one is needed"
            raise ValueError(msg)
        return value


class EmbeddingsSettings(Fitting, PairInput, NetworkSettings):
    """What the stage needs to know; ``weights`` is a folder in the layout of diffusers."""

    @classmethod
    def not_given(cls) -> list[str]:
        """Names of settings that mean nothing here."""
        return [*cls.fields_of("result", (Network,)), "resize", "decode", "batch_size", "max_patches", "encode_threads"]
