"""The settings of how fitted probes label images."""

from __future__ import annotations

from typing import Literal

from simsam_batch.settings import Component, result
from simsam_batch.stages.probe_fits.settings import ProbeFitsSettings


class Prediction(Component, title="Probes"):
    """How patches that were not fitted on are labelled."""

    similarity: Literal["cosine", "inner"] = result(
        "cosine", "of knn: what is nearest; inner: the inner product of features as they are, as published"
    )
    search: Literal["exact", "approximate"] = result(
        "exact",
        "of knn; approximate: by faiss in the cells of the bank that are nearest, whose recall is measured",
        idle={"similarity": ["inner"]},
    )
    search_cells: int = result(16, "cells of approximate search that are looked into, of 1024 at most", ge=1)
    vote: Literal["softmax", "uniform"] = result("softmax", "of knn: how neighbours weigh: by --temperature, or alike")
    temperature: float = result(
        0.02, "of knn: neighbours weigh exp(similarity/temperature)", idle={"vote": ["uniform"]}, gt=0
    )
    upsample: Literal["bilinear", "nearest"] = result(
        "bilinear", "from patches to pixels: of the scores of classes, or the patch's class"
    )
    smooth: Literal["none", "patch8"] = result(
        "none",
        "patch8: a patch whose class none of its eight neighbours has becomes class 0, as published",
        idle={"upsample": ["bilinear"]},
    )


class ProbeMapsSettings(Prediction, ProbeFitsSettings):
    """Fitted probes, and how they label images."""
