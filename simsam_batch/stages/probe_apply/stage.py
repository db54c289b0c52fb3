"""The ``probe-apply`` stage: label maps by one fitted probe of another run; and the steps of ``simsam probe apply``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from simsam_batch.catalog import center_crops, truth_kind
from simsam_batch.errors import SettingsError
from simsam_batch.runs.plan import Plan
from simsam_batch.settings import Numbers, TrueClasses
from simsam_batch.stages.base import CommandStage
from simsam_batch.stages.features.stage import STEPS as FEATURES_STEPS
from simsam_batch.stages.features.stage import FeaturesStage
from simsam_batch.stages.probe_apply.probe_run import ProbeRun, require_same
from simsam_batch.stages.probe_apply.rows import PROBE_APPLY_FIELDS, ProbeApplyFold
from simsam_batch.stages.probe_apply.settings import FittedProbe, ProbeApplySettings
from simsam_batch.stages.probe_maps.worker import MapWorker
from simsam_batch.stages.steps import Job, Stages
from simsam_batch.storage import Folder, absolute_url, is_same_place, redact


@dataclass(frozen=True)
class ProbeApplyStage(CommandStage[ProbeApplySettings]):
    """Labels images by one probe.

    ``resolved`` holds ``cell``, the name of the probe; ``fits``, digests of what it rests on in its run; ``truth``, as
    the stage ``patch-labels``; and under ``classes`` how many there are.
    """

    name = "probe-apply"
    components = (Numbers, TrueClasses, FittedProbe)
    fields = PROBE_APPLY_FIELDS
    keeps_columns = True
    reads = (FeaturesStage.name,)

    @cached_property
    def fold(self) -> ProbeApplyFold:
        """Merges confusions, and scores them."""
        names = self.resolved["truth"]["classes"] or [str(number) for number in range(self.resolved["classes"])]
        return ProbeApplyFold(self.resolved["cell"], names)

    def make_worker(self, beat: Callable[[], None]) -> ProbeApplyWorker:
        """Read the fit and be ready for shards."""
        return ProbeApplyWorker(self, beat)


class ProbeApplyWorker(MapWorker):
    """Labels all images, and scores those that have truth."""

    def __init__(self, stage: ProbeApplyStage, beat: Callable[[], None]) -> None:
        run = _run_of(stage.options)
        cell = run.chosen(stage.options)
        require_same(stage.resolved["fits"], run, cell)
        super().__init__(stage, beat, run.fits(cell))

    def is_scored(self, image_id: str) -> bool:
        """Every image is, if it has truth."""
        del image_id
        return True

    def is_labelled(self, image_id: str) -> bool:
        """Every image is."""
        del image_id
        return True


def _completed(settings: ProbeApplySettings, out: str) -> ProbeApplySettings:
    """The settings with what the fitted probe fixes, and which probe it is.

    Raises:
        SettingsError: no such probe, or something is given that it fixes otherwise.
    """
    run = _run_of(settings)
    if is_same_place(run.out.url, out):
        raise SettingsError(
            f"OUT: {redact(absolute_url(out))} is the run whose probe is to be applied, and would hold two. To mend "
            "it: name another folder"
        )
    cell = run.chosen(settings)
    fixed: dict[str, Any] = {name: getattr(run.settings, name) for name in settings.not_given()} | run.taps_of(cell)
    differing = [
        f"{name}: {_said(getattr(settings, name))} is given, and the probe of {run.out.url} needs {_said(value)}. To "
        "mend it: leave it out, it is taken from there"
        for name, value in fixed.items()
        if name in settings.model_fields_set
        # as it was given there is as good, such as blocks from the end
        and getattr(settings, name) not in (value, getattr(run.settings, name))
    ]
    if differing:
        raise SettingsError(*differing)
    ignore = run.truth["ignore_label"]
    known: dict[str, Any] = {"ignore_label": -1 if ignore is None else ignore, "weights": run.weights}
    as_there: dict[str, Any] = {
        name: known[name] if name in known else getattr(run.settings, name) for name in settings.left_open()
    }
    chosen: dict[str, Any] = {
        "probe_run": run.out.url,
        "probe": cell.probe,
        "features": cell.features,
        "fraction": cell.budget.fraction,
        "seed_of_fit": cell.seed,
        "clusters": cell.clusters or None,
    }
    given: dict[str, Any] = {name: getattr(settings, name) for name in settings.model_fields_set}
    return type(settings)(**as_there | given | fixed | chosen)


def _said(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _run_of(settings: ProbeApplySettings) -> ProbeRun:
    if settings.probe_run is None:
        raise SettingsError("probe_run: none is given. To mend it: name the OUT of a finished simsam probe")
    return ProbeRun(Folder(absolute_url(settings.probe_run)))


def _check_models(settings: ProbeApplySettings, models: Mapping[str, Any]) -> None:
    del models
    _run_of(settings).require_network(settings)


def _stages(job: Job) -> Stages:
    settings: ProbeApplySettings = job.settings
    run = _run_of(settings)
    cell = run.chosen(settings)
    job.note(f"images are labelled by {cell.name}, of {run.out.url}")
    yield FeaturesStage(settings, job.resolved, job.plan)
    truth = _truth(settings, run, job.plan)
    if truth["kind"] is None:
        job.note("label maps are not scored: the truth of this dataset is not one of class ids")
    resolved = {"cell": cell.name, "fits": run.digests(cell), "truth": truth, "classes": len(run.class_names)}
    applied = yield ProbeApplyStage(settings, resolved, job.plan)
    if errors := applied["metrics"]["truth_errors"]:
        job.note(f"the truth of {errors} images cannot be used: they are not scored")


def _truth(settings: ProbeApplySettings, run: ProbeRun, plan: Plan) -> dict[str, Any]:
    """How the truth of the new images is read: by the classes that the probe was fitted to."""
    of_ids = truth_kind(plan.source) in (None, "semantic")
    ignore = None if settings.ignore_label < 0 else settings.ignore_label
    return run.truth | {
        "kind": "classes" if of_ids else None,
        "count": len(run.class_names),
        "ignore_label": ignore,
        "also_ignored": [] if ignore is None else [each for each in run.truth["also_ignored"] if each != ignore],
        "center_crop": center_crops(plan.source),
    }


STAGES = {ProbeApplyStage.name: ProbeApplyStage}
STEPS = replace(
    FEATURES_STEPS,
    stages=_stages,
    result=ProbeApplyStage.name,
    complete=_completed,
    check_models=_check_models,
)
