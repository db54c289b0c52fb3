"""Whatever reads results does so where neither torch nor its companions are installed: every route, every command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from viewing import Small
from whole import Whole

from simsam_batch.cli import run
from simsam_batch.report.exports.formats import FORMATS

_BLOCK = """
import json, sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        heavy = "torch torchvision timm ray cupy open_clip diffusers transformers".split()
        if name.partition(".")[0] in heavy:
            raise ModuleNotFoundError(f"{name} is not for reading", name=name)

sys.meta_path.insert(0, Blocked())
"""

_ROUTES = """
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


def without_torch(program: str, *arguments: object) -> Any:
    """What a program prints last, as JSON, in a process that cannot import torch."""
    command = [sys.executable, "-c", _BLOCK + program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("which", ["out", "maps"])
def test_every_route_answers_without_torch(which: str, whole_run: Any, small_run: Small) -> None:
    found: dict[str, tuple[int, str]] = without_torch(_ROUTES, getattr(whole_run, which), small_run.out)
    assert {path: told for path, told in found.items() if told[0] >= 500} == {}
    assert {path: told for path, told in found.items() if "not for reading" in told[1]} == {}
    pages = [path for path, told in found.items() if told[0] == 200]
    assert {"GET /api/run", "GET /api/status", "GET /"} <= {*pages}
    stage = "segment" if which == "out" else "hierarchy"
    layer = "mask" if which == "out" else "nodes"
    assert {f"GET /layers/{stage}/0/{layer}", f"GET /api/images/0?stage={stage}"} <= {*pages}
    over = "mask" if which == "out" else "tree"
    assert f"GET /images/0.jpg?stage={stage}&overlay={over}" in pages


_COMMANDS = """
import contextlib, io, itertools
import simsam_batch
from simsam_batch import cli
from simsam_batch.report.exports.formats import FORMATS

def told(*arguments):
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        return [cli.run(list(arguments)), said.getvalue()[-500:]]

to, truth, ids, *outs = sys.argv[1:]
found = {}
for out in outs:
    for command in (["status", out], ["status", out, "--json"], ["verify", out], ["report", out]):
        found[" ".join(command)] = told(*command)
    for form in FORMATS:
        found[f"export {out} {form}"] = told("export", out, "--to", f"{to}/{len(found)}", "--format", form)
    run = simsam_batch.open_run(out)
    assert run._repr_html_() and run.scores is not None and len(run.to_pandas()) == run.to_arrow().num_rows
    for layer in run.layers:
        stage = "matches" if layer == "matches" else run.stages[0]
        run.show(next(run.rows(stage).each())[1]["pair_id" if layer == "matches" else "image_id"], layer)
    for stage in run.stages:
        run.result(stage), list(run.rows(stage).each()), run.flags(stage)
segment, maps, other = outs[:3]
found["score"] = told("score", segment, "--truth", truth)
found["score labels"] = told("score", maps, "--stage", "semantic", "--truth", ids, "--protocol", "semantic")
found["compare"] = told("compare", segment, other, "--to", f"{to}/compared")
assert list(itertools.islice(simsam_batch.open_run(segment).masks(), 2))
assert not {"torch", "timm", "ray", "cupy"} & {*sys.modules}
print(json.dumps(found))
"""


@pytest.mark.slow
def test_every_command_that_reads_does_without_torch(whole_run: Whole, tmp_path: Path) -> None:
    root, probed = whole_run.photos.parent, tmp_path / "probed"
    arguments = ["probe", str(whole_run.photos), str(probed), "--truth", str(root / "ids"), "--backbone", "descriptors"]
    arguments += ["--fractions", "1", "--seeds", "1", "--facets", "token", "--resize", "native", "--engine", "inline"]
    arguments += ["--clusters", "6", "--micro-clusters", "12"]
    assert run([*arguments, "--quiet"]) == 0
    outs = [whole_run.out, whole_run.maps, whole_run.other, whole_run.pairs, whole_run.styled, probed]
    found: dict[str, tuple[int, str]] = without_torch(_COMMANDS, tmp_path / "to", root / "truth", root / "ids", *outs)
    # all that is made of torch's own files says that it has to be there
    missing = {name: told for name, told in found.items() if "torch is not installed. To mend it: pip" in told[1]}
    assert {name.rpartition(" ")[2] for name in missing} == {"pth"}
    refused = {name: told for name, told in found.items() if told[0] and name not in missing}
    assert {name: told for name, (code, told) in refused.items() if code != 1 or " has not; it has " not in told} == {}
    # every other format is made of one of these runs
    made = {name.rpartition(" ")[2] for name, told in found.items() if name.startswith("export ") and told[0] == 0}
    assert made | {"pth"} == {*FORMATS}
    assert "IoU" in found["score"][1] or "iou" in found["score"][1]
