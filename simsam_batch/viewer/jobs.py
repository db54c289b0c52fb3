"""Work that takes longer than an answer may: one at a time, in a thread that ends with the session."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from queue import Queue
from typing import Any

from simsam_batch.viewer.answers import RefusedError, refusal

MOST_KEPT = 8
"""Jobs that are known; of those that have ended the oldest is forgotten first."""


class StoppedError(Exception):
    """Raised within a job that nobody wants any more."""


@dataclass
class Job:
    """One piece of work.

    Attributes:
        id: names it.
        kind: what it does.
        total: steps that it has.
        done: steps that are done.
        finished: whether it has ended, in whatever way.
        stopped: whether it was told to stop.
        error: why it could not go on; None if it could.
        values: what it found, and what it has found so far.
    """

    id: str
    kind: str
    total: int
    done: int = 0
    finished: bool = False
    error: str | None = None
    values: dict[str, Any] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)

    @property
    def stopped(self) -> bool:
        """Whether it was told to stop."""
        return self._stop.is_set()

    def stop(self) -> None:
        """Tell it to stop, which it does at its next step."""
        self._stop.set()

    def step(self, done: int) -> None:
        """Say how far it is.

        Raises:
            StoppedError: it is to stop.
        """
        if self.stopped:
            raise StoppedError
        self.done = done


class Jobs:
    """The jobs of a session.

    Args:
        out: URL of the run, which is not told.
    """

    def __init__(self, out: str) -> None:
        self._out = out
        self._lock = threading.Lock()
        self._jobs: dict[str, Job] = {}
        self._queue: Queue[tuple[Job, Callable[[Job], None]]] = Queue()
        # a daemon: nothing that it does needs an end
        self._thread = threading.Thread(target=self._work, name="simsam-view-jobs", daemon=True)
        self._thread.start()

    def begin(self, kind: str, total: int, work: Callable[[Job], None]) -> Job:
        """Put work at the end of the queue.

        Args:
            kind: what it does.
            total: how many steps it has.
            work: is called with the job, tells it each step, and fills its values.

        Raises:
            RefusedError: 429: too many wait.
        """
        job = Job(secrets.token_hex(8), kind, total)
        with self._lock:
            ended = [each.id for each in self._jobs.values() if each.finished]
            if len(self._jobs) >= MOST_KEPT:
                if not ended:
                    raise RefusedError(429, f"{len(self._jobs)} jobs are waiting. To mend it: stop one, or wait")
                del self._jobs[ended[0]]
            self._jobs[job.id] = job
        self._queue.put((job, work))
        return job

    def get(self, name: str) -> Job:
        """A job by its id.

        Raises:
            RefusedError: 404: there is none.
        """
        with self._lock:
            if name not in self._jobs:
                raise RefusedError(404, "there is no such job any more. To mend it: start it again")
            return self._jobs[name]

    def _work(self) -> None:
        while True:
            job, work = self._queue.get()
            try:
                job.step(0)
                work(job)
            except StoppedError:
                pass
            except Exception as error:  # noqa: BLE001  told to whoever asks for the job
                job.error = refusal(error, self._out).message
            finally:
                job.finished = True
