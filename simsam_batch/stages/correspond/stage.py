"""The steps of ``simsam correspond``: features of the images, then matches of the pairs."""

from __future__ import annotations

from typing import Any

from simsam_batch.stages.correspond.settings import CorrespondSettings
from simsam_batch.stages.features.stage import STEPS as FEATURES_STEPS
from simsam_batch.stages.features.stage import FeaturesStage
from simsam_batch.stages.matches.pairs import plan_of_pairs, published_of
from simsam_batch.stages.matches.stage import MatchesStage
from simsam_batch.stages.steps import Job, Stages, Steps


def _stages(job: Job) -> Stages:
    settings: CorrespondSettings = job.settings
    pairs = plan_of_pairs(job)
    yield FeaturesStage(settings, job.resolved, job.plan)
    channels = job.resolved["models"]["taps"]["channels_of"]
    yield MatchesStage(settings, {"channels_of": channels, "published": published_of(job.plan)}, pairs)


def _completed(settings: CorrespondSettings, out: str) -> CorrespondSettings:
    """Descriptors without a network have one block alone, whatever is best of networks."""
    del out
    if settings.backbone == "descriptors" and "blocks" not in settings.model_fields_set:
        return settings.model_copy(update={"blocks": (-1,)})
    return settings


STAGES: dict[str, Any] = {}
STEPS = Steps(
    _stages, MatchesStage.name, roles=("taps",), complete=_completed, before_first=FEATURES_STEPS.before_first
)
