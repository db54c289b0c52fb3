"""The server's process never imports torch: every route answers where there is none."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from viewing import Small

_PROGRAM = """
import json, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "timm", "ray"):
            raise ImportError(f"{name} is not for the viewer")

sys.meta_path.insert(0, Blocked())

from starlette.testclient import TestClient
from simsam_batch.viewer import server
from simsam_batch.viewer.app import application
from simsam_batch.viewer.session import Session

url, other = sys.argv[1], sys.argv[2]
session = Session(url, other)
app = application(session)
client = TestClient(app, raise_server_exceptions=True)
stages = session.run().stages
LAYERS = "mask truth labels regions nodes eigenvectors outside".split()
OVERLAYS = "none mask labels tree".split()
VALUES = {"row": ["0"], "stage": stages, "layer": LAYERS, "n": ["0"], "point": ["0"], "label": ["1"], "id": ["0"]}

def filled(path):
    paths = [path]
    for name, values in VALUES.items():
        paths = [p.replace("{" + name + "}", v) for p in paths for v in values] if "{" + name + "}" in path else paths
    return paths

found = {}
for route in app.routes:
    for method in sorted(route.methods - {"HEAD"}):
        for path in filled(route.path):
            asked = [path]
            if "{stage}" not in route.path and method == "GET":
                asked += [f"{path}?stage={stage}" for stage in stages]
            if path.endswith(".jpg"):
                asked = [f"{each}{'&' if '?' in each else '?'}overlay={over}" for each in asked for over in OVERLAYS]
            for each in asked:
                answer = client.request(method, each, json={} if method == "POST" else None)
                found[f"{method} {each}"] = [answer.status_code, answer.text[:300] if answer.status_code >= 400 else ""]
assert "torch" not in sys.modules
print(json.dumps(found))
"""


@pytest.mark.parametrize("which", ["out", "maps"])
def test_every_route_answers_without_torch(which: str, whole_run: Any, small_run: Small) -> None:
    command = [sys.executable, "-c", _PROGRAM, str(getattr(whole_run, which)), str(small_run.out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, tuple[int, str]] = json.loads(done.stdout)
    assert {path: told for path, told in found.items() if told[0] >= 500} == {}
    assert {path: told for path, told in found.items() if "not for the viewer" in told[1]} == {}
    pages = [path for path, told in found.items() if told[0] == 200]
    assert {"GET /api/run", "GET /api/status", "GET /"} <= {*pages}
    stage = "segment" if which == "out" else "hierarchy"
    layer = "mask" if which == "out" else "nodes"
    assert {f"GET /layers/{stage}/0/{layer}", f"GET /api/images/0?stage={stage}"} <= {*pages}
    over = "mask" if which == "out" else "tree"
    assert f"GET /images/0.jpg?stage={stage}&overlay={over}" in pages
