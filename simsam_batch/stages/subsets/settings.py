"""The settings of which images are fitted on and scored, and by how much of their labels."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import field_validator

from simsam_batch.settings import Component, result, split_at_commas
from simsam_batch.stages.patch_labels.settings import LabelledSettings


class Selection(Component, title="Train and val"):
    """Which images probes are fitted on, and which they are scored on."""

    train: str | None = result(
        None,
        "images fitted on: COLUMN=VALUE, a list of ids (.txt), or a share such as .5, drawn by the seed; none: "
        "split=train if the input has that, else half of all",
    )
    val: str | None = result(
        None, "images scored, likewise; none: split=val if the input has that, else all that are not fitted on"
    )
    group: str | None = result(
        None,
        "column whose values never stand on both sides, such as video or patient; 'folder': of the image; 'sequence': "
        "frames that are numbered alike",
    )
    overlap: Literal["refuse", "allow"] = result("refuse", "images or groups on both sides")


class Budgets(Component, title="Train and val"):
    """How much of the labels probes are given."""

    fractions: tuple[float, ...] = result((0.01, 0.1, 0.5, 1.0), "shares of the train images, several with commas")
    seeds: int = result(3, "draws of each share, and fits of what is fitted by chance", ge=1, le=100)
    subset: Literal["random", "stratified", "head"] = result(
        "random",
        "how a share is drawn; stratified: rare classes first; head: the first images, as published, and for ward of "
        "chunks the first patches of each",
    )

    @field_validator("fractions", mode="before")
    @classmethod
    def _split_fractions(cls, value: Any) -> Any:
        return split_at_commas(value)

    @field_validator("fractions")
    @classmethod
    def _are_shares(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value or not all(math.isfinite(each) and 0 < each <= 1 for each in value):
            msg = f"fractions: {', '.join(map(str, value)) or 'none'}: shares above 0 and up to 1 are needed"
            raise ValueError(msg)
        return tuple(sorted(value))


class SubsetsSettings(Budgets, Selection, LabelledSettings):
    """Labelled features, of which some images are fitted on and others scored."""
