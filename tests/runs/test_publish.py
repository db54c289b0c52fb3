from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_stage import SmallStage, output, small_plan

from simsam_batch.errors import RunError
from simsam_batch.runs import ledger as ledger_module
from simsam_batch.runs import publish as publish_module
from simsam_batch.runs.ledger import Ledger
from simsam_batch.runs.plan import Plan
from simsam_batch.runs.publish import busy_seconds, publish
from simsam_batch.storage import Folder

VALUES = {0: [1.0, 2.0], 1: [None, 4.0], 2: [8.0]}
"""Five images in three shards; the third image failed."""


def _run(url: str, order: tuple[int, ...] = (0, 1, 2)) -> tuple[Ledger, Plan]:
    plan = small_plan(Folder(url), images=5, shard_size=2)
    ledger = Ledger(plan.out, "small")
    ledger.begin(SmallStage(), plan)
    for number in order:
        ledger.commit(output(plan, number, VALUES[number]), ledger.start(number), started=0.0)
    return ledger, plan


def _publish(plan: Plan) -> dict[str, Any]:
    return publish(plan.out, plan, SmallStage())


def test_three_shards_add_up(out_url: str) -> None:
    _, plan = _run(out_url, order=(2, 0, 1))
    result = _publish(plan)
    assert json.loads(plan.out.read("results/small.json")) == result
    expected = {
        "schema_version": 2,
        "stage": "small",
        "images": 5,
        "ok": 4,
        "failed": 1,
        "errors_by_type": {"truncated": 1},
        # (1 + 2 + 4 + 8) / 4, merged in the order of the shards and not of the commits
        "metrics": {"mean": 3.75, "order": [0, 1, 2]},
        # each shard reports 0.5 s of decoding and 0.25 s of solving
        "seconds_by_step": {"decode": 1.5, "solve": 0.75},
        "settings": {"kappa": 10, "head": {"lr": 0.5}},
        "resolved": {"weights": "sha256:ab"},
        "plan": plan.digest,
    }
    assert {key: result[key] for key in expected} == expected
    assert result["versions"]["numpy"] == np.__version__


class CountsFailed(SmallStage):
    """Every image that failed counts as one of the value -7."""

    def state_of_failed(self, row: Mapping[str, Any]) -> Any:
        return {"rows": 1, "sum": -7.0, "order": [row["image_id"]]}


def test_a_stage_may_count_what_has_failed(out_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _, plan = _run(out_url)
    monkeypatch.setattr(publish_module, "PART_ROWS", 2)
    # a fifth of 15 less 7
    for _ in range(2):
        result = publish(plan.out, plan, CountsFailed())
        assert result["metrics"]["mean"] == pytest.approx(1.6)
        assert sorted(map(str, result["metrics"]["order"])) == ["0", "1", "2", "folder/000002.jpg"]
        assert (result["images"], result["failed"]) == (5, 1)


def test_manifests_of_other_numbers_than_the_plans_are_not_published(out_url: str) -> None:
    _, plan = _run(out_url)
    name = "small/manifests/0000002.0.json"
    manifest = json.loads(plan.out.read(name))
    plan.out.replace(name, json.dumps(manifest | {"images": 2, "ok": 2}).encode())
    with pytest.raises(RunError, match="the manifests hold 6 images, the plan 5"):
        _publish(plan)
    assert not [info.name for info in plan.out.list("results") if info.name.endswith(".json")]


def test_all_rows_are_published_once_in_the_order_of_the_plan(out_url: str) -> None:
    _, plan = _run(out_url, order=(1, 2, 0))
    _publish(plan)
    assert [info.name for info in plan.out.list("results")] == [
        "results/small.json",
        "results/small/part-00000.parquet",
    ]
    table = pq.read_table(io.BytesIO(plan.out.read("results/small/part-00000.parquet")))
    assert table["image_id"].to_pylist() == [f"folder/{number:06d}.jpg" for number in range(5)]
    assert table["value"].to_pylist() == [1.0, 2.0, None, 4.0, 8.0]
    assert table["status"].to_pylist() == ["ok", "ok", "failed", "ok", "ok"]
    assert table["box"].to_pylist() == [[0, 1, 2, 3], [0, 1, 2, 3], None, [0, 1, 2, 3], [0, 1, 2, 3]]
    assert table.column_names == [
        *SmallStage().schema.names,
        "arrays_path",
        "arrays_member",
        "arrays_offset",
        "arrays_bytes",
    ]
    assert json.loads(table.schema.metadata[b"settings"]) == {"kappa": 10, "head": {"lr": 0.5}}


def test_every_row_leads_to_its_arrays(out_url: str) -> None:
    _, plan = _run(out_url)
    _publish(plan)
    rows = pq.read_table(io.BytesIO(plan.out.read("results/small/part-00000.parquet"))).to_pylist()
    assert [(row["arrays_path"], row["arrays_member"]) for row in rows] == [
        ("small/data/0000000.1.npz", "0000000"),
        ("small/data/0000000.1.npz", "0000001"),
        (None, None),
        ("small/data/0000001.1.npz", "0000001"),
        ("small/data/0000002.1.npz", "0000000"),
    ]
    for row in rows:
        if row["arrays_path"] is not None:
            with np.load(io.BytesIO(plan.out.read(row["arrays_path"]))) as arrays:
                assert (arrays[f"{row['arrays_member']}.eigenvectors"] == row["value"]).all()


def test_orphans_of_lost_attempts_are_not_published(tmp_path: Path) -> None:
    ledger, plan = _run(str(tmp_path))
    assert not ledger.commit(output(plan, 0, [100.0, 100.0]), ledger.start(0), started=0.0).ours
    assert (tmp_path / "small/data/0000000.2.parquet").exists()
    assert _publish(plan)["metrics"]["mean"] == 3.75
    table = pq.read_table(tmp_path / "results/small/part-00000.parquet")
    assert table["value"].to_pylist() == [1.0, 2.0, None, 4.0, 8.0]


def test_a_retried_shard_replaces_its_first_generation(tmp_path: Path) -> None:
    ledger, plan = _run(str(tmp_path))
    before = _publish(plan)
    first = ledger.manifest(1, 0)
    ledger.commit(output(plan, 1, [5.0, 4.0]), ledger.start(1), started=0.0, previous=first)
    result = _publish(plan)
    # the mean of 1, 2, 5, 4 and 8
    assert (result["ok"], result["failed"], result["metrics"]["mean"]) == (5, 0, 4.0)
    rows = pq.read_table(tmp_path / "results/small/part-00000.parquet").to_pylist()
    assert [row["value"] for row in rows] == [1.0, 2.0, 5.0, 4.0, 8.0]
    assert rows[2]["arrays_path"] == "small/data/0000001.2.npz"
    assert result["content_digest"] != before["content_digest"]
    assert result["first_content_digest"] == before["content_digest"] == before["first_content_digest"]
    # The time of the first try counts too.
    assert ledger.manifest(1, 1)["earlier"] == [[first["started"], first["committed"]]]


def test_the_same_content_has_the_same_digest_whoever_computed_it(tmp_path: Path) -> None:
    first = _publish(_run(str(tmp_path / "a"))[1])
    ledger, plan = _run(str(tmp_path / "b"), order=(2, 1))
    for _ in range(3):
        ledger.start(0)
    ledger.commit(output(plan, 0, VALUES[0]), ledger.start(0), started=7.0)
    second = _publish(plan)
    assert first["content_digest"] == second["content_digest"]
    digests = [ledger.manifest(number, 0)["content_digest"] for number in range(3)]
    assert first["content_digest"] == hashlib.sha256("".join(digests).encode()).hexdigest()


def test_nothing_is_published_before_all_is_committed(out_url: str) -> None:
    _, plan = _run(out_url, order=(0, 2))
    with pytest.raises(RunError, match=r"1 of 3 shards are not committed \(the first is 1\)"):
        _publish(plan)
    assert plan.out.list("results") == []


def test_publishing_again_changes_nothing(tmp_path: Path) -> None:
    _, plan = _run(str(tmp_path))
    first = _publish(plan)
    files = {info.name: plan.out.read(info.name) for info in plan.out.list("results")}
    assert _publish(plan) == first
    assert {info.name: plan.out.read(info.name) for info in plan.out.list("results")} == files


def test_long_results_are_cut_into_parts_of_whole_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # two shards of two rows, and no row more
    monkeypatch.setattr(publish_module, "PART_ROWS", 4)
    _, plan = _run(str(tmp_path))
    _publish(plan)
    parts = sorted((tmp_path / "results/small").iterdir())
    assert [(part.name, pq.read_metadata(part).num_rows) for part in parts] == [
        ("part-00000.parquet", 4),
        ("part-00001.parquet", 1),
    ]


def test_rows_that_take_much_room_make_more_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # every shard's file is larger than a byte
    monkeypatch.setattr(publish_module, "PART_BYTES", 1)
    _, plan = _run(str(tmp_path))
    _publish(plan)
    parts = sorted((tmp_path / "results/small").iterdir())
    assert [pq.read_metadata(part).num_rows for part in parts] == [2, 2, 1]


def test_each_manifest_and_each_rows_file_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, plan = _run(str(tmp_path))
    real, read = Folder.read, []

    def counted(folder: Folder, name: str) -> bytes:
        read.append(name)
        return real(folder, name)

    monkeypatch.setattr(Folder, "read", counted)
    _publish(plan)
    manifests = [f"small/manifests/000000{number}.0.json" for number in range(3)]
    data = [f"small/data/000000{number}.1.parquet" for number in range(3)]
    # and whether fewer images were published before
    assert sorted(read) == ["results/small.json", *data, *manifests, "small/stage.json"]


def test_parts_have_few_row_groups_of_whole_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, plan = _run(str(tmp_path))
    part = tmp_path / "results/small/part-00000.parquet"

    def groups() -> list[int]:
        _publish(plan)
        held = pq.read_metadata(part)
        return [held.row_group(group).num_rows for group in range(held.num_row_groups)]

    assert groups() == [5]
    # a group ends with the shard that brings it to three rows, or past a byte
    monkeypatch.setattr(publish_module, "GROUP_ROWS", 3)
    assert groups() == [4, 1]
    monkeypatch.setattr(publish_module, "GROUP_BYTES", 1)
    assert groups() == [2, 2, 1]
    assert pq.read_table(part)["value"].to_pylist() == [1.0, 2.0, None, 4.0, 8.0]


def test_what_is_committed_costs_one_listing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, plan = _run(str(tmp_path))
    real, listed = Folder.list, []

    def counted(folder: Folder, prefix: str = "") -> Any:
        listed.append(prefix)
        return real(folder, prefix)

    monkeypatch.setattr(Folder, "list", counted)
    _publish(plan)
    # and which images are gone
    assert listed == ["small/manifests", "plan"]


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b[:100] + bytes([b[100] ^ 1]) + b[101:], lambda b: b""])
def test_a_rows_file_that_changed_after_its_commit_is_refused(tmp_path: Path, damage: Any) -> None:
    _, plan = _run(str(tmp_path))
    file = tmp_path / "small/data/0000001.1.parquet"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(RunError, match=re.escape("0000001.1.parquet is not what was committed")):
        _publish(plan)
    assert not (tmp_path / "results/small.json").exists()


def test_a_metric_that_is_no_number_is_not_written_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, plan = _run(str(tmp_path))
    stage = SmallStage()
    monkeypatch.setattr(type(stage.fold), "result", lambda self, s: {"mean": float("nan")})
    with pytest.raises(RunError, match=r"results/small\.json: its values must be plain JSON"):
        publish(plan.out, plan, stage)


def test_a_pause_between_two_runs_is_not_counted_as_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = small_plan(Folder(str(tmp_path)), images=5, shard_size=2)
    ledger = Ledger(plan.out, "small")
    ledger.begin(SmallStage(), plan)
    # two workers side by side, then a night, then the last shard
    for number, started, committed in [(0, 100.0, 110.0), (1, 105.0, 112.0), (2, 50_000.0, 50_003.0)]:
        attempt = ledger.start(number)
        with monkeypatch.context() as patch:
            patch.setattr(ledger_module, "time", SimpleNamespace(time=lambda committed=committed: committed))
            ledger.commit(output(plan, number, VALUES[number]), attempt, started=started)
    result = _publish(plan)
    # 100 to 112, and 50000 to 50003
    assert result["seconds"] == 15.0
    assert result["images_per_second"] == pytest.approx(5 / 15)
    # a second try counts beside the first one and does not take its place: 4 seconds more, though shard 2 is done anew
    attempt = ledger.start(2)
    with monkeypatch.context() as patch:
        patch.setattr(ledger_module, "time", SimpleNamespace(time=lambda: 90_004.0))
        ledger.commit(output(plan, 2, [8.0]), attempt, started=90_000.0, previous=ledger.manifest(2, 0))
    assert _publish(plan)["seconds"] == 19.0


@pytest.mark.parametrize(
    ("intervals", "seconds"),
    [
        ([], 0.0),
        ([(3, 5)], 2.0),
        ([(0, 10), (2, 3)], 10.0),
        ([(5, 6), (0, 1), (1, 2)], 3.0),
        ([(0, 4), (2, 6), (6, 7), (9, 9)], 7.0),
        # a host whose clock runs behind ends before it began
        ([(5, 4), (10, 11)], 1.0),
    ],
)
def test_busy_time_is_the_union_of_the_intervals(intervals: list[tuple[float, float]], seconds: float) -> None:
    assert busy_seconds(intervals) == seconds


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 20)), max_size=12))
def test_busy_time_counts_each_second_once(spans: list[tuple[int, int]]) -> None:
    covered = {second for start, length in spans for second in range(start, start + length)}
    assert busy_seconds([(float(start), float(start + length)) for start, length in spans]) == len(covered)
