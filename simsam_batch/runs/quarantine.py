"""Quarantine: the images of one shard one by one in a child process, so that one that kills costs only itself."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from simsam_batch.engines.child import Child, Failure, Receive, Send
from simsam_batch.errors import DevicePoisonedError, RunError, StorageError
from simsam_batch.runs.schema import Shard, ShardOutput, Stage
from simsam_batch.storage import redact

_FAILED_STARTS = 3
_TRIES = 2
_READY, _GETTING_ON = "ready", "getting on"
_SLICE_S = 1.0


def run_in_quarantine(stage: Stage, shard: Shard, beat: Callable[[], None], image_seconds: float) -> ShardOutput:
    """Run each image of a shard alone in a child process and merge what comes back, in row order.

    An image becomes a ``failed`` row if two children in a row die over it or lose their device (``worker_died``; one
    may have been killed from outside), if its worker neither finishes nor gets on in time (``timed_out``), or if the
    worker raises over it (``worker_raised``).

    Args:
        stage: builds the worker, once in each child.
        shard: the images; any number of rows.
        beat: called at least every second or so, for the stall watchdog.
        image_seconds: longest time without progress over one image, and for building the worker.

    Raises:
        StorageError: an image could not be read or a like reason that is not the image's; the attempt has failed.
        RunError: the child cannot even build the worker.
    """
    cell = _Cell(stage, beat, image_seconds)
    outputs: list[ShardOutput] = []
    try:
        for row in range(shard.records.num_rows):
            one = Shard(shard.number, shard.records.take([row]))
            verdict = cell.run(one)
            outputs.append(verdict if isinstance(verdict, ShardOutput) else _failed_output(stage, one, verdict))
    finally:
        cell.close()
    return _merged(stage, shard.number, outputs)


@dataclass(frozen=True, slots=True)
class _Trouble:
    """Why one image gave no output."""

    kind: str
    message: str


@dataclass(frozen=True, slots=True)
class _ServeImages:
    """The child's work: one-row shards in, outputs or troubles out."""

    stage: Stage

    def __call__(self, receive: Receive, send: Send) -> None:
        worker = self.stage.make_worker(_Beats(send))
        send(_READY)
        while True:
            shard: Shard = receive()
            try:
                (output,) = worker.run(iter([shard]))
            except DevicePoisonedError:
                # a fresh process is needed for the next image, and this one's second try
                raise
            except StorageError as error:
                send(_Trouble("storage", str(error)))
            except Exception as error:  # noqa: BLE001 - becomes the image's row; it is alone, so it is the cause
                send(_Trouble("worker_raised", redact(f"{type(error).__name__}: {error}")))
            else:
                send(output)


@dataclass(slots=True)
class _Beats:
    """Tells that a worker gets on, no more than once in a while."""

    send: Send
    last: float = 0.0

    def __call__(self) -> None:
        now = time.monotonic()
        if now - self.last >= _SLICE_S:
            self.last = now
            self.send(_GETTING_ON)


class _Cell:
    """The child process, started when an image needs one and again after each death."""

    def __init__(self, stage: Stage, beat: Callable[[], None], image_seconds: float) -> None:
        self._stage, self._beat, self._image_seconds = stage, beat, image_seconds
        self._child: Child | None = None

    def run(self, one: Shard) -> ShardOutput | _Trouble:
        """What one image came to; a second child is asked if the first ended over it."""
        reason = ""
        for _ in range(_TRIES):
            try:
                return self._try(one)
            except EOFError as error:
                reason = str(error)
        return _Trouble("worker_died", f"the worker's process ended {_TRIES} times over this image: {reason}")

    def _try(self, one: Shard) -> ShardOutput | _Trouble:
        """One try.

        Raises:
            EOFError: the child ended; says how.
        """
        child = self._child or self._start()
        self._child = child
        child.send(one)
        try:
            answer: ShardOutput | _Trouble | Failure = self._answer(child)
        except TimeoutError:
            child.kill()
            self.close()
            said = f"no progress for {self._image_seconds:g} seconds; its process was ended"
            return _Trouble("timed_out", said)
        except EOFError:
            raise EOFError(self.close()) from None
        if isinstance(answer, Failure):
            self.close()
            raise EOFError(answer.reason)
        if isinstance(answer, _Trouble) and answer.kind == "storage":
            raise StorageError(answer.message)
        return answer

    def close(self) -> str:
        """End the child, if there is one; returns how it ended."""
        reason = self._child.end() if self._child else ""
        self._child = None
        return reason

    def _start(self) -> Child:
        reason = ""
        for _ in range(_FAILED_STARTS):
            child = Child(_ServeImages(self._stage), {})
            try:
                answer = self._answer(child)
            except TimeoutError:
                child.kill()
                reason = f"not ready after {self._image_seconds:g} seconds ({child.end()})"
            except EOFError:
                reason = child.end()
            else:
                if answer == _READY:
                    return child
                reason = f"{answer.reason} ({child.end()})" if isinstance(answer, Failure) else child.end()
        raise RunError(f"the worker's process ends while it is being built, {_FAILED_STARTS} times in a row: {reason}")

    def _answer(self, child: Child) -> Any:
        deadline = time.monotonic() + self._image_seconds
        while True:
            self._beat()
            if child.connection.poll(max(0.0, min(_SLICE_S, deadline - time.monotonic()))):
                message = child.receive()
                if message != _GETTING_ON:
                    return message
                deadline = time.monotonic() + self._image_seconds
            elif time.monotonic() >= deadline:
                raise TimeoutError


def _failed_output(stage: Stage, one: Shard, trouble: _Trouble) -> ShardOutput:
    (record,) = one.records.to_pylist()
    values = {
        "status": "failed",
        "error_type": trouble.kind,
        "error": trouble.message,
        "failed_step": "compute",
    }
    columns = {name: [values.get(name, record.get(name))] for name in stage.schema.names}
    rows = pa.table(columns, schema=stage.schema)
    return ShardOutput(one.number, rows, [{}], stage.fold.zero())


def _merged(stage: Stage, number: int, outputs: Sequence[ShardOutput]) -> ShardOutput:
    schema = stage.schema.remove_metadata()
    rows = pa.concat_tables([output.rows.replace_schema_metadata(None).cast(schema) for output in outputs])
    attachments = [output.attachments[0] if len(output.attachments) else {} for output in outputs]
    statistics = stage.fold.zero()
    seconds: Counter[str] = Counter()
    facts: dict[str, Any] = {}
    for output in outputs:
        statistics = stage.fold.merge(statistics, output.statistics)
        seconds.update(output.seconds)
        facts = facts or dict(output.facts)
    return ShardOutput(number, rows, attachments, statistics, dict(seconds), {**facts, "quarantine": True})
