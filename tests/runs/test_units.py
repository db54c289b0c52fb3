"""Stages about other records than the run's images, plans that grow, and stages that read others."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_stage import SmallStage, SumFold, catalog, output, small_plan

from simsam_batch.engines.contract import ShardReport, Task
from simsam_batch.engines.inline import InlineEngine
from simsam_batch.errors import RunError, SettingsError
from simsam_batch.runs.execute import ExecuteOptions, execute
from simsam_batch.runs.ledger import Ledger
from simsam_batch.runs.plan import Plan, append_to_plan, load_plan, make_plan_of, row_numbers
from simsam_batch.runs.publish import publish
from simsam_batch.runs.reading import StageRows
from simsam_batch.runs.retry import failed_shards
from simsam_batch.runs.schema import Needs, Shard, ShardOutput, row_fields
from simsam_batch.runs.status import stage_status
from simsam_batch.runs.verify import verify
from simsam_batch.storage import Folder
from simsam_batch.telling.verify import verify_lines

OPTIONS = ExecuteOptions(pause_seconds=0.01)


@dataclass(frozen=True)
class LengthStage:
    """The length of every record's name; a name that ends in ``?`` fails, the first time only if it ends in ``??``."""

    folder: str
    unit: str = "pair_id"
    name: str = "lengths"
    reads: tuple[str, ...] = ()
    needs: Needs = field(default_factory=Needs)
    settings: dict[str, Any] = field(default_factory=dict)
    unrecorded: dict[str, Any] = field(default_factory=dict)
    resolved: dict[str, Any] = field(default_factory=dict)
    fold: SumFold = field(default_factory=SumFold)

    @property
    def schema(self) -> pa.Schema:
        return pa.schema([*row_fields(self.unit), pa.field("length", pa.int64())])

    def make_worker(self, beat: Callable[[], None]) -> LengthWorker:
        return LengthWorker(self)

    def state_of_failed(self, row: Mapping[str, Any]) -> None:
        return None


class LengthWorker:
    def __init__(self, stage: LengthStage) -> None:
        self._stage = stage

    def run(self, shards: Iterator[Shard]) -> Iterator[ShardOutput]:
        for shard in shards:
            rows = [self._row(record) for record in shard.records.to_pylist()]
            good = [row["length"] for row in rows if row["status"] == "ok"]
            statistics = {"rows": len(good), "sum": float(sum(good)), "order": [shard.number]}
            yield ShardOutput(shard.number, pa.Table.from_pylist(rows, self._stage.schema), [], statistics)

    def _row(self, record: dict[str, Any]) -> dict[str, Any]:
        name = record[self._stage.unit]
        of_image = {"uri": record["uri"]} if "uri" in record else {}
        once = Path(self._stage.folder) / f"tried.{name}"
        fails = name.endswith("?") and not (name.endswith("??") and once.exists())
        once.touch()
        if fails:
            failed = {"status": "failed", "error_type": "odd", "error": "a question", "failed_step": "compute"}
            return {self._stage.unit: name, **of_image, **failed}
        return {self._stage.unit: name, **of_image, "status": "ok", "length": len(name)}


def pairs(*names: str) -> pa.Table:
    return pa.table({"pair_id": names, "left": [name[:1] for name in names]})


def run(plan: Plan, stage: LengthStage, **more: Any) -> list[ShardReport]:
    reports: list[ShardReport] = []
    execute(plan.out, plan, stage, InlineEngine(), OPTIONS, reports.append, **more)
    return reports


def test_a_stage_may_be_about_other_records_than_the_images(tmp_path: Path) -> None:
    out = Folder(str(tmp_path / "out"))
    images = small_plan(out)
    plan = make_plan_of(out, pairs("a-b", "b-cd", "c-?", "d-e??"), unit="pair_id", shard_size=3)
    assert (plan.unit, plan.records, plan.shards) == ("pair_id", 4, 2)
    assert load_plan(out) == images != plan
    stage = LengthStage(str(tmp_path))
    failures = [failure for report in run(plan, stage) for failure in report.failures]
    assert sorted(failures) == [("c-?", "a question"), ("d-e??", "a question")]
    result = publish(out, plan, stage)
    assert (result["images"], result["failed"], result["plan"]) == (4, 2, plan.digest)
    rows = StageRows(out, "lengths")
    assert (rows.unit, rows.plan) == ("pair_id", plan.digest)
    assert [(row["pair_id"], row["length"]) for _, row in rows.each()] == [
        ("a-b", 3),
        ("b-cd", 4),
        ("c-?", None),
        ("d-e??", None),
    ]
    # what failed is named by the unit, also in the manifest, and can be tried again
    ledger = Ledger(out, "lengths")
    assert [entry["pair_id"] for manifest in ledger.manifests() for entry in manifest["failures"]] == ["c-?", "d-e??"]
    again, count = failed_shards(ledger)
    assert (again, count) == ({0: 0, 1: 0}, 2)
    run(plan, stage, again=again)
    assert publish(out, plan, stage)["failed"] == 1
    status = stage_status(out, "lengths")
    assert (status.images, status.shards, status.done_images, status.failed) == (4, 2, 4, 1)
    report = verify(out, images)
    assert (report.problems, [o.name for o in report.orphans if o.name.startswith("plan/")]) == ([], [])
    assert "lengths: 2 of 2 shards; 4 pairs, 1 of them failed" in "\n".join(verify_lines(report))


def test_all_plans_that_stages_name_are_verified_and_kept(tmp_path: Path) -> None:
    out = Folder(str(tmp_path))
    images = small_plan(out)
    plan = make_plan_of(out, pairs("a", "b"), unit="pair_id", shard_size=1)
    unused = make_plan_of(out, pairs("c"), unit="pair_id", shard_size=1)
    Ledger(out, "lengths").begin(LengthStage(str(tmp_path)), plan)
    report = verify(out, images, delete_orphans=True, orphan_age_s=-1.0)
    assert [(orphan.name, orphan.deleted) for orphan in report.orphans] == [(f"plan/{unused.digest}.parquet", True)]
    pq.write_table(pairs("a", "z"), tmp_path / f"plan/{plan.digest}.parquet")
    [problem] = verify(out, images).problems
    assert problem.where == f"plan/{plan.digest}.parquet"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pairs("a", "b", "a"), "pair_id must be unique, but more than one record has 'a'"),
        (pa.table({"pair_id": ["a", None]}), "needs a value of pair_id for every record"),
        (pa.table({"other": ["a"]}), "needs a value of pair_id for every record"),
        (pairs(), "there are no records to plan for"),
    ],
)
def test_a_table_without_proper_names_makes_no_plan(tmp_path: Path, table: pa.Table, message: str) -> None:
    out = Folder(str(tmp_path))
    with pytest.raises(SettingsError, match=message):
        make_plan_of(out, table, unit="pair_id", shard_size=2)
    assert out.list() == []


def test_the_same_table_makes_the_same_plan_which_travels(out_url: str) -> None:
    out = Folder(out_url)
    plan = make_plan_of(out, pairs("a", "b", "c"), unit="pair_id", shard_size=2)
    assert make_plan_of(Folder(out_url), pairs("a", "b", "c"), unit="pair_id", shard_size=2) == plan
    assert make_plan_of(out, pairs("a", "b", "c"), unit="pair_id", shard_size=3) != plan
    assert make_plan_of(out, pairs("a", "b", "c"), unit="left", shard_size=2) != plan
    assert plan.shard(1).records.to_pylist() == [{"pair_id": "c", "left": "c", "shard": 1}]
    assert row_numbers(plan, ["c", "a"]) == [2, 0]
    with pytest.raises(SettingsError, match=r"pair_id: .* has no record 'z'"):
        row_numbers(plan, ["z"])


def test_a_stage_is_not_begun_with_a_plan_of_another_unit(tmp_path: Path) -> None:
    plan = make_plan_of(Folder(str(tmp_path)), pairs("a"), unit="pair_id", shard_size=1)
    with pytest.raises(RunError, match="the stage small is about image_id, and was given a plan of pair_id"):
        Ledger(plan.out, "small").begin(SmallStage(), plan)


def test_a_plan_grows_and_what_is_there_keeps_its_numbers(out_url: str) -> None:
    out = Folder(out_url)
    plan = make_plan_of(out, pairs("a", "b", "c"), unit="pair_id", shard_size=2)
    grown = append_to_plan(append_to_plan(plan, pairs("d", "e", "f", "g"), 3), pairs("h"), 5)
    assert (grown.digest, grown.records, grown.shards) == (plan.digest, 8, 5)
    names = [grown.shard(number).records["pair_id"].to_pylist() for number in range(5)]
    assert names == [["a", "b"], ["c"], ["d", "e", "f"], ["g"], ["h"]]
    assert [grown.shard(number).records["shard"].to_pylist()[0] for number in range(5)] == [0, 1, 2, 3, 4]
    assert [grown.first_record_of(shard) for shard in range(6)] == [0, 2, 3, 6, 7, 8]
    assert [grown.records_of(shard) for shard in range(5)] == [2, 1, 3, 1, 1]
    assert [grown.place_of(record) for record in range(8)] == [
        (0, 0), (0, 1), (1, 0), (2, 0), (2, 1), (2, 2), (3, 0), (4, 0),
    ]  # fmt: skip
    assert row_numbers(grown, ["h", "a", "e"]) == [7, 0, 4]
    # whoever makes or loads it afterwards has all of it
    assert make_plan_of(out, pairs("a", "b", "c"), unit="pair_id", shard_size=2) == grown
    with pytest.raises(RunError, match="there is no shard 5"):
        grown.shard(5)


def test_the_plan_of_the_images_grows_likewise(tmp_path: Path) -> None:
    plan = small_plan(Folder(str(tmp_path)), images=5, shard_size=2)
    more = catalog(8).slice(5)
    grown = append_to_plan(plan, more, 2)
    assert load_plan(plan.out) == grown
    assert grown.source == plan.source
    assert grown.shard(4).records["image_id"].to_pylist() == ["folder/000007.jpg"]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 12), st.integers(1, 5)), min_size=1, max_size=4))
def test_every_record_has_one_place_however_a_plan_grew(parts: list[tuple[int, int]]) -> None:
    out = Folder(f"memory://grown/{'-'.join(map(str, parts))}")
    names = iter(f"{number:03d}" for number in range(100))
    tables = [pa.table({"n": [next(names) for _ in range(records)]}) for records, _ in parts]
    plan = make_plan_of(out, tables[0], unit="n", shard_size=parts[0][1])
    for table, (_, size) in list(zip(tables, parts, strict=True))[len(plan.parts) :]:
        plan = append_to_plan(plan, table, size)
    seen = [(shard, name) for shard in range(plan.shards) for name in plan.shard(shard).records["n"].to_pylist()]
    assert [name for _, name in seen] == [f"{number:03d}" for number in range(plan.records)]
    for record, (shard, _) in enumerate(seen):
        assert plan.place_of(record) == (shard, record - plan.first_record_of(shard))
    assert plan.first_record_of(plan.shards) == plan.records == sum(records for records, _ in parts)


def test_names_are_unique_over_all_parts(tmp_path: Path) -> None:
    out = Folder(str(tmp_path))
    plan = append_to_plan(make_plan_of(out, pairs("a", "b"), unit="pair_id", shard_size=2), pairs("c"), 2)
    for table in (pairs("d", "a"), pairs("c"), pairs("d", "d")):
        with pytest.raises(SettingsError, match="pair_id must be unique"):
            append_to_plan(plan, table, 2)
    assert make_plan_of(out, pairs("a", "b"), unit="pair_id", shard_size=2) == plan


def test_of_two_drivers_one_appends_and_the_other_is_told(out_url: str) -> None:
    plan = make_plan_of(Folder(out_url), pairs("a"), unit="pair_id", shard_size=1)

    def append(name: str) -> str:
        try:
            return append_to_plan(plan, pairs(name), 1).shard(1).records["pair_id"][0].as_py()
        except RunError as error:
            return str(error)

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(append, ["b", "c", "d", "e"]))
    assert sum("has grown by other records meanwhile" in answer for answer in answers) == 3
    won = [answer for answer in answers if len(answer) == 1]
    # the same records again, as after a reply that was lost
    assert append_to_plan(plan, pairs(won[0]), 1).records == 2


@pytest.mark.parametrize(
    "change", [{"first_shard": 0}, {"first_image": 9}, {"shards": 7}, {"table": "../x"}, {"images": "3"}]
)
def test_a_damaged_part_is_named(tmp_path: Path, change: dict[str, Any]) -> None:
    plan = make_plan_of(Folder(str(tmp_path)), pairs("a", "b"), unit="pair_id", shard_size=1)
    append_to_plan(plan, pairs("c", "d", "e"), 2)
    path = tmp_path / f"plan/{plan.digest}.1.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | change))
    with pytest.raises(RunError, match=rf"{plan.digest}\.1\.json is damaged"):
        make_plan_of(plan.out, pairs("a", "b"), unit="pair_id", shard_size=1)


def test_after_growth_the_same_stage_does_only_the_new_shards_and_publishes_all(tmp_path: Path) -> None:
    out = Folder(str(tmp_path / "out"))
    images = small_plan(out)
    plan = make_plan_of(out, pairs("a", "bb", "ccc"), unit="pair_id", shard_size=2)
    stage = LengthStage(str(tmp_path))
    assert sorted(report.shard for report in run(plan, stage)) == [0, 1]
    publish(out, plan, stage)
    grown = append_to_plan(plan, pairs("dddd", "eeeee"), 1)
    # not yet computed is no damage, and what was published can be read meanwhile
    report = verify(out, images)
    assert (report.problems, report.orphans) == ([], [])
    assert [(s.shards, s.committed, s.pending) for s in report.stages] == [(4, 2, 2)]
    assert len(StageRows(out, "lengths")) == 3
    status = stage_status(out, "lengths")
    assert (status.shards, status.images, status.done_images, status.pending_shards) == (4, 5, 3, 2)
    with pytest.raises(RunError, match="2 of 4 shards are not committed"):
        publish(out, grown, stage)
    assert sorted(report.shard for report in run(grown, stage)) == [2, 3]
    assert not verify(out, images).damaged
    assert publish(out, grown, stage)["metrics"] == {"mean": 3.0, "order": [0, 1, 2, 3]}
    assert [(number, row["length"]) for number, row in StageRows(out, "lengths").each()] == list(enumerate(range(1, 6)))
    report = verify(out, images)
    assert (report.problems, report.orphans, report.foreign) == ([], [], [])
    # so is another table in place of one that was appended
    appended = f"plan/{grown.parts[1].table}.parquet"
    table = pq.read_table(f"{out.url}/{appended}")
    renamed = table.set_column(1, "left", pa.array(["d", "z"]))
    pq.write_table(renamed, f"{out.url}/{appended}")
    assert [problem.where for problem in verify(out, images).problems] == [appended]
    pq.write_table(table, f"{out.url}/{appended}")
    # a shard of the first part that is lost is damage, as ever
    out.delete(["lengths/manifests/0000000.0.json"])
    assert "1 shards have no manifest any more" in verify(out, images).problems[0].what


# What a stage reads, and what it needs.


def finished(out: Folder, values: tuple[float, ...] = (1.0, 2.0)) -> tuple[Plan, dict[str, Any]]:
    plan = small_plan(out, images=2)
    ledger = Ledger(out, "small")
    ledger.begin(SmallStage(), plan)
    ledger.commit(output(plan, 0, values), ledger.start(0), started=0.0)
    return plan, publish(out, plan, SmallStage())


def test_a_stage_records_the_results_that_it_reads(tmp_path: Path) -> None:
    plan, result = finished(Folder(str(tmp_path)))
    reader = LengthStage(str(tmp_path), unit="image_id", reads=("small",))
    assert Ledger(plan.out, "lengths").begin(reader, plan)
    record = json.loads((tmp_path / "lengths/stage.json").read_bytes())
    assert record["reads"] == {"small": result["first_content_digest"]}
    assert not Ledger(plan.out, "lengths").begin(reader, plan)
    with pytest.raises(SettingsError, match=r'reads: the run in OUT has \["small"\], this command has \[\]'):
        Ledger(plan.out, "lengths").begin(dataclasses.replace(reader, reads=()), plan)


def test_what_a_stage_reads_has_to_be_finished(tmp_path: Path) -> None:
    plan = small_plan(Folder(str(tmp_path)), images=2)
    Ledger(plan.out, "small").begin(SmallStage(), plan)
    with pytest.raises(SettingsError) as refused:
        Ledger(plan.out, "lengths").begin(LengthStage("", unit="image_id", reads=("small",)), plan)
    assert str(refused.value) == (
        f"the stage lengths reads small, which {tmp_path} has not finished: results/small.json is missing, "
        "or of another run. To mend it: run the command that makes small to its end"
    )
    assert not (tmp_path / "lengths").exists()


def test_what_a_stage_reads_stays_what_it_was(tmp_path: Path) -> None:
    plan, result = finished(Folder(str(tmp_path)))
    reader = LengthStage(str(tmp_path), unit="image_id", reads=("small",))
    Ledger(plan.out, "lengths").begin(reader, plan)
    # a second try of failed records does not count: the digest of the first is kept
    kept = result | {"content_digest": "1" * 64}
    (tmp_path / "results/small.json").write_text(json.dumps(kept))
    assert not Ledger(plan.out, "lengths").begin(reader, plan)
    (tmp_path / "results/small.json").write_text(json.dumps(result | {"first_content_digest": "0" * 64}))
    with pytest.raises(SettingsError, match="small: has been computed anew with other results than those that"):
        Ledger(plan.out, "lengths").begin(reader, plan)


def test_the_engine_is_told_what_a_stage_needs(tmp_path: Path) -> None:
    told: list[Task] = []

    class Noting(InlineEngine):
        def run(self, make_runner: Any, shards: Any, task: Task = Task()) -> Iterator[ShardReport]:
            told.append(task)
            return super().run(make_runner, shards, task)

    plan = make_plan_of(Folder(str(tmp_path / "out")), pairs("a"), unit="pair_id", shard_size=1)
    stage = LengthStage(str(tmp_path), needs=Needs(gpu=False, workers=1))
    execute(plan.out, plan, stage, Noting(), OPTIONS, lambda report: None, task=Task(run="r", stage="lengths"))
    # half an hour for a stall, and a minute
    assert told == [Task(run="r", stage="lengths", gpu=False, workers=1, silence_s=1860.0)]
