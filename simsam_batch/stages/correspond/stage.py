"""The steps of ``simsam correspond``: features of the images, then matches of the pairs."""

from __future__ import annotations

from typing import Any

from simsam_batch.catalog import PAIRS
from simsam_batch.errors import SettingsError
from simsam_batch.runs.plan import RUN_FILE, Plan, recorded_plan
from simsam_batch.stages.correspond.settings import CorrespondSettings
from simsam_batch.stages.features.stage import STEPS as FEATURES_STEPS
from simsam_batch.stages.features.stage import FeaturesStage
from simsam_batch.stages.matches.stage import MatchesStage
from simsam_batch.stages.steps import Job, Stages, Steps


def _stages(job: Job) -> Stages:
    settings: CorrespondSettings = job.settings
    pairs = _plan_of_pairs(job)
    if not settings.quiet:
        job.note(f"{pairs.records:,} pairs of {job.plan.records:,} images")
    yield FeaturesStage(settings, job.resolved, job.plan)
    held: dict[str, Any] = job.plan.source.get("pair_set") or {}
    channels = job.resolved["models"]["taps"]["channels_of"]
    resolved = {"channels_of": channels, "published": held.get("published") or None}
    yield MatchesStage(settings, resolved, pairs)


def _completed(settings: CorrespondSettings, out: str) -> CorrespondSettings:
    """Descriptors without a network have one block alone, whatever is best of networks."""
    del out
    if settings.backbone == "descriptors" and "blocks" not in settings.model_fields_set:
        return settings.model_copy(update={"blocks": (-1,)})
    return settings


def _plan_of_pairs(job: Job) -> Plan:
    held = job.plan.source.get(PAIRS)
    if held is None:
        raise SettingsError(f"{job.folder.url} holds a run about images, not pairs. To mend it: give another OUT")
    return recorded_plan(job.folder, held, f"{job.folder.url}/{RUN_FILE}")


STAGES: dict[str, Any] = {}
STEPS = Steps(
    _stages, MatchesStage.name, roles=("taps",), complete=_completed, before_first=FEATURES_STEPS.before_first
)
