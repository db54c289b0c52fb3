"""The same runs under a real torchrun with two ranks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from trouble import TroubleStage, plan_of

from simsam_batch.engines.local import LocalEngine
from simsam_batch.engines.torchrun import TorchrunEngine
from simsam_batch.errors import SettingsError
from simsam_batch.runs.execute import ExecuteOptions, execute
from simsam_batch.runs.ledger import Ledger

STANDALONE = ["--standalone"]
KINDS = ("attempts", "manifests")


def launch(tmp_path: Path, uris: list[str], *flags: str) -> dict[str, Any]:
    here = Path(__file__).parent
    command = [sys.executable, "-m", "torch.distributed.run", *flags, "--nproc-per-node", "2"]
    command += [str(here / "torchrun_job.py"), str(tmp_path), json.dumps(uris)]
    return {"args": command, "env": {**os.environ, "PYTHONPATH": os.pathsep.join([str(here), *sys.path])}}


def torchrun(tmp_path: Path, uris: list[str], *flags: str) -> int:
    return subprocess.run(**launch(tmp_path, uris, *flags), timeout=110, check=False).returncode


def waited_for(found: Callable[[], Any]) -> Any:
    """What is found in the end, which is within a minute."""
    deadline = time.monotonic() + 60
    while not (there := found()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return there


def _stopped(pids: Iterable[int]) -> int:
    """The first of some processes that SIGSTOP has stopped; 0 if none has."""
    for pid in pids:
        # another may have ended since
        with suppress(OSError):
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T":
                return pid
    return 0


def digests(tmp_path: Path) -> list[str]:
    out, _ = plan_of(tmp_path / "out", ["unused"], 2)
    return [manifest["content_digest"] for manifest in Ledger(out, "trouble").manifests()]


@pytest.mark.slow
def test_torchrun_and_local_give_the_same_content_and_both_ranks_work(tmp_path: Path) -> None:
    uris = ["meet:2", "bad", "storage:1", *["fine"] * 11]
    assert torchrun(tmp_path, uris, *STANDALONE) == 0
    assert sorted(path.name for path in tmp_path.glob("ended.*")) == ["ended.0", "ended.1"]
    stage = TroubleStage(str(tmp_path))
    assert len({pid for _, pid, _, _ in stage.events("computed")}) == 2
    assert {threads for _, _, _, threads in stage.events("computed")} == {"1"}
    local = tmp_path / "local"
    local.mkdir()
    out, plan = plan_of(local / "out", uris, 2)
    execute(out, plan, TroubleStage(str(local)), LocalEngine(2), ExecuteOptions(), lambda report: None)
    assert len(digests(tmp_path)) == 7
    assert digests(tmp_path) == digests(local)
    assert json.loads((tmp_path / "out/results/trouble.json").read_text())["failed"] == 1


@pytest.mark.slow
def test_ranks_that_another_launcher_started_share_a_store_of_rank_0(tmp_path: Path, free_port: int) -> None:
    here = Path(__file__).parent
    uris = ["meet:2", "steps:2", *["fine", "steps:2"] * 3]
    common = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(here), *sys.path]),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port),
    }
    command = [sys.executable, str(here / "torchrun_job.py"), str(tmp_path), json.dumps(uris)]
    ranks = [subprocess.Popen(command, env={**common, "RANK": rank, "LOCAL_RANK": rank}) for rank in ("1", "0")]
    assert [rank.wait(timeout=110) for rank in ranks] == [0, 0]
    assert sorted(path.name for path in tmp_path.glob("ended.*")) == ["ended.0", "ended.1"]
    # how far each shard was came to rank 0, from either of them
    heard = [json.loads(line) for line in (tmp_path / "heard.jsonl").read_text().splitlines()]
    assert {shard for shard, done in heard if done == 1} == {0, 1, 2, 3}
    assert len({pid for _, pid, _, _ in TroubleStage(str(tmp_path)).events("computed")}) == 2


@pytest.mark.slow
def test_ranks_that_die_start_again_and_go_on_from_the_ledger(tmp_path: Path) -> None:
    # both ranks work before one dies, however late the other was
    uris = ["meet:2", *["fine"] * 15]
    uris[9] = "killonce"
    assert torchrun(tmp_path, uris, *STANDALONE, "--max-restarts", "2") == 0
    out, _ = plan_of(tmp_path / "out", uris, 2)
    manifests = list(Ledger(out, "trouble").manifests())
    assert [manifest["shard"] for manifest in manifests] == list(range(8))
    assert sum(manifest["failed"] for manifest in manifests) == 0
    # rank 1 waits for nothing and nobody once it is asked to end, so that all start again at once
    events = TroubleStage(str(tmp_path)).events
    built, computed = (sorted(float(when) for _, _, when, _ in events(kind)) for kind in ("built", "computed"))
    assert built[2] - max(when for when in computed if when < built[2]) < ExecuteOptions().grace_seconds
    # the shards committed before the death were started once
    assert sum(manifest["attempt"] == 1 for manifest in manifests) >= 3


@pytest.mark.slow
def test_a_rank_that_stands_still_ends_the_job_and_all_start_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STALL_SECONDS", "2")
    uris = ["stoprank:1"] * 16
    process = subprocess.Popen(**launch(tmp_path, uris, *STANDALONE, "--max-restarts", "1"))
    stage = TroubleStage(str(tmp_path))
    stopped = waited_for(lambda: _stopped(int(pid) for _, pid, _, _ in stage.events("built")))
    (watching,) = waited_for(lambda: {int(pid) for _, pid, _, _ in stage.events("built")} - {stopped})
    waited_for(lambda: not Path(f"/proc/{watching}").exists())
    # torchrun would do so after half a minute
    os.kill(stopped, signal.SIGKILL)
    assert process.wait(timeout=60) == 0
    assert sorted(path.name for path in tmp_path.glob("ended.*")) == ["ended.0", "ended.1"]
    out, _ = plan_of(tmp_path / "out", uris, 2)
    assert [manifest["shard"] for manifest in Ledger(out, "trouble").manifests()] == list(range(8))


@pytest.mark.slow
def test_ranks_that_are_asked_to_end_finish_what_they_have_drawn(tmp_path: Path) -> None:
    process = subprocess.Popen(**launch(tmp_path, ["meet:2", *["sleep:0.5"] * 79], *STANDALONE))
    stage = TroubleStage(str(tmp_path))
    waited_for(lambda: len({pid for _, pid, _, _ in stage.events("computed")}) == 2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=40) != 0
    attempts, manifests = ({path.name[:7] for path in (tmp_path / "out/trouble" / kind).iterdir()} for kind in KINDS)
    assert attempts == manifests
    assert 2 <= len(manifests) < 20
    assert sorted(path.name for path in tmp_path.glob("ended.*")) == ["ended.1"]


def test_outside_torchrun_the_message_says_how_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(SettingsError, match="torchrun --nproc-per-node"):
        TorchrunEngine()


@pytest.fixture
def free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
