"""The settings of how fitted probes label images."""

from __future__ import annotations

from typing import Literal

from simsam_batch.settings import Component, result
from simsam_batch.stages.probe_fits.settings import ProbeFitsSettings


class Prediction(Component, title="Probes"):
    """How patches that were not fitted on are labelled."""

    temperature: float = result(0.02, "of knn: neighbours weigh exp(cosine/temperature)", gt=0)
    upsample: Literal["bilinear", "nearest"] = result(
        "bilinear", "from patches to pixels: of the scores of classes, or the patch's class"
    )


class ProbeMapsSettings(Prediction, ProbeFitsSettings):
    """Fitted probes, and how they label images."""
