"""The steps of ``simsam probe``."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from typing import Any

from simsam_batch.errors import SettingsError
from simsam_batch.runs.plan import Plan
from simsam_batch.runs.reading import StageRows
from simsam_batch.stages.features.stage import STEPS as FEATURES_STEPS
from simsam_batch.stages.features.stage import FeaturesStage
from simsam_batch.stages.patch_labels.stage import PatchLabelsStage
from simsam_batch.stages.probe.settings import ProbeSettings
from simsam_batch.stages.probe_fits.stage import ProbeFitsStage
from simsam_batch.stages.probe_maps.stage import ProbeMapsStage
from simsam_batch.stages.probe_table.stage import ProbeTableStage
from simsam_batch.stages.steps import Job, Stages
from simsam_batch.stages.subsets.selection import roles_of
from simsam_batch.stages.subsets.stage import SubsetsStage
from simsam_batch.stages.true_classes import read_class_names, truth_of


def _stages(job: Job) -> Stages:
    settings: ProbeSettings = job.settings
    truth = _truth(settings, job.plan)
    for note in roles_of(job.plan, settings).notes:
        job.note(note)
    yield FeaturesStage(settings, job.resolved, job.plan)
    labelled = yield PatchLabelsStage(settings, {"truth": truth}, job.plan)
    metrics = labelled["metrics"]
    if metrics["truth_errors"]:
        job.note(f"the truth of {metrics['truth_errors']} images cannot be used: they are neither fitted on nor scored")
    if not metrics["pixels_by_class"]:
        raise SettingsError("truth: no image has a pixel of a class. To mend it: see --truth and --ignore-label")
    classes = len(truth["classes"] or range(1 + max(map(int, metrics["pixels_by_class"]))))
    drawn = yield SubsetsStage.of(settings, job.folder, classes)
    if drawn["failed"]:
        raise SettingsError("train, val: one side has no image with features and truth. To mend it: choose others")
    for _, row in StageRows(job.folder, SubsetsStage.name).each([SubsetsStage.unit, "absent"]):
        if row["absent"]:
            named = [str(each) if truth["classes"] is None else truth["classes"][each] for each in row["absent"]]
            job.note(f"no image of {row[SubsetsStage.unit]} has {', '.join(named)}")
    resolved = {"classes": classes, "channels_of": job.resolved["models"]["taps"]["channels_of"]}
    yield ProbeFitsStage.of(settings, job.folder, resolved)
    yield ProbeMapsStage(settings, resolved | {"truth": truth}, job.plan)
    names = list(truth["classes"] or map(str, range(classes)))
    yield ProbeTableStage.of(settings, job.folder, resolved | {"class_names": names})


def _truth(settings: ProbeSettings, plan: Plan) -> dict[str, Any]:
    truth = truth_of(settings, plan.source)
    if truth is None:
        raise SettingsError(
            "truth: that of this dataset is not one of class ids, and probes are fitted to those. To mend it: give a "
            "dataset whose truth is class ids, or images with --truth FOLDER"
        )
    return truth


def _check(settings: ProbeSettings) -> None:
    if settings.search == "approximate" and "knn" in settings.probes and find_spec("faiss") is None:
        raise SettingsError(
            "search: 'approximate' needs faiss, which is not installed. To mend it: pip install "
            "'simsam-batch[approximate]', or leave it out"
        )
    if settings.class_names is not None:
        read_class_names(settings.class_names)


STEPS = replace(
    FEATURES_STEPS,
    stages=_stages,
    result=ProbeTableStage.name,
    check=_check,
)
