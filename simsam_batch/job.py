"""What all operations that compute do first: the settings checked, the engine started, the plan opened."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from simsam_batch.errors import RunError, SettingsError, did_you_mean
from simsam_batch.planning import listed_input, open_plan
from simsam_batch.results.opening import begun_stages, existing_plan
from simsam_batch.settings import NetworkSettings, RunSettings, resolve
from simsam_batch.stages.registry import Command, command_of, stage_class
from simsam_batch.stages.registry import command as command_named
from simsam_batch.storage import Folder, absolute_url

if TYPE_CHECKING:
    import pyarrow as pa

    from simsam_batch.catalog import Images
    from simsam_batch.engines.contract import Engine, Runner, ShardReport
    from simsam_batch.engines.inline import InlineEngine
    from simsam_batch.engines.local import LocalEngine
    from simsam_batch.engines.ray import RayEngine
    from simsam_batch.engines.torchrun import TorchrunEngine
    from simsam_batch.runs.execute import ExecuteOptions
    from simsam_batch.runs.ledger import Ledger
    from simsam_batch.runs.plan import Plan
    from simsam_batch.stages.base import CommandStage
    from simsam_batch.telling.console import Reporter
    from simsam_batch.telling.events import EventLog

S = TypeVar("S", bound=NetworkSettings)

_LIMITED = {"too_large", "timed_out"}
"""Kinds of failures that come of a setting as much as of an image."""


@dataclass(frozen=True, slots=True)
class Job(Generic[S]):
    """A run that is ready for its stages, in the process that drives it.

    Attributes:
        command: what is done.
        folder: OUT.
        plan: of the images.
        engine: what executes shards.
        settings: of the command.
        resolved: what its models came down to, under ``models``.
        report: is told what happens.
    """

    command: Command
    folder: Folder
    plan: Plan
    engine: Engine
    settings: S
    resolved: dict[str, Any]
    report: EventLog

    def note(self, text: str) -> None:
        """Tell something worth knowing."""
        self.report.note(text)

    def run(
        self,
        stage: CommandStage[Any],
        before_first: Callable[[], None] | None = None,
        again: Mapping[int, int] | None = None,
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
        from simsam_batch.runs.plan import as_grown

        plan = stage.plan or self.plan
        while True:
            result = self._run(stage, plan, before_first, again)
            before, plan = plan, as_grown(plan)
            if again is not None or plan == before:
                return result
            # another driver has added images meanwhile
            if stage.plan is not None:
                stage = replace(stage, plan=plan)

    def _run(
        self,
        stage: CommandStage[Any],
        plan: Plan,
        before_first: Callable[[], None] | None,
        again: Mapping[int, int] | None,
    ) -> dict[str, Any]:
        from simsam_batch.engines.contract import Task
        from simsam_batch.runs.execute import execute
        from simsam_batch.runs.ledger import Ledger
        from simsam_batch.runs.publish import publish

        folder, report = self.folder, self.report
        report.stage(stage.name, shards_again=len(again or ()))
        description = {
            "single_driver": folder.single_driver,
            "command": self.command.name,
            "stage": stage.name,
            "resolved": stage.resolved,
            "recorded": stage.settings,
            "settings": self.settings.model_dump(mode="json"),
            "again": list((again or {}).items()),
        }
        told = json.dumps(description)
        task = Task(run=folder.url, stage=stage.name, on_progress=report.progress, description=told)

        first_of_many = False

        def announce(pending: int) -> None:
            nonlocal first_of_many
            done = plan.shards - pending
            first_of_many = again is None and not done and pending > 1
            if again is None and not done and not stage.reads and (note := self._too_large()) is not None:
                report.note(note)
            if before_first is not None and (again is not None or not done):
                before_first()
            if again is not None:
                return
            records = plan.first_record_of(done)
            counts = {"shards": plan.shards, "done_shards": done, "done_images": records}
            report.plan(stage.name, images=plan.records, **counts, unit=plan.unit)

        def tell(shard: ShardReport) -> None:
            nonlocal first_of_many
            report.shard(shard)
            if first_of_many and shard.status == "committed":
                first_of_many = False
                _require_some_within_limits(Ledger(folder, stage.name), shard)

        defaults = type(self.settings)().values_of("operation")
        given = {n: value for n, value in self.settings.values_of("operation").items() if value != defaults[n]}
        summary = execute(
            folder,
            plan,
            stage,
            self.engine,
            execute_options(self.settings),
            tell,
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

    def _too_large(self) -> str | None:
        """What is worth saying of the sizes of images before any is computed."""
        from simsam_batch.stages.sizes import too_large_note

        patches = (facts["patch"] for facts in self.resolved["models"].values() if "patch" in facts)
        patch = next(patches, None)
        return None if patch is None else too_large_note(self.plan, self.settings, patch)


def _require_some_within_limits(ledger: Ledger, shard: ShardReport) -> None:
    """Stop a run of which every image of the first shard is over a limit: the others would go the same way.

    Raises:
        SettingsError: they are, with the reason of one.
    """
    if shard.failed < shard.images:
        return
    if _LIMITED.issuperset(ledger.manifest(shard.shard, 0)["errors_by_type"]):
        image_id, reason = shard.failures[0]
        raise SettingsError(
            f"all {shard.images} images of the first shard failed for a limit, and the others would too; {image_id}: "
            f"{reason}. The run is stopped. Limits and sizes are fixed with a run, so give another OUT with them"
        )


@contextmanager
def open_job(
    command: Command, images: Images | None, out: str, settings: S, report: Reporter
) -> Iterator[Job[S] | None]:
    """Check what can be checked, then open the plan; None on a torchrun rank, when it has helped.

    What costs least comes first: settings, IMAGES, OUT, whether a Ray cluster answers, then the weights. Nothing
    is written before all of it is good.

    What happens from then on is told in the events of the run as well, from planning to the end of the command.

    Args:
        command: what is to be done.
        images: what the run is about; None of a command that is about the run in OUT.
        out: folder of the run.
        settings: of the command.
        report: is told what happens.

    Raises:
        SettingsError: a setting or IMAGES cannot be used, or OUT holds a run about another input.
        RunError: a Ray cluster does not answer.
        StorageError: IMAGES cannot be listed or OUT cannot be written.
    """
    report.doing("loading packages")
    from simsam_batch.catalog import require_apart
    from simsam_batch.stages.base import check_kept_columns
    from simsam_batch.telling.events import EventLog

    if not isinstance(settings, command.settings()):
        raise SettingsError(
            f"settings: {command.name} takes {command.settings().__name__}, not {type(settings).__name__}"
        )
    settings = command.steps().complete(settings, out)
    if images is not None:
        require_apart(images, out)
    fields: list[pa.Field] = [field for name in command.stages for field in stage_class(name).fields]
    check_kept_columns(settings.keep_columns, fields)
    with started_engine(out, settings) as engine:
        if engine is None:
            yield None
            return
        folder, settings = checked_settings(command, out, settings)
        check_effects(folder, settings)
        if images is None:
            known = existing_plan(folder)
            planned: Callable[[Reporter], Plan] = lambda _: known  # noqa: E731
        else:
            report.doing("listing images")
            before = [shlex.quote(getattr(settings, name)) for name in settings.before_images]
            words = " ".join(["simsam", command.name, *before])
            listed = listed_input(images, folder, settings, words)
            planned = partial(open_plan, images, folder, settings, listed)
        folder.check_place()
        require_answer(engine)
        report.doing(f"loading {_networks(settings)}")
        resolved = resolved_models(command, settings)
        if images is not None:
            _require_same_where_it_grows(command, folder, settings, resolved["models"])
        folder.check_create()
        with EventLog(folder, report).command(settings.model_dump(mode="json")) as events:
            yield Job(command, folder, planned(events), engine, settings, resolved, events)


def _require_same_where_it_grows(
    command: Command, out: Folder, settings: NetworkSettings, models: Mapping[str, Any]
) -> None:
    """Refuse to compute new images by other settings or models than a run has, before they are planned.

    Raises:
        SettingsError: with the differences.
    """
    from simsam_batch.growing import is_to_grow
    from simsam_batch.runs.plan import load_plan
    from simsam_batch.runs.stage_record import read_record, require_same

    plan = load_plan(out)
    if plan is None or not is_to_grow(plan, settings):
        return
    idle = command.steps().idle(settings)
    for name in (name for name in command.stages if name not in idle):
        there = read_record(out, name)
        if there is not None:
            stage = stage_class(name)
            resolved = dict(there["resolved"])
            if "models" in resolved:
                resolved["models"] = {role: models.get(role, facts) for role, facts in resolved["models"].items()}
            here = {"settings": settings.values_of("result", stage.components), "resolved": resolved}
            require_same(out, there, there | here, settings.unrecorded(stage.components))


def _networks(settings: NetworkSettings) -> str:
    """What is loaded, by the name that people gave it."""
    return "networks" if "backbone" in settings.not_given() else settings.backbone


@contextmanager
def started_engine(out: str, settings: NetworkSettings) -> Iterator[Engine | None]:
    """The engine of a command, for all its stages; None on a torchrun rank, when it has helped with all of them."""
    from simsam_batch.engines.torchrun import TorchrunEngine

    with closing(make_engine(settings)) as engine:
        if isinstance(engine, TorchrunEngine) and not engine.is_driver:
            engine.serve(partial(_runner_of_task, absolute_url(out)))
            yield None
        else:
            yield engine


def checked_settings(command: Command, out: str, settings: S) -> tuple[Folder, S]:
    """Check what settings alone can tell; nothing is listed or written.

    Args:
        command: what is to be done.
        out: folder of the run.
        settings: of the command.

    Returns:
        The folder, and the settings as workers elsewhere can use them.

    Raises:
        SettingsError: a setting cannot be used, or OUT was begun by a release that this one cannot go on for.
    """
    from simsam_batch.images import parse_resize
    from simsam_batch.runs.version_1 import require_none

    parse_resize(settings.resize)
    command.steps().check(settings)
    # A worker on another machine, or of a cluster started elsewhere, has another working folder.
    given = {name: value for name in settings.places() if (value := getattr(settings, name))}
    whole = {
        name: absolute_url(value) if isinstance(value, str) else tuple(map(absolute_url, value))
        for name, value in given.items()
    }
    settings = settings.model_copy(update=whole)
    folder = Folder(absolute_url(out), single_driver=settings.single_driver)
    require_none(folder)
    return folder, settings


def check_effects(out: Folder, settings: RunSettings) -> None:
    """Refuse settings that do nothing beside the others; a run that was begun with some may be gone on with.

    Raises:
        SettingsError: naming them, and what each has no effect with.
    """
    from simsam_batch.runs.plan import load_plan

    idle = settings.without_effect()
    if idle and load_plan(out) is None:
        raise SettingsError(*idle)


def require_answer(engine: Engine) -> None:
    """Find out, in half a minute at most, whether there is a cluster where shards are to be given to one.

    Raises:
        SettingsError: Ray is not installed.
        RunError: it does not answer.
    """
    from simsam_batch.engines.ray import RayEngine

    if isinstance(engine, RayEngine):
        engine.require_answer()


def resolved_models(command: Command, settings: NetworkSettings) -> dict[str, Any]:
    """Under ``models`` what the models of a command come down to; they are loaded once, so that they must be there.

    Raises:
        SettingsError: an unknown model, weights that cannot be had or do not fit, or settings that do not fit a model.
    """
    from simsam_batch.images import check_resize, parse_resize
    from simsam_batch.stages.sizes import check_grid
    from simsam_batch.workers.models import resolve_models

    steps = command.steps()
    models = resolve_models(steps.roles, settings, partial(steps.check_loaded, settings))
    resize = parse_resize(settings.resize)
    for facts in models.values():
        if "patch" in facts:
            check_resize(resize, facts["patch"])
            check_grid(settings, facts["patch"])
    steps.check_models(settings, models)
    return {"models": models}


def recorded_settings(out: Folder, stage: str, changes: Mapping[str, Any]) -> NetworkSettings:
    """The settings that a stage of a run was begun with, but for some.

    Args:
        out: the run's folder.
        stage: one of those begun.
        changes: operation settings, and limits.

    Raises:
        SettingsError: another setting, or a value that is not allowed.
    """
    from simsam_batch.runs.ledger import Ledger
    from simsam_batch.stages.registry import COMMANDS

    models = [each.settings() for each in COMMANDS]
    limits = models[0].limits()
    changeable = {*limits, *(name for each in models for name in each.fields_of("operation"))}
    fixed = sorted(set(changes) - changeable)
    if fixed:
        raise SettingsError(*(_why_fixed(name, models, limits) for name in fixed))
    command = command_of(stage)
    model = command.settings()
    held: dict[str, Any] = model.unrecorded()
    for name in begun_stages(out):
        if name in command.stages:
            record = Ledger(out, name).record()
            began, fields = record["started_with"], model.model_fields
            # a stage that began without one of an earlier stage goes on without it
            held |= {place: began.get(place, fields[place].default) for place in model.places()} | record["settings"]
    # What only other commands know may be given for a run that has several.
    return resolve(model, held | {name: value for name, value in changes.items() if name in model.model_fields})


def _why_fixed(name: str, models: Sequence[type[NetworkSettings]], limits: Sequence[str]) -> str:
    """Why a setting cannot be another when failed images of a run are tried again."""
    model = next((each for each in models if name in each.model_fields), None)
    if model is None:
        return f"{name}: unknown setting{did_you_mean(name, (field for each in models for field in each.model_fields))}"
    why = "it says what the run is about, which is fixed with its plan"
    if name in model.fields_of("result"):
        why = "it changes the numbers, and images tried again must be computed as those that are good"
    may = ", ".join("--" + limit.replace("_", "-") for limit in limits)
    mend = f"use another OUT; {may} may be changed here"
    return f"{name}: cannot be changed in a run that has begun: {why}. To mend it: {mend}"


def execute_options(settings: RunSettings) -> ExecuteOptions:
    """How shards are watched and given up, as the settings say."""
    from simsam_batch.runs.execute import ExecuteOptions

    return ExecuteOptions(
        starts_before_quarantine=settings.starts_before_quarantine,
        stall_seconds=60 * settings.stall_minutes,
        grace_seconds=settings.grace_seconds,
    )


def _runner_of_task(out: str, description: str) -> Runner:
    """The runner of a torchrun rank that helps, from what the driver told it."""
    from simsam_batch.runs.ledger import Ledger
    from simsam_batch.runs.runner import RunnerFactory

    told = json.loads(description)
    folder = Folder(out, single_driver=told["single_driver"])
    try:
        plan = Ledger(folder, told["stage"]).plan()
    except RunError as error:
        raise RunError(
            f"rank 0 works on {folder.url}, and this rank cannot read the run there: {error}; do all ranks see the "
            "same storage?"
        ) from error
    settings = command_named(told["command"]).settings().model_validate(told["settings"])
    stage = stage_class(told["stage"])(settings, told["resolved"], plan, told["recorded"])
    again = {int(shard): int(generation) for shard, generation in told["again"]}
    return RunnerFactory(folder, plan, stage, execute_options(settings), again)()


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
        workers_per_gpu=settings.workers_per_gpu,
    )
