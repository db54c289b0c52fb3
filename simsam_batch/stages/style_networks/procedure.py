"""How networks are fitted, by the settings, and what rows tell of a fit."""

from __future__ import annotations

from typing import Any

import numpy as np

from simsam_batch.stages.style_networks.settings import StylizeSettings
from simsam_batch.styling.fitting import Procedure, Training

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
