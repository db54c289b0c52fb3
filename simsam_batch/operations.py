"""What a user does with a collection or a run, as functions; the command line has the same names."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from simsam_batch.errors import SettingsError
from simsam_batch.job import (
    Job,
    checked_settings,
    open_job,
    recorded_settings,
    require_answer,
    resolved_models,
    started_engine,
)
from simsam_batch.results.opening import begun_stages, existing_plan
from simsam_batch.stages.registry import command as command_named
from simsam_batch.stages.registry import command_of, stage_class
from simsam_batch.storage import Folder, absolute_url

if TYPE_CHECKING:
    from simsam_batch.catalog import Images
    from simsam_batch.results.comparing import CompareOptions
    from simsam_batch.results.matches_scoring import PairOptions
    from simsam_batch.results.scoring import ScoreOptions
    from simsam_batch.runs.verify_report import VerifyReport
    from simsam_batch.settings import NetworkSettings
    from simsam_batch.telling.console import Reporter

OnShard = Callable[[str, int, int], None]

_PATIENCE_OF_VIEWERS_S = 3.0


def run(
    command: str, images: Images | None, out: str, settings: NetworkSettings, report: Reporter
) -> dict[str, Any] | None:
    """Do what a command does, stage by stage; run it again to go on where it stopped.

    Args:
        command: name of one that computes (`simsam_batch.stages.registry.COMMANDS`).
        images: what `simsam_batch.catalog.read_catalog` takes, as a path or any fsspec URL, or several of them;
            None of a command that is about the run in OUT.
        out: folder of the run, likewise; nothing is written outside it.
        settings: of that command.
        report: is told what happens.

    Returns:
        What ``OUT/results/<stage>.json`` of its main stage holds; None on a torchrun rank that only helps.

    Raises:
        SettingsError: the input or a setting cannot be used, or OUT holds a run with other result settings.
        StorageError: IMAGES cannot be listed or OUT cannot be written.
        RunError: workers cannot be kept alive, or shards could not be committed.
    """
    chosen = command_named(command)
    with open_job(chosen, images, out, settings, report) as job:
        if job is None:
            return None
        steps = chosen.steps()
        results: dict[str, dict[str, Any]] = {}
        stages = steps.stages(job)
        stage = next(stages, None)
        while stage is not None:
            before = None if steps.before_first is None else partial(steps.before_first, job, stage)
            results[stage.name] = job.run(stage, before)
            try:
                stage = stages.send(results[stage.name])
            except StopIteration:
                break
        return results[steps.result]


def retry(out: str, changes: Mapping[str, Any], report: Reporter) -> dict[str, dict[str, Any]] | None:
    """Try the failed images of a run again; what was good stays as it is, and the results are published anew.

    Shards with failed images get a manifest of the next generation. For label maps the regions are tried first; the
    clusters are not fitted again.

    Args:
        out: folder of the run.
        changes: operation settings of this command, and limits (`RunSettings.limits`) other than those of the run.
        report: is told what happens.

    Returns:
        For each stage that had failed images what ``OUT/results/<stage>.json`` now holds, or while the run is not
        finished ``images`` and ``failed`` of this try; None on a torchrun rank that only helps.

    Raises:
        SettingsError: no run in OUT, or a setting that cannot be changed.
        StorageError: OUT cannot be read or written.
        RunError: workers cannot be kept alive, or shards could not be committed.
    """
    from simsam_batch.runs.ledger import Ledger
    from simsam_batch.runs.retry import failed_shards
    from simsam_batch.telling.events import EventLog
    from simsam_batch.telling.status import noun_of

    folder = Folder(absolute_url(out))
    existing_plan(folder)
    stages = {name: recorded_settings(folder, name, changes) for name in begun_stages(folder)}
    if not stages:
        raise SettingsError(
            f"{folder.url}: no stage has begun, so there is nothing to try again. To mend it: run the command "
            "that made the plan"
        )
    results: dict[str, dict[str, Any]] = {}
    # One engine for all stages: torchrun's ranks meet once. Workers hold themselves to the threads of their stage.
    widest = max(stages.values(), key=lambda settings: settings.threads)
    given = {n: value for each in stages.values() for n, value in each.model_dump(mode="json").items() if n in changes}
    with started_engine(out, widest) as engine:
        if engine is None:
            return None
        require_answer(engine)
        with EventLog(folder, report).command(given) as events:
            for name, settings in stages.items():
                ledger = Ledger(folder, name)
                again, images = failed_shards(ledger)
                if not again:
                    events.note(f"{name}: no {noun_of(ledger.plan().unit)} has failed")
                    continue
                command = command_of(name)
                home, ready = checked_settings(command, out, settings)
                resolved = resolved_models(command, ready)
                home.check_create()
                record = ledger.record()
                # What else the stage rests on is fixed; the weights are looked at again.
                models = resolved if "models" in record["resolved"] else {}
                plan = Ledger(home, name).plan()
                stage = stage_class(name)(ready, record["resolved"] | models, plan, record["settings"])
                job = Job(command, home, plan, engine, ready, resolved, events)
                counts = {"images": images, "shards": len(again), "done_shards": 0, "done_images": 0}
                results[name] = job.run(stage, partial(events.plan, f"{name} again", **counts, unit=plan.unit), again)
    return results


def status(out: str, *, failures: bool = True) -> dict[str, Any]:
    """How far a run is, told by its storage alone; it may be going on, anywhere.

    Args:
        out: folder of the run.
        failures: count failed images, for which every manifest is read; without it a stage costs two listings.

    Returns:
        ``out``, ``images``, ``shards``, and under ``stages`` what `simsam_batch.runs.status.StageStatus` says of each.

    Raises:
        SettingsError: no run in OUT.
        StorageError: OUT cannot be listed or read.
    """
    from simsam_batch.runs.status import stage_status

    folder = Folder(absolute_url(out))
    plan = existing_plan(folder)
    stages = [stage_status(folder, name, failures=failures).to_json() for name in begun_stages(folder)]
    return {"out": folder.url, "images": plan.records, "shards": plan.shards, "stages": stages}


def verify(
    out: str,
    *,
    delete_orphans: bool = False,
    orphan_hours: float = 24.0,
    nobody_at_work: bool = False,
    on_shard: OnShard | None = None,
) -> VerifyReport:
    """Compare all that a run holds with its manifests and its plan, and find what nothing reads.

    Args:
        out: folder of the run.
        delete_orphans: delete files that no manifest names and that are older than ``orphan_hours``.
        orphan_hours: such files of a run at work are minutes old.
        nobody_at_work: delete them also while shards are started and not committed.
        on_shard: called with the stage, and how many of how many manifests are done.

    Raises:
        SettingsError: no run in OUT.
        StorageError: the storage did not answer, which says nothing about what it holds.
    """
    from simsam_batch.runs.verify import verify

    folder = Folder(absolute_url(out))
    plan = existing_plan(folder)
    return verify(
        folder,
        plan,
        delete_orphans=delete_orphans,
        orphan_age_s=3600 * orphan_hours,
        nobody_at_work=nobody_at_work,
        on_shard=on_shard,
    )


def score(
    predictions: str, options: ScoreOptions | PairOptions, report: Reporter, json_file: str | None = None
) -> dict[str, Any]:
    """Compare what is there already with truth, under a named protocol; nothing is computed anew.

    Args:
        predictions: a finished run, a folder of masks or label maps that any tool wrote, or with `PairOptions` a file
            of matches.
        options: see `simsam_batch.results.scoring.ScoreOptions`; of matches
            `simsam_batch.results.matches_scoring.PairOptions`.
        report: is told of files without a partner.
        json_file: path or URL that the result is written to; None: for a run
            ``results/score-<stage>-<protocol>.json`` in it, for a folder nowhere.

    Returns:
        What the file holds.

    Raises:
        SettingsError: nothing to compare, or a prediction that cannot be.
        StorageError: the storage did not answer.
    """
    from simsam_batch.results.matches_scoring import PairOptions, score_matches
    from simsam_batch.results.scoring import score_predictions
    from simsam_batch.runs.records import to_json
    from simsam_batch.runs.schema import SCHEMA_VERSION

    if isinstance(options, PairOptions):
        found = score_matches(predictions, options, report.note)
    else:
        found = score_predictions(predictions, options, report.note)
    result = {"schema_version": SCHEMA_VERSION} | found
    if json_file is not None:
        folder, _, name = absolute_url(json_file).rpartition("/")
        Folder(folder).replace(name, to_json(result, json_file))
    elif result["stage"] is not None:
        name = f"results/score-{result['stage']}-{result['metrics']['protocol']}.json"
        Folder(predictions).replace(name, to_json(result, name))
    return result


def compare(runs: Sequence[str], options: CompareOptions, report: Reporter, to: str | None = None) -> dict[str, Any]:
    """Compare runs of one command image by image with the first of them; they may be going on.

    Args:
        runs: folders of two runs or more, as paths or any fsspec URL.
        options: see `simsam_batch.results.comparing.CompareOptions`.
        report: is told what people should know.
        to: folder for tables, differences and a page with pictures, written over those of an earlier comparison; None:
            nothing is written.

    Returns:
        What ``comparison.json`` in ``to`` holds, see ``docs/compare.md``.

    Raises:
        SettingsError: no run, runs of different commands, no common image with a score, or an option that cannot be.
        RunError: a run is damaged.
        StorageError: the storage did not answer.
    """
    from simsam_batch.results.comparing import compare_runs

    joined = compare_runs(runs, options, report.note)
    if to is not None:
        from simsam_batch.report.page.comparison import write_comparison

        write_comparison(joined, Folder(absolute_url(to)))
    return joined.record


def export(
    out: str,
    to: str,
    *,
    format: str,  # noqa: A002  what users and the command line call it
    stage: str | None = None,
    limit: int | None = None,
    nodes: Literal["leaves", "all"] | None = None,
    min_score: float | None = None,
    max_side: int | None = None,
    crop: bool = False,
    polygons: bool = False,
    relative_uris: str | None = None,
    flagged: Sequence[str] | None = None,
    not_flagged: Sequence[str] | None = None,
    flags: str | None = None,
    on_image: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Hand the results of a run on in a format that others read, or that people look at; the run may be going on.

    Args:
        out: folder of the run.
        to: folder for the files, as a path or any fsspec URL: empty, or with an earlier export of the same content.
        format: a name in `simsam_batch.report.exports.formats.FORMATS`.
        stage: whose rows; None: the first stage of the run that the format can be made of.
        limit: only so many images, the first ones.
        nodes: of region trees as ``coco``; None: leaves.
        min_score: of objects as ``coco``, ``cutout`` or ``yolo``, only those of this score at least; None: all.
        max_side: of ``cutout`` and ``overlay``, pixels of the longer side at most; None: all that the image has.
        crop: of ``cutout``, whether pictures end where their object does.
        polygons: of ``coco``, whether masks are polygons of their outer rings, with holes filled; else run lengths.
        relative_uris: of ``coco`` and ``json``, a folder above all images, to which their URIs are relative; None: they
            are as in the run.
        flagged: only images of which any reviewer of ``simsam view`` says one of these: bad, good, unsure.
        not_flagged: only images of which none says one of these.
        flags: local file with further flags, see ``simsam view --flags``.
        on_image: called with how many of how many images are done.

    Returns:
        What ``export.json`` in ``to`` holds, see ``docs/export.md``.

    Raises:
        SettingsError: no run in OUT, no such stage or format, nothing committed yet, ``to`` holds something else, or
            one of ``nodes`` to ``relative_uris`` for another format or stage, or no image is flagged so.
        RunError: the run is damaged.
        StorageError: the storage did not answer.
    """
    from simsam_batch.report.exports.formats import rows_for, write_export
    from simsam_batch.results.flagged import ByFlags

    folder = Folder(absolute_url(out))
    existing_plan(folder)
    rows = rows_for(folder, begun_stages(folder), format, stage)
    by_flags = ByFlags(flagged=flagged, not_flagged=not_flagged, file=flags)
    by_flags.check()
    return write_export(
        rows,
        Folder(absolute_url(to)),
        format,
        limit=limit,
        options={
            "nodes": nodes,
            "min_score": min_score,
            "max_side": max_side,
            "crop": crop,
            "polygons": polygons,
            "relative_uris": relative_uris,
        },
        by_flags=by_flags or None,
        on_image=on_image,
    )


def report(out: str, *, samples: int = 8, stage: str | None = None, thumbnails: bool = False) -> str:
    """Write one static HTML page about a run to ``OUT/report/index.html``, its pictures beside it; it may be going on.

    The page needs nothing but itself and its pictures, and runs no script. ``OUT/report/card.yaml`` is made once, for
    people to fill in what is known of the images; the next page shows it.

    Args:
        out: folder of the run.
        samples: images of a gallery at most.
        stage: only what concerns this stage; None: all that have begun.
        thumbnails: write pages of all images beside it as well, of the first 10,000 of each stage with masks.

    Returns:
        Path or URL of the page.

    Raises:
        SettingsError: no run in OUT, nothing begun, no such stage, or a dataset card that cannot be read.
        RunError: the run is damaged.
        StorageError: the storage did not answer.
    """
    from simsam_batch.report.page.write import write_page

    folder = Folder(absolute_url(out))
    plan = existing_plan(folder)
    return f"{folder.url}/{write_page(folder, plan, begun_stages(folder), samples, stage, thumbnails=thumbnails)}"


def view(
    out: str,
    other: str | None = None,
    *,
    say: Callable[[str], None] = print,
    host: str = "127.0.0.1",
    port: int | None = None,
    certificate: str | None = None,
    key: str | None = None,
    allow_hosts: Sequence[str] = (),
    flags: str | None = None,
    reviewer: str | None = None,
    live: bool = False,
    weights: str | None = None,
    device: str = "auto",
    memory: str | None = None,
    until_stdin_closes: bool = False,
    debug: bool = False,
) -> None:
    """Show a run in a browser until Ctrl-C; it may be going on, and a second one may be compared with it.

    Args:
        out: folder of the run.
        other: of a second one.
        say: is told line by line how the page is reached.
        host: address to listen at; one that others reach needs a certificate.
        port: None: the first free one from 8765 on.
        certificate: file for TLS.
        key: likewise, its key.
        allow_hosts: further names under which a browser may call the server, such as that of a proxy before it.
        flags: local file for what is flagged; None: ``OUT/flags``, or where that cannot be written a file in the
            working directory.
        reviewer: who flags; None: the login name.
        live: compare any patch and any point, by stored features or by the run's network.
        weights: of that network; those of another digest than the run's are refused.
        device: ``auto``, ``cpu`` or ``cuda``, for that.
        memory: that the columns of a stage may take, such as ``500MB``; beyond it they are read as they are asked for.
            None: ``1GB``.
        until_stdin_closes: end when standard input ends, as it does with the process that started this one.
        debug: print the traceback of a defect.

    Raises:
        SettingsError: no run in OUT or OTHER, or an address that cannot be listened at.
        RunError: a run is damaged.
        StorageError: the storage did not answer.
    """
    from simsam_batch.storage.retrying import patience
    from simsam_batch.viewer.columns import bytes_in
    from simsam_batch.viewer.live import check_options
    from simsam_batch.viewer.server import Listening, serve
    from simsam_batch.viewer.session import Session

    # whoever waits before a screen is told within seconds that a store does not answer; botocore repeats by itself too
    os.environ.setdefault("AWS_MAX_ATTEMPTS", "2")
    listening = Listening(host=host, port=port, certificate=certificate, key=key, allowed=tuple(allow_hosts))
    listening.check()
    held = None if memory is None else bytes_in(memory)
    with patience(_PATIENCE_OF_VIEWERS_S):
        options: dict[str, Any] = {"debug": debug, "flags": flags, "reviewer": reviewer}
        options |= {"live": live, "weights": weights, "device": device, "memory": held}
        check_options(options)
        session = Session(out, other, options)
        serve(session, listening, say, until_stdin_closes=until_stdin_closes)
