"""What the workers of all stages share: records drawn and loaded ahead, rows gathered, failures and sums of a shard."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, Generic, Protocol, TypeVar

import pyarrow as pa
import torch
from threadpoolctl import threadpool_limits

from simsam_batch import images
from simsam_batch.errors import ImageError, RunError, UnreadableError
from simsam_batch.runs.committed import CommittedShard
from simsam_batch.runs.ledger import Ledger
from simsam_batch.runs.plan import Plan
from simsam_batch.runs.schema import Attachment, Shard, ShardOutput, Stage
from simsam_batch.settings import RunSettings
from simsam_batch.storage import Folder
from simsam_batch.workers.models import device_name, replaced_on
from simsam_batch.workers.others import Others
from simsam_batch.workers.spool import Spool
from simsam_batch.workers.timer import Timer

L = TypeVar("L")

_log = logging.getLogger(__name__)

_HELD_BYTES = 300_000_000


class SettledStage(Stage, Protocol):
    """A stage whose workers are told all settings of the command."""

    @property
    def options(self) -> Any:
        """All settings."""
        ...

    @property
    def plan(self) -> Plan | None:
        """What it is about."""
        ...


@dataclass(frozen=True, slots=True)
class Item:
    """One record of one shard, on its way to be loaded; ``beside`` is what an earlier stage has of it."""

    shard: Shard
    row: int
    record: dict[str, Any]
    beside: Any = None

    @property
    def is_last(self) -> bool:
        """Whether its shard has no further record."""
        return self.row + 1 == len(self.shard.records)


@dataclass(frozen=True, slots=True)
class Row:
    """What one record came to.

    Attributes:
        columns: of its row.
        attachments: arrays and files that go with it, by name.
        state: its share of the fold's statistics; None where it adds nothing.
    """

    columns: Mapping[str, Any]
    attachments: Mapping[str, Attachment] = field(default_factory=dict)
    state: dict[str, Any] | None = None


Later = Callable[[], Row]
"""A row that is still being worked on elsewhere; called to wait for it."""


class Results:
    """The rows of one shard while they come in, in any order.

    Rows that come later are asked for in the order in which they were given, so that what they cost in memory is
    bounded by how many may wait, and by what they hold.
    """

    def __init__(self, shard: Shard) -> None:
        count = shard.records.num_rows
        self.shard = shard
        self.columns: list[Mapping[str, Any]] = [{}] * count
        self.states: list[dict[str, Any] | None] = [None] * count
        self.attachments = Spool(count)
        self._later: deque[tuple[int, Later, int]] = deque()
        self._held = 0
        self.done = 0

    def put(self, place: int, row: Row | Later, held: int = 0) -> None:
        """Take a row, or what will give it and holds so many bytes until then."""
        if isinstance(row, Row):
            self.columns[place], self.states[place] = row.columns, row.state
            self.done += 1
            if row.attachments:
                self.attachments.put(place, row.attachments)
        else:
            self._later.append((place, row, held))
            self._held += held

    def settle(self, may_wait: int, beat: Callable[[], None]) -> None:
        """Ask for rows that come later, the oldest first, until at most so many wait, and hold no more than may be."""
        while len(self._later) > may_wait or (self._later and self._held > _HELD_BYTES):
            place, later, held = self._later.popleft()
            self.put(place, later())
            self._held -= held
            beat()


class RecordWorker(ABC, Generic[L]):
    """Loads records ahead in threads and turns them into rows.

    Attributes:
        stage: what it works for.
        settings: all settings of the command.
        device: what it computes on.
        timer: adds up the time of each step.
        limits: what one image may cost.
        facts: what was used, for the manifest.
        may_wait: rows that may come later while the next records are computed.
        behind: a thread in which shards are put out while the next one is computed; None: that waits.
        doing: what it is at, for the message of the watchdog.
        reached: the number of the shard in hand and how many of its rows there are; None before the first.
    """

    may_wait = 0
    behind: ThreadPoolExecutor | None = None
    doing = ""
    reached: tuple[int, int] | None = None

    def __init__(self, stage: SettledStage, beat: Callable[[], None], device: torch.device | None = None) -> None:
        settings: RunSettings = stage.options
        self.stage, self.settings, self._beat = stage, settings, beat
        torch.set_num_threads(settings.threads)
        threadpool_limits(settings.threads)
        self.device = device or torch.device("cpu")
        self.timer = Timer(self.device)
        self._other_files = Others(stage.plan)
        self.limits = images.ImageLimits(settings.max_bytes, settings.max_pixels, settings.decode_seconds)
        # in a second try the limits may be others than those of the run
        self.facts: dict[str, Any] = {"limits": {name: getattr(settings, name) for name in settings.limits()}}
        if device is not None:
            self.facts["device"] = device_name(device)
            if replaced := replaced_on(device):
                _log.warning("not trusted on %s, and replaced: %s", self.facts["device"], "; ".join(replaced))
                self.facts["replaced"] = replaced

    @abstractmethod
    def load(self, item: Item) -> L:
        """Read what a record needs, in one of the threads that load ahead; an ImageError becomes a failed row."""

    @abstractmethod
    def take(self, item: Item, loaded: L, results: Results) -> None:
        """Give the row of a record that was loaded, now or when others like it have come."""

    def finish(self, results: Results) -> None:
        """Give the rows of a shard that are still missing."""

    def items(self, shards: Iterator[Shard]) -> Iterator[Item]:
        """The records of the shards, in order."""
        for shard in shards:
            for row, record in enumerate(shard.records.to_pylist()):
                yield Item(shard, row, record)

    def ahead(self) -> tuple[int, int]:
        """How many threads load, and how many records at most."""
        threads = self.settings.decode_threads or 2
        return threads, 4 * threads

    def run(self, shards: Iterator[Shard]) -> Iterator[ShardOutput]:
        """Outputs of the shards, in order; the next records are loaded while these are computed."""
        threads, most = self.ahead()
        self.timer.take()
        arrived = images.decode_ahead(self.items(shards), self._load, threads=threads, max_pending=most)
        with closing(arrived):
            yield from self._put_out(self._run_shards(arrived))

    def _load(self, item: Item) -> L:
        """What `load` gives; a file that the storage does not give, while it gives others, fails its record alone."""
        try:
            return self.load(item)
        except UnreadableError as error:
            column = "truth_uri" if error.uri == item.record.get("truth_uri") else "uri"
            if not self._other_files.are_given(column, error.uri):
                message = f"{error}; nor is another file of this run given that was asked for"
                raise UnreadableError(message, error.uri, error.refused) from error
        try:
            return self.load(item)
        except UnreadableError as error:
            raise ImageError("unreadable", str(error), "read") from error

    def _wait(self, arrived: Iterator[tuple[Item, L | Exception]]) -> tuple[Item, L | Exception] | None:
        with self.timer.step("wait"):
            return next(arrived, None)

    def _run_shards(self, arriving: Iterator[tuple[Item, L | Exception]]) -> Iterator[Results]:
        while (first := self._wait(arriving)) is not None:
            yield self._run_shard(first, arriving)

    def _put_out(self, found: Iterator[Results]) -> Iterator[ShardOutput]:
        """The outputs of the shards; with a thread for it, of each while the next one is computed."""
        if self.behind is None:
            yield from map(self._output, found)
            return
        last: Future[ShardOutput] | None = None
        while True:
            try:
                results = next(found, None)
            except Exception:
                # it is of the shard that was computed; the one before that is done
                if last is not None:
                    yield last.result()
                raise
            before, last = last, None if results is None else self.behind.submit(self._output, results)
            if before is not None:
                yield before.result()
            if last is None:
                return

    def _run_shard(self, first: tuple[Item, L | Exception], arriving: Iterator[tuple[Item, L | Exception]]) -> Results:
        """The results of the shard that ``first`` opens, some still to come; nothing beyond it is drawn."""
        shard = first[0].shard
        results = Results(shard)
        arrived: tuple[Item, L | Exception] | None = first
        for _ in range(len(shard.records)):
            if arrived is None:
                raise RunError(f"shard {shard.number} ended before its last record")
            item, loaded = arrived
            name = next(iter(item.record.values()))
            self.doing = f"working on {name} of shard {shard.number}"
            if isinstance(loaded, ImageError):
                results.put(item.row, failed(loaded))
            elif isinstance(loaded, Exception):
                raise loaded
            else:
                self.take(item, loaded, results)
            # no image is held while the next one is waited for
            del loaded
            self.reached = shard.number, results.done
            self._beat()
            self.doing = f"waiting for what follows {name} in shard {shard.number}"
            arrived = None if item.is_last else self._wait(arriving)
        self.finish(results)
        return results

    def _output(self, results: Results) -> ShardOutput:
        results.settle(0, self._beat)
        fold, there = self.stage.fold, [state for state in results.states if state is not None]
        return ShardOutput(
            number=results.shard.number,
            rows=table_of(results.shard.records, results.columns, self.stage.schema),
            attachments=results.attachments,
            # In the order of the rows: the order in which they came would show in the last bits of sums.
            statistics=reduce(fold.merge, there, fold.zero()),
            seconds=self.timer.take(),
            facts=self.facts,
        )


class EarlierStage:
    """The shards of a stage that another one reads, as a worker of that asks for them; both have one plan.

    Args:
        out: the run's folder.
        stage: name of the stage that is read.
    """

    def __init__(self, out: Folder, stage: str) -> None:
        self._ledger = Ledger(out, stage)
        self._generations = self._ledger.committed()

    def shard(self, number: int) -> CommittedShard:
        """One shard, as its latest generation has it."""
        if number not in self._generations:
            self._generations = self._ledger.committed()
        manifest = self._ledger.manifest(number, self._generations[number])
        return CommittedShard(self._ledger.out, manifest)

    def items(self, shards: Iterator[Shard], beside: Callable[[CommittedShard], Sequence[Any]]) -> Iterator[Item]:
        """The records of shards, each with what the earlier stage has of it.

        Args:
            shards: of the plan.
            beside: what is wanted of each row of a committed shard, in order; rows are told apart by their ids.

        Raises:
            RunError: it lacks a record.
        """
        for shard in shards:
            there = self.shard(shard.number)
            ids = there.rows(["image_id"])["image_id"].to_pylist()
            found = dict(zip(ids, beside(there), strict=True))
            # In quarantine a shard comes as one record at a time.
            for row, record in enumerate(shard.records.to_pylist()):
                if record["image_id"] not in found:
                    raise RunError(
                        f"shard {shard.number} of the stage {self._ledger.stage} lacks the plan's image "
                        f"{record['image_id']!r}"
                    )
                yield Item(shard, row, record, found[record["image_id"]])


def table_of(records: pa.Table, rows: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows in a stage's schema: the plan's columns as they are, the others from each row, null where it has none."""
    columns = {name: records.column(name) for name in records.column_names if name in schema.names}
    for column in schema:
        if column.name not in columns:
            columns[column.name] = pa.array([row.get(column.name) for row in rows], column.type)
    return pa.table({name: columns[name] for name in schema.names}, schema=schema)


def failed(error: ImageError) -> Row:
    """The row of a record that failed."""
    return Row({"status": "failed", "error_type": error.kind, "error": error.message, "failed_step": error.step})
