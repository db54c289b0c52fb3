"""The application: every route, and how faults of the run are told."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from functools import wraps
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from simsam_batch.viewer.answers import RefusedError, as_json, refusal
from simsam_batch.viewer.session import Session

Handler = Callable[[Request], Response]
Routes = list[tuple[str, str, Handler]]
"""Method, path and what answers it, called in a thread of its own."""

_KINDS = {"html": "text/html", "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}


def application(session: Session) -> Starlette:
    """All that is answered about a session.

    Args:
        session: what is looked at.
    """
    from simsam_batch.viewer import (
        about,
        clusters,
        compare,
        facets,
        flags,
        images,
        layers,
        lists,
        live,
        outcomes,
        pairs,
        pictures,
        rows,
    )

    topics = (about, outcomes, rows, facets, lists, flags, pairs, images, layers, pictures, clusters, compare, live)
    routes: Routes = [route for topic in topics for route in topic.routes(session)]
    made = [Route(f"/{path}", _told(handler, session), methods=[method]) for method, path, handler in routes]
    made += [Route(f"/{name or ''}", _page(name or "index.html"), methods=["GET"]) for name in ("", *_page_files())]
    return Starlette(routes=made, exception_handlers={HTTPException: _nothing})


def _told(handler: Handler, session: Session) -> Handler:
    """A handler whose errors are answers."""

    @wraps(handler)
    def answered(request: Request) -> Response:
        try:
            return handler(request)
        except Exception as error:  # noqa: BLE001  whatever it was, it is told without a traceback
            if session.options.get("debug") and not isinstance(error, RefusedError):
                traceback.print_exc()
            refused = refusal(error, session.run("a").out.url)
            return as_json({"error": refused.message, **refused.more}, refused.status)

    return answered


def _nothing(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    return as_json({"error": f"there is nothing at {request.url.path[:100]!r} for {request.method}"}, status)


def _page_files() -> list[str]:
    return sorted(each.name for each in _folder().iterdir() if each.name.rpartition(".")[2] in _KINDS)


def _folder() -> Any:
    return files("simsam_batch.viewer") / "page"


def _page(name: str) -> Handler:
    body = (_folder() / name).read_bytes()
    kind = _KINDS[name.rpartition(".")[2]]

    def answer(request: Request) -> Response:  # noqa: ARG001  Starlette gives it
        return Response(body, 200, {"Cache-Control": "no-cache"}, kind)

    return answer
