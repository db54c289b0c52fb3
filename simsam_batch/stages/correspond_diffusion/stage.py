"""The steps of ``simsam correspond diffusion``: embeddings of all points, then attention in all targets."""

from __future__ import annotations

from typing import Any

from simsam_batch.stages.attention.stage import AttentionStage
from simsam_batch.stages.correspond_diffusion.settings import CorrespondDiffusionSettings
from simsam_batch.stages.embeddings.stage import EmbeddingsStage
from simsam_batch.stages.matches.pairs import plan_of_pairs, published_of
from simsam_batch.stages.steps import Job, Stages, Steps


def _stages(job: Job) -> Stages:
    settings: CorrespondDiffusionSettings = job.settings
    pairs = plan_of_pairs(job)
    embedded = yield EmbeddingsStage.of(settings, job.folder, job.resolved, job.plan, pairs)
    if collapsed := embedded["metrics"]["collapsed"]:
        job.note(
            f"{collapsed} of {embedded['metrics']['starts']} starts came to nothing: their token is attended nowhere"
        )
    yield AttentionStage(settings, job.resolved | {"published": published_of(job.plan)}, pairs)


STAGES: dict[str, Any] = {}
STEPS = Steps(_stages, AttentionStage.name, roles=("diffusion",))
