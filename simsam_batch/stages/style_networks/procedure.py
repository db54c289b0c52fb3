"""How networks are fitted, by the settings, and what rows tell of a fit."""

from __future__ import annotations

from typing import Any

import numpy as np

from simsam_batch.errors import ImageError
from simsam_batch.stages.style_networks.settings import StylizeSettings
from simsam_batch.styling.fitting import Procedure, Training
from simsam_batch.workers.images import OUT_OF_MEMORY

COMES_TO_NOTHING = (FloatingPointError, *OUT_OF_MEMORY)
"""What ends a fit, and nothing else: others go on."""

_ENDS = 10


def procedure_of(options: StylizeSettings) -> Procedure:
    """The procedure that settings ask for."""
    return Procedure(
        steps=options.steps,
        crops=options.crops,
        crop=options.crop,
        together=options.together,
        patch=options.patch_weight,
        view=options.view_weight,
        content=options.content_weight,
        variation=options.variation_weight,
        threshold=options.threshold,
        learning_rate=options.style_rate,
        patience=options.patience,
    )


def figures(fit: Training) -> dict[str, Any]:
    """Columns of a fit that has ended."""
    seen = fit.history

    def ends(values: list[float]) -> tuple[float, float]:
        return float(np.mean(values[:_ENDS])), float(np.mean(values[-_ENDS:]))

    loss, patch = ends(seen.total), ends(seen.patches)
    return {
        "steps": fit.step,
        "stopped": fit.stopped,
        "loss_first": loss[0],
        "loss_last": loss[1],
        "patch_first": patch[0],
        "patch_last": patch[1],
        "rejected_last": ends(seen.rejected)[1],
    }


def why_nothing(error: Exception, options: StylizeSettings, step: str) -> ImageError:
    """What a row says of a fit that ended with one of `COMES_TO_NOTHING`.

    Args:
        error: which.
        options: of the command.
        step: what it was done for.
    """
    cause = str(error)
    if not isinstance(error, FloatingPointError):
        told = (cause.splitlines() or [type(error).__name__])[0]
        cause = (
            f"memory ran out with {options.together} crops at once ({told}). To mend it: simsam retry OUT once others "
            "have left the device, or another OUT with fewer crops at once (--together) or a smaller --side"
        )
    return ImageError("not_computable", cause, step)
