"""The files of cluster/ against what reads them: shells, Ray's launcher, Kubernetes' schema, the requests of a run."""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote
from urllib.request import Request, urlopen

import click
import pytest
import yaml
from process_groups import standing_still, wait_until_still
from s3_server import S3Server
from test_jobs import ON_A_CPU, ONE_EPOCH, ROOT, SMALL, environment, photograph, results_of

from simsam_batch import __version__, cli
from simsam_batch.storage import Folder

CLUSTER = ROOT / "cluster"

OUT_OF_TIME = 60.0
IMAGES = 20


# scripts


@pytest.mark.parametrize("script", sorted(CLUSTER.glob("*.sh")), ids=lambda path: path.name)
def test_scripts_are_clean(script: Path) -> None:
    assert os.access(script, os.X_OK)
    done = subprocess.run(["shellcheck", script], env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def stand_ins(folder: Path) -> dict[str, str]:
    """Slurm's variables of a job on two nodes, and commands that do on this machine what Slurm's do on those."""
    srun = """#!/usr/bin/env bash
    # the command on each node at once; signals are handed on
    while [[ $1 == --* ]]; do shift; done
    nodes=()
    for ((n = 0; n < SLURM_JOB_NUM_NODES; n++)); do "$@" & nodes+=($!); done
    trap 'kill -TERM "${nodes[@]}"' TERM
    code=0
    for node in "${nodes[@]}"; do
      wait "$node" || code=$?
      while kill -0 "$node" 2>/dev/null; do code=0; wait "$node" || code=$?; done
    done
    exit "$code"
    """
    scontrol = """#!/usr/bin/env bash
    case $1 in
      show) printf '127.0.0.1\\n127.0.0.2\\n' ;;
      requeue) echo "$2" >> "$REQUEUED" ;;
    esac
    """
    for name, text in {"srun": srun, "scontrol": scontrol}.items():
        (folder / name).write_text(text.replace("\n    ", "\n"))
        (folder / name).chmod(0o755)
    here = environment()
    here["PATH"] = os.pathsep.join([str(folder), here["PATH"]])
    slurm = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_JOB_NUM_NODES": "2"}
    return here | slurm | {"RANKS": "1", "REQUEUED": str(folder / "requeued")}


@pytest.mark.slow
def test_a_slurm_job_out_of_time_queues_again_and_then_goes_on(tmp_path: Path) -> None:
    photographs, out = tmp_path / "photographs", tmp_path / "out"
    photographs.mkdir()
    for i in range(IMAGES):
        (photographs / f"{i:02}.png").write_bytes(photograph(i))
    slurm = stand_ins(tmp_path)
    flags = [*ON_A_CPU, "--resize", "native", "--shard-size", "1", "--k", "5", "--epochs", "1", "--grace-seconds", "1"]
    command = ["cluster/slurm.sh", "segment", str(photographs), str(out), "--engine", "torchrun", *flags]

    held = standing_still(2, out, "segment")
    with (tmp_path / "log").open("w") as log:
        # in the middle, and the seconds of grace do not suffice
        first = subprocess.Popen(command, cwd=ROOT, env=slurm | held, stdout=log, stderr=log)
        wait_until_still(first, out)
        first.send_signal(signal.SIGUSR1)
        assert first.wait(2 * OUT_OF_TIME) != 0
    assert Path(slurm["REQUEUED"]).read_text().split() == [slurm["SLURM_JOB_ID"]]
    begun = out / "segment" / "manifests"
    done_before = {path.name: path.stat().st_mtime_ns for path in begun.glob("[!.]*")}
    assert 0 < len(done_before) < IMAGES
    assert not (out / "results").exists()

    done = subprocess.run(
        command, cwd=ROOT, env=slurm | {"SLURM_RESTART_COUNT": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert results_of(out) == (IMAGES, IMAGES, 0)
    after = {path.name: path.stat().st_mtime_ns for path in begun.iterdir()}
    assert done_before.items() <= after.items(), "what was committed is not computed again"
    assert len(Path(slurm["REQUEUED"]).read_text().split()) == 1, "a job that is done stays out of the queue"


@pytest.mark.parametrize(("arguments", "says"), [([], "usage"), (["segment", "photos", "out"], "no GPUs")])
def test_the_slurm_script_says_what_is_missing(arguments: list[str], says: str, tmp_path: Path) -> None:
    slurm = {name: value for name, value in stand_ins(tmp_path).items() if name != "RANKS"}
    done = subprocess.run([CLUSTER / "slurm.sh", *arguments], env=slurm, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert says in done.stderr


# Kubernetes


def manifest(name: str) -> dict[str, Any]:
    held: dict[str, Any] = yaml.safe_load((CLUSTER / name).read_text())
    return held


def cluster_specs() -> dict[str, dict[str, Any]]:
    return {
        "RayCluster": manifest("kuberay-cluster.yaml")["spec"],
        "RayJob": manifest("kuberay-job.yaml")["spec"]["rayClusterSpec"],
    }


def test_the_job_runs_on_the_same_cluster() -> None:
    of_cluster, of_job = cluster_specs().values()
    assert of_cluster == of_job


# Fields and their types by the Go types of KubeRay 1.5's API, ray.io/v1: those that our manifests may use.
_WORDS = {"type": "object", "additionalProperties": {"type": "string"}}
_GROUP = {"rayStartParams": _WORDS, "template": {"type": "object"}}
_COUNT = {"type": "integer", "minimum": 0}


def _fields(required: Sequence[str] = (), **properties: object) -> dict[str, Any]:
    return {"type": "object", "additionalProperties": False, "properties": properties, "required": list(required)}


_CLUSTER_SPEC = _fields(
    ["headGroupSpec"],
    rayVersion={"type": "string"},
    authOptions=_fields(mode={"enum": ["token", "disabled"]}),
    headGroupSpec=_fields(["rayStartParams", "template"], **_GROUP),
    workerGroupSpecs={
        "type": "array",
        "items": _fields(
            ["groupName", "minReplicas", "maxReplicas", "rayStartParams", "template"],
            groupName={"type": "string"},
            replicas=_COUNT,
            minReplicas=_COUNT,
            maxReplicas=_COUNT,
            **_GROUP,
        ),
    },
)
_JOB_SPEC = _fields(
    ["entrypoint", "rayClusterSpec"],
    entrypoint={"type": "string"},
    activeDeadlineSeconds={"type": "integer", "minimum": 1},
    backoffLimit=_COUNT,
    shutdownAfterJobFinishes={"type": "boolean"},
    ttlSecondsAfterFinished=_COUNT,
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode"]},
    submitterConfig=_fields(backoffLimit=_COUNT),
    rayClusterSpec=_CLUSTER_SPEC,
)


@pytest.mark.parametrize(
    ("name", "kind", "spec"),
    [("kuberay-cluster.yaml", "RayCluster", _CLUSTER_SPEC), ("kuberay-job.yaml", "RayJob", _JOB_SPEC)],
)
def test_manifests_have_the_fields_of_kuberay(name: str, kind: str, spec: dict[str, Any]) -> None:
    import jsonschema

    schema = _fields(
        ["apiVersion", "kind", "metadata", "spec"],
        apiVersion={"const": "ray.io/v1"},
        kind={"const": kind},
        metadata=_fields(["name"], name={"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"}),
        spec=spec,
    )
    jsonschema.validate(manifest(name), schema)


def pod_templates(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [spec["headGroupSpec"]["template"], *(group["template"] for group in spec["workerGroupSpecs"])]


@pytest.mark.parametrize("kind", ["RayCluster", "RayJob"])
def test_pods_are_valid_run_as_nobody_special_and_keep_nothing(kind: str) -> None:
    import kubernetes_validate

    for template in pod_templates(cluster_specs()[kind]):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"} | template.get("metadata", {})}
        pod["spec"] = template["spec"]
        kubernetes_validate.validate(pod, "1.31", strict=True)
        misspelt = pod | {"spec": template["spec"] | {"tolerationz": []}}
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(misspelt, "1.31", strict=True)
        assert template["spec"]["securityContext"]["runAsNonRoot"] is True
        assert [volume["emptyDir"]["medium"] for volume in template["spec"]["volumes"]] == ["Memory"]
        (container,) = template["spec"]["containers"]
        assert container["volumeMounts"] == [{"name": "shared-memory", "mountPath": "/dev/shm"}]
        assert container["image"].endswith(f":{__version__}")


@pytest.mark.parametrize("kind", ["RayCluster", "RayJob"])
def test_ray_reads_a_gpu_for_each_worker_and_none_for_the_head(kind: str) -> None:
    pytest.importorskip("ray")
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
    from ray.scripts.scripts import start

    spec = cluster_specs()[kind]
    read = _derive_autoscaling_config_from_ray_cr(
        {"metadata": {"name": "simsam", "namespace": "default"}, "spec": spec}
    )
    types = read["available_node_types"]
    assert {name: (t["resources"]["CPU"], t["resources"].get("GPU", 0)) for name, t in types.items()} == {
        "headgroup": (0, 0),
        "gpu": (8, 1),
    }
    flags = {flag for option in start.params for flag in option.opts}
    for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
        assert {f"--{name}" for name in group["rayStartParams"]} <= flags
    (pinned,) = re.findall(r"^ray==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert spec["rayVersion"] == pinned


def test_the_job_gives_up_in_the_end_and_clears_up(capsys: pytest.CaptureFixture[str]) -> None:
    spec = manifest("kuberay-job.yaml")["spec"]
    assert spec["activeDeadlineSeconds"] > 0
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["ttlSecondsAfterFinished"] > 0
    assert spec["backoffLimit"] > 0
    program, *arguments = shlex.split(spec["entrypoint"])
    assert program == "simsam"
    assert cli.run([*arguments, "--print-config"]) == 0
    settings = yaml.safe_load(capsys.readouterr().out)
    assert settings["allow_failed"] > 0
    # it waits for as many as the manifest brings
    assert settings["workers"] == sum(group["replicas"] for group in spec["rayClusterSpec"]["workerGroupSpecs"])


# what a policy allows


def policy(*names: str, **filled: str) -> list[dict[str, Any]]:
    """The statements of some policies, with the words in capitals filled in."""
    statements = []
    for name in names:
        text = (CLUSTER / f"{name}.json").read_text()
        for word, value in filled.items():
            text = text.replace(word.replace("_", "-"), value)
        held = json.loads(text)
        assert held["Version"] == "2012-10-17"
        statements += held["Statement"]
    return statements


def allows(statements: Sequence[Mapping[str, Any]], action: str, resource: str, **context: str) -> bool:
    """Whether any statement allows an action on a resource: AWS's rules for Allow and the conditions used here."""

    def listed(value: str | list[str]) -> list[str]:
        return [value] if isinstance(value, str) else value

    def holds(operator: str, conditions: Mapping[str, str | list[str]]) -> bool:
        assert operator in ("StringLikeIfExists", "StringEquals")
        for key, patterns in conditions.items():
            value = context.get(key.replace(":", "_"))
            if value is None and operator.endswith("IfExists"):
                continue
            if value is None or not any(fnmatchcase(value, pattern) for pattern in listed(patterns)):
                return False
        return True

    return any(
        statement["Effect"] == "Allow"
        and any(fnmatchcase(action, pattern) for pattern in listed(statement["Action"]))
        and any(fnmatchcase(resource, pattern) for pattern in listed(statement["Resource"]))
        and all(holds(operator, conditions) for operator, conditions in statement.get("Condition", {}).items())
        for statement in statements
    )


@dataclass(frozen=True)
class Call:
    """One request to S3: what it asked for, and what the answer's status was."""

    method: str
    bucket: str
    key: str
    query: Mapping[str, str]
    deleted: tuple[str, ...]
    status: int

    def needs(self) -> Iterator[tuple[str, str, dict[str, str]]]:
        """Action, resource and context of each permission that S3's documentation asks for such a request."""
        bucket, key = f"arn:aws:s3:::{self.bucket}", f"arn:aws:s3:::{self.bucket}/{self.key}"
        if self.method == "GET" and not self.key:
            assert self.query["list-type"] == "2"
            yield "s3:ListBucket", bucket, {"s3_prefix": self.query["prefix"]} if "prefix" in self.query else {}
        elif self.method in ("GET", "HEAD") and self.key:
            yield "s3:GetObject", key, {}
            if self.status == 404:
                # only those who may list are told that an object is missing; others get 403
                yield "s3:ListBucket", bucket, {}
        elif self.method == "DELETE" and "uploadId" in self.query:
            yield "s3:AbortMultipartUpload", key, {}
        elif self.method == "POST" and "delete" in self.query:
            for name in self.deleted:
                yield "s3:DeleteObject", f"{bucket}/{name}", {}
        elif self.key and (
            self.method == "PUT" or (self.method == "POST" and {"uploads", "uploadId"} & set(self.query))
        ):
            yield "s3:PutObject", key, {}
        else:
            raise AssertionError(f"a request that no policy was written for: {self}")


@pytest.fixture
def calls(moto_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> list[Call]:
    """Every request to the server from now on."""
    seen: list[Call] = []
    application = moto_server._app

    def recorded(request: dict[str, Any], start_response: Any) -> Any:
        body = request["wsgi.input"].read(int(request.get("CONTENT_LENGTH") or 0))
        request["wsgi.input"] = io.BytesIO(body)
        answered: list[int] = []

        def started(status: str, *rest: Any) -> Any:
            answered.append(int(status[:3]))
            return start_response(status, *rest)

        reply = application(request, started)
        _, bucket, *key = request["PATH_INFO"].split("/", 2)
        query = {name: values[0] for name, values in parse_qs(request["QUERY_STRING"], keep_blank_values=True).items()}
        deleted = tuple(re.findall(r"<Key>(.*?)</Key>", body.decode())) if "delete" in query else ()
        seen.append(Call(request["REQUEST_METHOD"], bucket, unquote("".join(key)), query, deleted, answered[0]))
        return reply

    monkeypatch.setattr(moto_server, "_app", recorded)
    return seen


@pytest.mark.slow
def test_the_policy_allows_every_request_of_a_run_and_no_deletion(moto_server: S3Server, calls: list[Call]) -> None:
    for bucket in ("of-images", "of-runs"):
        with urlopen(Request(f"{moto_server.endpoint}/{bucket}", method="PUT")) as reply:
            assert reply.status == 200
    images, out = "s3://of-images/photos/2026", "s3://of-runs/runs/first"
    for i in range(4):
        Folder(images).replace(f"{i}.png", photograph(i))
    Folder(images).replace("words.png", b"no picture")
    Folder(images).replace("list.txt", b"0.png\nmissing.png\n")

    calls.clear()
    small = [*ON_A_CPU, *SMALL, "--engine", "inline", "--quiet", "--allow-failed", "1"]
    assert cli.run(["segment", images, out, *small, *ONE_EPOCH]) == 0
    assert cli.run(["segment", f"{images}/list.txt", f"{out}-listed", *small, *ONE_EPOCH]) == 0
    assert cli.run(["semantic", images, f"{out}-labels", *small, "--clusters", "2", "--head", "none"]) == 0
    assert cli.run(["retry", out, "--engine", "inline", "--allow-failed", "1"]) == 0
    assert cli.run(["status", out]) == cli.run(["verify", out]) == 0
    # so large that it is written in parts
    assert Folder(out).create("segment/data/large.npz", bytes(101 << 20))

    filled = {"IMAGES_BUCKET": "of-images", "IMAGES_PREFIX": "photos", "OUT_BUCKET": "of-runs", "OUT_PREFIX": "runs"}
    run_policy = policy("iam-run", **filled)
    refused = {
        (call.method, action, resource, str(context))
        for call in calls
        for action, resource, context in call.needs()
        if not allows(run_policy, action, resource, **context)
    }
    assert not refused
    needed = {action for call in calls for action, _, _ in call.needs()}
    assert needed == {"s3:ListBucket", "s3:GetObject", "s3:PutObject"}
    assert any(call.status == 404 for call in calls)
    assert any("uploadId" in call.query for call in calls)

    calls.clear()
    assert cli.run(["doctor", out]) == 0
    beyond = {
        (action, resource)
        for call in calls
        for action, resource, context in call.needs()
        if not allows(run_policy, action, resource, **context)
    }
    # without the right to them it says what it leaves
    own = [f"arn:aws:s3:::of-runs/runs/first/doctor/{name}" for name in ("conditional-create.json", "clock.json")]
    assert beyond == {("s3:DeleteObject", name) for name in own}

    elsewhere = [
        ("s3:PutObject", "arn:aws:s3:::of-images/photos/0.png", {}),
        ("s3:GetObject", "arn:aws:s3:::of-images/secrets/0.png", {}),
        ("s3:PutObject", "arn:aws:s3:::of-runs/others/run.json", {}),
        ("s3:ListBucket", "arn:aws:s3:::of-runs", {"s3_prefix": "others/"}),
        ("s3:DeleteObject", "arn:aws:s3:::of-runs/runs/first/run.json", {}),
    ]
    for action, resource, context in elsewhere:
        assert not allows(run_policy, action, resource, **context)

    Folder(out).replace("segment/data/0000000.9.npz", b"an attempt that crashed")
    calls.clear()
    assert cli.run(["verify", out, "--delete-orphans", "--orphan-hours", "0"]) == 0
    assert not [info for info in Folder(out).list("segment/data") if info.name.endswith(".9.npz")]
    deletions = [need for call in calls for need in call.needs() if need[0] == "s3:DeleteObject"]
    assert deletions
    cleaner = policy("iam-run", "iam-delete-orphans", **filled)
    for call in calls:
        assert all(allows(cleaner, action, resource, **context) for action, resource, context in call.needs())
    assert all(allows(cleaner, "s3:DeleteObject", name) for name in own)
    assert not any(allows(run_policy, action, resource, **context) for action, resource, context in deletions)
    for kept in ("run.json", "segment/manifests/0000000.0.json", "results/segment.json"):
        assert not allows(cleaner, "s3:DeleteObject", f"arn:aws:s3:::of-runs/runs/first/{kept}")


# AWS


@pytest.fixture
def launcher() -> dict[str, Any]:
    held: dict[str, Any] = yaml.safe_load((CLUSTER / "aws.yaml").read_text())
    return held


def test_the_launcher_accepts_the_cluster_and_fills_in_what_it_lacks(launcher: dict[str, Any]) -> None:
    pytest.importorskip("ray")
    import jsonschema
    from ray.autoscaler._private.util import prepare_config, validate_config

    filled = prepare_config(launcher)
    validate_config(filled)
    with pytest.raises(jsonschema.ValidationError):
        validate_config(filled | {"max_wokers": 8})
    gpu = filled["available_node_types"]["gpu"]
    assert gpu["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert "InstanceMarketOptions" not in filled["available_node_types"]["head"]["node_config"], "the head stays"
    assert filled["max_workers"] >= gpu["min_workers"]


def test_every_node_starts_with_a_token_and_a_small_object_store(launcher: dict[str, Any]) -> None:
    pytest.importorskip("ray")
    from ray.scripts.scripts import start

    for commands in (launcher["head_start_ray_commands"], launcher["worker_start_ray_commands"]):
        assert all(command.startswith("export RAY_AUTH_MODE=token ") for command in commands)
        begun = commands[-1].partition("ray start ")[2].replace("$RAY_HEAD_IP", "10.0.0.1")
        context = click.Context(start)
        start.parse_args(context, shlex.split(begun))
        assert context.params["object_store_memory"] == 256 << 20
    assert launcher["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"


@pytest.mark.slow
def test_rays_node_provider_starts_and_ends_workers_within_the_heads_policy(
    launcher: dict[str, Any], moto_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    import boto3
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

    region = launcher["provider"]["region"]
    monkeypatch.setenv("AWS_DEFAULT_REGION", region)
    types = AWSNodeProvider.fillout_available_node_types_resources(launcher)["available_node_types"]
    assert (types["gpu"]["resources"]["GPU"], types["gpu"]["resources"]["CPU"]) == (1, 8)
    assert types["head"]["resources"] == {"CPU": 0, "GPU": 0}

    boto3.client("iam").create_instance_profile(InstanceProfileName="simsam-worker")
    ec2 = boto3.client("ec2")
    image = ec2.describe_images()["Images"][0]["ImageId"]
    subnet = ec2.describe_subnets()["Subnets"][0]["SubnetId"]
    config = launcher["available_node_types"]["gpu"]["node_config"] | {"ImageId": image, "SubnetIds": [subnet]}

    asked: list[dict[str, str]] = []
    application = moto_server._app

    def recorded(request: dict[str, Any], start_response: Any) -> Any:
        body = request["wsgi.input"].read(int(request.get("CONTENT_LENGTH") or 0))
        request["wsgi.input"] = io.BytesIO(body)
        asked.append({name: values[0] for name, values in parse_qs(body.decode()).items()})
        return application(request, start_response)

    monkeypatch.setattr(moto_server, "_app", recorded)
    provider = AWSNodeProvider(launcher["provider"], launcher["cluster_name"])
    provider.create_node(config, {"ray-node-type": "worker", "ray-user-node-type": "gpu"}, 1)
    nodes = provider.non_terminated_nodes({})
    assert len(nodes) == 1
    provider.set_node_tags(nodes[0], {"ray-node-status": "up-to-date"})
    provider.terminate_nodes(nodes)
    assert provider.non_terminated_nodes({}) == []

    started = next(request for request in asked if request["Action"] == "RunInstances")
    assert started["IamInstanceProfile.Name"] == "simsam-worker"
    assert started["InstanceMarketOptions.MarketType"] == "spot"
    statements = policy("iam-head", ACCOUNT="123456789012")
    instance = f"arn:aws:ec2:{region}:123456789012:instance/i-1"
    may = partial(allows, statements, resource=instance, aws_RequestedRegion=region)
    actions = {f"ec2:{request['Action']}" for request in asked}
    assert actions >= {"ec2:RunInstances", "ec2:TerminateInstances", "ec2:CreateTags", "ec2:DescribeInstances"}
    for action in actions:
        assert may(action=action, **{"ec2_ResourceTag/ray-cluster-name": launcher["cluster_name"]}), action
    assert not may(action="ec2:TerminateInstances", **{"ec2_ResourceTag/ray-cluster-name": "another"})
    profile = launcher["available_node_types"]["gpu"]["node_config"]["IamInstanceProfile"]["Name"]
    role = f"arn:aws:iam::123456789012:role/{profile}"
    assert allows(statements, "iam:PassRole", role, iam_PassedToService="ec2.amazonaws.com")
    assert not allows(statements, "iam:PassRole", role + "-admin", iam_PassedToService="ec2.amazonaws.com")


# how many GPUs


def test_the_table_of_sizes_is_its_formula_and_what_was_measured() -> None:
    page = (CLUSTER / "README.md").read_text()
    rows = re.findall(r"^\| ([\d,]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", page, re.MULTILINE)
    assert [int(row[0].replace(",", "")) for row in rows] == [10**5, 10**6, 10**7]
    measured = json.loads((ROOT / "benchmarks" / "results" / "cpu.json").read_text())
    (whole,) = [row for row in measured["rows"] if row["what"].startswith("`segment` end to end")]
    assert f"{whole['ours_seconds']:.3f}".lstrip("0") in page
    for images, *hours in rows:
        number = int(images.replace(",", ""))
        for rate, shown in zip((10, 30, 100), hours[:3], strict=True):
            assert float(shown) == pytest.approx(number / (3600 * rate), rel=0.02)
        of_cores = measured["machine"]["cores"] * whole["ours_seconds"] * number / 3600
        assert float(hours[3]) == pytest.approx(of_cores, rel=0.02)
    of_gpus = [path.name for path in (ROOT / "benchmarks" / "results").glob("*.json") if _has_gpu(path)]
    assert ("has none of a GPU yet" in page) == (not of_gpus)


def _has_gpu(path: Path) -> bool:
    return bool(json.loads(path.read_text())["machine"].get("gpu"))
