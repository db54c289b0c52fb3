"""What the server of ``simsam view`` lets through: each refusal is a real request that must be refused."""

from __future__ import annotations

import http.client
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

import pytest
from viewing import Client, Small

from simsam_batch.errors import SettingsError
from simsam_batch.viewer import server
from simsam_batch.viewer.gate import MOST_BODY
from simsam_batch.viewer.server import Listening, start_lines


class Asker:
    """Sends requests as they are, with nothing added to the headers but what is asked for."""

    def __init__(self, port: int, token: str) -> None:
        self.port, self.token = port, token
        answer, _ = self.get(f"/open?token={token}")
        assert answer.status == 303
        self.cookie = str(answer.getheader("Set-Cookie")).partition(";")[0]

    def request(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[http.client.HTTPResponse, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in ({"Host": f"127.0.0.1:{self.port}"} | headers).items():
            connection.putheader(name.replace("_", "-"), value)
        if body is not None and "Content_Length" not in headers:
            connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer, content

    def get(self, path: str, **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
        return self.request("GET", path, **headers)

    def status(self, method: str = "GET", path: str = "/api/run", body: bytes | None = None, **headers: str) -> int:
        return self.request(method, path, body, **{"Cookie": self.cookie} | headers)[0].status


@pytest.fixture(scope="module")
def asker(served: Callable[..., Client], small_run: Small) -> Asker:
    link = urlsplit(served(small_run.out).link)
    assert link.port is not None
    return Asker(link.port, link.query.removeprefix("token="))


def test_whoever_has_the_link_gets_a_cookie_and_the_page(asker: Asker) -> None:
    answer, _ = asker.get(f"/open?token={asker.token}")
    assert (answer.status, answer.getheader("Location")) == (303, "./")
    given = str(answer.getheader("Set-Cookie"))
    assert "HttpOnly" in given
    assert "samesite=lax" in given.lower()
    assert asker.status(path="/") == asker.status(path="/main.js") == asker.status(path="/api/run") == 200


@pytest.mark.parametrize("path", ["/", "/main.js", "/api/run", "/api/status", "/images/0.jpg?side=256", "/nothing"])
def test_nothing_is_answered_without_the_cookie(asker: Asker, path: str) -> None:
    answer, content = asker.get(path)
    assert answer.status == 401
    assert b"link" in content


@pytest.mark.parametrize("token", ["", "x", "é", "A" * 5000])
def test_a_wrong_token_opens_nothing(asker: Asker, token: str) -> None:
    answer, _ = asker.get(f"/open?token={token}".encode("latin-1").decode("latin-1").replace("é", "%C3%A9"))
    assert answer.status == 401
    assert answer.getheader("Set-Cookie") is None


def test_the_cookie_of_another_session_opens_nothing(asker: Asker) -> None:
    name, _, value = asker.cookie.partition("=")
    assert asker.status(Cookie=f"{name}={value[:-1]}") == 401
    assert asker.status(Cookie=f"simsam-0000={value}") == 401
    assert asker.status(Cookie=f'{name}="; {{}}=,\x01') == 401


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "localhost.:80", "0.0.0.0", "[::2]:1"])
def test_a_foreign_host_is_refused_even_with_the_cookie(asker: Asker, host: str) -> None:
    # a name of a stranger's that leads to this machine makes a page of his same-origin with ours
    assert asker.status(Host=host) == 421
    assert asker.get(f"/open?token={asker.token}", Host=host)[0].status == 421


@pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1", "[::1]:9", "LOCALHOST"])
def test_our_names_are_served_under_any_port(asker: Asker, host: str) -> None:
    assert asker.status(Host=host) == 200


def test_a_request_without_a_host_is_refused(asker: Asker) -> None:
    with socket.create_connection(("127.0.0.1", asker.port), timeout=20) as raw:
        raw.sendall(f"GET /api/run HTTP/1.0\r\nCookie: {asker.cookie}\r\n\r\n".encode())
        assert b" 421 " in raw.recv(4096)


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_what_another_site_asks_for_is_refused(asker: Asker, site: str) -> None:
    for path in ("/api/run", "/images/0.jpg?side=256", "/main.js"):
        assert asker.status(path=path, Sec_Fetch_Site=site) == 403
    # nor in a frame, nor by a script, the page itself
    assert asker.status(path="/", Sec_Fetch_Site=site, Sec_Fetch_Mode="no-cors", Sec_Fetch_Dest="script") == 403
    assert asker.status(path="/", Sec_Fetch_Site=site, Sec_Fetch_Mode="navigate", Sec_Fetch_Dest="iframe") == 403


def test_a_link_on_another_site_leads_to_the_page(asker: Asker) -> None:
    by_hand = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}
    assert asker.status(path="/", **by_hand) == 200
    assert asker.get(f"/open?token={asker.token}", **by_hand)[0].status == 303


def test_what_changes_something_needs_our_origin_and_json(asker: Asker) -> None:
    ours = f"http://127.0.0.1:{asker.port}"
    right = {"Origin": ours, "Sec_Fetch_Site": "same-origin", "Content_Type": "application/json"}
    assert asker.status("POST", "/api/reopen", b"{}", **right) == 200
    for wrong, status in (
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": f"http://localhost:{asker.port}"}, 403),
        ({"Origin": f"ftp://127.0.0.1:{asker.port}"}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Content_Type": "text/plain"}, 415),
        ({"Content_Type": "application/x-www-form-urlencoded"}, 415),
    ):
        assert asker.status("POST", "/api/reopen", b"{}", **right | wrong) == status, wrong
    del right["Origin"]
    assert asker.status("POST", "/api/reopen", b"{}", **right) == 403
    assert asker.status("DELETE", "/api/jobs/1") == 403


def test_a_body_that_is_too_large_or_has_no_length_is_not_read(asker: Asker) -> None:
    right = {"Origin": f"http://127.0.0.1:{asker.port}", "Content_Type": "application/json"}
    assert asker.status("POST", "/api/flags", b"", **right, Content_Length=str(MOST_BODY + 1)) == 413
    chunked = {"Transfer_Encoding": "chunked", "Content_Length": "x"}
    # nothing is sent after the head: a connection that is closed with bytes unread may be reset before it is answered
    answer, _ = asker.request("POST", "/api/flags", b"", **{"Cookie": asker.cookie} | right | chunked)
    assert answer.status in (400, 413)


def test_every_answer_has_the_headers_that_keep_others_out(asker: Asker) -> None:
    for path, headers in (("/", {"Cookie": asker.cookie}), ("/api/run", {"Cookie": asker.cookie}), ("/api/run", {})):
        answer, _ = asker.get(path, **headers)
        policy = str(answer.getheader("Content-Security-Policy"))
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.getheader("X-Content-Type-Options") == "nosniff"
        assert answer.getheader("Referrer-Policy") == "no-referrer"
        assert answer.getheader("Cross-Origin-Resource-Policy") == "same-origin"
        assert answer.getheader("Access-Control-Allow-Origin") is None
        assert answer.getheader("Server") is None


def test_another_address_than_the_loopback_needs_a_certificate(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="ssh -L"):
        Listening(host="0.0.0.0").check()
    with pytest.raises(SettingsError, match="both --certificate and --key"):
        Listening(certificate=str(tmp_path)).check()
    with pytest.raises(SettingsError, match="there is no file"):
        Listening(host="0.0.0.0", certificate=str(tmp_path / "c"), key=str(tmp_path / "k")).check()


def test_the_start_lines_say_how_to_come_from_another_machine() -> None:
    link, way, _ = start_lines(Listening(), 8770, "abc")
    assert link == "Open http://127.0.0.1:8770/open?token=abc"
    assert "ssh -N -L 8770:127.0.0.1:8770 " in way


def test_every_module_of_the_page_is_asked_for_at_once() -> None:
    # over a long way each step from module to module costs a round trip
    page = Path(server.__file__).with_name("page")
    modules = {path.name for path in page.glob("*.js")} - {"main.js"}
    preloaded = set(re.findall(r'modulepreload" href="([^"]+)"', (page / "index.html").read_text()))
    assert preloaded == modules


@contextmanager
def proxied(port: int, prefix: str) -> Iterator[int]:
    """A proxy before the server, as a notebook server has one: another port, and a prefix that it takes away."""

    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._pass_on()

        def do_POST(self) -> None:
            self._pass_on()

        def _pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            onward = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
            onward.request(self.command, self.path.removeprefix(prefix), body, headers)
            answer = onward.getresponse()
            content = answer.read()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)
            onward.close()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    thread = Thread(target=listening.serve_forever, daemon=True)
    thread.start()
    yield listening.server_address[1]
    listening.shutdown()
    thread.join()
    listening.server_close()


def test_behind_a_proxy_with_another_port_and_a_prefix_all_is_reached(asker: Asker) -> None:
    with proxied(asker.port, "/proxy/8765") as port:
        there = Asker.__new__(Asker)
        there.port, there.token, there.cookie = port, asker.token, asker.cookie
        opened, _ = there.get(f"/proxy/8765/open?token={asker.token}")
        # relative: where the prefix is, nobody but the browser knows
        assert (opened.status, opened.getheader("Location")) == (303, "./")
        assert there.status(path="/proxy/8765/") == there.status(path="/proxy/8765/api/run") == 200
        page = there.request("GET", "/proxy/8765/", Cookie=asker.cookie)[1].decode()
        assert 'src="main.js"' in page
        assert 'href="style.css"' in page
        own = {"Origin": f"http://127.0.0.1:{port}", "Content_Type": "application/json"}
        assert there.status("POST", "/proxy/8765/api/reopen", b"{}", **own) == 200
