"""Bookkeeping grows with shards and not with their square: counted in calls to the store, and not in seconds."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pytest

from simsam_batch.engines.contract import ShardReport
from simsam_batch.engines.inline import InlineEngine
from simsam_batch.runs.execute import ExecuteOptions, execute
from simsam_batch.runs.ledger import Ledger
from simsam_batch.runs.plan import Plan, load_plan, make_plan
from simsam_batch.runs.publish import publish
from simsam_batch.runs.schema import ROW_FIELDS, Needs, Shard, ShardOutput, Worker
from simsam_batch.runs.status import stage_status
from simsam_batch.scores.overlap import ObjectScores, OverlapCounts
from simsam_batch.scores.semantic import SemanticScores
from simsam_batch.storage import Folder
from simsam_batch.storage.parquet import ParquetReader

SHARD_SIZE = 3


class CountedFolder(Folder):
    """A folder that notes each call to it, as what was done to which name."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.calls: list[tuple[str, str]] = []

    def count(self, action: str) -> int:
        return sum(done == action for done, _ in self.calls)

    def list(self, prefix: str = "") -> Any:
        self.calls.append(("list", prefix))
        return super().list(prefix)

    def read(self, name: str) -> bytes:
        self.calls.append(("read", name))
        return super().read(name)

    def open(self, name: str) -> BinaryIO:
        self.calls.append(("open", name))
        return super().open(name)

    def create(self, name: str, data: bytes) -> bool:
        self.calls.append(("create", name))
        return super().create(name, data)

    def replace(self, name: str, data: bytes) -> None:
        self.calls.append(("replace", name))
        super().replace(name, data)


class RowsFold:
    """Counts rows."""

    def zero(self) -> dict[str, Any]:
        return {"rows": 0}

    def merge(self, a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
        return {"rows": a["rows"] + b["rows"]}

    def result(self, s: dict[str, Any]) -> dict[str, Any]:
        return s


@dataclass(frozen=True)
class NullStage:
    """Every image is fine, and nothing is computed."""

    name: str = "null"
    unit: str = "image_id"
    reads: tuple[str, ...] = ()
    needs: Needs = field(default_factory=Needs)
    schema: pa.Schema = field(default_factory=lambda: pa.schema(ROW_FIELDS))
    settings: dict[str, Any] = field(default_factory=dict)
    unrecorded: dict[str, Any] = field(default_factory=dict)
    resolved: dict[str, Any] = field(default_factory=dict)
    fold: RowsFold = field(default_factory=RowsFold)

    def make_worker(self, beat: Callable[[], None]) -> Worker:
        return NullWorker()

    def state_of_failed(self, row: Mapping[str, Any]) -> None:
        return None


class NullWorker:
    def run(self, shards: Iterator[Shard]) -> Iterator[ShardOutput]:
        for shard in shards:
            rows = [{"image_id": r["image_id"], "uri": r["uri"], "status": "ok"} for r in shard.records.to_pylist()]
            yield ShardOutput(shard.number, pa.Table.from_pylist(rows, NullStage().schema), [], {"rows": len(rows)})


def planned(shards: int) -> Plan:
    names = [f"{number:05d}.jpg" for number in range(SHARD_SIZE * shards)]
    folder = CountedFolder(f"memory://scale/{uuid.uuid4().hex}")
    return make_plan(folder, pa.table({"image_id": names, "uri": names}), shard_size=SHARD_SIZE, source={})


def executed(plan: Plan) -> list[ShardReport]:
    reports: list[ShardReport] = []
    execute(plan.out, plan, NullStage(), InlineEngine(), ExecuteOptions(), reports.append)
    return reports


def calls_of(plan: Plan, action: Callable[[], object]) -> Counter[str]:
    """How often each kind of call was made, with the folder of what it was made to."""
    folder = plan.out
    assert isinstance(folder, CountedFolder)
    folder.calls.clear()
    action()
    return Counter(f"{done} {name.rpartition('/')[0] or name}" for done, name in folder.calls)


@pytest.fixture(scope="module")
def finished() -> dict[int, Plan]:
    """Finished runs of so many shards."""
    plans = {shards: planned(shards) for shards in (20, 60)}
    for shards, plan in plans.items():
        assert sum(report.images for report in executed(plan)) == SHARD_SIZE * shards
    return plans


def test_executing_makes_the_same_few_calls_for_every_shard() -> None:
    for shards in (10, 40):
        plan = planned(shards)
        calls = calls_of(plan, lambda plan=plan: executed(plan))
        assert {name: calls.pop(f"create null/{name}") for name in ("attempts", "data", "manifests")} == {
            "attempts": shards,
            "data": shards,
            "manifests": shards,
        }
        # whether another driver has committed it
        assert calls.pop("read null/manifests", 0) <= shards
        # whether the stage is still the one that was begun: at the start, before the data and before the manifest
        assert calls.pop("read null") <= 3 * shards + 2
        # whether manifests lie there already, and what is pending, before and after
        assert calls.pop("list null") == 3
        # the plan, and what the run and the stage are
        assert calls.pop("open plan") == 1
        assert sum(calls.values()) <= 4


def test_what_is_pending_costs_one_listing(finished: dict[int, Plan]) -> None:
    for shards, plan in finished.items():
        assert calls_of(plan, lambda p=plan, n=shards: Ledger(p.out, "null").pending(n + 1)) == {"list null": 1}


def test_resuming_a_finished_run_reads_a_few_files_and_lists_once(finished: dict[int, Plan]) -> None:
    for plan in finished.values():

        def resume(out: Folder = plan.out) -> None:
            again = load_plan(out)
            assert again is not None
            assert executed(again) == []

        calls = calls_of(plan, resume)
        # the plan may have grown, which one look tells; and the run may be of an earlier release
        assert calls == {"read run.json": 2, "read plan": 1, "read null": 1, "list null": 1}


def test_publishing_lists_once_and_reads_each_file_once(finished: dict[int, Plan]) -> None:
    for shards, plan in finished.items():
        calls = calls_of(plan, lambda p=plan: publish(p.out, p, NullStage()))
        assert calls == {
            "read null": 1,
            "list null": 1,
            "read null/manifests": shards,
            "read null/data": shards,
            # whether fewer images were published before, and which are gone
            "read results": 1,
            "list plan": 1,
            "replace results/null": 1,
            "replace results": 1,
        }
        folder = plan.out
        assert isinstance(folder, CountedFolder)
        assert max(Counter(folder.calls).values()) == 1


def test_status_reads_no_manifest_twice(finished: dict[int, Plan]) -> None:
    for shards, plan in finished.items():
        calls = calls_of(plan, lambda p=plan: stage_status(p.out, "null"))
        assert calls.pop("read null/manifests") == shards
        # manifests and starts, whatever their number
        assert calls.pop("list null") <= 3
        # stage.json, which names the plan, and whether that has grown
        assert (calls.pop("read null"), calls.pop("read plan")) == (1, 1)
        assert set(calls) <= {"read results"}


def test_all_shards_in_turn_read_the_plan_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simsam_batch.runs.plan_table.ROWS_PER_GROUP", 30)
    plan = planned(200)
    groups: list[int] = []
    real = ParquetReader.read_row_group

    def noted(file: ParquetReader, group: int) -> pa.Table:
        groups.append(group)
        return real(file, group)

    monkeypatch.setattr(ParquetReader, "read_row_group", noted)
    assert [plan.shard(number).number for number in range(200)] == list(range(200))
    # 600 images in groups of 30
    assert groups == list(range(20))


def test_sums_of_object_scores_do_not_grow_with_images() -> None:
    scores, rng = ObjectScores(), np.random.default_rng(0)
    histograms = rng.integers(0, 50, (2, 256))
    sizes = []
    state = scores.zero()
    for number in range(4000):
        both = int(rng.integers(0, 10_000))
        counts = OverlapCounts(both, 10_000, int(rng.integers(0, 20_000)), 20_000)
        state = scores.merge(state, scores.of_image(counts, histograms if number % 100 == 0 else None))
        if number in (1999, 3999):
            sizes.append(len(json.dumps(state)))
    # two histograms of 1001 values and two curves of 256 entries, whatever was merged
    assert len(state["iou_bins"]) <= 1001
    assert state["images_scored"] == 4000
    assert sizes[1] < 1.3 * sizes[0] < 60_000


def test_sums_of_semantic_scores_do_not_grow_with_images() -> None:
    scores, rng = SemanticScores(["sky", "sea", "land"]), np.random.default_rng(0)
    truth = np.array([[0, 1, 2]])
    state, sizes = scores.zero(), []
    for number in range(2000):
        state = scores.merge(state, scores.of_image(rng.integers(0, 3, (1, 3)), truth))
        if number in (999, 1999):
            sizes.append(len(json.dumps(state)))
    assert state["images_scored"] == 2000
    # nine counts of at most four digits, which twice the images make one digit longer at most
    assert sizes[1] <= sizes[0] + 9 + 1


PLANNING = """
import sys
from pathlib import Path
import pyarrow as pa
from simsam_batch.runs.plan import make_plan
from simsam_batch.storage import Folder

def status(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(key))

def catalog(images):
    names = [f"photographs/{number // 1000:05d}/{number:09d}.jpg" for number in range(images)]
    uris = pa.array([f"s3://bucket/{name}" for name in names])
    return pa.table({"image_id": pa.array(names), "uri": uris, "size": list(range(images))})

# what libraries set up once
make_plan(Folder(sys.argv[1] + "/small"), catalog(1000), shard_size=250, source={})
table = catalog(200_000)
# Linux, proc(5): the peak becomes what is resident now
Path("/proc/self/clear_refs").write_text("5")
before = status("VmHWM")
make_plan(Folder(sys.argv[1] + "/large"), table, shard_size=250, source={})
print((status("VmHWM") - before) / 200_000)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells the peak of resident memory")
def test_planning_takes_at_most_200_bytes_an_image_above_the_columns(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PLANNING, str(tmp_path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) <= 200
