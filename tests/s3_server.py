"""An S3 server with faults to switch on."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import Any


class S3Server:
    """A moto S3 server in a thread, with faults to switch on.

    moto looks whether a key exists and then writes it; a lock around every request makes the conditional create
    as atomic as S3 promises.

    Attributes:
        ignores_conditions: overwrite although ``If-None-Match: *`` was asked for, as some stores do.
        fault: called with the method and path of every request; says what is to become of it: ``""``; ``refuse``
            (503, nothing done), ``deny`` (403, nothing done), ``lose`` (done, then answered with 500), ``drop`` (done,
            then the connection is closed without an answer), ``halve`` (done; the connection is closed in the middle of
            the answer).
    """

    def __init__(self) -> None:
        from moto.server import ThreadedMotoServer

        self._server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        self._lock = threading.Lock()
        self.ignores_conditions = False
        self.fault: Callable[[str, str], str] = _no_fault
        self._server.start()
        self.endpoint = "http://{}:{}".format(*self._server.get_host_and_port())
        self._app: Any = self._server._server.app
        self._server._server.app = self._answer

    def heal(self) -> None:
        """Switch all faults off."""
        self.ignores_conditions, self.fault = False, _no_fault

    def lose_the_reply_to_writing(self, key: str) -> None:
        """Carry out the next PUT of a key, but answer it with an error."""

        def once(method: str, path: str) -> str:
            if method == "PUT" and path.endswith(key):
                self.heal()
                return "lose"
            return ""

        self.fault = once

    def _answer(self, request: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        kind = self.fault(request["REQUEST_METHOD"], request["PATH_INFO"])
        if kind == "deny":
            request["wsgi.input"].read(int(request.get("CONTENT_LENGTH") or 0))
            return _error(start_response, "403 Forbidden", "AccessDenied")
        if kind == "refuse":
            request["wsgi.input"].read(int(request.get("CONTENT_LENGTH") or 0))
            return _error(start_response, "503 Service Unavailable", "SlowDown")
        if self.ignores_conditions:
            request.pop("HTTP_IF_NONE_MATCH", None)
        reply = _Reply()
        with self._lock:
            body = b"".join(self._app(request, reply))
        if kind == "lose":
            return _error(start_response, "500 Internal Server Error", "InternalError")
        if kind == "drop":
            request["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
        status, headers = reply.arguments[:2]
        if kind == "halve":
            headers = [*headers, ("Connection", "close")]
            body = body[: len(body) // 2]
        start_response(status, headers)
        return [body]

    def stop(self) -> None:
        self._server.stop()


def _no_fault(method: str, path: str) -> str:
    return ""


def _error(start_response: Callable[..., Any], status: str, code: str) -> list[bytes]:
    body = f"<Error><Code>{code}</Code><Message>a fault of this test</Message></Error>".encode()
    start_response(status, [("Content-Length", str(len(body))), ("Content-Type", "application/xml")])
    return [body]


class _Reply:
    def __call__(self, *arguments: Any) -> None:
        self.arguments = arguments
