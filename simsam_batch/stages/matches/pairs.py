"""The plan of pairs that a run is about."""

from __future__ import annotations

from simsam_batch.catalog import PAIRS
from simsam_batch.errors import SettingsError
from simsam_batch.runs.plan import Plan, further_plans
from simsam_batch.scores.pck import MEANT
from simsam_batch.stages.steps import Job


def plan_of_pairs(job: Job) -> Plan:
    """That of a run.

    Raises:
        SettingsError: it is about images alone.
    """
    found = further_plans(job.plan).get(PAIRS)
    if found is None:
        raise SettingsError(f"{job.folder.url} holds a run about images, not pairs. To mend it: give another OUT")
    if not job.settings.quiet:
        job.note(f"{found.records:,} pairs of {job.plan.records:,} images")
    return found


def published_of(plan: Plan) -> str | None:
    """Name of the thresholds that figures of a set by name were published with; None without."""
    return (plan.source.get("pair_set") or {}).get("published") or None


def kinds_of(published: str | None) -> list[str]:
    """The thresholds that pairs are scored at."""
    return [*MEANT, *([published] if published else [])]
