"""The application: every route, and how faults of the run are told."""

from __future__ import annotations

import asyncio
import os
import traceback
from collections.abc import Awaitable, Callable
from functools import wraps
from importlib.resources import files

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from simsam_batch.viewer.answers import RefusedError, as_json, refusal
from simsam_batch.viewer.session import Session

Handler = Callable[[Request], Response]
Routes = list[tuple[str, str, Handler]]
"""Method, path and what answers it, called in a thread of its own."""

_PICTURES_AT_ONCE = max(2, (os.cpu_count() or 1) // 2)
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
    turns = asyncio.Semaphore(_PICTURES_AT_ONCE)
    made = []
    for method, path, handler in routes:
        told = _told(handler, session)
        made.append(Route(f"/{path}", _in_turn(told, turns) if path.endswith(".jpg") else told, methods=[method]))
    page = _page_file()
    made += [Route(path, page, methods=["GET"]) for path in ("/", "/{name}")]
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


def _in_turn(handler: Handler, turns: asyncio.Semaphore) -> Callable[[Request], Awaitable[Response]]:
    """A handler that waits for its turn: sixty pictures of a page do not hold up what is asked for next."""

    async def answered(request: Request) -> Response:
        async with turns:
            return await run_in_threadpool(handler, request)

    return answered


def _nothing(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    return as_json({"error": f"there is nothing at {request.url.path[:100]!r} for {request.method}"}, status)


def _page_file() -> Callable[[Request], Awaitable[Response]]:
    """What answers with a file of the page. They are held in memory, so that it needs no thread of its own."""
    folder = files("simsam_batch.viewer") / "page"
    held = {each.name: each.read_bytes() for each in folder.iterdir() if _kind(each.name)}

    async def answer(request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        if name not in held:
            raise HTTPException(404)
        return Response(held[name], 200, {"Cache-Control": "no-cache"}, _kind(name))

    return answer


def _kind(name: str) -> str | None:
    return _KINDS.get(name.rpartition(".")[2])
