"""The recipes of jobs/, each run small by the command line that jobs/README.md has for it.

Those for Ray are submitted to a real cluster of two nodes with token authentication (trees by `make soak` alone), those
for torchrun run in two processes. What is changed of a documented command is its IMAGES, OUT and MASKS and the number
of processes; what is added to it makes the images small and the device a CPU.
"""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.request import Request, urlopen

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image
from pycocotools import mask as coco

from simsam_batch.settings import FeatureSettings, read_yaml, resolve
from simsam_batch.stages.hierarchy.settings import HierarchySettings
from simsam_batch.stages.segment.settings import SegmentSettings
from simsam_batch.storage import Folder

ROOT = Path(__file__).parent.parent
JOBS = ROOT / "jobs"
TWO_NODES = "../cluster/two_local_nodes.sh"

ON_A_CPU = ["--backbone", "descriptors", "--device", "cpu"]
SMALL = ["--resize", "native", "--shard-size", "2"]
ONE_EPOCH = ["--epochs", "1", "--k", "5"]

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


def documented_command(start: str, **names: object) -> list[str]:
    """The one command of jobs/README.md that begins so, with IMAGES, OUT and MASKS replaced."""
    (line,) = re.findall(rf"^{re.escape(start)}\b.*$", (JOBS / "README.md").read_text(), re.MULTILINE)
    return [str(names.get(word, word)) for word in shlex.split(line)]


def environment() -> dict[str, str]:
    """That of a shell in which the virtual environment is active, and which knows no Ray."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "TORCHELASTIC_"))}
    return clean | {"PATH": os.pathsep.join([str(Path(sys.executable).parent), clean["PATH"]])}


def run_here(command: list[str], seconds: float = 240.0) -> subprocess.CompletedProcess[str]:
    """Run a command in jobs/, where jobs/README.md says it is to be run; it must succeed."""
    done = subprocess.run(
        command, cwd=JOBS, env=environment(), capture_output=True, text=True, timeout=seconds, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def photograph(seed: int, side: int = 96) -> bytes:
    """A PNG of noise with a coloured rectangle in it, ``side`` pixels high."""
    pixels = np.random.default_rng(seed).integers(80, 120, (side, side * 4 // 3, 3)).astype(np.uint8)
    pixels[side // 3 : side * 2 // 3, side // 2 : side] = (210, 40, 40)
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, "png")
    return target.getvalue()


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "photographs"
    folder.mkdir()
    for i in range(6):
        (folder / f"{i}.png").write_bytes(photograph(i))
    return folder


def results_of(out: str | Path, stage: str = "segment") -> tuple[int, int, int]:
    """Images, those that are good, and those that failed."""
    result = json.loads(Folder(str(out)).read(f"results/{stage}.json"))
    return result["images"], result["ok"], result["failed"]


@pytest.mark.parametrize("recipe", sorted(JOBS.glob("*.yaml")), ids=lambda path: path.name)
def test_settings_files_are_valid_and_tolerate_bad_images(recipe: Path) -> None:
    model: type[FeatureSettings] = HierarchySettings if recipe.name == "trees.yaml" else SegmentSettings
    settings = resolve(model, {}, read_yaml(str(recipe)))
    assert settings.allow_failed > 0, "one bad file must not make an orchestrator repeat the job for ever"
    assert settings.without_effect() == []
    wanted = {
        "segment.yaml": ("ray", "cuda", "json"),
        "trees.yaml": ("ray", "cuda", "json"),
        "node.yaml": ("local", "cuda", "json"),
        "torchrun.yaml": ("torchrun", "cuda", "json"),
        "smoke.yaml": ("auto", "auto", "text"),
    }
    assert (settings.engine, settings.device, settings.log_format) == wanted[recipe.name]


def test_the_big_recipes_compute_the_same() -> None:
    # begun on one machine, a run can then be finished on another kind of cluster
    kinds = [
        resolve(SegmentSettings, {}, read_yaml(str(JOBS / f"{name}.yaml"))) for name in ("segment", "node", "torchrun")
    ]
    assert kinds[0].values_of("result") == kinds[1].values_of("result") == kinds[2].values_of("result")


def test_every_settings_file_has_its_place_in_the_table() -> None:
    page = (JOBS / "README.md").read_text()
    assert {path.name for path in JOBS.glob("*.yaml")} == set(re.findall(r"\]\((\w+\.yaml)\) \|", page))


def test_a_retry_tolerates_as_much_as_the_run_did() -> None:
    command = documented_command("ray job submit --working-dir . -- simsam retry")
    allowed = float(command[command.index("--allow-failed") + 1])
    assert allowed == yaml.safe_load((JOBS / "segment.yaml").read_text())["allow_failed"]


def test_the_local_recipe_runs_the_very_command_for_a_cluster() -> None:
    on_a_cluster = documented_command("ray job submit --working-dir . -- simsam segment")
    here = documented_command(TWO_NODES)
    assert here[1 : len(on_a_cluster) + 1] == on_a_cluster


@pytest.mark.slow
def test_one_machine_and_then_the_scores_of_what_it_made(photographs: Path, tmp_path: Path) -> None:
    out, masks = tmp_path / "out", tmp_path / "masks"
    node = documented_command("simsam segment IMAGES OUT --config node.yaml", IMAGES=photographs, OUT=out)
    run_here([*node, *ON_A_CPU, *SMALL, *ONE_EPOCH, "--workers", "2"])
    assert results_of(out) == (6, 6, 0)

    masks.mkdir()
    truth = np.zeros((96, 128), np.uint8)
    truth[32:64, 48:96] = 255
    for i in range(6):
        Image.fromarray(truth).save(masks / f"{i}.png")
    score = documented_command("simsam score", OUT=out, MASKS=masks)
    scores = score[score.index("--json") + 1]
    score[score.index("--json") + 1] = str(tmp_path / scores)
    run_here(score)
    rows = pq.read_table(out / "results" / "segment", columns=["mask_rle"]).column("mask_rle").to_pylist()
    overlaps = [(coco.decode(rle) > 0, truth > 0) for rle in rows]
    by_hand = np.mean([(mask & true).sum() / (mask | true).sum() for mask, true in overlaps])
    metrics = json.loads((tmp_path / scores).read_text())["metrics"]
    assert metrics["iou_per_image_mean"] == pytest.approx(by_hand, abs=1e-12)


@pytest.mark.slow
def test_torchrun_in_two_processes(photographs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = documented_command("torchrun", IMAGES=photographs, OUT=out)
    command[command.index("--nproc-per-node") + 1] = "2"
    command[1:1] = ["--standalone"]  # a free port, for several tests may run on this machine
    run_here([*command, *ON_A_CPU, *SMALL, *ONE_EPOCH])
    assert results_of(out) == (6, 6, 0)


@pytest.mark.slow
def test_the_smoke_test_takes_the_first_fifty_images(tmp_path: Path) -> None:
    photographs, out = tmp_path / "photographs", tmp_path / "out"
    photographs.mkdir()
    for i in range(60):
        (photographs / f"{i:02}.png").write_bytes(photograph(i, 48))
    # one bad image is no reason to stop
    (photographs / "07.png").write_bytes(b"no picture")
    smoke = documented_command("simsam segment IMAGES OUT --config smoke.yaml", IMAGES=photographs, OUT=out)
    run_here([*smoke, *ON_A_CPU, "--workers", "2", "--resize", "native"])
    assert results_of(out) == (50, 49, 1)
    names = pq.read_table(out / "results" / "segment", columns=["image_id"]).column("image_id").to_pylist()
    assert names == [f"{i:02}.png" for i in range(50)]


@dataclass(frozen=True)
class Cluster:
    """What one Ray cluster of two nodes did.

    Attributes:
        url: the folder of all runs, in S3.
        codes: exit code of each job.
        logs: its log.
        asked: what the job server answered to callers without the token.
    """

    url: str
    codes: Mapping[str, int]
    logs: Mapping[str, str]
    asked: str


@pytest.fixture(scope="module")
def photographs_in_s3(request: pytest.FixtureRequest) -> str:
    """A bucket with ``photographs``, the first of them larger than the others."""
    url = new_bucket(request)
    for i in range(6):
        Folder(url).replace(f"photographs/{i}.png", photograph(i, 96 if i else 192))
    return url


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, photographs_in_s3: str) -> Cluster:
    """Object masks and a retry, submitted in turn to one cluster on this machine, with images and results in S3."""
    url = photographs_in_s3
    _, *segment = documented_command(TWO_NODES, IMAGES=f"{url}/photographs", OUT=f"{url}/out")
    retry = documented_command("ray job submit --working-dir . -- simsam retry", OUT=f"{url}/out")
    jobs = {
        # the first image is over the limit
        "segment": [*segment, *SMALL, *ONE_EPOCH, "--max-pixels", "20000", "--allow-failed", "0.2"],
        "retry": [*retry, "--device", "cpu", "--workers", "2", "--max-pixels", "100000"],
    }
    return on_two_nodes(jobs, url, tmp_path_factory.mktemp("cluster"))


def on_two_nodes(jobs: Mapping[str, list[str]], url: str, home: Path) -> Cluster:
    """Start a cluster by the documented recipe, run the jobs in it, and stop it."""
    pytest.importorskip("ray")
    recipe = documented_command(TWO_NODES)[0]
    # A process such as `ray stop` would end: it goes by names.
    bystander = subprocess.Popen([shutil.copy("/bin/sleep", home / "raylet"), "900"])
    script = [f"{shlex.join([sys.executable, '-c', ASK])} > {home}/asked 2>&1"]
    for name, job in jobs.items():
        script.append(f"{shlex.join(job)} > {home}/{name}.log 2>&1; echo $? > {home}/{name}.code")
    try:
        subprocess.run(
            [recipe, "bash", "-c", "\n".join(script)],
            cwd=JOBS,
            env=environment(),
            stdin=subprocess.DEVNULL,
            timeout=580,
            check=True,
        )
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()
    logs = {name: (home / f"{name}.log").read_text() for name in jobs}
    codes = {name: int((home / f"{name}.code").read_text()) for name in jobs}
    return Cluster(url, codes, logs, (home / "asked").read_text())


def new_bucket(request: pytest.FixtureRequest) -> str:
    """A fresh bucket of the suite's server, or a folder of the store in its place, for a whole module."""
    real = os.environ.get("SIMSAM_TEST_S3_URL")
    if real:
        return f"{real.rstrip('/')}/jobs-{uuid.uuid4().hex}"
    server = request.getfixturevalue("moto_server")
    bucket = f"jobs-{uuid.uuid4().hex[:12]}"
    with urlopen(Request(f"{server.endpoint}/{bucket}", method="PUT")) as reply:
        assert reply.status == 200
    return f"s3://{bucket}"


@pytest.mark.slow
def test_a_dataset_in_s3_is_segmented_on_two_nodes(cluster: Cluster) -> None:
    assert cluster.codes["segment"] == 0, cluster.logs["segment"]
    events = [json.loads(line) for line in cluster.logs["segment"].splitlines() if line.startswith('{"time"')]
    # Two workers of one CPU each only fit on both nodes of one CPU each together; the engine waits until they do.
    assert events[-1]["event"] == "done"
    assert (events[-1]["images"], events[-1]["ok"], events[-1]["failed"]) == (6, 5, 1)


@pytest.mark.slow
def test_the_failed_image_is_computed_by_the_retry_alone(cluster: Cluster) -> None:
    assert cluster.codes["retry"] == 0, cluster.logs["retry"]
    assert results_of(f"{cluster.url}/out") == (6, 6, 0)
    manifests = {info.name for info in Folder(f"{cluster.url}/out").list("segment/manifests")}
    assert {name.rpartition("/")[2] for name in manifests} == {
        "0000000.0.json",
        "0000000.1.json",
        "0000001.0.json",
        "0000002.0.json",
    }


def trees(url: str) -> list[str]:
    places = {"IMAGES": f"{url}/photographs", "OUT": f"{url}/trees"}
    job = documented_command("ray job submit --working-dir . -- simsam hierarchy", **places)
    return [*job, *ON_A_CPU, *SMALL, "--superpixels", "8"]


@pytest.mark.slow
def test_trees_by_the_command_for_a_cluster_in_one_process(photographs_in_s3: str) -> None:
    job = trees(photographs_in_s3)
    run_here([*job[job.index("--") + 1 :], "--engine", "inline"])
    assert results_of(f"{photographs_in_s3}/trees", "hierarchy") == (6, 6, 0)


@pytest.mark.soak
def test_trees_on_two_nodes(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    url = new_bucket(request)
    for i in range(6):
        Folder(url).replace(f"photographs/{i}.png", photograph(i))
    done = on_two_nodes({"trees": [*trees(url), "--workers", "2"]}, url, tmp_path)
    assert done.codes["trees"] == 0, done.logs["trees"]
    assert results_of(f"{url}/trees", "hierarchy") == (6, 6, 0)


@pytest.mark.slow
def test_the_cluster_asks_for_its_token_and_leaves_nothing_behind(cluster: Cluster) -> None:
    assert re.findall(r"answered (\d+)", cluster.asked) == ["401", "403"]
    (token,) = re.findall(r"token at (\S+)", cluster.asked)
    assert not Path(token).parent.exists()
    assert not [line for line in _command_lines() if str(Path(token).parent) in line], "a process was left behind"


def _command_lines() -> list[str]:
    lines = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            lines.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return lines
