"""What a run is made of and how far it is: the answers that the page begins with."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from simsam_batch import __version__
from simsam_batch.results.opening import begun_stages
from simsam_batch.runs.plan import kept_columns
from simsam_batch.runs.status import stage_status
from simsam_batch.stages.registry import command_of
from simsam_batch.storage import redact
from simsam_batch.viewer.answers import as_json, one_of
from simsam_batch.viewer.columns import columns_read, kinds_of
from simsam_batch.viewer.derived import derived_of
from simsam_batch.viewer.flags import flags_of
from simsam_batch.viewer.labels import rows_with_labels
from simsam_batch.viewer.live import live_of
from simsam_batch.viewer.session import OpenedRun, OpenedStage, Session
from simsam_batch.viewer.words import words_of


def routes(session: Session) -> list[tuple[str, str, Any]]:
    """``api/run``, ``api/status`` and ``api/reopen``."""

    def run(request: Request) -> Response:  # noqa: ARG001
        live = live_of(session)
        other = None if session.other_url is None else _about(session.run("b")) | {"live": live.about("b")}
        return as_json(
            {
                **_about(session.run("a")),
                "other": other,
                "live": live.about(),
                "flags": flags_of(session).about(),
                "version": __version__,
            }
        )

    def status(request: Request) -> Response:
        failures, run = one_of(request, "failures", ("0", "1"), "0") == "1", session.run("a")
        stages = {name: _status(run, name, failures=failures) for name in run.stages}
        return as_json({"stages": stages, "new_stages": [each for each in begun_stages(run.out) if each not in stages]})

    def reopen(request: Request) -> Response:  # noqa: ARG001
        session.reopen()
        return as_json({"stages": session.run("a").stages})

    return [("GET", "api/run", run), ("GET", "api/status", status), ("POST", "api/reopen", reopen)]


def _about(run: OpenedRun) -> dict[str, Any]:
    return {
        "url": redact(run.out.url),
        "images": run.plan.records,
        "stages": [_stage(stage, run) for stage in run.each()],
    }


def _stage(stage: OpenedStage, run: OpenedRun) -> dict[str, Any]:
    command = command_of(stage.name)
    return {
        "name": stage.name,
        "command": command.name,
        "title": command.title,
        "kind": stage.kind,
        "unit": stage.rows.unit,
        "of_images": stage.plan.digest == run.plan.digest,
        "records": stage.plan.records,
        "rows": len(stage.rows),
        "published": stage.rows.published,
        "settings": stage.rows.settings,
        "resolved": stage.rows.resolved,
        "columns": _columns(stage),
        "labelled": _labelled(stage),
    }


def _labelled(stage: OpenedStage) -> bool:
    """Whether its images have labels, be it of the stage beside it."""
    if stage.kind not in ("labels", "trees"):
        return False
    found: bool = stage.once("labelled", lambda: rows_with_labels(stage.rows) is not None)
    return found


def _columns(stage: OpenedStage) -> list[dict[str, Any]]:
    """What can be filtered and sorted by; kept are those that came with the input."""
    kept = {field.name for field in kept_columns(stage.plan)}
    made = {name: of.words for name, of in derived_of(stage.rows.schema).items()}
    kinds, words = kinds_of(stage.rows.schema), {**words_of(stage.name), **made}
    return [
        {"name": name, "kind": kind, "doc": words.get(name, ""), "kept": name in kept} for name, kind in kinds.items()
    ]


def _status(run: OpenedRun, name: str, *, failures: bool) -> dict[str, Any]:
    """How far a stage is; how many images failed only if asked for, as it reads every manifest."""
    found = stage_status(run.out, name, failures=failures)
    return {
        "done": found.done_images,
        "pending": found.images - found.done_images,
        "images": found.images,
        "failed": found.failed,
        "errors_by_type": found.errors_by_type,
        "stalled": found.stalled,
        "published": found.published,
        "newer_rows": found.done_images - len(run.stage(name).rows),
        "seconds_left": found.seconds_left,
        "columns_read": columns_read(run.stage(name)),
    }
