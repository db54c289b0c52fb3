"""The settings of features whose patches have labels."""

from __future__ import annotations

from typing import Literal

from simsam_batch.settings import Component, TrueClasses, result
from simsam_batch.stages.features.settings import FeaturesSettings


class ScoredPixels(Component, title="Scores"):
    """Which pixels of the truth are counted and scored."""

    truth_size: Literal["native", "working"] = result(
        "native",
        "pixels that are counted and scored: the image's own, or those that the network saw, truth by the nearest",
    )
    void: Literal["ignore", "background"] = result(
        "ignore", "pixels of --ignore-label: left out, or taken for class 0, in what is fitted and in scores"
    )


class LabelledSettings(ScoredPixels, TrueClasses, FeaturesSettings):
    """Features, and classes of their patches."""
