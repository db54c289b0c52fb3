"""The steps of ``simsam correspond``: features of the images, then matches of the pairs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from simsam_batch.errors import SettingsError
from simsam_batch.stages.correspond.settings import CorrespondSettings
from simsam_batch.stages.features.stage import STEPS as FEATURES_STEPS
from simsam_batch.stages.features.stage import FeaturesStage
from simsam_batch.stages.matches.described import completed
from simsam_batch.stages.matches.fused import facts_of
from simsam_batch.stages.matches.pairs import plan_of_pairs, published_of
from simsam_batch.stages.matches.stage import MatchesStage
from simsam_batch.stages.steps import Job, Stages
from simsam_batch.storage import is_same_place, redact


def _stages(job: Job) -> Stages:
    settings: CorrespondSettings = job.settings
    pairs = plan_of_pairs(job)
    yield FeaturesStage(settings, job.resolved, job.plan)
    channels = job.resolved["models"]["taps"]["channels_of"]
    fused = facts_of(settings.fuse, channels)
    resolved = {"channels_of": channels, "published": published_of(job.plan)} | ({"fused": fused} if fused else {})
    yield MatchesStage(settings, resolved, pairs)


def _completed(settings: CorrespondSettings, out: str) -> Any:
    """The settings with what is best of descriptors that are no ViT's.

    Raises:
        SettingsError: a run would be fused with itself.
    """
    for url in settings.fuse:
        if is_same_place(url, out):
            raise SettingsError(f"fuse: {redact(url)} is OUT itself. To mend it: name another finished run")
    return completed(settings, out)


def _check_models(settings: CorrespondSettings, models: Mapping[str, Any]) -> None:
    facts_of(settings.fuse, models["taps"]["channels_of"])


STAGES: dict[str, Any] = {}
STEPS = replace(
    FEATURES_STEPS,
    stages=_stages,
    result=MatchesStage.name,
    complete=_completed,
    check_models=_check_models,
)
