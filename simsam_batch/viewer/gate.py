"""Who may ask: a token once, then a cookie; hosts and origins that are ours; so many requests at a time; safe headers.

Every user of a machine shares its loopback, and every page in a browser can send requests to it. So nothing but
``open``, which takes the token, is answered without the cookie, and nothing that another site sent is answered at all.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
from collections.abc import Collection
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOCAL_HOSTS = ("127.0.0.1", "localhost", "[::1]")
MOST_BODY = 1_000_000
"""Bytes of a request's body at most."""

_AT_WORK, _WAITING = 8, 64
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
_ASKED_FOR_BY_HAND = ("", "open")


class Gate:
    """ASGI middleware that lets through what the person with the link asks for.

    Args:
        app: what answers.
        hosts: names, besides those of the loopback, under which browsers may call this server.
        secure: whether the cookie is for TLS alone.

    Attributes:
        token: what the link holds.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str] = (), *, secure: bool = False) -> None:
        self._app, self._secure = app, secure
        self._named = {host.lower() for host in hosts}
        self._hosts = {*LOCAL_HOSTS, *self._named}
        self.token = secrets.token_urlsafe(32)
        self._cookie = secrets.token_urlsafe(32)
        # cookies know no ports, so that those of two sessions on one machine need two names
        self._name = f"simsam-{secrets.token_hex(8)}"
        self._at_work = asyncio.Semaphore(_AT_WORK)
        self._inside = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or refuse it."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
            await send(message)

        refused = self._refused(scope)
        if refused is not None:
            await refused(scope, receive, send_safely)
            return
        if self._inside >= _AT_WORK + _WAITING:
            await _no(503, "too many requests at once; try again")(scope, receive, send_safely)
            return
        self._inside += 1
        try:
            async with self._at_work:
                await self._app(scope, receive, send_safely)
        finally:
            self._inside -= 1

    def _refused(self, scope: Scope) -> Response | None:
        """The answer to what is not let through, or to the link itself; None for what is."""
        headers = Headers(scope=scope)
        path = scope["path"].lstrip("/")
        host = headers.get("host", "")
        if len(headers.getlist("host")) != 1 or _without_port(host) not in self._hosts:
            return _no(421, "this server is not called so. To mend it: open the link that simsam view has printed")
        site = headers.get("sec-fetch-site", "none")
        by_hand = scope["method"] == "GET" and path in _ASKED_FOR_BY_HAND
        by_hand = by_hand and headers.get("sec-fetch-mode", "navigate") == "navigate"
        by_hand = by_hand and headers.get("sec-fetch-dest", "document") == "document"
        if site not in ("same-origin", "none") and not by_hand:
            return _no(403, "another site has asked for this")
        if path == "open" and scope["method"] == "GET":
            return self._opened(scope)
        if not self._has_cookie(headers):
            return _no(401, "open the link that simsam view has printed, with its token")
        if scope["method"] in ("GET", "HEAD"):
            return None
        if not self._is_ours(headers.get("origin", ""), host):
            return _no(403, "what changes something must come from the page itself")
        if scope["method"] == "DELETE":
            return None
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            return _no(415, "what changes something is JSON")
        size = headers.get("content-length", "")
        if not size.isdigit() or len(size) > 12 or int(size) > MOST_BODY:
            return _no(413, f"a body has a length, of at most {MOST_BODY} bytes")
        return None

    def _is_ours(self, origin: str, host: str) -> bool:
        """Whether a page of this server, or of the proxy before it, has sent a request."""
        found = urlsplit(origin)
        place = found.netloc.lower()
        # a proxy may call this server by another name than browsers call the proxy
        return found.scheme in ("http", "https") and (place == host.lower() or _without_port(place) in self._named)

    def _opened(self, scope: Scope) -> Response:
        found = [part.partition("=") for part in scope["query_string"].decode("latin-1").split("&")]
        given = next((value for name, _, value in found if name == "token"), "")
        if not hmac.compare_digest(given.encode("latin-1"), self.token.encode()):
            return _no(401, "this is not the token of this session. To mend it: open the link that was printed last")
        answer = RedirectResponse("./", 303, {"Cache-Control": "no-store"})
        answer.set_cookie(self._name, self._cookie, httponly=True, samesite="lax", secure=self._secure)
        return answer

    def _has_cookie(self, headers: Headers) -> bool:
        try:
            given = SimpleCookie(headers.get("cookie", "")).get(self._name)
        except CookieError:
            return False
        return given is not None and hmac.compare_digest(given.value.encode(), self._cookie.encode())


def _without_port(host: str) -> str:
    name, colon, port = host.lower().rpartition(":")
    return name if colon and port.isdigit() else host.lower()


def _no(status: int, why: str) -> Response:
    return PlainTextResponse(f"simsam view: {why}\n", status, {"Cache-Control": "no-store"})
