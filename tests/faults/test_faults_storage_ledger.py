"""The ledger as a state machine: crashes, twins, lagging listings and the deletion of orphans, in any order."""

from __future__ import annotations

import io
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from small_run import BAD, IMAGES, SHARDS, ChecksumStage, catalog, checksums, value_of

from simsam_batch.errors import RunError, StorageError
from simsam_batch.runs.ledger import Ledger
from simsam_batch.runs.plan import make_plan
from simsam_batch.runs.publish import publish
from simsam_batch.runs.verify import verify
from simsam_batch.storage import Folder, ObjectInfo

COMMIT_TAKES = 3
"""Steps between an attempt's data and its manifest, at most, and for which a listing may lag; orphans are older."""

_DIES = "the process dies"


class Clockwork(Folder):
    """A folder whose listings lag and whose clock counts steps; a writer can be made to die before its manifest."""

    step = 0
    lag = 0
    dies = False
    written: dict[str, int]

    def create(self, name: str, data: bytes) -> bool:
        if self.dies and "/manifests/" in name:
            raise StorageError(_DIES)
        done = super().create(name, data)
        self.written.setdefault(name, self.step)
        return done

    def replace(self, name: str, data: bytes) -> None:
        super().replace(name, data)
        self.written[name] = self.step

    def list(self, prefix: str = "") -> list[ObjectInfo]:
        """Without the manifests of the last ``lag`` steps; a step is a second."""
        now = time.time()
        return [
            replace(info, modified=now - (self.step - self.written[info.name]))
            for info in super().list(prefix)
            if not (self.lag and "/manifests/" in info.name and self.written[info.name] > self.step - self.lag)
        ]


class LedgerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.out = Clockwork(f"memory://{uuid.uuid4().hex}/out")
        self.out.written = {}
        self.plan = make_plan(self.out, catalog(), shard_size=2, source={"kind": "test"})
        self.stage = ChecksumStage()
        self.ledgers = [Ledger(self.out, self.stage.name) for _ in range(2)]
        for ledger in self.ledgers:
            ledger.begin(self.stage, self.plan)
        self.started: list[tuple[int, int, int]] = []  # shard, attempt, step
        self.winners: dict[int, int] = {}

    def _tick(self) -> None:
        """A second passes; whoever has not committed by then was killed."""
        self.out.step += 1
        self.started = [entry for entry in self.started if self.out.step - entry[2] <= COMMIT_TAKES]

    @rule(shard=st.integers(0, SHARDS - 1), driver=st.integers(0, 1))
    def start(self, shard: int, driver: int) -> None:
        """Any number of attempts at one shard may be at work at once."""
        self._tick()
        attempt = self.ledgers[driver].start(shard)
        assert (shard, attempt) not in [entry[:2] for entry in self.started]
        self.started.append((shard, attempt, self.out.step))

    @precondition(lambda self: self.started)
    @rule(data=st.data(), driver=st.integers(0, 1))
    def commit(self, data: Any, driver: int) -> None:
        self._tick()
        if not self.started:
            return
        shard, attempt, step = self.started.pop(data.draw(st.integers(0, len(self.started) - 1)))
        done = self.ledgers[driver].commit(checksums(self.plan.shard(shard)), attempt, started=float(step))
        self.winners.setdefault(shard, attempt)
        assert (done.attempt, done.ours) == (self.winners[shard], self.winners[shard] == attempt)

    @rule(driver=st.integers(0, 1))
    def drive_to_the_end(self, driver: int) -> None:
        """What a driver does when nothing disturbs it: every shard that its listing does not show."""
        ledger = self.ledgers[driver]
        for shard in ledger.pending(SHARDS):
            self._tick()
            attempt = ledger.start(shard)
            ledger.commit(checksums(self.plan.shard(shard)), attempt, started=0.0)
            self.winners.setdefault(shard, attempt)

    @precondition(lambda self: self.started)
    @rule(data=st.data(), again=st.booleans())
    def crash_between_data_and_manifest(self, data: Any, again: bool) -> None:
        """The data is written and the manifest is not; the attempt may be called upon once more, or never again."""
        self._tick()
        if not self.started:
            return
        index = data.draw(st.integers(0, len(self.started) - 1))
        shard, attempt, step = self.started[index]
        self.out.dies = True
        with pytest.raises(StorageError, match=_DIES):
            self.ledgers[0].commit(checksums(self.plan.shard(shard)), attempt, started=float(step))
        self.out.dies = False
        if not again:
            self.started.pop(index)

    @rule(lag=st.integers(0, COMMIT_TAKES))
    def listings_lag(self, lag: int) -> None:
        self._tick()
        self.out.lag = lag

    @rule()
    def time_passes(self) -> None:
        self.out.step += 10
        self.started = []

    @rule()
    def orphans_are_deleted(self) -> None:
        """By another machine, which sees the same lagging listings and knows of no attempt at work."""
        report = verify(
            self.out,
            self.plan,
            ["checksum"],
            delete_orphans=True,
            orphan_age_s=2 * COMMIT_TAKES + 0.5,
            nobody_at_work=True,
        )
        # a lagging listing may make published results look as if manifests were gone; nothing is deleted for it
        assert self.out.lag or report.problems == []
        for orphan in report.orphans:
            if orphan.deleted:
                assert orphan.age_s is not None
                assert orphan.age_s > 2 * COMMIT_TAKES

    @invariant()
    def what_can_be_read_is_whole_shards_each_once(self) -> None:
        """Every row of the shards that a listing shows, in the order of the plan, with its arrays; and no other row."""
        shown = self.ledgers[1].committed()
        assert set(shown) <= set(self.winners)
        if not self.out.lag:
            assert set(shown) == set(self.winners)
        rows = list(_readable(self.ledgers[1]))
        expected = [name for shard in sorted(shown) for name in IMAGES[2 * shard : 2 * shard + 2]]
        assert [name for name, _, _ in rows] == expected
        for name, value, vector in rows:
            assert value == (None if name == BAD else value_of(name))
            assert vector == (None if name == BAD else [np.float32(value_of(name))] * 3)

    @invariant()
    def results_are_published_from_all_shards_or_not_at_all(self) -> None:
        if len(self.ledgers[0].committed()) < SHARDS:
            with pytest.raises(RunError, match="nothing can be published yet"):
                publish(self.out, self.plan, self.stage)
        else:
            assert publish(self.out, self.plan, self.stage)["images"] == len(IMAGES)


def _readable(ledger: Ledger) -> Iterator[tuple[str, float | None, list[Any] | None]]:
    """Image, value and vector of every row that a reader finds."""
    manifests = list(ledger.manifests())
    for manifest in manifests:
        # not by the package's own reader
        body, *archives = [ledger.out.read(file["name"]) for file in manifest["files"]]
        held = np.load(io.BytesIO(archives[0])) if archives else {}
        for number, row in enumerate(pq.read_table(io.BytesIO(body)).to_pylist()):
            member = f"{number:07d}.vector"
            yield row["image_id"], row["value"], held[member].tolist() if member in held else None


@pytest.mark.slow
class TestLedgerMachine(LedgerMachine.TestCase):  # type: ignore[misc, name-defined]
    settings = settings(max_examples=20, stateful_step_count=25, deadline=None)


@pytest.mark.soak
class TestLedgerMachineForLong(LedgerMachine.TestCase):  # type: ignore[misc, name-defined]
    settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
