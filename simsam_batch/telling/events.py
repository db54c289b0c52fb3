"""The log of a run in its own storage: ``OUT/events/<driver>/<number>.jsonl``, JSON lines that any collector can read.

Object stores cannot append, so that a driver writes numbered objects, one every `SECONDS_BETWEEN` at most and one at
its end, from a thread of its own. Nothing of a run depends on them: what cannot be written is tried again with the next
object, and the run goes on.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self

from simsam_batch.engines.contract import Progress, ShardReport
from simsam_batch.errors import SimsamError, StorageError
from simsam_batch.runs.ledger import versions
from simsam_batch.storage import Folder, redact
from simsam_batch.storage.numbered import NumberedObjects
from simsam_batch.telling.console import JsonLines, Reporter

SECONDS_BETWEEN = 20.0
"""Between two objects of one driver."""
FAILURES_SHOWN = 200
"""Failed images named in one object; the others are counted."""

_HELD = 10_000
_ERROR_LENGTH = 2000
_PATIENCE_S = 10.0
_PATIENCE_INTERRUPTED_S = 2.0

_log = logging.getLogger(__name__)


class EventLog(JsonLines):
    """Writes what happens to the storage of the run, and passes it on to another reporter.

    Committed shards are added up to one event an object. Safe to call from many threads.

    Args:
        out: the run's folder.
        report: is told everything too.
    """

    def __init__(self, out: Folder, report: Reporter) -> None:
        super().__init__(quiet=False)
        self._made_in, self._out, self._report = out, out.as_found(), report
        self._made = False
        self._objects = NumberedObjects(self._out, "events", self._taken)
        self._lock = threading.Lock()
        self._events: list[str] = []
        self._lost = self._unnamed = self._named = 0
        self._sums: dict[str, float] = {}

    def _write(self, event: str, **values: Any) -> None:
        with self._lock:
            self._add_sums()
            self._add(event, values)

    def _add(self, event: str, values: Mapping[str, Any]) -> None:
        """Hold an event until the next object; the lock is held."""
        named = {"time": round(time.time(), 3), "event": event} | dict(values)
        self._events.append(json.dumps(_clean(named)))

    def _add_sums(self) -> None:
        if self._sums:
            sums, self._sums = self._sums, {}
            self._add("shards", {name: round(value, 3) for name, value in sums.items()})

    def note(self, text: str, *, to_do: bool = False) -> None:
        super().note(text)
        self._report.note(text, to_do=to_do)

    def plan(
        self, stage: str, *, images: int, shards: int, done_shards: int, done_images: int, unit: str = "image_id"
    ) -> None:
        facts = {"images": images, "shards": shards, "done_shards": done_shards, "done_images": done_images}
        super().plan(stage, **facts, unit=unit)
        self._report.plan(stage, **facts, unit=unit)

    def doing(self, what: str) -> None:
        self._report.doing(what)

    def progress(self, progress: Progress) -> None:
        self._report.progress(progress)

    def shard(self, report: ShardReport) -> None:
        with self._lock:
            if report.status == "committed":
                self._sum_up(report)
            elif len(self._events) < _HELD:
                self._add_sums()
                facts = {"shard": report.shard, "attempt": report.attempt, "error": report.error}
                self._add("retry", facts)
            else:
                self._lost += 1
        self._report.shard(report)

    def _sum_up(self, report: ShardReport) -> None:
        # what no start of ours committed stands in the log of the driver that did
        own = int(report.attempt > 0)
        for name, value in {
            "shards": own,
            "images": own * report.images,
            "failed": own * report.failed,
            "seconds": own * report.seconds,
            "by_others": 1 - own,
        }.items():
            self._sums[name] = self._sums.get(name, 0) + value
        if own:
            shown = report.failures[: max(0, FAILURES_SHOWN - self._named)]
            for image_id, reason in shown:
                self._add("failed", {"shard": report.shard, "image_id": image_id, "error": reason})
            self._named += len(shown)
            self._unnamed += report.failed - len(shown)

    def finish(self, result: dict[str, Any], where: str) -> None:
        super().finish(result, where)
        self._report.finish(result, where)

    def stage(self, name: str, *, shards_again: int = 0) -> None:
        """A stage begins.

        Args:
            name: of the stage.
            shards_again: how many shards are tried again; 0 for those that are pending.
        """
        self._write("stage", stage=name, shards_again=shards_again)

    @contextmanager
    def command(self, settings: Mapping[str, Any]) -> Iterator[Self]:
        """While a command goes on, its events are written now and then; in the end all that are left, and how it ended.

        Args:
            settings: of the command.
        """
        about = {"out": self._out.url, "host": platform.node(), "process": os.getpid()}
        self._write("begun", **about, settings=dict(settings), versions=versions())
        self._make_folder()
        over = threading.Event()
        writer = threading.Thread(target=self._write_now_and_then, args=(over,), name="events", daemon=True)
        writer.start()
        outcome, error, patience_s = "done", "", _PATIENCE_S
        try:
            yield self
        except BaseException as raised:
            outcome = "error"
            if isinstance(raised, KeyboardInterrupt):
                # whoever asked twice waits for the end
                outcome, patience_s = "interrupted", _PATIENCE_INTERRUPTED_S
            error = str(raised) if isinstance(raised, SimsamError) else f"{type(raised).__name__}: {raised}"
            raise
        finally:
            # half a URL would not be known for one
            self._write("ended", outcome=outcome, error=redact(error)[:_ERROR_LENGTH])
            over.set()
            # A storage that does not answer is not waited for; what is left then ends with the process.
            writer.join(patience_s)
            if writer.is_alive():
                _log.warning("the last events of this run could not be written within %g s", patience_s)

    def _make_folder(self) -> None:
        """Once, at the beginning if it can be: what is removed later is not made anew."""
        try:
            self._made_in.make(self._objects.name)
            self._made = True
        except StorageError as error:
            _log.warning("the events of this run cannot be written: %s", error)

    def _write_now_and_then(self, over: threading.Event) -> None:
        while not over.wait(SECONDS_BETWEEN):
            self._put()
        self._put()

    def _put(self) -> None:
        """Write what is held as one object."""
        if not self._made:
            self._make_folder()
        try:
            self._objects.put()
        except StorageError as error:
            count = self._objects.refused.count(b"\n")
            _log.warning("%d events of this run could not be written, and are tried again: %s", count, error)

    def _taken(self) -> bytes:
        """Content of an object with all that is held."""
        with self._lock:
            self._add_sums()
            if self._unnamed or self._lost:
                self._add("left out", {"failed_images": self._unnamed, "events": self._lost})
            events, self._events = self._events, []
            self._named = self._unnamed = self._lost = 0
        return "".join(f"{event}\n" for event in events).encode()


def _clean(value: Any) -> Any:
    """The same, with no credentials in any URL."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {name: _clean(inner) for name, inner in value.items()}
    if isinstance(value, Sequence):
        return [_clean(inner) for inner in value]
    return value
