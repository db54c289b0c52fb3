"""The settings of features whose patches have labels."""

from __future__ import annotations

from simsam_batch.settings import TrueClasses
from simsam_batch.stages.features.settings import FeaturesSettings


class LabelledSettings(TrueClasses, FeaturesSettings):
    """Features, and classes of their patches."""
