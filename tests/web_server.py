"""A web server on 127.0.0.1 whose answers to a name can be chosen, good ones and bad ones."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Callable
from typing import Any

Answer = Callable[["Handler"], None]


class WebServer:
    """A server in a thread.

    Attributes:
        answers: what is done about a path; 404 for all that are not in it.
        asked: the paths of all requests, in order.
        headers: of the last request.
        sent: bytes that `endless` has written.
        over: set when the server is to end, so that `silent` ends too.
    """

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.asked: list[str] = []
        self.headers: dict[str, str] = {}
        self.sent = 0
        self.over = threading.Event()
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.about = self  # type: ignore[attr-defined]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def put(self, path: str, answer: Answer | bytes | int) -> str:
        """Answer a path by a function, with these bytes, or by this status alone; returns its URL."""
        self.answers[path] = (
            answer if callable(answer) else body(answer) if isinstance(answer, bytes) else status(answer)
        )
        return self.url + path

    def stop(self) -> None:
        self.over.set()
        self._server.shutdown()
        self._server.server_close()


class Handler(http.server.BaseHTTPRequestHandler):
    @property
    def about(self) -> WebServer:
        return self.server.about  # type: ignore[attr-defined, no-any-return]

    def do_GET(self) -> None:
        self.about.asked.append(self.path)
        self.about.headers = dict(self.headers.items())
        self.about.answers.get(self.path, status(404))(self)

    def log_message(self, *args: Any) -> None:
        return


def body(content: bytes, *, code: int = 200, **headers: str) -> Answer:
    """The answer of these bytes, whatever range is asked for."""

    def answer(to: Handler) -> None:
        to.send_response(code)
        to.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            to.send_header(name.replace("_", "-"), value)
        to.end_headers()
        to.wfile.write(content)

    return answer


def status(code: int) -> Answer:
    return body(b"a word of explanation", code=code)


def loop(to: Handler) -> None:
    """Sent to where it comes from."""
    to.send_response(302)
    to.send_header("Location", to.path)
    to.send_header("Content-Length", "0")
    to.end_headers()


def silent(to: Handler) -> None:
    """Taken in, and never answered."""
    to.about.over.wait(600)


def endless(to: Handler) -> None:
    """Zeros without a length, for as long as somebody reads."""
    to.send_response(200)
    to.end_headers()
    zeros = bytes(1 << 16)
    try:
        while not to.about.over.is_set():
            to.wfile.write(zeros)
            to.about.sent += len(zeros)
    except OSError:
        to.close_connection = True
