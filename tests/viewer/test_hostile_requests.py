"""A thousand requests that nobody has thought of: no defect, nothing read but the run, nothing written but flags."""

from __future__ import annotations

import http.client
import json
import random
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from viewing import Small

ROOT = Path(__file__).parents[2]

WATCHED = """
import json, os, sys
seen, watching = set(), []

def watch(event, arguments):
    if not watching:
        return
    if event == "open" and isinstance(arguments[0], (str, bytes)):
        writes = bool(arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)) if isinstance(arguments[2], int) else False
        seen.add((("write " if writes else "read ") + os.path.abspath(os.fsdecode(arguments[0]))))
    elif event in ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "socket.connect", "pickle.find_class"):
        seen.add(event)
    elif event in ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "shutil.rmtree", "os.link", "os.symlink"):
        last = arguments[-1] if isinstance(arguments[-1], str) else arguments[0]
        seen.add("write " + os.path.abspath(os.fsdecode(last)))

sys.addaudithook(watch)
from simsam_batch import operations

def say(line):
    print(line, flush=True)
    watching.append(True)

try:
    operations.view(sys.argv[1], port=int(sys.argv[2]) or None, say=say)
except KeyboardInterrupt:
    pass
watching.clear()
print("SEEN " + json.dumps(sorted(seen)), flush=True)
"""


@dataclass
class Watched:
    """A server whose process notes what it opens."""

    process: subprocess.Popen[str]
    port: int
    cookie: str

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        headers = {"Cookie": self.cookie, "Origin": f"http://127.0.0.1:{self.port}", "Content-Type": "application/json"}
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        return answer.status, content

    def end(self) -> list[str]:
        """Stop it; what it has opened since it was ready."""
        self.process.send_signal(signal.SIGINT)
        out, err = self.process.communicate(timeout=30)
        found = [line for line in out.splitlines() if line.startswith("SEEN ")]
        assert found, err
        seen: list[str] = json.loads(found[0][5:])
        return seen


@pytest.fixture
def watched(small_run: Small) -> Iterator[Watched]:
    command = [sys.executable, "-c", WATCHED, str(small_run.out), "0"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    link = process.stdout.readline().split()[-1]
    port = int(link.split(":")[2].partition("/")[0])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request("GET", link[link.index("/open") :])
    answer = connection.getresponse()
    answer.read()
    yield Watched(process, port, str(answer.getheader("Set-Cookie")).partition(";")[0])
    process.kill()
    process.wait()


_PARTS = ["api", "rows", "images", "layers", "segment", "eigenvectors", "mask", "0", "3", "-1", "99999999999999999999"]
_PARTS += ["..", "%2e%2e", "%2e%2e%2fetc%2fpasswd", "etc", "passwd", "0.jpg", "a.jpg", "clusters", "compare", "pairs"]
_PARTS += ["jobs", "flags", "flags.csv", "list.txt", "facets", "run", "status", "neighbours", "find", "trees", "truth"]
_PARTS += ["%00", "é".encode().hex(), "main.js", "..%5c..", "semantic", "live", "match", "nodes", "outside", "results"]
_NAMES = ["stage", "q", "sort", "desc", "offset", "limit", "columns", "names", "run", "side", "overlay", "depth", "box"]
_NAMES += ["row", "id", "order", "metric", "layer", "v", "difference", "agreement", "alpha", "k", "x", "token"]
_VALUES = [
    "segment",
    "a",
    "b",
    "",
    "0",
    "-1",
    "1e309",
    "nan",
    "256",
    "17",
    "mask",
    "tree",
    "../../etc/passwd",
    "file:///etc",
]
_VALUES += [
    "confidence<0.2",
    "confidence<",
    '"',
    "status:failed",
    "id~'; DROP TABLE",
    "a" * 3000,
    "0,0,1e9,1e9",
    "0,0,0,0",
]
_VALUES += [
    "label:7",
    "flag:bad",
    "-",
    ":",
    "..",
    "<script>",
    "\\u0000",
    "null",
    "[]",
    "{}",
    "random",
    "iou?",
    "%s%n",
    "𝒳",
]


def _random_request(draw: random.Random) -> tuple[str, str, bytes | None]:
    path = "/" + "/".join(draw.choice(_PARTS) for _ in range(draw.randint(1, 5)))
    query = "&".join(f"{draw.choice(_NAMES)}={quote(draw.choice(_VALUES))}" for _ in range(draw.randint(0, 4)))
    method = draw.choice(["GET"] * 12 + ["POST", "POST", "DELETE", "HEAD", "PUT"])
    values: list[Any] = [None, 0, -1, 2**70, "segment", "bad", [0], [-5], ["x"], {}, [[]], "a" * 3000, 1.5, True]
    keys = ["stage", "rows", "verdict", "reasons", "note", "kind", "q", "row", "patch", "x", "y", "other", "run"]
    body: bytes | None = None
    if method in ("POST", "PUT"):
        whole = {draw.choice(keys): draw.choice(values) for _ in range(draw.randint(0, 6))}
        body = draw.choice(
            [json.dumps(whole).encode(), b"", b"[", b"\xff\xfe", b"null", b"[" * 20000, b'{"rows": NaN}']
        )
    return method, path + (f"?{query}" if query else ""), body


# what the page asks for, with one value spoiled: deeper than paths at random come
_KNOWN = ["api/rows", "api/facets", "api/neighbours", "api/find", "api/images/3", "images/3.jpg", "api/list.txt"]
_KNOWN += ["layers/segment/3/mask", "layers/segment/3/eigenvectors", "layers/segment/3/truth", "api/clusters/segment"]
_KNOWN += [
    "api/clusters/segment/1",
    "api/compare",
    "api/compare/3",
    "api/pairs/0",
    "api/flags",
    "api/trees/3",
    "api/list.parquet",
]


def test_a_thousand_random_requests_find_no_defect_and_reach_nothing_else(watched: Watched, small_run: Small) -> None:
    draw = random.Random(20)
    for number in range(1000):
        if number % 2:
            method, path, body = _random_request(draw)
        else:
            given = {"stage": "segment"} | {
                draw.choice(_NAMES): draw.choice(_VALUES) for _ in range(draw.randint(0, 3))
            }
            query = "&".join(f"{name}={quote(value)}" for name, value in given.items())
            method, path, body = "GET", f"/{draw.choice(_KNOWN)}?{query}", None
        status, content = watched.ask(method, path, body)
        assert status < 500, (method, path, body and body[:200], content[:500])
        assert b"Traceback" not in content, (method, path)
        assert str(small_run.out).encode() not in content or path.startswith(("/api/run", "/api/status")), path
    assert watched.process.poll() is None
    homes = {str(small_run.out), str(small_run.photos.parent), sys.prefix, sys.base_prefix, str(ROOT), "/dev", "/proc"}
    homes |= {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    # Python itself looks at these: types of files, time zones
    homes |= {"/etc/mime.types", "/usr/share/zoneinfo", "/etc/localtime", "/usr/share/mime", "/usr/lib"}
    for line in watched.end():
        kind, _, path = line.partition(" ")
        assert kind in ("read", "write"), line
        if kind == "write":
            compiled = "__pycache__" in path
            assert compiled or path == "/dev/null" or path.startswith(f"{small_run.out}/flags"), line
        else:
            assert any(path.startswith(home) for home in homes), line
