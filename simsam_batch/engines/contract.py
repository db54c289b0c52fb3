"""What an engine is given and what it gives back: shard numbers in, one small report for each out."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal, Protocol, Self

_NUMBER = re.compile(r"[0-9a-f]*[0-9][0-9a-f]*")
_LOOKS = 8
_LONGEST_LOOK_S = 10.0


def look_s(silence_s: float) -> float:
    """Seconds between two looks for workers that are silent so long, and between two signs of life."""
    return min(silence_s / _LOOKS, _LONGEST_LOOK_S)


@dataclass(frozen=True, slots=True)
class ShardReport:
    """What came of one start of one shard; a few hundred bytes, never pixels.

    Attributes:
        shard: its number in the plan.
        attempt: which start this was, counted from 1 over the life of the run; 0 where no start was recorded.
        status: ``committed`` (by this or another attempt; its manifest can be read) or ``error`` (it stays pending).
        images, failed: rows in the committed output, and how many of them are failed images.
        seconds: wall time from start to commit.
        error: why the attempt failed, one line; empty if committed.
        failures: at most 20 pairs ``(image_id, reason)`` of failed images.
        unbuilt: the worker itself could not be built, or no image is given to it: the error is no fault of this shard.
        lost: the run itself has gone from its storage, so that no shard of it can be committed any more.
    """

    shard: int
    attempt: int
    status: Literal["committed", "error"]
    images: int = 0
    failed: int = 0
    seconds: float = 0.0
    error: str = ""
    failures: tuple[tuple[str, str], ...] = field(default=())
    unbuilt: bool = False
    lost: bool = False

    @property
    def cause(self) -> str:
        """``error`` without numbers: what reports of one cause have in common, whichever shard they are of."""
        return _NUMBER.sub("#", self.error)

    def to_json(self) -> str:
        """The report as JSON text, for the way from process to process."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """The report that `to_json` wrote."""
        fields = json.loads(text)
        fields["failures"] = tuple((image_id, reason) for image_id, reason in fields["failures"])
        return cls(**fields)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a shard is that a worker has in hand.

    Attributes:
        shard: its number in the plan.
        done: records computed of it, by this start; a later one begins anew.
    """

    shard: int
    done: int


@dataclass(frozen=True, slots=True)
class Task:
    """What an engine may know of the shards it is given.

    Attributes:
        run, stage: whose they are, for metrics.
        gpu: whether a worker computes on a GPU where there is one; else it reserves cores alone.
        workers: workers at most; 0 for as many as there is room for.
        silence_s: seconds after which a worker that holds shards and from which nothing was heard is ended; 0: never.
        on_progress: told how far a shard is, in whichever thread the engine hears of it.
        description: what another process needs to build the runner, where it cannot be sent there; JSON.
    """

    run: str = ""
    stage: str = ""
    gpu: bool = True
    workers: int = 0
    silence_s: float = 0.0
    on_progress: Callable[[Progress], None] = field(default=lambda _: None, compare=False)
    description: str = ""


class Runner(Protocol):
    """Runs shards in one process; holds the model for as long as the process lives.

    ``run`` may draw the next shard number before it has reported the last one (it decodes ahead), reports every
    number it draws exactly once and never raises: whatever goes wrong becomes a report with status ``error``. It may
    end its process after a report, where only a fresh process can go on; what it then still holds is started again.
    Where no report is due for long it yields now and then, as long as it gets on: how far it is, if it knows, or None.
    """

    def run(self, shards: Iterator[int]) -> Iterator[ShardReport | Progress | None]:
        """Yield one report for each number drawn, and between them that it gets on; may be called again at the end."""
        ...


class Engine(Protocol):
    """Executes shards somewhere. ``make_runner`` is picklable and is called once in every worker process.

    ``run`` yields a report for each shard, in any order, as they come. A shard whose worker dies is started again
    on another worker, without limit: the runner counts starts and changes its ways (quarantine). One that stands still
    with its whole process is ended as `Task.silence_s` says, where the engine can.
    It raises `simsam_batch.errors.RunError` if no worker can be kept alive at all.

    Attributes:
        own_processes: whether workers have processes of their own, which they may end where only a fresh one can go on.
    """

    @property
    def own_processes(self) -> bool:
        """See above."""
        ...

    def run(
        self, make_runner: Callable[[], Runner], shards: Sequence[int], task: Task = Task()
    ) -> Iterator[ShardReport]:
        """Yield one report for each shard; may be called again, for what is then still pending."""
        ...

    def stop(self) -> bool:
        """Give out no further shard: `run` ends once those in flight are reported. Safe to call in a signal handler.

        Returns:
            False if this engine cannot: its shards in flight are then to be abandoned, by ending `run`.
        """
        ...

    def close(self) -> None:
        """Give back what is held between runs (a Ray cluster, the other ranks); calling it again does nothing."""
        ...
