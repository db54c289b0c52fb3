"""What all operations that compute do first: the settings checked, the engine started, the plan opened."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from simsam_batch.errors import RunError, SettingsError
from simsam_batch.results.opening import begun_stages
from simsam_batch.settings import NetworkSettings, RunSettings, resolve
from simsam_batch.stages.registry import Command, command_of, stage_class
from simsam_batch.storage import Folder, absolute_url, redact

if TYPE_CHECKING:
    import pyarrow as pa

    from simsam_batch.engines.contract import Engine, Runner
    from simsam_batch.engines.inline import InlineEngine
    from simsam_batch.engines.local import LocalEngine
    from simsam_batch.engines.ray import RayEngine
    from simsam_batch.engines.torchrun import TorchrunEngine
    from simsam_batch.runs.execute import ExecuteOptions
    from simsam_batch.runs.plan import Plan
    from simsam_batch.stages.base import CommandStage
    from simsam_batch.telling.console import Reporter
    from simsam_batch.telling.events import EventLog

S = TypeVar("S", bound=NetworkSettings)


@dataclass(frozen=True, slots=True)
class Job(Generic[S]):
    """A run that is ready for its stages, in the process that drives it.

    Attributes:
        folder: OUT.
        plan: of the images.
        engine: what executes shards.
        settings: of the command.
        resolved: what its models came down to, under ``models``.
        report: is told what happens.
    """

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
        from simsam_batch.engines.contract import Task
        from simsam_batch.runs.execute import execute
        from simsam_batch.runs.ledger import Ledger
        from simsam_batch.runs.publish import publish

        folder, plan, report = self.folder, stage.plan or self.plan, self.report
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
            records = plan.first_record_of(done)
            counts = {"shards": plan.shards, "done_shards": done, "done_images": records}
            report.plan(stage.name, images=plan.records, **counts, unit=plan.unit)

        defaults = type(self.settings)().values_of("operation")
        given = {n: value for n, value in self.settings.values_of("operation").items() if value != defaults[n]}
        summary = execute(
            folder,
            plan,
            stage,
            self.engine,
            execute_options(self.settings),
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
def open_job(command: Command, images: str, out: str, settings: S, report: Reporter) -> Iterator[Job[S] | None]:
    """Start the engine, check what can be checked, and open the plan; None on a torchrun rank, when it has helped.

    What happens from then on is told in the events of the run as well, from planning to the end of the command.

    Args:
        command: what is to be done.
        images: what the run is about.
        out: folder of the run.
        settings: of the command.
        report: is told what happens.

    Raises:
        SettingsError: a setting cannot be used, or OUT holds a run about another input.
    """
    from simsam_batch.catalog import require_apart
    from simsam_batch.stages.base import check_kept_columns
    from simsam_batch.telling.events import EventLog

    require_apart(images, out)
    fields: list[pa.Field] = [field for name in command.stages for field in stage_class(name).fields]
    check_kept_columns(settings.keep_columns, fields)
    with started_engine(out, settings) as engine:
        if engine is None:
            yield None
            return
        folder, settings, resolved = checked(command, out, settings)
        with EventLog(folder, report).command(settings.model_dump(mode="json")) as events:
            plan = open_plan(images, folder, settings, events)
            yield Job(folder, plan, engine, settings, resolved, events)


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


def checked(command: Command, out: str, settings: S) -> tuple[Folder, S, dict[str, Any]]:
    """Check what can be checked before any work.

    Args:
        command: what is to be done.
        out: folder of the run.
        settings: of the command.

    Returns:
        The folder, in which only the answer to whether it can be used is written; the settings as workers elsewhere
        can use them; and under ``models`` what its models were resolved to.

    Raises:
        SettingsError: a setting cannot be used.
        StorageError: OUT cannot be written.
    """
    from simsam_batch.images import check_resize, parse_resize
    from simsam_batch.runs.version_1 import require_none
    from simsam_batch.workers.models import resolve_models

    steps = command.steps()
    resize = parse_resize(settings.resize)
    if settings.weights is not None:
        # A worker on another machine, or of a cluster started elsewhere, has another working folder.
        settings = settings.model_copy(update={"weights": absolute_url(settings.weights)})
    folder = Folder(absolute_url(out), single_driver=settings.single_driver)
    require_none(folder)
    models = resolve_models(steps.roles, settings)
    for facts in models.values():
        if "patch" in facts:
            check_resize(resize, facts["patch"])
    steps.check(settings, models)
    folder.check_create()
    return folder, settings, {"models": models}


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
    fixed = sorted(set(changes) - {name for each in models for name in (*each.fields_of("operation"), *each.limits())})
    if fixed:
        raise SettingsError(
            f"{', '.join(fixed)}: cannot be changed in a run that has begun. To mend it: use another OUT"
        )
    command = command_of(stage)
    held: dict[str, Any] = {}
    for name in begun_stages(out):
        if name in command.stages:
            record = Ledger(out, name).record()
            held |= {"weights": record["started_with"].get("weights")} | record["settings"]
    # What only other commands know may be given for a run that has several.
    model = command.settings()
    return resolve(model, held | {name: value for name, value in changes.items() if name in model.model_fields})


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
    settings = command_of(told["stage"]).settings().model_validate(told["settings"])
    stage = stage_class(told["stage"])(settings, told["resolved"], plan, told["recorded"])
    again = {int(shard): int(generation) for shard, generation in told["again"]}
    return RunnerFactory(folder, plan, stage, execute_options(settings), again)()


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
        raise SettingsError(
            "OUT holds a run about another input:",
            *(f"  {difference}" for difference in differences),
            "To mend it: give the same input, or another OUT",
        )


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
