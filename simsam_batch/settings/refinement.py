"""How masks and label maps are made to follow the edges of pictures."""

from __future__ import annotations

from typing import Literal

from simsam_batch.settings.declare import Component, operation, result

_UNREFINED = {"refine": ["none"]}


class Refinement(Component, title="Refinement"):
    """How masks and label maps are made to follow the edges of pictures."""

    refine: Literal["none", "guided", "crf", "crf-upstream"] = result(
        "none",
        "guided: borders follow edges nearby, by a guided filter; crf: by a dense CRF, which needs an extra; "
        "crf-upstream: with the published energy",
    )
    refine_max_side: int = result(
        1024,
        "longest side in pixels that refinement works at; memory grows with its square",
        idle=_UNREFINED,
        ge=16,
        le=8192,
    )
    refine_processes: int = operation(
        0,
        "processes of one worker that refine masks; 0: the worker itself, beside a GPU 8 or one per core",
        idle=_UNREFINED,
        ge=0,
    )


def refines_whole(refine: str) -> bool:
    """Whether a way of refinement looks at images that were decoded whole, as a CRF always did."""
    return refine not in ("none", "guided")
