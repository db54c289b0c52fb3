"""What there is in an OUT: its plan, and the stages that have begun."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from simsam_batch.errors import SettingsError
from simsam_batch.runs.plan import Plan, load_plan
from simsam_batch.stages.registry import stage_names, stages_showing, stages_with_matches, stages_with_pictures
from simsam_batch.storage import Folder, ObjectNotFound


def begun_stages(out: Folder) -> list[str]:
    """The stages that a run has begun, each after the one it reads."""
    begun = []
    # one listing, rather than a request for each stage that a run may have
    there = set(out.entries())
    for name in (name for name in stage_names() if f"{name}/" in there):
        with suppress(ObjectNotFound):
            out.read(f"{name}/stage.json")
            begun.append(name)
    return begun


def existing_plan(out: Folder) -> Plan:
    """The plan of the run in OUT.

    Raises:
        SettingsError: there is none.
        RunError: it is damaged.
    """
    plan = load_plan(out)
    if plan is None:
        raise SettingsError(
            f"{out.url} holds no run: it has no run.json. To mend it: give the OUT of simsam segment or another "
            "command that computes"
        )
    return plan


def main_stage(stages: Sequence[str]) -> str:
    """The stage that is meant where none is named: the first that shows something, else the last.

    Args:
        stages: those of a run that have begun, at least one.
    """
    telling = [*stages_with_pictures(), *stages_with_matches(), *stages_showing(["objects", "labels", "trees"])]
    return next((name for name in telling if name in stages), stages[-1])
