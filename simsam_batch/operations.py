"""What a user does with a collection or a run, as functions; the command line has the same names."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from simsam_batch.config import RunSettings, SegmentSettings, SemanticSettings, SpectralSettings
from simsam_batch.errors import RunError, SettingsError
from simsam_batch.storage import Folder, absolute_url, redact

if TYPE_CHECKING:
    import pyarrow as pa

    from simsam_batch.engines.contract import Engine, Runner
    from simsam_batch.engines.local import LocalEngine
    from simsam_batch.engines.ray import RayEngine
    from simsam_batch.engines.torchrun import TorchrunEngine
    from simsam_batch.report.console import Reporter
    from simsam_batch.runs.execute import ExecuteOptions
    from simsam_batch.runs.plan import Plan
    from simsam_batch.runs.schema import Stage
    from simsam_batch.stages.scoring import ScoreOptions
    from simsam_batch.stages.segment import SegmentStage

S = TypeVar("S", bound=SpectralSettings)
_WORTH_SAYING = 1e9


def segment(images: str, out: str, settings: SegmentSettings, report: Reporter) -> dict[str, Any] | None:
    """Write an object mask and K eigenvectors for every image; run it again to go on where it stopped.

    Args:
        images: folder, ``.txt`` list or Parquet table, as a path or any fsspec URL; or a dataset as ``NAME:ROOT``.
        out: folder of the run, likewise; nothing is written outside it.
        settings: see `simsam_batch.config.SegmentSettings`.
        report: is told what happens.

    Returns:
        What ``OUT/results/segment.json`` holds; None on a torchrun rank that only helps.

    Raises:
        SettingsError: the input or a setting cannot be used, or OUT holds a run with other result settings.
        StorageError: IMAGES cannot be listed or OUT cannot be written.
        RunError: workers cannot be kept alive, or shards could not be committed.
    """
    from simsam_batch.stages.segment import SEGMENT_FIELDS

    with _job(images, out, settings, SEGMENT_FIELDS, report) as job:
        if job is None:
            return None
        stage = _segment_stage(job.settings, job.resolved, job.plan)
        if not stage.object_truth:
            report.note("masks are not scored: the truth of this dataset is not one of object masks")
        return job.run(stage, before_first=lambda: _note_size(job.plan, stage, report))


def semantic(images: str, out: str, settings: SemanticSettings, report: Reporter) -> dict[str, Any] | None:
    """Cut every image into regions, cluster the regions of the whole set, and write label maps; resumes like `segment`.

    Three steps, each committed on its own: the stage ``regions``, one fit of the clusters, the stage ``semantic``.

    Args:
        images: folder, ``.txt`` list or Parquet table, as a path or any fsspec URL.
        out: folder of the run, likewise; nothing is written outside it.
        settings: see `simsam_batch.config.SemanticSettings`.
        report: is told what happens.

    Returns:
        What ``OUT/results/semantic.json`` holds; None on a torchrun rank that only helps.

    Raises:
        SettingsError: the input or a setting cannot be used, or OUT holds a run with other result settings.
        StorageError: IMAGES cannot be listed or OUT cannot be written.
        RunError: workers cannot be kept alive, or shards could not be committed.
    """
    from simsam_batch.catalog import center_crops, facts_of
    from simsam_batch.stages.backbone import DESCRIPTORS
    from simsam_batch.stages.clusters import fit_clusters
    from simsam_batch.stages.regions import REGIONS_FIELDS, RegionsStage
    from simsam_batch.stages.segment import kept_columns
    from simsam_batch.stages.semantic import SEMANTIC_FIELDS, SemanticStage, truth_of

    with _job(images, out, settings, [*REGIONS_FIELDS, *SEMANTIC_FIELDS], report) as job:
        if job is None:
            return None
        settings, plan = job.settings, job.plan
        truth = truth_of(settings, facts_of(plan.source), center_crop=center_crops(plan.source))
        if truth is None:
            report.note("label maps are not scored: the truth of this dataset is not one of class ids")
        if settings.backbone == DESCRIPTORS and settings.region_feature != "patches":
            report.note(f"regions are described by their patches: {DESCRIPTORS} has no {settings.region_feature}")
        of_regions = job.run(RegionsStage(settings, job.resolved))
        if not settings.quiet:
            report.note(f"{of_regions['metrics']['regions']} regions are clustered")
        digest = of_regions["content_digest"]
        fitted = fit_clusters(job.folder, settings, digest)
        return job.run(SemanticStage.after(settings, job.folder, digest, fitted, truth, kept_columns(plan)))


@dataclass(frozen=True, slots=True)
class _Job(Generic[S]):
    """A run that is ready for its stages, in the process that drives it."""

    folder: Folder
    plan: Plan
    engine: Engine
    settings: S
    resolved: dict[str, Any]
    report: Reporter

    def run(self, stage: Stage, before_first: Callable[[], None] | None = None) -> dict[str, Any]:
        """Execute a stage and publish what it came to; ``before_first`` is called if no shard of it is done yet."""
        from simsam_batch.engines.torchrun import TorchrunEngine
        from simsam_batch.runs.execute import execute
        from simsam_batch.runs.publish import publish

        folder, plan, report = self.folder, self.plan, self.report
        if isinstance(self.engine, TorchrunEngine):
            self.engine.job = json.dumps({"out": folder.url, "stage": stage.name, "resolved": stage.resolved})

        def announce(pending: int) -> None:
            done = plan.shards - pending
            if not done and before_first is not None:
                before_first()
            images = min(done * plan.shard_size, plan.images)
            report.plan(stage.name, images=plan.images, shards=plan.shards, done_shards=done, done_images=images)

        execute(folder, plan, stage, self.engine, _execute_options(self.settings), report.shard, announce)
        result = publish(folder, plan, stage)
        report.finish(result, f"{folder.url}/results/{stage.name}.json")
        return result


@contextmanager
def _job(images: str, out: str, settings: S, columns: Sequence[pa.Field], report: Reporter) -> Iterator[_Job[S] | None]:
    """Check what can be checked, start the engine, and open the plan; None on a torchrun rank, when it has helped."""
    from simsam_batch.engines.torchrun import TorchrunEngine
    from simsam_batch.images import check_resize, parse_resize
    from simsam_batch.regions.refine import load_crf
    from simsam_batch.stages.backbone import resolve_backbone
    from simsam_batch.stages.regions import check_crop_size
    from simsam_batch.stages.segment import check_kept_columns

    resize = parse_resize(settings.resize)
    check_kept_columns(settings.keep_columns, columns)
    if settings.weights is not None:
        # A worker on another machine, or of a cluster started elsewhere, has another working folder.
        settings = settings.model_copy(update={"weights": absolute_url(settings.weights)})
    if settings.refine != "none":
        # What refines may not be installed; that is to be said at once, and not by every worker.
        load_crf()
    folder = Folder(absolute_url(out))
    with closing(make_engine(settings)) as engine:
        if isinstance(engine, TorchrunEngine) and not engine.is_driver:
            engine.serve(partial(_runner_of_job, settings))
            yield None
            return
        resolved = resolve_backbone(settings)
        check_resize(resize, resolved["patch"])
        if isinstance(settings, SemanticSettings):
            check_crop_size(settings, resolved)
        yield _Job(folder, open_plan(images, folder, settings, report), engine, settings, resolved, report)


def _segment_stage(settings: SegmentSettings, resolved: dict[str, Any], plan: Plan) -> SegmentStage:
    from simsam_batch.catalog import center_crops, facts_of
    from simsam_batch.stages.segment import SegmentStage, kept_columns

    facts = facts_of(plan.source)
    return SegmentStage(
        settings,
        resolved,
        kept_columns(plan),
        object_truth=facts is None or facts.kind == "object",
        center_crop=center_crops(plan.source),
    )


def _execute_options(settings: RunSettings) -> ExecuteOptions:
    from simsam_batch.runs.execute import ExecuteOptions

    return ExecuteOptions(
        starts_before_quarantine=settings.starts_before_quarantine, stall_seconds=60 * settings.stall_minutes
    )


def _note_size(plan: Plan, stage: SegmentStage, report: Reporter) -> None:
    from rich.filesize import decimal

    if (size := stage.array_bytes(plan) or 0) > _WORTH_SAYING:
        report.note(f"the eigenvectors will take about {decimal(round(size))}; --eigenvectors none leaves them out")


def _runner_of_job(settings: SpectralSettings, job: str) -> Runner:
    """The runner of a torchrun rank that helps, from what the driver told it."""
    from simsam_batch.runs.plan import load_plan
    from simsam_batch.runs.runner import RunnerFactory
    from simsam_batch.stages.regions import RegionsStage
    from simsam_batch.stages.segment import kept_columns
    from simsam_batch.stages.semantic import SemanticStage

    told = json.loads(job)
    folder = Folder(told["out"])
    plan = load_plan(folder)
    if plan is None:
        msg = (
            f"rank 0 works on {folder.url}, and there is no run there for this rank: do all ranks see the same storage?"
        )
        raise RunError(msg)
    stage: Stage
    if isinstance(settings, SegmentSettings):
        stage = _segment_stage(settings, told["resolved"], plan)
    elif not isinstance(settings, SemanticSettings):
        raise RunError(f"no stage has settings of {type(settings).__name__}")
    elif told["stage"] == "regions":
        stage = RegionsStage(settings, told["resolved"])
    else:
        stage = SemanticStage(settings, told["resolved"], folder, kept_columns(plan))
    return RunnerFactory(folder, plan, stage, _execute_options(settings))()


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
        facts = {} if catalog.dataset is None else {"dataset": catalog.dataset.to_json()}
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


def make_engine(settings: RunSettings) -> LocalEngine | RayEngine | TorchrunEngine:
    """The engine that the settings ask for, on the devices there are.

    Raises:
        SettingsError: a device or engine that this machine or installation does not have.
    """
    from simsam_batch.engines.devices import visible_gpus
    from simsam_batch.engines.local import LocalEngine
    from simsam_batch.engines.ray import RayEngine
    from simsam_batch.engines.torchrun import TorchrunEngine

    name = settings.engine
    if name == "auto":
        name = "torchrun" if "TORCHELASTIC_RUN_ID" in os.environ else "local"
    if name == "ray":
        gpus_of_cluster = None if settings.device == "auto" else settings.device == "cuda"
        return RayEngine(settings.workers, settings.threads, gpus_of_cluster, settings.ray_address)
    gpus = 0 if settings.device == "cpu" else len(visible_gpus())
    if settings.device == "cuda" and not gpus:
        msg = "device: 'cuda' was asked for and this machine shows no GPU; use --device cpu or auto"
        raise SettingsError(msg)
    if name == "torchrun":
        return TorchrunEngine(settings.threads, gpus=gpus > 0)
    workers = settings.workers or gpus or max(1, len(os.sched_getaffinity(0)) // settings.threads)
    return LocalEngine(workers, settings.threads, gpus=gpus > 0)


def score(predictions: str, options: ScoreOptions, report: Reporter, json_file: str | None = None) -> dict[str, Any]:
    """Compare masks or label maps that are there already with truth, under a named protocol; nothing is computed anew.

    Args:
        predictions: a finished run, or a folder of masks or label maps that any tool wrote.
        options: see `simsam_batch.stages.scoring.ScoreOptions`.
        report: is told of files without a partner.
        json_file: path or URL that the result is written to; None: for a run
            ``results/score-<stage>-<protocol>.json`` in it, for a folder nowhere.

    Returns:
        What the file holds.

    Raises:
        SettingsError: nothing to compare, or a prediction that cannot be.
        StorageError: the storage did not answer.
    """
    from simsam_batch.runs.records import to_json
    from simsam_batch.runs.schema import SCHEMA_VERSION
    from simsam_batch.stages.scoring import score_predictions

    result = {"schema_version": SCHEMA_VERSION} | score_predictions(predictions, options, report.note)
    if json_file is not None:
        folder, _, name = absolute_url(json_file).rpartition("/")
        Folder(folder).replace(name, to_json(result, json_file))
    elif result["stage"] is not None:
        name = f"results/score-{result['stage']}-{result['metrics']['protocol']}.json"
        Folder(predictions).replace(name, to_json(result, name))
    return result
