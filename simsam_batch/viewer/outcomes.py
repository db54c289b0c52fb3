"""What the stages have found, as they have written it: their metrics and how many images failed of what."""

from __future__ import annotations

import json
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from simsam_batch.errors import RunError
from simsam_batch.storage import ObjectNotFound
from simsam_batch.viewer.answers import as_json
from simsam_batch.viewer.session import Session


def routes(session: Session) -> list[tuple[str, str, Any]]:
    """``api/results``."""

    def results(request: Request) -> Response:  # noqa: ARG001
        run = session.run("a")
        return as_json({"stages": {name: _published(session, name) for name in run.stages}})

    return [("GET", "api/results", results)]


def _published(session: Session, name: str) -> dict[str, Any] | None:
    """Of ``results/<stage>.json`` what people read; None until the stage has published."""
    file = f"results/{name}.json"
    try:
        found = json.loads(session.run("a").out.read(file))
    except ObjectNotFound:
        return None
    except ValueError as error:
        raise RunError(f"{file} is no JSON. To mend it: run the command again") from error
    return {key: found.get(key) for key in ("ok", "failed", "errors_by_type", "metrics", "versions")}
