"""How points are matched."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import field_validator

from simsam_batch.settings import Component, PairInput, operation, result, split_at_commas
from simsam_batch.stages.features.settings import FeaturesSettings


class Context(Component, title="Matching"):
    """What a patch is compared by."""

    context: Literal["log-bins", "none"] = result(
        "log-bins", "log-bins: patches are compared with those around them; none: each alone"
    )


class Matching(Component, title="Matching"):
    """How points are matched."""

    window: int = result(
        2, "patches to each side of the best one whose mean place, weighted, is taken; 0: its centre", ge=0
    )
    temperature: float = result(0.02, "of the weights, in cosines", gt=0, idle={"window": [0]})
    mutual_within: float = result(
        1.0, "a match is mutual if the way back ends at most so many patches from the point", ge=0
    )
    free_points: int = result(
        20, "of a pair without points: so many patches at most that choose each other, two patches apart", ge=0
    )
    dense: bool = result(False, "the match of every patch of the source is kept as well")
    maps: Literal["none", "fp16"] = result("none", "fp16: the similarity of every point with every patch is kept")


class Fusion(Component, title="Features"):
    """Features of other networks."""

    fuse: tuple[str, ...] = operation(
        (),
        "OUT of finished runs over the same images whose features stand beside these, several with commas",
        place=True,
    )

    @field_validator("fuse", mode="before")
    @classmethod
    def _runs_at_commas(cls, value: Any) -> Any:
        return tuple(each for each in split_at_commas(value) if each)


class MatchesSettings(Fusion, Matching, Context, PairInput, FeaturesSettings):
    """What the stage needs to know."""
