"""The job as jobs/README.md submits it, on a real Ray cluster of two nodes with token authentication."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from simsam_batch.config import SegmentSettings, read_yaml, resolve

ROOT = Path(__file__).parent.parent
TWO_NODES = ROOT / "cluster" / "two_local_nodes.sh"

# Run inside the cluster: what its job server answers to a caller without the token, and with a wrong one.
ASK = """
import os, urllib.error, urllib.request
print("token at", os.environ["RAY_AUTH_TOKEN_PATH"])
for headers in ({}, {"Authorization": "Bearer " + "0" * 64}):
    request = urllib.request.Request(os.environ["RAY_API_SERVER_ADDRESS"] + "/api/jobs/", headers=headers)
    try:
        print("answered", urllib.request.urlopen(request, timeout=10).status)
    except urllib.error.HTTPError as error:
        print("answered", error.code)
"""


def documented_command(start: str) -> list[str]:
    """The one command of jobs/README.md that begins so."""
    (line,) = re.findall(rf"^{re.escape(start)} .*$", (ROOT / "jobs" / "README.md").read_text(), re.MULTILINE)
    return shlex.split(line)


def test_the_settings_file_is_valid_and_meant_for_gpus_of_a_cluster() -> None:
    settings = resolve(SegmentSettings, {}, read_yaml(str(ROOT / "jobs" / "segment.yaml")))
    assert (settings.engine, settings.device, settings.log_format) == ("ray", "cuda", "json")
    assert settings.allow_failed > 0, "one bad file must not make an orchestrator repeat the job for ever"


def test_the_local_recipe_runs_the_very_command_for_a_cluster() -> None:
    on_a_cluster = documented_command("ray job submit")
    here = documented_command("cluster/two_local_nodes.sh")
    assert here[1 : len(on_a_cluster) + 1] == on_a_cluster


@pytest.mark.parametrize("script", sorted(ROOT.glob("cluster/*.sh")), ids=lambda path: path.name)
def test_scripts_are_clean(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)
    assert os.access(script, os.X_OK)
    shellcheck = shutil.which("shellcheck")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed; bash has parsed the script")
    done = subprocess.run([shellcheck, script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_a_submitted_job_segments_a_folder_on_two_nodes_that_ask_for_a_token(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    photographs, out = tmp_path / "photographs", tmp_path / "out"
    photographs.mkdir()
    for i in range(6):
        pixels = np.random.default_rng(i).integers(80, 120, (96, 128, 3)).astype(np.uint8)
        pixels[32:64, 48:96] = (210, 40, 40)
        Image.fromarray(pixels).save(photographs / f"{i}.png")
    # A process such as `ray stop` would end: it goes by names.
    bystander = subprocess.Popen([shutil.copy("/bin/sleep", tmp_path / "raylet"), "200"])

    recipe, *submit = documented_command("cluster/two_local_nodes.sh")
    submit = [{"IMAGES": str(photographs), "OUT": str(out)}.get(word, word) for word in submit]
    submit += ["--resize", "native", "--epochs", "1", "--shard-size", "2", "--k", "5"]
    ask = shlex.join([sys.executable, "-c", ASK])
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), environment["PATH"]])
    try:
        done = subprocess.run(
            [ROOT / recipe, "bash", "-c", f"{ask} && {shlex.join(submit)}"],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()

    assert re.findall(r"answered (\d+)", done.stdout) == ["401", "403"]
    events = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"time"')]
    assert events[-1]["event"] == "done"
    # Two workers of one CPU each only fit on both nodes of one CPU each together; the engine waits until they do.
    result = json.loads((out / "results" / "segment.json").read_text())
    assert (result["images"], result["ok"], result["failed"]) == (6, 6, 0)

    (token,) = re.findall(r"token at (\S+)", done.stdout)
    assert not Path(token).parent.exists()
    assert not [line for line in _command_lines() if str(Path(token).parent) in line], "a process was left behind"


def _command_lines() -> list[str]:
    lines = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            lines.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return lines
