"""The settings of ``simsam transfer``."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import field_validator

from simsam_batch.settings import Component, Facet, TrueClasses, result, split_at_commas
from simsam_batch.stages.features.settings import FeaturesSettings
from simsam_batch.stages.matches.settings import Context


class Transfer(Component, title="Transfer"):
    """What is carried over, and how."""

    exemplars: tuple[str, ...] = result(
        (), "ids of the images whose truth is carried over to the others, several with commas"
    )
    truth_is: Literal["masks", "classes"] = result("masks", "what --truth holds: object masks, or images of class ids")
    neighbours: int = result(5, "patches of the exemplars that vote on a patch", ge=1)
    temperature: float = result(0.02, "they weigh exp(cosine/temperature)", gt=0)

    @field_validator("exemplars", mode="before")
    @classmethod
    def _split_at_commas(cls, value: Any) -> Any:
        return split_at_commas(value)


class TransferSettings(Transfer, Context, TrueClasses, FeaturesSettings):
    """Settings of ``simsam transfer``: features of every image, and label maps carried over."""

    facets: tuple[Facet, ...] = result(
        ("token",), "vectors of each block, several with commas: key, query, value, token, norm-token"
    )
    blocks: tuple[int, ...] = result(
        (-1,), "transformer blocks, or up blocks of diffusion, from 0, several with commas; negative from the end"
    )


SETTINGS = TransferSettings
