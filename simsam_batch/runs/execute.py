"""Execution of one stage: every pending shard through an engine, in rounds, until the ledger has them all."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

from simsam_batch.engines.contract import Engine, ShardReport, Task
from simsam_batch.engines.interrupt import interruptible
from simsam_batch.errors import RunError
from simsam_batch.runs.ledger import Ledger
from simsam_batch.runs.plan import Plan
from simsam_batch.runs.runner import ExecuteOptions, RunnerFactory
from simsam_batch.runs.schema import Stage
from simsam_batch.runs.silence import Silence
from simsam_batch.runs.stage_record import StageLostError
from simsam_batch.storage import Folder

__all__ = ["ExecuteOptions", "ExecuteSummary", "execute"]

_UNBUILT_BEFORE_ANY_COMMIT = 20
_LONGEST_PAUSE_S = 60.0
_CAUSES_SHOWN = 5
_ROUNDS_IN_QUARANTINE = 2
_SILENCE_OF_STALLS = 1.25
_MARGIN_S = 60.0

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class ExecuteSummary:
    """What came of one call of `execute`; shards committed before it do not count.

    Attributes:
        shards, images, failed: committed meanwhile, by this or another driver, and how many of the images failed.
        rounds: how often the pending shards were given to the engine.
        seconds: wall time.
    """

    shards: int = 0
    images: int = 0
    failed: int = 0
    rounds: int = 0
    seconds: float = 0.0
    errors: dict[int, ShardReport] = field(default_factory=dict)

    def add(self, report: ShardReport) -> None:
        """Count one report."""
        if report.status == "error":
            self.errors[report.shard] = report
            return
        self.errors.pop(report.shard, None)
        self.shards += 1
        self.images += report.images
        self.failed += report.failed


def execute(
    out: Folder,
    plan: Plan,
    stage: Stage,
    engine: Engine,
    options: ExecuteOptions,
    on_report: Callable[[ShardReport], None],
    on_start: Callable[[int], None] | None = None,
    *,
    on_note: Callable[[str], None] = _log.warning,
    again: Mapping[int, int] | None = None,
    started_with: Mapping[str, Any] | None = None,
    task: Task = Task(),
) -> ExecuteSummary:
    """Run every shard of the plan that the ledger does not have yet; the caller publishes afterwards.

    What is pending costs one listing a round. Shards that failed run again in the next round; from a number of
    starts on they run in quarantine. Several drivers may work on one stage: each goes through what is pending in an
    order of its own, and what another one has committed meanwhile is not computed again. After SIGTERM or Ctrl-C in the
    main thread, shards in flight may finish in the grace time; the second Ctrl-C ends at once.

    Args:
        out: the run's folder.
        plan: what the stage works on.
        stage: what to compute; picklable.
        engine: where.
        options: limits on starts and time.
        on_report: called in this thread with each report as it comes.
        on_start: called once, before any work, with the number of pending shards.
        on_note: told, from another thread, when no shard has come back for long, and when the run was asked to end.
        again: instead of what is pending, try the failed images of these shards again, whose generation in force is
            given (`simsam_batch.runs.retry`).
        started_with: see `Ledger.begin`.
        task: what the engine may know; what the stage needs is added.

    Raises:
        SettingsError: OUT holds this stage with other settings, or cannot be gone on with; see `Ledger.begin`.
        RunError: some shards cannot be committed, their causes are named; or the stage's record has gone from OUT or is
            another's.
        StorageError: OUT cannot be listed or written.
        KeyboardInterrupt: on SIGINT and SIGTERM, after the workers were ended.
    """
    began = time.monotonic()
    ledger = Ledger(out, stage.name)
    # longer than a worker takes to end itself, which says more
    silence_s = options.stall_seconds + min(options.stall_seconds, _MARGIN_S)
    task = replace(task, gpu=stage.needs.gpu, workers=stage.needs.workers, silence_s=silence_s)
    first = ledger.begin(stage, plan, started_with)
    options = replace(options, own_process=engine.own_processes)
    make_runner = RunnerFactory(out, plan, stage, options, again or {})
    summary = ExecuteSummary()
    unbuilt = 0
    pending = _pending(ledger, plan, again)
    if on_start is not None:
        on_start(len(pending))
    silence = Silence(ledger, _SILENCE_OF_STALLS * options.stall_seconds, on_note)
    grace = options.grace_seconds
    with interruptible(engine.stop, grace) as asked_to_end, silence.watched(asked_to_end, grace):
        while pending:
            summary.rounds += 1
            summary.errors.clear()
            silence.awaits(pending)
            order = pending if first else _turned(pending)
            with closing(_closable(engine.run(make_runner, order, task))) as reports:
                for report in reports:
                    silence.heard(report.shard)
                    summary.add(report)
                    on_report(report)
                    if report.lost:
                        raise StageLostError(report.error)
                    unbuilt += report.unbuilt
                    if not summary.shards and unbuilt == _UNBUILT_BEFORE_ANY_COMMIT:
                        raise _given_up(summary, len(pending))
            silence.awaits(())
            if asked_to_end.is_set():
                raise KeyboardInterrupt
            still_pending = _pending(ledger, plan, again)
            if still_pending and _hopeless(summary, options):
                raise _given_up(summary, len(still_pending))
            if still_pending:
                time.sleep(min(options.pause_seconds * 2 ** (summary.rounds - 1), _LONGEST_PAUSE_S))
            pending = still_pending
    summary.seconds = time.monotonic() - began
    return summary


def _pending(ledger: Ledger, plan: Plan, again: Mapping[int, int] | None) -> list[int]:
    """Shards without a manifest, or of those to be tried again the ones without a newer one."""
    if again is None:
        return ledger.pending(plan.shards)
    committed = ledger.committed()
    return [number for number, generation in sorted(again.items()) if committed.get(number, generation) <= generation]


def _turned(pending: list[int]) -> list[int]:
    """From a random place down to the first, then from the last down to that place.

    The driver that was first goes up, so that two of them are at the same shards only where they meet.
    """
    place = secrets.randbelow(len(pending))
    return [*reversed(pending[: place + 1]), *reversed(pending[place + 1 :])]


def _hopeless(summary: ExecuteSummary, options: ExecuteOptions) -> bool:
    """Whether another round is of no use: enough were run, or no worker could so much as be built, or read an image."""
    no_worker = not summary.shards and all(report.unbuilt for report in summary.errors.values())
    return no_worker or summary.rounds >= options.starts_before_quarantine + _ROUNDS_IN_QUARANTINE


def _given_up(summary: ExecuteSummary, pending: int) -> RunError:
    by_cause: dict[str, list[ShardReport]] = {}
    for report in summary.errors.values():
        by_cause.setdefault(report.cause, []).append(report)
    causes = [
        f"  shard {alike[0].shard} (start {alike[0].attempt})"
        + (f" and {len(alike) - 1} more alike" if len(alike) > 1 else "")
        + f": {alike[0].error}"
        for alike in [*by_cause.values()][:_CAUSES_SHOWN]
    ]
    if len(by_cause) > _CAUSES_SHOWN:
        causes.append(f"  and {len(by_cause) - _CAUSES_SHOWN} other causes")
    return RunError(
        f"{pending} shard(s) could not be committed in {summary.rounds} round(s):",
        *causes,
        "What is committed stays. Mend the cause and run the same command again: it goes on from here",
    )


def _closable(reports: Iterator[ShardReport]) -> Generator[ShardReport, None, None]:
    """The same reports from a generator, which `closing` can end at once when the loop is left."""
    yield from reports
