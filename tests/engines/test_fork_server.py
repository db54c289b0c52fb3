"""Processes forked of one that has imported what takes long: each is as if it had been started afresh."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from simsam_batch.engines.child import Child, Receive, Send

pytestmark = pytest.mark.timeout(120)


def tell(receive: Receive, send: Send) -> None:
    """Say what this process is like, then wait to be ended."""
    descriptors = {}
    for each in Path("/proc/self/fd").iterdir():
        try:
            descriptors[int(each.name)] = str(each.readlink())
        except FileNotFoundError:  # the one that the folder itself was read by
            continue
    send(
        {
            "pid": os.getpid(),
            "parent": os.getppid(),
            "group": os.getpgid(0),
            "environment": dict(os.environ),
            "folder": str(Path.cwd()),
            "torch": "torch" in sys.modules,
            "timm": "timm" in sys.modules,
            "threads": sys.modules["torch"].get_num_threads(),
            "descriptors": descriptors,
            "signals": [signal.getsignal(each) for each in (signal.SIGCHLD, signal.SIGPIPE)],
        }
    )
    receive()


def speak(receive: Receive, send: Send) -> None:
    """Write to both streams, then end by itself."""
    print("to standard output", flush=True)
    print("to standard error", file=sys.stderr, flush=True)
    send("said")


def have_a_child(receive: Receive, send: Send) -> None:
    """Start a child, and say what it is like."""
    child = Child(tell, {})
    send(child.receive())
    child.end()
    receive()


def told(environment: dict[str, str] | None = None) -> tuple[Child, dict[str, Any]]:
    child = Child(tell, environment or {})
    return child, child.receive()


def test_children_of_one_environment_come_of_one_server_and_those_of_another_do_not() -> None:
    started = [told({"OMP_NUM_THREADS": threads}) for threads in ("1", "1", "2")]
    first, second, third = (like for _, like in started)
    assert first["parent"] == second["parent"] != third["parent"]
    assert first["parent"] != os.getpid()
    assert [like["threads"] for _, like in started] == [1, 1, min(2, os.cpu_count() or 1)]
    assert all(like["torch"] for _, like in started)
    assert len({like["pid"] for _, like in started}) == 3
    assert [child.end() for child, _ in started] == ["exit code 0"] * 3


def test_a_library_that_the_parent_has_is_imported_once_for_all_children(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {"OMP_NUM_THREADS": "1", "PYTHON_OF_THIS_TEST": "1"}
    for name in ("timm", "open_clip"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    without = told(environment)
    monkeypatch.setitem(sys.modules, "timm", object())
    holding = told(environment)
    assert [like["timm"] for _, like in (without, holding)] == [False, True]
    assert without[1]["parent"] == holding[1]["parent"]
    assert [child.end() for child, _ in (without, holding)] == ["exit code 0"] * 2


def test_nothing_that_is_imported_before_forks_asks_for_gpus() -> None:
    program = (
        "import sys, torch\n"
        "from importlib import import_module\n"
        "from simsam_batch.engines import fork_server\n"
        "def count(): raise SystemExit('the GPUs were counted')\n"
        "torch._C._cuda_getDeviceCount = count\n"
        "for name in fork_server._IMPORTED + fork_server._IF_ASKER_HAS: import_module(name)\n"
        "assert not torch.cuda.is_initialized()\n"
        "try: torch.cuda.is_available()\n"
        "except SystemExit: sys.exit(7)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    # it was not called before it was called on purpose
    assert done.returncode == 7, done.stderr


def test_a_child_has_the_environment_folder_and_streams_of_the_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    told()[0].end()  # the server is there before
    monkeypatch.setenv("ANY_WORD", "new")
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    child, like = told({"CUDA_VISIBLE_DEVICES": "3"})
    child.end()
    assert like["environment"] == {**os.environ, "CUDA_VISIBLE_DEVICES": "3"}
    assert like["folder"] == str(tmp_path)
    assert like["group"] == like["pid"]
    assert like["signals"] == [signal.SIG_DFL, signal.SIG_IGN], "Python's own, as in any process of it"
    speaker = Child(speak, {})
    assert speaker.receive() == "said"
    assert speaker.end() == "exit code 0"
    said = capfd.readouterr()
    assert (said.out, said.err) == ("to standard output\n", "to standard error\n")


def test_a_child_holds_nothing_of_the_server_or_of_other_children() -> None:
    before = [told()[0] for _ in range(3)]
    child, like = told()
    assert [of for number, of in like["descriptors"].items() if number == 0] == [os.devnull]
    # its pipe, and the way to the server for children of its own; both are sockets
    beside = [of for number, of in like["descriptors"].items() if number > 2]
    assert len([of for of in beside if of.startswith("socket:")]) == 2, beside
    assert not [of for of in beside if of.startswith("pipe:")], beside
    for each in (*before, child):
        each.end()


def test_children_of_children_come_of_the_same_server() -> None:
    child, like = told()
    parent = Child(have_a_child, {})
    assert parent.receive()["parent"] == like["parent"]
    assert {parent.end(), child.end()} == {"exit code 0"}


def test_a_lost_server_is_told_of_and_another_takes_its_place() -> None:
    child, like = told()
    os.kill(like["parent"], signal.SIGKILL)
    assert child.end() == "the loss of the process that it was forked of"
    again, other = told()
    assert other["parent"] != like["parent"]
    assert again.end() == "exit code 0"


def test_server_and_children_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    program = (
        "import sys, time; sys.path[:0] = sys.argv[1:]\n"
        "from test_fork_server import told\n"
        "child, like = told(); print(like['pid'], like['parent'], flush=True); time.sleep(1000)"
    )
    command = [sys.executable, "-c", program, str(Path(__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        numbers = process.stdout.readline().split()
        assert all(Path("/proc", number).exists() for number in numbers)
        process.kill()
    deadline = time.monotonic() + 10
    while any(Path("/proc", number).exists() for number in numbers):
        assert time.monotonic() < deadline
        time.sleep(0.05)
