"""The runner of one process: draws shard numbers, computes ahead, commits behind, reports each exactly once."""

from __future__ import annotations

import faulthandler
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal

from simsam_batch.engines.contract import Progress, ShardReport
from simsam_batch.errors import DevicePoisonedError, RunError, SimsamError, StorageError, UnreadableError
from simsam_batch.runs.ledger import Ledger
from simsam_batch.runs.plan import Plan
from simsam_batch.runs.quarantine import run_in_quarantine
from simsam_batch.runs.retry import failed_images, with_second_try
from simsam_batch.runs.schema import Shard, ShardOutput, Stage, Worker
from simsam_batch.runs.stage_record import StageLostError
from simsam_batch.runs.watchdog import POISONED_EXIT_CODE, STALLED_EXIT_CODE, Watchdog, end_this_process
from simsam_batch.storage import Folder, ObjectNotFound, redact

_OUTPUTS_WAITING = 2
_LOOK_S = 1.0
_CAUSE_LENGTH = 500

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ExecuteOptions:
    """How shards are started, watched and given up; none of it changes a result.

    Attributes:
        starts_before_quarantine: a shard started so often without a commit runs in quarantine from then on.
        stall_seconds: a process whose worker does not get on for so long ends itself; its shards start elsewhere.
        image_seconds: longest time for one image in quarantine.
        pause_seconds: wait before failed shards are run again; doubled from round to round, at most a minute.
        grace_seconds: how long shards in flight may go on after SIGTERM or Ctrl-C.
        own_process: the process is the runner's own: it ends it where only a fresh one can go on. Else nothing is
            watched, and a device that is lost is an error.
    """

    starts_before_quarantine: int = 3
    stall_seconds: float = 1800.0
    image_seconds: float = 600.0
    pause_seconds: float = 2.0
    grace_seconds: float = 20.0
    own_process: bool = True


@dataclass(frozen=True, slots=True)
class RunnerFactory:
    """Builds the runner in the process that is to run it. Picklable and small.

    Attributes:
        again: shards whose failed images are tried again, with the generation that is in force of each.
    """

    out: Folder
    plan: Plan
    stage: Stage
    options: ExecuteOptions = ExecuteOptions()
    again: Mapping[int, int] = field(default_factory=dict)

    def __call__(self) -> ShardRunner:
        """Build it; reads and loads nothing yet."""
        ledger = Ledger(self.out.as_found(), self.stage.name)
        return ShardRunner(ledger, self.plan, self.stage, self.options, self.again)


class ShardRunner:
    """Runs shards with one worker, which is built on the first shard and kept for the life of the process.

    One thread computes, one commits, so that the next shard is decoded and the last one uploaded meanwhile.
    """

    def __init__(
        self, ledger: Ledger, plan: Plan, stage: Stage, options: ExecuteOptions, again: Mapping[int, int]
    ) -> None:
        self._ledger, self._plan, self._stage, self._options, self._again = ledger, plan, stage, options, again
        self._worker: Worker | None = None
        self._poisoned = ""

    def run(self, shards: Iterator[int]) -> Iterator[ShardReport | Progress | None]:
        """Yield one report for each number drawn, as its commit ends or fails, and that it gets on; never raises.

        May be called again.
        """
        watchdog = Watchdog(self._options.stall_seconds, lambda what: self._stalled(what, desk))
        reports: queue.SimpleQueue[ShardReport | None] = queue.SimpleQueue()
        desk = _Desk(self._ledger, self._plan, self._stage, self._options, self._again, watchdog, reports)
        feed = _Feed(shards, desk.begin)
        commits: queue.Queue[tuple[_Start, ShardOutput] | None] = queue.Queue(_OUTPUTS_WAITING)
        threads = [
            threading.Thread(target=self._compute, args=(feed, desk, commits, watchdog), name="compute", daemon=True),
            threading.Thread(target=self._commit_all, args=(desk, commits), name="commit", daemon=True),
        ]
        with watchdog if self._options.own_process else nullcontext():
            for thread in threads:
                thread.start()
            yield from self._as_they_come(reports, watchdog)
        if self._poisoned and self._options.own_process:
            end_this_process(self._poisoned, POISONED_EXIT_CODE)

    def _as_they_come(
        self, reports: queue.SimpleQueue[ShardReport | None], watchdog: Watchdog
    ) -> Iterator[ShardReport | Progress | None]:
        """The reports up to the None in the queue; between them how far it is, and None whenever something got on."""
        told, heard, far = watchdog.last, time.monotonic(), None
        while True:
            try:
                report = reports.get(timeout=min(watchdog.look_s, _LOOK_S))
            except queue.Empty:
                # a stage's worker may say how far it is
                before, far = far, getattr(self._worker, "reached", None)
                if far is not None and far != before:
                    yield Progress(*far)
                elif watchdog.last != told and time.monotonic() - heard >= watchdog.look_s:
                    yield None
                else:
                    continue
            else:
                if report is None:
                    return
                yield report
            told, heard = watchdog.last, time.monotonic()

    def _stalled(self, what: str, desk: _Desk) -> None:
        """Report what is in hand, show where each thread is, and end the process."""
        # a stage's worker may say what it is at
        doing = "building the worker" if self._worker is None else getattr(self._worker, "doing", "")
        at = "; ".join(part for part in (doing, desk.doing) if part)
        why = f"{what}, while {at}" if at else what
        faulthandler.dump_traceback(file=2)
        desk.give_up(RunError(f"the worker's process was ended: {why}"))
        end_this_process(why, STALLED_EXIT_CODE)

    def _compute(
        self,
        feed: _Feed,
        desk: _Desk,
        commits: queue.Queue[tuple[_Start, ShardOutput] | None],
        watchdog: Watchdog,
    ) -> None:
        try:
            while not self._poisoned and (start := feed.next_start()) is not None:
                if start.suspect:
                    self._compute_in_quarantine(start, desk, commits, watchdog)
                else:
                    feed.give_first(start)
                    self._compute_in_worker(feed, desk, commits, watchdog)
        finally:
            commits.put(None)

    def _compute_in_worker(
        self,
        feed: _Feed,
        desk: _Desk,
        commits: queue.Queue[tuple[_Start, ShardOutput] | None],
        watchdog: Watchdog,
    ) -> None:
        """Compute until nothing is left to draw, a shard for quarantine comes, or the worker raises."""
        try:
            if self._worker is None:
                self._worker = self._build(watchdog)
            for output in self._worker.run(feed.shards()):
                watchdog.beat()
                commits.put((feed.finished(output.number), output))
            feed.check_all_finished()
        except Exception as error:  # noqa: BLE001 - becomes the report of the shard it concerns
            concerned = feed.restart()
            if concerned is None:
                _log.warning("the worker raised with no shard in hand: %s", _cause(error))
            else:
                desk.fail(concerned.shard.number, concerned.attempt, error)
            if isinstance(error, DevicePoisonedError):
                self._poisoned = _cause(error)

    def _commit_all(self, desk: _Desk, commits: queue.Queue[tuple[_Start, ShardOutput] | None]) -> None:
        while (item := commits.get()) is not None:
            desk.doing = f"committing shard {item[1].number}"
            desk.commit(*item)
            desk.doing = ""
        # what a poisoned process still holds is started again on a fresh one
        if not (self._poisoned and self._options.own_process):
            desk.give_up(RunError("the runner ended before this shard did; see the log for its traceback"))
        desk.close()

    def _build(self, watchdog: Watchdog) -> Worker:
        try:
            return self._stage.make_worker(watchdog.beat)
        except Exception as error:
            raise _UnbuiltError(_cause(error)) from error

    def _compute_in_quarantine(
        self,
        start: _Start,
        desk: _Desk,
        commits: queue.Queue[tuple[_Start, ShardOutput] | None],
        watchdog: Watchdog,
    ) -> None:
        _log.warning("shard %d: start %d, image by image in a child process", start.shard.number, start.attempt)
        try:
            output = run_in_quarantine(self._stage, start.shard, watchdog.beat, self._options.image_seconds)
        except Exception as error:  # noqa: BLE001 - becomes the shard's report
            desk.fail(start.shard.number, start.attempt, error)
        else:
            commits.put((start, output))


@dataclass(frozen=True, slots=True)
class _Start:
    """One start of one shard; ``suspect`` if so many before it ended without a word that it belongs in quarantine."""

    shard: Shard
    attempt: int
    suspect: bool
    unix_time: float
    clock: float


class _UnbuiltError(SimsamError):
    """The worker itself could not be built."""


class _Feed:
    """The shards a worker draws. After a failure the worker gets a new iterator, which begins with what was in hand.

    The old iterator may still wait for a number in a thread of the worker; what it then draws goes to the new one.
    """

    def __init__(self, numbers: Iterator[int], start: Callable[[int], _Start | None]) -> None:
        self._numbers, self._start = numbers, start
        self._drawing = threading.Lock()
        self._state = threading.Lock()
        self._epoch = 0
        self._waiting: deque[_Start] = deque()
        self._given: deque[_Start] = deque()

    def next_start(self) -> _Start | None:
        """Draw one shard; None when there is no more."""
        return self._draw(self._epoch, giving=False)

    def give_first(self, start: _Start) -> None:
        """Let ``start`` be the first that the next iterator gives."""
        with self._state:
            self._waiting.appendleft(start)

    def shards(self) -> Iterator[Shard]:
        """Shards for the worker; ends before one that belongs into quarantine, and after `restart`."""
        epoch = self._epoch
        while (start := self._draw(epoch, giving=True)) is not None:
            yield start.shard

    def finished(self, number: int) -> _Start:
        """Take note that the worker put out a shard; outputs come in the order drawn."""
        with self._state:
            if not self._given or self._given[0].shard.number != number:
                raise RunError(f"the worker put out shard {number} out of turn")
            return self._given.popleft()

    def check_all_finished(self) -> None:
        """Raise if the worker ended while it still held shards."""
        with self._state:
            held = [start.shard.number for start in self._given]
        if held:
            raise RunError(f"the worker ended without an output for shard(s) {held}")

    def restart(self) -> _Start | None:
        """Begin a new iterator with all that is in hand but the oldest, which is returned: it is the one concerned."""
        with self._state:
            self._epoch += 1
            self._waiting.extendleft(reversed(self._given))
            self._given.clear()
            return self._waiting.popleft() if self._waiting else None

    def _draw(self, epoch: int, giving: bool) -> _Start | None:
        taken = self._take(epoch, giving)
        if taken is None:
            with self._drawing:
                while (taken := self._take(epoch, giving)) is None:
                    number = next(self._numbers, None)
                    if number is None:
                        return None
                    start = self._start(number)
                    if start is not None:
                        with self._state:
                            self._waiting.append(start)
        return None if taken == "ended" else taken

    def _take(self, epoch: int, giving: bool) -> _Start | Literal["ended"] | None:
        """What waits, if anything; noted as given in the same moment, so that no restart comes in between."""
        with self._state:
            if epoch != self._epoch:
                return "ended"
            if not self._waiting:
                return None
            if giving and self._waiting[0].suspect:
                return "ended"
            start = self._waiting.popleft()
            if giving:
                self._given.append(start)
            return start


class _Desk:
    """Starts, commits and reports; knows what is in hand.

    Attributes:
        doing: what it is writing, for the watchdog's message.
    """

    def __init__(
        self,
        ledger: Ledger,
        plan: Plan,
        stage: Stage,
        options: ExecuteOptions,
        again: Mapping[int, int],
        watchdog: Watchdog,
        reports: queue.SimpleQueue[ShardReport | None],
    ) -> None:
        self._ledger, self._plan, self._stage, self._options = ledger, plan, stage, options
        self._again, self._watchdog, self._reports = again, watchdog, reports
        self.doing = ""

    def begin(self, number: int) -> _Start | None:
        """Start a shard, unless another driver has committed it meanwhile; None if there is nothing to compute."""
        self._watchdog.watch(number)
        clock = time.monotonic()
        try:
            self._ledger.join(self._stage, self._plan)
            manifest = self._ledger.manifest(number, self._again.get(number, -1) + 1)
            images = manifest["images"]
            if number in self._again:
                images = self._ledger.manifest(number, self._again[number])["failed"]
        except ObjectNotFound:
            start = self.start(number)
            if start is not None:
                self._watchdog.watch(number, start.attempt)
            return start
        except Exception as error:  # noqa: BLE001 - becomes the shard's report
            self.fail(number, 0, error)
        else:
            self._put(_report(manifest, 0, clock, images, self._plan.unit))
        return None

    def start(self, number: int) -> _Start | None:
        """Record the start of a shard and read its records; None if that failed, which is then reported."""
        self._watchdog.watch(number)
        unix_time, clock = time.time(), time.monotonic()
        attempt = 0
        try:
            attempt = self._ledger.start(number)
            if number in self._again:
                before = self._ledger.manifest(number, self._again[number])
                shard, starts_before = failed_images(self._ledger, self._plan, before), int(before["attempt"])
            else:
                shard, starts_before = self._plan.shard(number), 0
            return _Start(shard, attempt, self._is_suspect(number, attempt, starts_before), unix_time, clock)
        except Exception as error:  # noqa: BLE001 - becomes the shard's report
            self.fail(number, attempt, error)
            return None

    def _is_suspect(self, number: int, attempt: int, starts_before: int) -> bool:
        """Whether so many starts since the last commit ended without one, other than for the storage."""
        limit = self._options.starts_before_quarantine
        if attempt - starts_before <= limit:
            return False
        return self._ledger.unexplained_starts(number, attempt, after=starts_before) > limit

    def commit(self, start: _Start, output: ShardOutput) -> None:
        """Commit and report; a failure becomes the report."""
        try:
            previous = None
            if output.number in self._again:
                previous = self._ledger.manifest(output.number, self._again[output.number])
                output = with_second_try(self._ledger, self._stage.fold, previous, output)
            committed = self._ledger.commit(output, start.attempt, started=start.unix_time, previous=previous)
            images = committed.manifest["images"] if previous is None else previous["failed"]
            report = _report(committed.manifest, start.attempt, start.clock, images, self._plan.unit)
        except Exception as error:  # noqa: BLE001 - becomes the shard's report
            self.fail(output.number, start.attempt, error)
        else:
            self._put(report)

    def fail(self, number: int, attempt: int, error: Exception) -> None:
        """Report that an attempt failed."""
        _log.debug("shard %d, start %d", number, attempt, exc_info=error)
        if attempt and isinstance(error, StorageError):
            try:
                self._ledger.note_storage_error(number, attempt)
            except StorageError as unnoted:  # the start then counts against the shard: slower, and no worse
                _log.debug("shard %d, start %d: its storage error could not be noted: %s", number, attempt, unnoted)
        unbuilt = isinstance(error, _UnbuiltError) or (isinstance(error, UnreadableError) and error.refused)
        lost = isinstance(error, StageLostError)
        self._put(ShardReport(number, attempt, "error", error=_cause(error), unbuilt=unbuilt, lost=lost))

    def give_up(self, error: RunError) -> None:
        """Report as failed what is still in hand: of a worker that is stuck, or by a defect."""
        for number, attempt in self._watchdog.watched().items():
            self.fail(number, attempt, error)

    def close(self) -> None:
        """Say that all is reported that will be."""
        self._reports.put(None)

    def _put(self, report: ShardReport) -> None:
        # a thread that was given up for stuck may still come back
        if self._watchdog.unwatch(report.shard):
            self._reports.put(report)


def _report(manifest: Mapping[str, Any], attempt: int, began: float, images: int, unit: str) -> ShardReport:
    """What to say of a committed shard, at whose attempt work began at a monotonic time; ``unit`` names its records."""
    return ShardReport(
        shard=manifest["shard"],
        attempt=attempt,
        status="committed",
        images=images,
        failed=manifest["failed"],
        seconds=time.monotonic() - began,
        failures=tuple((str(entry[unit]), entry["error"] or "") for entry in manifest["failures"]),
    )


def _cause(error: Exception) -> str:
    text = str(error) if isinstance(error, SimsamError) else f"{type(error).__name__}: {error}"
    return redact(" ".join(text.split()))[:_CAUSE_LENGTH]
