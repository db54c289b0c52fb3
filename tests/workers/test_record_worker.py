"""The worker that all others are made of: rows in order, failures and rows that come later, one loop for all stages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from simsam_batch.errors import ImageError, RunError
from simsam_batch.runs.ledger import Ledger
from simsam_batch.runs.plan import make_plan
from simsam_batch.runs.schema import File, Needs, Shard, ShardOutput, row_fields
from simsam_batch.settings import RunSettings
from simsam_batch.storage import Folder
from simsam_batch.workers import records
from simsam_batch.workers.records import EarlierStage, Item, RecordWorker, Results, Row


class Sums:
    def zero(self) -> dict[str, Any]:
        return {"order": []}

    def merge(self, a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
        return {"order": [*a["order"], *b["order"]]}

    def result(self, s: dict[str, Any]) -> dict[str, Any]:
        return s


@dataclass(frozen=True)
class PairStage:
    options: RunSettings = field(default_factory=RunSettings)
    name: str = "pairs"
    unit: str = "pair_id"
    reads: tuple[str, ...] = ()
    plan: None = None
    needs: Needs = field(default_factory=Needs)
    settings: dict[str, Any] = field(default_factory=dict)
    unrecorded: dict[str, Any] = field(default_factory=dict)
    resolved: dict[str, Any] = field(default_factory=dict)
    fold: Sums = field(default_factory=Sums)

    @property
    def schema(self) -> pa.Schema:
        return pa.schema([*row_fields(self.unit), pa.field("value", pa.int32())])


class PairWorker(RecordWorker[int]):
    """``bad`` cannot be read; ``late`` comes later, and so do all after it until two wait; ``broken`` is a defect."""

    may_wait = 1

    def load(self, item: Item) -> int:
        kind, number = item.record["pair_id"].split("-")
        if kind == "bad":
            raise ImageError("not_found", "there is nothing", "read")
        if kind == "broken":
            raise ValueError("a defect")
        return int(number)

    def take(self, item: Item, loaded: int, results: Results) -> None:
        row = Row({"status": "ok", "value": loaded}, {"v": np.array([loaded])}, {"order": [loaded]})
        if item.record["pair_id"].startswith("late"):
            results.put(item.row, lambda: row)
            results.settle(self.may_wait, self._beat)
        else:
            results.put(item.row, row)


def shard(number: int, *ids: str) -> Shard:
    return Shard(number, pa.table({"pair_id": list(ids)}))


def worker(beat: Callable[[], None] = lambda: None) -> PairWorker:
    return PairWorker(PairStage(), beat)  # type: ignore[arg-type]


def test_rows_are_in_the_order_of_the_records_whatever_comes_later() -> None:
    beats: list[int] = []
    outputs = list(worker(lambda: beats.append(1)).run(iter([shard(0, "late-1", "a-2", "late-3", "bad-4", "a-5")])))
    (output,) = outputs
    assert output.rows["pair_id"].to_pylist() == ["late-1", "a-2", "late-3", "bad-4", "a-5"]
    assert output.rows["value"].to_pylist() == [1, 2, 3, None, 5]
    assert output.rows["status"].to_pylist() == ["ok", "ok", "ok", "failed", "ok"]
    assert output.rows["error"].to_pylist()[3] == "there is nothing"
    assert output.statistics == {"order": [1, 2, 3, 5]}
    assert [sorted(each) for each in output.attachments] == [["v"], ["v"], ["v"], [], ["v"]]
    assert len(beats) >= 5


def test_shards_come_out_one_by_one_in_their_order() -> None:
    shards = [shard(7, "a-1"), shard(3, "a-2", "late-3"), shard(5, "bad-0")]
    assert [output.number for output in worker().run(iter(shards))] == [7, 3, 5]


def test_a_defect_is_no_row() -> None:
    with pytest.raises(ValueError, match="a defect"):
        list(worker().run(iter([shard(0, "a-1", "broken-2")])))


def test_the_worker_goes_on_after_an_attempt_that_failed() -> None:
    one = worker()
    with pytest.raises(ValueError, match="a defect"):
        list(one.run(iter([shard(0, "broken-1")])))
    (output,) = one.run(iter([shard(0, "a-1")]))
    assert output.rows["value"].to_pylist() == [1]


def test_a_shard_that_ends_early_is_told() -> None:
    class Cut(PairWorker):
        def items(self, shards: Any) -> Any:
            yield next(super().items(shards))

    with pytest.raises(RunError, match="shard 0 ended before its last record"):
        list(Cut(PairStage(), lambda: None).run(iter([shard(0, "a-1", "a-2")])))  # type: ignore[arg-type]


def test_what_a_row_brings_may_be_a_file() -> None:
    results = Results(shard(0, "a-1"))
    results.put(0, Row({"status": "ok"}, {"picture": File(b"png", "png")}))
    assert results.attachments[0] == {"picture": File(b"png", "png")}


def test_records_stand_beside_what_an_earlier_stage_has_of_them(tmp_path: Path) -> None:
    out, stage = Folder(str(tmp_path)), PairStage(unit="image_id")
    images = pa.table({"image_id": ["a", "b", "c"], "uri": ["/a", "/b", "/c"]})
    plan = make_plan(out, images, shard_size=2, source={})
    ledger = Ledger(out, stage.name)
    ledger.begin(stage, plan)  # type: ignore[arg-type]
    for number, values in enumerate([[5, 6], [7]]):
        rows = [
            {"image_id": record["image_id"], "uri": record["uri"], "status": "ok", "value": value}
            for record, value in zip(plan.shard(number).records.to_pylist(), values, strict=True)
        ]
        output = ShardOutput(number, pa.Table.from_pylist(rows, stage.schema), [], {})
        ledger.commit(output, ledger.start(number), started=0.0)
    earlier = EarlierStage(out, stage.name)

    def beside(*shards: Shard) -> list[tuple[str, int, int]]:
        items = earlier.items(iter(shards), lambda there: there.rows(["value"])["value"].to_pylist())
        return [(item.record["image_id"], item.row, item.beside) for item in items]

    assert beside(plan.shard(0), plan.shard(1)) == [("a", 0, 5), ("b", 1, 6), ("c", 0, 7)]
    # one record of a shard alone, as in quarantine, has its own and not the first
    assert beside(Shard(0, plan.shard(0).records.slice(1))) == [("b", 0, 6)]
    with pytest.raises(RunError, match="shard 1 of the stage pairs lacks the plan's image 'a'"):
        beside(Shard(1, plan.shard(0).records))


def test_rows_that_hold_much_are_asked_for_early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "_HELD_BYTES", 100)
    results, asked = Results(shard(0, "a-1", "b-1", "c-1", "d-1")), []

    def later(name: str) -> Callable[[], Row]:
        def row() -> Row:
            asked.append(name)
            return Row({"status": name})

        return row

    for place, name in enumerate("abcd"):
        results.put(place, later(name), held=40)
        results.settle(3, lambda: None)
    # after the third, 120 bytes were held
    assert asked == ["a", "b"]
    results.settle(0, lambda: None)
    assert asked == ["a", "b", "c", "d"]
