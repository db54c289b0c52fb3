"""What several test modules need: an S3 server; real photographs and weights, where the machine has them.

It also says which tests go to one process where several share the suite.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from browsing import chromium
from filelock import FileLock
from s3_server import S3Server

ALONE = {"ray": "ray", "jobs": "ray", "torchrun": "torchrun", "cluster": "torchrun"}
"""By a word in the name of a file or parameter: what does not run twice at once, for its memory and its ports."""


def pytest_configure() -> None:
    """What test processes and their children read as they start, for all share the cores of one machine.

    One thread for each; and Ray gives its workers as much of a core as others have, instead of what these leave over.
    A script that starts the suite in the background has it ignore interrupts, which tests send to what they start.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("RAY_worker_niceness", "0")


def group_of(nodeid: str) -> str:
    """What runs in one process: the tests of a file, whose fixtures are then made once, and what `ALONE` names."""
    file, _, name = nodeid.partition("::")
    words = re.split(r"[^a-z]+", f"{Path(file).stem} {name.partition('[')[2]}")
    return next((ALONE[word] for word in words if word in ALONE), file)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Of pytest-xdist: hand out whole groups. Its own `--dist loadgroup` goes unheeded with pytest 9.2."""
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):  # type: ignore[misc, unused-ignore]
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

    return Groups(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Side by side, groups with many slow tests come first, lest one of them is left alone at the end.

    What is for the soak may take two hours, unless it says otherwise.
    """
    for item in items:
        if item.get_closest_marker("soak") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(7200))
    if hasattr(config, "workerinput"):
        slow = Counter(group_of(item.nodeid) for item in items if item.get_closest_marker("slow"))
        items.sort(key=lambda item: -slow[group_of(item.nodeid)])


def _folder_from(variable: str) -> Path:
    value = os.environ.get(variable)
    if not value:
        pytest.skip(f"{variable} is not set: it names the folder of real test files")
    folder = Path(value).resolve()
    if not folder.is_dir():
        pytest.skip(f"{variable}={value} is not a folder")
    return folder


@pytest.fixture(scope="session", autouse=True)
def _storage_is_asked_again_at_once() -> Iterator[None]:
    from simsam_batch.storage import retrying

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrying, "PAUSES_S", (0.0,) * len(retrying.PAUSES_S))
        yield


@pytest.fixture(scope="session")
def test_data() -> Path:
    """Folder with real photographs and their truth (``weizmann_horses/`` and others)."""
    return _folder_from("SIMSAM_TEST_DATA")


@pytest.fixture(scope="session")
def test_weights() -> Path:
    """Folder with the real pretrained ViT-Ti/16."""
    return _folder_from("SIMSAM_TEST_WEIGHTS")


@pytest.fixture(scope="session")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of small inputs from practice, as ``make_cases.py`` of the folder `SIMSAM_TEST_CASES` writes them."""
    script = _folder_from("SIMSAM_TEST_CASES") / "make_cases.py"
    top = tmp_path_factory.getbasetemp()
    # processes that share the suite have the folder above theirs in common, and the first that comes makes them
    top = top.parent if "PYTEST_XDIST_WORKER" in os.environ else top
    made, done = top / "cases", top / "cases.done"
    with FileLock(top / "cases.lock"):
        if not done.exists():
            subprocess.run([sys.executable, script, made], check=True, capture_output=True, timeout=300)
            done.touch()
    return made


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """One thread for torch and every BLAS, whose last bits depend on it."""
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield
    torch.set_num_threads(before)


@pytest.fixture
def run_on() -> Callable[[str, list[str]], None]:
    """What runs a ``simsam`` command that must succeed, given from the interpreter's name on, on the engine named.

    In two processes, but for Ray in one: there every stage has actors of its own, which take long to start, and that
    several of them share the work is seen where a command asks for them itself.
    """

    def on_engine(engine: str, command: list[str]) -> None:
        from simsam_batch.cli import run

        if engine != "torchrun":
            workers = [] if "--workers" in command else ["--workers", "1" if engine == "ray" else "2"]
            assert run([*command[3:], "--engine", engine, *workers]) == 0
            return
        launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        arguments = [*launch, *command[1:], "--engine", engine]
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stderr

    return on_engine


@pytest.fixture(scope="session")
def moto_server() -> Iterator[S3Server]:
    """An S3 server on 127.0.0.1, named in the environment so that child processes and Ray workers find it."""
    if os.environ.get("SIMSAM_TEST_S3_URL"):
        pytest.skip("SIMSAM_TEST_S3_URL names another store, and the environment can name one at a time")
    server = S3Server()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "test-key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test-secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ENDPOINT_URL", server.endpoint)
        patch.delenv("FSSPEC_S3_ENDPOINT_URL", raising=False)
        # one that another test opened holds the credentials that it found, or none
        patch.setattr("simsam_batch.storage.filesystems._filesystems", {})
        yield server
    server.stop()


@pytest.fixture
def s3_url(request: pytest.FixtureRequest) -> str:
    """A fresh ``s3://bucket/prefix``: on moto, or below ``SIMSAM_TEST_S3_URL`` if that names a real store."""
    real = os.environ.get("SIMSAM_TEST_S3_URL")
    if real:
        return f"{real.rstrip('/')}/{uuid.uuid4().hex}"
    server = request.getfixturevalue("moto_server")
    bucket = f"bucket-{uuid.uuid4().hex[:12]}"
    with urlopen(Request(f"{server.endpoint}/{bucket}", method="PUT")) as reply:
        assert reply.status == 200
    return f"s3://{bucket}/some/prefix"


@pytest.fixture(params=["local", "memory", "s3"])
def out_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A fresh, empty folder on each kind of storage in turn."""
    if request.param == "local":
        return str(tmp_path / "out")
    if request.param == "memory":
        return f"memory://{uuid.uuid4().hex}/out"
    return str(request.getfixturevalue("s3_url"))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """The system's Chromium; see `browsing.chromium`."""
    with chromium() as started:
        yield started
