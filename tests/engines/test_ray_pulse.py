"""Which workers of a run on Ray are silent, without Ray."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from unittest.mock import MagicMock

import pytest

from simsam_batch.engines import ray_pulse
from simsam_batch.engines.contract import Progress
from simsam_batch.engines.ray_pulse import Process, Pulses, end_process, workers_heard


def test_who_was_not_heard_of_for_long_is_told_of_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(ray_pulse.time, "monotonic", lambda: now[0])
    pulses, one, other = Pulses(), Process("a", 1, "7"), Process("b", 1, "7")
    pulses.beat(one)
    now[0] = 105.0
    pulses.beat(other)
    assert pulses.look(5.0) == ([], [])
    now[0] = 106.0
    assert pulses.look(5.0) == ([one], [])
    assert pulses.look(5.0) == ([], [])
    pulses.beat(one)
    now[0] = 120.0
    assert sorted(pulses.look(5.0)[0]) == [one, other]


def test_how_far_a_process_is_is_told_once_and_the_last_of_it() -> None:
    pulses, one, other = Pulses(), Process("a", 1, "7"), Process("b", 1, "7")
    for process, far in ((one, Progress(3, 1)), (other, Progress(4, 9)), (one, Progress(3, 2)), (one, None)):
        pulses.beat(process, far)
    assert pulses.look(5.0) == ([], [Progress(3, 2), Progress(4, 9)])
    assert pulses.look(5.0) == ([], [])


def test_a_stopped_process_is_ended_and_another_of_its_number_is_not() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(100)"])
    try:
        os.kill(child.pid, signal.SIGSTOP)
        born = ray_pulse._born(child.pid)
        assert not end_process(Process("here", child.pid, str(int(born) + 1)))
        time.sleep(0.1)
        assert child.poll() is None
        assert end_process(Process("here", child.pid, born))
        assert child.wait(timeout=10) == -signal.SIGKILL
        assert not end_process(Process("here", child.pid, born))
    finally:
        child.kill()


def test_nobody_asks_ray_any_more_once_a_run_is_over() -> None:
    """A process that shuts Ray down while a thread of it waits for an answer dies of SIGSEGV."""
    pytest.importorskip("ray")
    asked, killed = threading.Event(), threading.Event()

    def get(*_: object, **__: object) -> None:
        asked.set()
        killed.wait(10)
        time.sleep(0.3)
        raise RuntimeError("the actor was killed")

    ray = MagicMock(get=get, kill=lambda _: killed.set())
    ray.get_runtime_context.return_value.get_node_id.return_value = "0" * 56
    with workers_heard(ray, 0.8, lambda _: None):
        assert asked.wait(10)
    assert "pulses" not in {thread.name for thread in threading.enumerate()}
