"""Pictures by a published program: what it is asked for by a look, and why it cannot do one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from simsam_batch.errors import SettingsError
from simsam_batch.stages.style_networks.looks import BACKGROUND, OBJECT, Look
from simsam_batch.stages.style_networks.words import Words, WordsOf
from simsam_batch.styling.fitting import Procedure
from simsam_batch.styling.published import PROGRAMS, Aim, holds_object

DOUBLE, BLIND = "sem-cs-double", "clipstyler"


def check_looks(method: str, looks: Sequence[Look], feather: float = 0.0) -> None:
    """Refuse looks that a method has no place for, and edges where it puts nothing back into an image.

    Raises:
        SettingsError: naming what it takes.
    """
    if method not in PROGRAMS:
        return
    if feather:
        raise SettingsError(f"feather: it has no effect with method {method!r}. To mend it: leave it out")
    wanted = "words for the object and for the background" if method == DOUBLE else "words for one region"
    for look in looks:
        if set(look) != {OBJECT, BACKGROUND} if method == DOUBLE else len(look) != 1:
            raise SettingsError(
                f"method: {method} takes {wanted} in each picture, and one has them for {', '.join(look)}. To mend it: "
                "give these, or another --preset"
            )


def driven_by(method: str, look: WordsOf) -> dict[str, Words]:
    """Of each region the words that the program drives it to: with two texts each has those of the other."""
    if method != DOUBLE:
        return dict(look)
    return {OBJECT: look[BACKGROUND], BACKGROUND: look[OBJECT]}


def aim_of(method: str, driven: WordsOf, masks: Mapping[str, NDArray[np.bool_]]) -> Aim:
    """Where the program takes an image.

    Args:
        method: its name.
        driven: of `driven_by`.
        masks: (H, W) of the regions.
    """
    if method == DOUBLE:
        views = [(masks[name], driven[name].direction) for name in (BACKGROUND, OBJECT)]
        return Aim(masks[OBJECT], driven[OBJECT].direction, views)
    ((name, words),) = driven.items()
    seen = np.ones_like(masks[name]) if method == BLIND else masks[name]
    return Aim(~seen, words.direction, [(seen, words.direction)])


def why_never(method: str, aim: Aim, how: Procedure) -> str | None:
    """Why the program would never end with its first update; None if it would."""
    if not PROGRAMS[method].knows_object or not holds_object(aim.object, how.crop_side(*aim.object.shape)).all():
        return None
    return "what the program takes for the object is in every crop, and it would draw others without end"
