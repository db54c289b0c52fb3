"""What a person or a log collector sees while a run goes on: a progress bar, plain lines, or JSON lines."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, Protocol

from simsam_batch.engines.contract import Progress, ShardReport
from simsam_batch.plain_text import counted, plain
from simsam_batch.telling.metrics import metric_lines
from simsam_batch.telling.status import noun_of

if TYPE_CHECKING:
    from rich.status import Status


_SCROLLED = 10
"""Lines after which what was said is no longer before people's eyes."""


class Reporter(Protocol):
    """Receives what happens during a run."""

    def note(self, text: str, *, to_do: bool = False) -> None:
        """Something worth knowing that does not stop the run; ``to_do``: and that is to be acted on once it is over."""
        ...

    def doing(self, what: str) -> None:
        """Something is begun that takes a while and comes before the first image."""
        ...

    def plan(
        self, stage: str, *, images: int, shards: int, done_shards: int, done_images: int, unit: str = "image_id"
    ) -> None:
        """A stage is about to start, or to go on; ``unit`` says what its records are."""
        ...

    def progress(self, progress: Progress) -> None:
        """A shard is so far; no more than now and then, in whichever thread an engine hears of it."""
        ...

    def shard(self, report: ShardReport) -> None:
        """A shard came back."""
        ...

    def finish(self, result: dict[str, Any], where: str) -> None:
        """The results are published at ``where``."""
        ...


class JsonLines:
    """One JSON object per event on stderr, for unattended runs."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet

    def _write(self, event: str, **values: Any) -> None:
        print(json.dumps({"time": round(time.time(), 3), "event": event} | values), file=sys.stderr, flush=True)

    def note(self, text: str, *, to_do: bool = False) -> None:  # noqa: ARG002  to people it is said once more
        self._write("note", text=text)

    def doing(self, what: str) -> None:
        """For people alone."""

    def progress(self, progress: Progress) -> None:
        """For people alone; shards are told of."""

    def plan(
        self, stage: str, *, images: int, shards: int, done_shards: int, done_images: int, unit: str = "image_id"
    ) -> None:
        if not self._quiet:
            self._write(
                "plan",
                stage=stage,
                unit=unit,
                images=images,
                shards=shards,
                done_shards=done_shards,
                done_images=done_images,
            )

    def shard(self, report: ShardReport) -> None:
        if self._quiet and report.status == "committed" and not report.failed:
            return
        self._write(
            "shard",
            shard=report.shard,
            attempt=report.attempt,
            status=report.status,
            images=report.images,
            failed=report.failed,
            seconds=round(report.seconds, 3),
            error=report.error,
            failures=[{"image_id": image_id, "error": error} for image_id, error in report.failures],
        )

    def finish(self, result: dict[str, Any], where: str) -> None:
        if not self._quiet:
            metrics = {name: value for name, value in result["metrics"].items() if name != "curve"}
            counts = {name: result[name] for name in ("images", "ok", "failed", "seconds")}
            self._write("done", where=where, **counts, metrics=metrics)


class Text:
    """A progress bar in a terminal, a line per tenth of the work elsewhere; failures and notes as lines.

    The bar moves with the images of shards in hand, and never back: one that is begun anew counts from where it was.
    What is to be done later is said at the end once more, where much was said since.
    """

    def __init__(self, *, quiet: bool) -> None:
        from rich.progress import TextColumn

        from simsam_batch.telling.bar import Bar

        self._quiet = quiet
        so_far = TextColumn("done, {task.fields[rate]:.2f}/s, {task.fields[failed]} failed")
        self._bar = Bar(so_far, disable=quiet)
        self._task = self._bar.add_task("", total=None, rate=0.0, failed=0)
        self._images = self._done = self._before = self._failed = self._said = 0
        self._started = time.monotonic()
        self._noun = noun_of("image_id")
        self._lines = 0
        self._to_do: dict[str, int] = {}
        self._alike: dict[str, tuple[ShardReport, int]] = {}
        self._stage = ""
        self._in_hand: dict[int, int] = {}
        self._committed: set[int] = set()
        self._waiting: Status | None = None
        self._lock = threading.Lock()

    def doing(self, what: str) -> None:
        self._wait_no_more()
        if self._bar.disable:
            if not self._quiet:
                self._line(what)
            return
        from rich.markup import escape

        self._bar.stop()
        self._waiting = self._bar.console.status(escape(plain(what)))
        self._waiting.start()

    def _wait_no_more(self) -> None:
        if self._waiting is not None:
            self._waiting.stop()
            self._waiting = None

    def _line(self, text: str, style: str = "") -> None:
        self._lines += 1
        self._bar.console.print(plain(text), style=style, markup=False)

    def note(self, text: str, *, to_do: bool = False) -> None:
        self._line(text, "yellow")
        if to_do:
            self._to_do[text] = self._lines

    def plan(
        self, stage: str, *, images: int, shards: int, done_shards: int, done_images: int, unit: str = "image_id"
    ) -> None:
        self._wait_no_more()
        self._images, self._done, self._before = images, done_images, done_images
        self._stage, self._in_hand, self._committed = stage, {}, set()
        self._noun = noun_of(unit)
        self._failed = self._said = 0
        self._started = time.monotonic()
        waiting = f"{stage}, workers start"
        self._bar.reset(self._task, description=waiting, total=images, completed=done_images, rate=0.0, failed=0)
        self._bar.start()
        if not self._quiet:
            going_on = f"; going on, {counted(done_shards, 'shard')} done before" if done_shards else ""
            self._line(f"{stage}: {counted(images, self._noun)} in {counted(shards, 'shard')}{going_on}")

    def progress(self, progress: Progress) -> None:
        with self._lock:
            if progress.shard not in self._committed:
                self._in_hand[progress.shard] = max(progress.done, self._in_hand.get(progress.shard, 0))
                self._move()

    def _move(self) -> None:
        """Bring the bar to where the work is."""
        reached = self._done + sum(self._in_hand.values())
        reached = min(reached, self._images) if self._images else reached
        rate = (reached - self._before) / max(time.monotonic() - self._started, 1e-9)
        self._bar.update(self._task, description=self._stage, completed=reached, rate=rate, failed=self._failed)

    def shard(self, report: ShardReport) -> None:
        self._wait_no_more()
        for image_id, reason in report.failures:
            self._line(f"failed: {image_id}: {reason}", "red")
        if len(report.failures) < report.failed:
            self._line(f"failed: {report.failed - len(report.failures)} more in shard {report.shard}", "red")
        if report.status == "error":
            # one cause may meet every shard again and again: it is said once, and counted
            first, others = self._alike.get(report.cause, (report, -1))
            self._alike[report.cause] = first, others + 1
            if first is report:
                self._line(f"shard {report.shard}, start {report.attempt}: {report.error}", "red")
            return
        with self._lock:
            self._done += report.images
            self._failed += report.failed
            self._in_hand.pop(report.shard, None)
            self._committed.add(report.shard)
            self._move()
        rate = (self._done - self._before) / max(time.monotonic() - self._started, 1e-9)
        tenth = 10 * self._done // max(self._images, 1)
        if self._bar.disable and not self._quiet and tenth > self._said:
            self._said = tenth
            self._line(f"{self._done} of {self._images} {self._noun}s done, {rate:.2f}/s, {self._failed} failed")

    def finish(self, result: dict[str, Any], where: str) -> None:
        self._bar.stop()
        self._count_alike()
        if self._quiet:
            return
        rate = result["images_per_second"]
        speed = "" if rate is None else f", {rate:.2f} {self._noun}s/s"
        self._line(f"{counted(result['images'], self._noun)} done, {result['failed']} of them failed{speed}")
        for line in metric_lines(result["metrics"]):
            self._line(line)
        self._line(f"results: {where}")

    def close(self) -> None:
        """Take the bar off the terminal, and say again what is to be done, where that is lines above."""
        self._wait_no_more()
        self._bar.stop()
        self._count_alike()
        for text in [text for text, line in self._to_do.items() if self._lines - line >= _SCROLLED]:
            self._line(text, "yellow")
        self._to_do.clear()

    def _count_alike(self) -> None:
        """Say how often it happened, where one line stands for several starts."""
        for first, others in self._alike.values():
            if others:
                self._line(f"shard {first.shard}, start {first.attempt}: {others} more starts failed alike", "red")
        self._alike.clear()


@contextmanager
def reporter(log_format: Literal["text", "json"], *, quiet: bool) -> Iterator[Reporter]:
    """The reporter that the settings ask for; the terminal is left clean."""
    if log_format == "json":
        yield JsonLines(quiet=quiet)
        return
    text = Text(quiet=quiet)
    try:
        yield text
    finally:
        text.close()
