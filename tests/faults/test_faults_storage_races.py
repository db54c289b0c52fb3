"""Eight writers of one manifest at the same moment, as threads and as processes."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from small_run import IMAGES, ChecksumStage, catalog, checksums

from simsam_batch.runs.ledger import Ledger
from simsam_batch.runs.plan import Plan, load_plan, make_plan
from simsam_batch.runs.schema import ShardOutput
from simsam_batch.runs.verify import verify
from simsam_batch.storage import Folder

WRITERS = 8


def _begun(url: str) -> Plan:
    out = Folder(url)
    plan = make_plan(out, catalog(), shard_size=2, source={"kind": "test"})
    Ledger(out, "checksum").begin(ChecksumStage(), plan)
    return plan


def _of_writer(plan: Plan, writer: int) -> ShardOutput:
    """Output of the first shard that says in its sum and arrays who made it."""
    given = checksums(plan.shard(0))
    column = given.rows.schema.get_field_index("value")
    rows = given.rows.set_column(column, "value", pa.array([float(writer)] * 2))
    arrays = [{"vector": np.full(3, writer, np.float32)}] * 2
    return ShardOutput(0, rows, arrays, {"images": 2, "sum": 2.0 * writer})


def _commit(url: str, writer: int, together: Any) -> tuple[int, bool, int]:
    """Start and, when all writers are ready, commit: this attempt, whether it won, and whose is in force."""
    plan = load_plan(Folder(url))
    assert plan is not None
    ledger = Ledger(plan.out, "checksum")
    attempt, output = ledger.start(0), _of_writer(plan, writer)
    together.wait(timeout=60)
    done = ledger.commit(output, attempt, started=0.0)
    return attempt, done.ours, done.attempt


def _check(plan: Plan, outcomes: Sequence[tuple[int, bool, int]]) -> None:
    """One writer won, all know which, its content is whole, and the others left orphans that nothing reads."""
    assert sorted(attempt for attempt, _, _ in outcomes) == list(range(1, WRITERS + 1))
    [winner] = [attempt for attempt, ours, _ in outcomes if ours]
    assert {in_force for _, _, in_force in outcomes} == {winner}
    manifest = Ledger(plan.out, "checksum").manifest(0, 0)
    assert manifest["attempt"] == winner
    report = verify(plan.out, plan)
    # verify compares the rows and arrays with the digest of the winner's manifest
    assert report.problems == []
    assert len(report.orphans) == 2 * (WRITERS - 1)
    assert not any(f"0000000.{winner}." in orphan.name for orphan in report.orphans)


def test_of_eight_threads_at_one_manifest_exactly_one_wins(out_url: str) -> None:
    plan = _begun(out_url)
    together = threading.Barrier(WRITERS)
    with ThreadPoolExecutor(WRITERS) as pool:
        outcomes = list(pool.map(lambda writer: _commit(out_url, writer, together), range(WRITERS)))
    _check(plan, outcomes)


def _remember(barrier: Any) -> None:
    globals()["_all_processes"] = barrier


def _commit_in_process(url: str, process: int) -> list[tuple[int, bool, int]]:
    """Two of the writers, in threads of one process."""
    with ThreadPoolExecutor(2) as pool:
        writers = [2 * process, 2 * process + 1]
        return list(pool.map(lambda writer: _commit(url, writer, globals()["_all_processes"]), writers))


@pytest.mark.slow
def test_of_eight_writers_in_four_processes_exactly_one_wins(tmp_path: Path, s3_url: str) -> None:
    context = multiprocessing.get_context("spawn")
    processes = WRITERS // 2
    with context.Pool(processes, _remember, [context.Barrier(WRITERS)]) as pool:
        for url in (str(tmp_path / "out"), s3_url):
            plan = _begun(url)
            pairs = pool.starmap(_commit_in_process, [(url, process) for process in range(processes)], chunksize=1)
            _check(plan, [outcome for pair in pairs for outcome in pair])


def test_eight_planners_agree_on_one_plan(out_url: str) -> None:
    together = threading.Barrier(WRITERS)

    def make(writer: int) -> Plan:
        together.wait(timeout=60)
        return make_plan(Folder(out_url), catalog(), shard_size=1 + writer % 3, source={"kind": "test"})

    with ThreadPoolExecutor(WRITERS) as pool:
        plans = list(pool.map(make, range(WRITERS)))
    assert len({plan.digest for plan in plans}) == 1
    shards = [plans[0].shard(number).records["image_id"].to_pylist() for number in range(plans[0].shards)]
    assert [name for shard in shards for name in shard] == IMAGES
