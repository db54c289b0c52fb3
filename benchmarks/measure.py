"""Two things measured in turn, the ratio of their times, and the machine they were measured on."""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

# threadpoolctl limits the libraries that are loaded when it is called, so those of SciPy are loaded first.
import scipy.linalg
import scipy.sparse.linalg  # noqa: F401
import torch
from threadpoolctl import threadpool_limits

QUIET_LOAD = 1.0
"""A load average over this at the start means that others were using the cores."""


@dataclass(frozen=True, slots=True)
class Setup:
    """How to measure: on which device, and whether only to try everything out at tiny sizes."""

    device: torch.device
    smoke: bool = False

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    def pick(self, *, cpu: Any, cuda: Any, smoke: Any) -> Any:
        """The one of three values that fits this setup."""
        return smoke if self.smoke else cuda if self.cuda else cpu

    def wait(self) -> None:
        """Until the device has done all it was given."""
        if self.cuda:
            torch.cuda.synchronize(self.device)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. A time is for one image; a ratio without times is of what ``what`` says.

    Attributes:
        samples: one ratio for each pair of measurements; empty if the row was skipped.
        target: None where there is none; to be exceeded unless ``at_most``.
        note: what a reader must know about how it was measured, or why it was skipped.
        details: further numbers, for the JSON.
    """

    group: str
    what: str
    ours: str
    peer: str
    samples: Sequence[float] = ()
    ours_seconds: float | None = None
    peer_seconds: float | None = None
    threads: str = ""
    target: float | None = None
    at_most: bool = False
    note: str = ""
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        return statistics.median(self.samples) if self.samples else None

    @property
    def verdict(self) -> str:
        """``met``, ``missed by ... %`` of the target, ``skipped``, or nothing where there is no target."""
        if self.ratio is None:
            return "skipped"
        if self.target is None:
            return ""
        if self.ratio <= self.target if self.at_most else self.ratio >= self.target:
            return "met"
        return f"missed by {100 * abs(self.ratio / self.target - 1):.0f} %"

    def as_json(self) -> dict[str, Any]:
        sign = "<=" if self.at_most else ">="
        return {
            "group": self.group,
            "what": self.what,
            "ours": self.ours,
            "peer": self.peer,
            "ours_seconds": self.ours_seconds,
            "peer_seconds": self.peer_seconds,
            "ratio": self.ratio,
            "ratio_low": min(self.samples, default=None),
            "ratio_high": max(self.samples, default=None),
            "samples": list(self.samples),
            "threads": self.threads,
            "target": None if self.target is None else f"{sign} {self.target:g}",
            "verdict": self.verdict,
            "note": self.note,
            "details": self.details,
        }


def cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0))


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch and every BLAS use exactly ``count`` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        with threadpool_limits(count):
            yield
    finally:
        torch.set_num_threads(before)


def seconds_of(action: Callable[[], object], setup: Setup) -> float:
    """Wall time of one call, the device's work included."""
    setup.wait()
    started = time.perf_counter()
    action()
    setup.wait()
    return time.perf_counter() - started


def alternate(
    actions: Mapping[str, Callable[[], object]], setup: Setup, *, rounds: int, warm: bool = True
) -> dict[str, list[float]]:
    """Call the actions in turn, ``rounds`` times over, after one round that does not count.

    Returns:
        Seconds of every call, by action. Entries of equal position were measured next to each other.
    """
    if warm:
        for action in actions.values():
            action()
    found: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(rounds):
        for name, action in actions.items():
            found[name].append(seconds_of(action, setup))
    return found


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Quotients of measurements made next to each other."""
    return [a / b for a, b in zip(above, below, strict=True)]


def in_own_process(setup: Setup, module: str, *arguments: object) -> dict[str, Any]:
    """What a module of this package prints as its last line, one JSON object, when it is run with these arguments.

    To try things out, the process is a fork of one that has imported all there is, for starts take longest then.
    """
    words = [str(argument) for argument in arguments]
    if setup.smoke:
        multiprocessing.set_forkserver_preload(["benchmarks.__main__"])
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("forkserver")) as process:
            return process.submit(_of_module, module, words).result()
    command = [sys.executable, "-m", module, *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=Path(__file__).parents[1])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _of_module(module: str, words: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = import_module(module).of_words(*words)
    return found


def start_new_peak() -> int:
    """Forget the peak of resident memory so far; returns where the new one starts, in bytes."""
    # Linux, proc(5): the peak becomes what is resident now.
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return peak_memory()


def peak_memory() -> int:
    """The peak of resident memory in bytes."""
    # Not getrusage: what it says of a new process begins with the peak of the one that started it.
    status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))


def machine(setup: Setup) -> dict[str, Any]:
    """What the numbers were measured on and with; no names or paths of the machine."""
    load = os.getloadavg()[0]
    found: dict[str, Any] = {
        "cpu": _cpu_model(),
        "cores": cores(),
        "gpu": torch.cuda.get_device_name(setup.device) if setup.cuda else None,
        "load_average_at_start": round(load, 2),
        "others_were_computing": load > QUIET_LOAD,
        "python": platform.python_version(),
        "commit": _commit(),
    }
    for package in ("torch", "numpy", "scipy", "timm", "cupy-cuda13x", "cupy-cuda12x"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _commit() -> str | None:
    """The commit that is checked out, with ``+`` if tracked files differ from it; None outside a git checkout."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
