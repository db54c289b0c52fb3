"""Refinement of label maps beside the work of a worker: in processes of its own, or in the worker itself."""

from __future__ import annotations

import os
import queue
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from simsam_batch.engines.child import Child, Failure, Receive, Send
from simsam_batch.engines.devices import thread_environment
from simsam_batch.errors import RunError
from simsam_batch.regions.leaf_refinement import LeafEvidence, refine_leaves
from simsam_batch.regions.refine import load_crf, refine

_MAPS_FOR_EACH = 2
_BESIDE_A_GPU = 8


def check_refinement(settings: Any) -> None:
    """Say at once, and not by every worker, that what refines is not installed.

    Raises:
        SettingsError: it is asked for and is not.
    """
    if settings.refine not in ("none", "guided"):
        load_crf()


def make_refiner(settings: Any, device: str) -> Refiner | None:
    """What refines beside a worker, as the settings of its stage ask; None where nothing is refined.

    Args:
        settings: with ``refine`` and ``refine_processes``.
        device: type of the device that the worker computes on.
    """
    return None if settings.refine == "none" else Refiner(refining_processes(settings.refine_processes, device))


def refining_processes(asked: int, device: str) -> int:
    """How many processes of one worker refine: as many as asked for, or what keeps the worker's machine busy.

    Args:
        asked: 0 for what is right.
        device: type of the worker's device. Beside ``cpu`` there is nothing to keep busy where workers are as many as
            the cores; ranks of torchrun are as many as its user says, mostly one a GPU.
    """
    if asked:
        return asked
    cores = len(os.sched_getaffinity(0))
    if device != "cpu":
        return min(_BESIDE_A_GPU, cores)
    share = cores // int(os.environ.get("LOCAL_WORLD_SIZE", cores))
    return min(_BESIDE_A_GPU, share) if share > 1 else 0


class Refiner:
    """Refines label maps in child processes, each with one thread; they end with this process, however it ends.

    A CRF keeps the interpreter's lock for as long as it takes, so that threads would hold up the worker. The processes
    start with the first maps; they import no torch and see no GPU.

    Args:
        processes: how many; 0: none, maps are refined here when their result is asked for.

    Attributes:
        may_wait: results that keep all processes busy while they are not yet asked for.
    """

    def __init__(self, processes: int) -> None:
        self.may_wait = _MAPS_FOR_EACH * processes
        self._threads = ThreadPoolExecutor(processes, "simsam-refine") if processes else None
        self._idle: queue.SimpleQueue[Child] = queue.SimpleQueue()
        self._environment = thread_environment(1) | {"CUDA_VISIBLE_DEVICES": ""}

    def submit(
        self, rgb: NDArray[np.uint8], coarse: NDArray[Any] | LeafEvidence, **settings: Any
    ) -> Callable[[], NDArray[Any]]:
        """Begin to refine a map.

        Args:
            rgb: of the picture.
            coarse: a label map, for `simsam_batch.regions.refine.refine`, or what speaks for the leaves of a tree, for
                `simsam_batch.regions.leaf_refinement.refine_leaves`.
            settings: what that takes besides.

        Returns:
            What waits for the refined map and returns it; beside RunError, where the process that refined it ended or
            gave up, it raises what those two raise.
        """
        if self._threads is None:
            return lambda: _refined(rgb, coarse, **settings)
        return self._threads.submit(self._in_a_child, (rgb, coarse, settings)).result

    def close(self) -> None:
        """End the processes; what has not begun is dropped, and what runs is waited for."""
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)
        while not self._idle.empty():
            self._idle.get().end()

    def _in_a_child(self, job: tuple[Any, ...]) -> NDArray[Any]:
        # There are as many threads as processes: where none is idle, one is missing.
        try:
            child = self._idle.get_nowait()
        except queue.Empty:
            child = Child(serve_refinements, self._environment)
        child.send(job)
        try:
            answer: NDArray[Any] | Failure = child.receive()
        except EOFError:
            msg = f"a process that refines label maps ended ({child.end()}) over one of {job[0].shape[:2]} pixels"
            raise RunError(msg) from None
        if isinstance(answer, Failure):
            child.end()
            raise RunError(f"a label map could not be refined: {answer.reason}")
        self._idle.put(child)
        return answer


def serve_refinements(receive: Receive, send: Send) -> None:
    """The child's work: pictures and coarse maps in, refined maps out."""
    while True:
        rgb, coarse, settings = receive()
        send(_refined(rgb, coarse, **settings))


def _refined(rgb: NDArray[np.uint8], coarse: NDArray[Any] | LeafEvidence, **settings: Any) -> NDArray[Any]:
    if isinstance(coarse, LeafEvidence):
        return refine_leaves(rgb, coarse, **settings)
    return refine(rgb, coarse, **settings)
