"""What all operations that compute do first: the settings checked, the engine started, the plan opened."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from simsam_batch.errors import RunError, SettingsError
from simsam_batch.settings import (
    FeatureSettings,
    HierarchySettings,
    RunSettings,
    SegmentSettings,
    SemanticSettings,
    SpectralSettings,
    resolve,
)
from simsam_batch.storage import Folder, ObjectNotFound, absolute_url, redact

if TYPE_CHECKING:
    import pyarrow as pa

    from simsam_batch.engines.contract import Engine, Runner
    from simsam_batch.engines.inline import InlineEngine
    from simsam_batch.engines.local import LocalEngine
    from simsam_batch.engines.ray import RayEngine
    from simsam_batch.engines.torchrun import TorchrunEngine
    from simsam_batch.runs.execute import ExecuteOptions
    from simsam_batch.runs.plan import Plan
    from simsam_batch.runs.schema import Stage
    from simsam_batch.telling.console import Reporter
    from simsam_batch.telling.events import EventLog

S = TypeVar("S", bound=FeatureSettings)


STAGES = ("segment", "regions", "semantic", "hierarchy", "labels")
"""Names of the stages, each after the one it reads."""


CLUSTERED = ("semantic", "labels")
"""Stages that rest on clusters, beside the stage they read."""


@dataclass(frozen=True, slots=True)
class Job(Generic[S]):
    """A run that is ready for its stages, in the process that drives it."""

    folder: Folder
    plan: Plan
    engine: Engine
    settings: S
    resolved: dict[str, Any]
    report: EventLog

    def stage(self, name: str, resolved: dict[str, Any] | None = None, recorded: dict[str, Any] | None = None) -> Stage:
        """One of `STAGES`; see `stage_of`."""
        return stage_of(name, self.settings, self.resolved if resolved is None else resolved, self.plan, recorded)

    def run(
        self, stage: Stage, before_first: Callable[[], None] | None = None, again: Mapping[int, int] | None = None
    ) -> dict[str, Any]:
        """Execute a stage and publish what it came to.

        Args:
            stage: of this run.
            before_first: called before any work, if no shard of it is done yet or failed images are tried again.
            again: try failed images again instead, see `simsam_batch.runs.execute.execute`.

        Returns:
            What ``results/<stage>.json`` holds; after a second try in a run that is not finished, which cannot be
            published yet, only ``images`` that were tried and those that ``failed``.
        """
        from simsam_batch.engines.contract import Task
        from simsam_batch.runs.execute import execute
        from simsam_batch.runs.ledger import Ledger
        from simsam_batch.runs.publish import publish

        folder, plan, report = self.folder, self.plan, self.report
        report.stage(stage.name, shards_again=len(again or ()))
        description = {
            "single_driver": folder.single_driver,
            "stage": stage.name,
            "resolved": stage.resolved,
            "recorded": stage.settings,
            "settings": self.settings.model_dump(mode="json"),
            "again": list((again or {}).items()),
        }
        task = Task(run=folder.url, stage=stage.name, description=json.dumps(description))

        def announce(pending: int) -> None:
            done = plan.shards - pending
            if before_first is not None and (again is not None or not done):
                before_first()
            if again is not None:
                return
            images = plan.first_record_of(done)
            report.plan(stage.name, images=plan.records, shards=plan.shards, done_shards=done, done_images=images)

        defaults = type(self.settings)().values_of("operation")
        given = {n: value for n, value in self.settings.values_of("operation").items() if value != defaults[n]}
        options = execute_options(self.settings)
        summary = execute(
            folder,
            plan,
            stage,
            self.engine,
            options,
            report.shard,
            announce,
            on_note=report.note,
            again=again,
            started_with=given,
            task=task,
        )
        if again is not None and (pending := len(Ledger(folder, stage.name).pending(plan.shards))):
            report.note(
                f"{stage.name}: {pending} shards have not been done yet; the command that began the run does them"
            )
            return {"images": summary.images, "failed": summary.failed}
        result = publish(folder, plan, stage)
        report.finish(result, f"{folder.url}/results/{stage.name}.json")
        return result


@contextmanager
def open_job(
    images: str, out: str, settings: S, columns: Sequence[pa.Field], report: Reporter
) -> Iterator[Job[S] | None]:
    """Start the engine, check what can be checked, and open the plan; None on a torchrun rank, when it has helped.

    What happens from then on is told in the events of the run as well, from planning to the end of the command.

    Args:
        images: what the run is about.
        out: folder of the run.
        settings: of its stages.
        columns: those that the stages make, whose names kept columns cannot have.
        report: is told what happens.

    Raises:
        SettingsError: a setting cannot be used, or OUT holds a run about another input.
    """
    from simsam_batch.stages.segment.rows import check_kept_columns
    from simsam_batch.telling.events import EventLog

    check_kept_columns(settings.keep_columns, columns)
    with started_engine(out, settings) as engine:
        if engine is None:
            yield None
            return
        folder, settings, resolved = checked(out, settings)
        with EventLog(folder, report).command(settings.model_dump(mode="json")) as events:
            plan = open_plan(images, folder, settings, events)
            yield Job(folder, plan, engine, settings, resolved, events)


@contextmanager
def started_engine(out: str, settings: FeatureSettings) -> Iterator[Engine | None]:
    """The engine of a command, for all its stages; None on a torchrun rank, when it has helped with all of them."""
    from simsam_batch.engines.torchrun import TorchrunEngine

    with closing(make_engine(settings)) as engine:
        if isinstance(engine, TorchrunEngine) and not engine.is_driver:
            engine.serve(partial(_runner_of_job, absolute_url(out)))
            yield None
        else:
            yield engine


def checked(out: str, settings: S) -> tuple[Folder, S, dict[str, Any]]:
    """Check what can be checked before any work.

    Args:
        out: folder of the run.
        settings: of its stages.

    Returns:
        The folder, in which only the answer to whether it can be used is written; the settings as workers elsewhere
        can use them; and what the backbone was resolved to.

    Raises:
        SettingsError: a setting cannot be used.
        StorageError: OUT cannot be written.
    """
    from simsam_batch.images import check_resize, parse_resize
    from simsam_batch.regions.refine import load_crf
    from simsam_batch.stages.regions.rows import check_crop_size
    from simsam_batch.workers.models import resolve_backbone

    resize = parse_resize(settings.resize)
    if settings.weights is not None:
        # A worker on another machine, or of a cluster started elsewhere, has another working folder.
        settings = settings.model_copy(update={"weights": absolute_url(settings.weights)})
    if isinstance(settings, SpectralSettings | HierarchySettings) and settings.refine != "none":
        # What refines may not be installed; that is to be said at once, and not by every worker.
        load_crf()
    folder = Folder(absolute_url(out), single_driver=settings.single_driver)
    resolved = resolve_backbone(settings)
    check_resize(resize, resolved["patch"])
    if isinstance(settings, SemanticSettings):
        check_crop_size(settings, resolved)
    folder.check_create()
    return folder, settings, resolved


def stage_of(
    name: str,
    settings: FeatureSettings,
    resolved: dict[str, Any],
    plan: Plan,
    recorded: dict[str, Any] | None = None,
) -> Stage:
    """A stage of a run.

    Args:
        name: one of `STAGES`.
        settings: of the command it belongs to.
        resolved: what its ``stage.json`` says or is to say under that name.
        plan: of the run.
        recorded: the settings in ``stage.json``, where the limits in force are others.

    Raises:
        SettingsError: no stage of that name has such settings.
    """
    from simsam_batch.catalog import center_crops, truth_kind
    from simsam_batch.stages.hierarchy.rows import HierarchyStage
    from simsam_batch.stages.labels.stage import LabelsStage
    from simsam_batch.stages.regions.rows import RegionsStage
    from simsam_batch.stages.segment.rows import SegmentStage, kept_columns
    from simsam_batch.stages.semantic.rows import SemanticStage

    if name == "segment" and isinstance(settings, SegmentSettings):
        object_truth = truth_kind(plan.source) in (None, "object")
        return SegmentStage(settings, resolved, kept_columns(plan), object_truth, center_crops(plan.source), recorded)
    if name == "regions" and isinstance(settings, SemanticSettings):
        return RegionsStage(settings, resolved, recorded)
    if name == "semantic" and isinstance(settings, SemanticSettings):
        return SemanticStage(settings, resolved, plan.out, kept_columns(plan), recorded)
    if name == "hierarchy" and isinstance(settings, HierarchySettings):
        return HierarchyStage(settings, resolved, kept_columns(plan), recorded)
    if name == "labels" and isinstance(settings, HierarchySettings):
        return LabelsStage(settings, resolved, plan.out)
    raise SettingsError(f"no stage {name!r} has {type(settings).__name__}; there are {', '.join(STAGES)}")


def settings_model(stage: str) -> type[FeatureSettings]:
    """The settings of the command that a stage belongs to."""
    trees = HierarchySettings
    models: dict[str, type[FeatureSettings]] = {"segment": SegmentSettings, "hierarchy": trees, "labels": trees}
    return models.get(stage, SemanticSettings)


def begun_stages(out: Folder) -> list[str]:
    """The stages that a run has begun, each after the one it reads."""
    begun = []
    for name in STAGES:
        with suppress(ObjectNotFound):
            out.read(f"{name}/stage.json")
            begun.append(name)
    return begun


def recorded_settings(out: Folder, stage: str, changes: Mapping[str, Any]) -> FeatureSettings:
    """The settings that a stage of a run was begun with, but for some.

    Args:
        out: the run's folder.
        stage: one of those begun.
        changes: operation settings, and limits.

    Raises:
        SettingsError: another setting, or a value that is not allowed.
    """
    from simsam_batch.runs.ledger import Ledger
    from simsam_batch.stages.clusters.stage import NODES, REGIONS, committed_settings

    model = settings_model(stage)
    models = (SegmentSettings, SemanticSettings, HierarchySettings)
    fixed = sorted(set(changes) - {name for each in models for name in (*each.fields_of("operation"), *each.limits())})
    if fixed:
        raise SettingsError(
            f"{', '.join(fixed)}: cannot be changed in a run that has begun. To mend it: use another OUT"
        )
    held: dict[str, Any] = {}
    command = next(names for names in (("regions", "semantic"), ("hierarchy", "labels"), (stage,)) if stage in names)
    for name in begun_stages(out):
        if name in command:
            record = Ledger(out, name).record()
            held |= {"weights": record["started_with"].get("weights")} | record["settings"]
    if stage in CLUSTERED:
        held |= committed_settings(out, {"semantic": REGIONS, "labels": NODES}[stage])
    # What only other stages know may be given for a run that has several.
    return resolve(model, held | {name: value for name, value in changes.items() if name in model.model_fields})


def execute_options(settings: RunSettings) -> ExecuteOptions:
    """How shards are watched and given up, as the settings say."""
    from simsam_batch.runs.execute import ExecuteOptions

    return ExecuteOptions(
        starts_before_quarantine=settings.starts_before_quarantine,
        stall_seconds=60 * settings.stall_minutes,
        grace_seconds=settings.grace_seconds,
    )


def _runner_of_job(out: str, job: str) -> Runner:
    """The runner of a torchrun rank that helps, from what the driver told it."""
    from simsam_batch.runs.plan import load_plan
    from simsam_batch.runs.runner import RunnerFactory

    told = json.loads(job)
    folder = Folder(out, single_driver=told["single_driver"])
    plan = load_plan(folder)
    if plan is None:
        msg = (
            f"rank 0 works on {folder.url}, and there is no run there for this rank: do all ranks see the same storage?"
        )
        raise RunError(msg)
    settings = settings_model(told["stage"]).model_validate(told["settings"])
    stage = stage_of(told["stage"], settings, told["resolved"], plan, told["recorded"])
    again = {int(shard): int(generation) for shard, generation in told["again"]}
    return RunnerFactory(folder, plan, stage, execute_options(settings), again)()


def existing_plan(out: Folder) -> Plan:
    """The plan of the run in OUT.

    Raises:
        SettingsError: there is none.
        RunError: it is damaged.
    """
    from simsam_batch.runs.plan import load_plan

    plan = load_plan(out)
    if plan is None:
        raise SettingsError(f"{out.url} holds no run: it has no run.json. To mend it: give the OUT of simsam segment")
    return plan


def open_plan(images: str, out: Folder, settings: RunSettings, report: Reporter) -> Plan:
    """The plan of the run in OUT; made from IMAGES if there is none yet.

    A run that exists is about the images it was planned with: IMAGES is not listed again, unless ``check_input`` asks
    for a comparison.

    Raises:
        SettingsError: IMAGES holds no images or cannot be used, or the run in OUT is about another input.
    """
    from simsam_batch.catalog import absolute_input, read_catalog
    from simsam_batch.runs.plan import load_plan, make_plan

    source = {"images": absolute_input(images)} | settings.values_of("input")
    for name in ("root", "truth"):
        if source[name] is not None:
            source[name] = redact(absolute_url(source[name]))
    wanted_size = source.pop("shard_size")
    plan = load_plan(out)
    if plan is not None and not settings.check_input:
        _require_same_input(plan, source, wanted_size)
        return plan
    catalog = read_catalog(
        images,
        root=settings.root,
        truth=settings.truth,
        split=settings.split,
        keep_columns=settings.keep_columns,
        limit=settings.limit or None,
    )
    for note in catalog.notes:
        report.note(note)
    if plan is None:
        facts: dict[str, Any] = {} if catalog.dataset is None else {"dataset": catalog.dataset.to_json()}
        if catalog.truth_kind is not None:
            facts["truth_kind"] = catalog.truth_kind
        plan = make_plan(out, catalog.table, shard_size=wanted_size or None, source=source | facts)
        # Another driver may have been first, with another input.
        _require_same_input(plan, source, wanted_size)
        return plan
    _require_same_input(plan, source, wanted_size)
    for change in input_changes(plan, catalog.table):
        report.note(change)
    return plan


def _require_same_input(plan: Plan, source: dict[str, Any], shard_size: int) -> None:
    there, here = dict(plan.source), dict(source)
    if shard_size and shard_size != plan.shard_size:
        there["shard_size"], here["shard_size"] = plan.shard_size, shard_size
    differences = [
        f"{name}: the run in OUT has {there.get(name)!r}, this command has {value!r}"
        for name, value in here.items()
        if there.get(name) != value
    ]
    if differences:
        msg = "\n  ".join(["OUT holds a run about another input:", *differences])
        raise SettingsError(f"{msg}\nTo mend it: give the same input, or another OUT")


def input_changes(plan: Plan, table: pa.Table) -> list[str]:
    """What a new listing of the input shows that the plan does not know; the run keeps to its plan.

    Returns:
        Lines for people: images that are new, gone, or of another size or ETag, with a few names each.
    """
    planned: dict[str, tuple[Any, Any]] = {}
    for number in range(plan.shards):
        records = plan.shard(number).records.select(["image_id", "size", "etag"]).to_pydict()
        planned |= zip(records["image_id"], zip(records["size"], records["etag"], strict=True), strict=True)
    listed = table.select(["image_id", "size", "etag"]).to_pydict()
    found = dict(zip(listed["image_id"], zip(listed["size"], listed["etag"], strict=True), strict=True))
    changes = {
        "new, not part of this run": [name for name in found if name not in planned],
        "gone since the plan was made": [name for name in planned if name not in found],
        "changed since the plan was made": [n for n, facts in found.items() if planned.get(n, facts) != facts],
    }
    lines = []
    for what, names in changes.items():
        if names:
            lines.append(f"{len(names)} images are {what}: {', '.join(names[:5])}{' ...' if len(names) > 5 else ''}")
    return lines


def make_engine(settings: RunSettings) -> InlineEngine | LocalEngine | RayEngine | TorchrunEngine:
    """The engine that the settings ask for; see `simsam_batch.engines.choose.choose_engine`."""
    from simsam_batch.engines.choose import choose_engine

    return choose_engine(
        settings.engine,
        workers=settings.workers,
        threads=settings.threads,
        device=settings.device,
        ray_address=settings.ray_address,
        recycle_after=settings.recycle_after,
        grace_seconds=settings.grace_seconds,
    )
